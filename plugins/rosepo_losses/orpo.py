"""Odds Ratio Preference Optimization."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rosepo_core.api import LogProbs
from rosepo_losses.pairwise import PairwiseLoss, PairwiseOptions, log_policy, negative_log_likelihood, per_token

CERTAIN = -1e-6
"""The highest mean log-probability: the odds of a certain response are infinite."""


class ORPOOptions(PairwiseOptions):
    """Options of `orpo`."""

    beta: float = Field(0.1, gt=0, description="The paper's lambda: weight of the odds ratio beside the likelihood.")


class ORPO(PairwiseLoss):
    """-log pi(y_w) / |y_w| - beta log sigmoid(log odds(y_w) - log odds(y_l)), with odds = p / (1 - p) and
    p = exp(log pi(y) / |y|).

    Hong et al., ORPO (arXiv 2403.07691), equations 4, 6 and 7; beta is the paper's lambda and TRL's ``beta``. There
    is no reference: the paper starts from a model without SFT, and rosepo from the SFT model. The likelihood is that
    of the title alone, as the paper says; TRL's ORPOTrainer adds the tokens of the prompt. Each rejected response
    makes a pair with the chosen one; the odds-ratio term of a row is the mean over its valid pairs. Smoothing acts on
    this term alone.
    """

    Options = ORPOOptions
    needs_reference = False
    needs_tokens = True

    def scores(self, log_probs: LogProbs) -> tuple[Tensor, Tensor]:
        """Mean log pi per token, log p."""
        return per_token(log_policy(log_probs), log_probs)

    def rewards(self, log_probs: LogProbs) -> tuple[Tensor, Tensor]:
        """beta log p."""
        chosen, rejected = self.scores(log_probs)
        return self.beta * chosen[:, 0], self.beta * rejected

    def pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """-log sigmoid(log odds(y_w) - log odds(y_l))."""
        return -logsigmoid(_log_odds(chosen) - _log_odds(rejected))

    def __call__(self, log_probs: LogProbs) -> Tensor:
        """Loss of each row: float [n]."""
        return negative_log_likelihood(log_probs) + self.beta * super().__call__(log_probs)


def _log_odds(log_p: Tensor) -> Tensor:
    log_p = log_p.clamp(max=CERTAIN)
    return log_p - torch.log(-torch.expm1(log_p))
