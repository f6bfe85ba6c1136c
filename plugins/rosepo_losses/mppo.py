"""Multi Pair-wise Preference Optimization."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rosepo_core.api import LogProbs, Options, PreferenceLoss
from rosepo_losses.pairwise import log_policy, per_token


class MPPOOptions(Options):
    """Options of `mppo`."""

    beta: float = Field(1.0, gt=0, description="Scale of the likelihoods; the paper has none, which is 1.")


class MPPO(PreferenceLoss):
    """-log sigmoid(beta [K p_w - sum_l p_l]), with p = exp(log pi(y) / |y|), the average likelihood of a response.

    Xie et al., MPPO (arXiv 2412.15244), the pair-wise form in which the chosen response meets all K rejected ones in
    one sigmoid. The average is the geometric mean over tokens, because a loss sees the log-probability of whole
    responses; the published reading of it for recommendation (the code of DynamicPO) has the probability of the whole
    title instead, which is nearly 0 for every title. K counts the valid slots of a row. There is no reference.
    Probabilities differ little where log-probabilities differ much, so the gradients are small for unlikely titles.
    """

    Options = MPPOOptions
    needs_reference = False
    needs_tokens = True

    def rewards(self, log_probs: LogProbs) -> tuple[Tensor, Tensor]:
        """beta p."""
        chosen, rejected = (torch.exp(score) for score in per_token(log_policy(log_probs), log_probs))
        return self.beta * chosen[:, 0], self.beta * rejected

    def __call__(self, log_probs: LogProbs) -> Tensor:
        """Loss of each row: float [n]."""
        chosen, rejected = self.rewards(log_probs)
        return -logsigmoid(torch.where(log_probs.valid, chosen[:, None] - rejected, 0.0).sum(1))
