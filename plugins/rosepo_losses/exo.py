"""Efficient Exact Optimization."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rosepo_core.api import LogProbs
from rosepo_losses.pairwise import log_ratios, mean_over_valid
from rosepo_losses.smoothing import SmoothedLoss, SmoothingOptions


class EXOOptions(SmoothingOptions):
    """Options of `exo`."""

    beta: float = Field(0.1, gt=0, description="Higher values keep the policy closer to the reference.")
    floor: float = Field(
        1e-3, gt=0, lt=0.5, description="Least probability of the rejected response in what the policy should match."
    )


class EXO(SmoothedLoss):
    """KL(q || p), with q = softmax of beta (r_w, r_l), p = (1 - e, e) and r = log pi - log ref.

    Ji et al., Towards Efficient Exact Optimization (arXiv 2402.00856), equation 16; TRL's ``loss_type="exo_pair"``,
    whose ``label_smoothing`` is e. e must not be 0, so it is the larger one of `floor` and the smoothing factor: the
    oracle's probability is itself what the policy should match, and no other smoothing is needed. Each rejected
    response makes a pair with the chosen one; the loss of a row is the mean over its valid pairs. Without a
    reference, q compares log pi alone.
    """

    Options = EXOOptions

    def __call__(self, log_probs: LogProbs) -> Tensor:
        """Loss of each row: float [n]."""
        chosen, rejected = log_ratios(log_probs)
        delta = self.beta * (chosen - rejected)
        flipped = torch.as_tensor(self.eps(log_probs), dtype=delta.dtype, device=delta.device)
        flipped = flipped.clamp(min=self.options.floor)
        first = torch.sigmoid(delta) * (logsigmoid(delta) - torch.log1p(-flipped))
        second = torch.sigmoid(-delta) * (logsigmoid(-delta) - torch.log(flipped))
        return mean_over_valid(first + second, log_probs.valid)
