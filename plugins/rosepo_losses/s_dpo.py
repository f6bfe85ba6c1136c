"""Softmax DPO."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rosepo_core.api import LogProbs
from rosepo_losses.pairwise import log_ratios
from rosepo_losses.smoothing import SmoothedLoss, SmoothingOptions


class SDPOOptions(SmoothingOptions):
    """Options of `s-dpo`."""

    beta: float = Field(1.0, gt=0, description="Higher values keep the policy closer to the reference.")


class SDPO(SmoothedLoss):
    """-log sigmoid(-log sum_l exp(beta (r_l - r_w))), with r = log pi - log ref and the sum over all rejected
    responses.

    Chen et al., On Softmax Direct Preference Optimization for Recommendation (arXiv 2406.09215): the chosen response
    is the first choice under a Plackett-Luce model. This equals -log softmax(beta r)_w over the chosen and all
    rejected responses, and with K = 1 it is DPO. beta = 1 is the published code's. Without a reference it is the
    softmax of log pi.

    Smoothing is rosepo's own: cross-entropy with a target distribution in place of a certain choice. The oracle's
    pairwise eps_l are the odds eps_l / (1 - eps_l) of l against the chosen response, and under the same
    Plackett-Luce model the first choice falls on each response in proportion to its odds, the chosen one's being 1.
    With K = 1 this is the loss `rosepo`.
    """

    Options = SDPOOptions

    def __call__(self, log_probs: LogProbs) -> Tensor:
        """Loss of each row: float [n]."""
        chosen, rejected = log_ratios(log_probs)
        # A finite number far below all others, because 0 times an infinite one has no gradient.
        scores = torch.cat([self.beta * chosen, (self.beta * rejected).masked_fill(~log_probs.valid, -1e30)], dim=1)
        log_choice = torch.log_softmax(scores, dim=1)
        if self.options.smoothing == "none":
            return -log_choice[:, 0]
        eps = self.eps(log_probs)
        odds = torch.where(log_probs.valid, eps / (1 - eps), 0.0)
        target = torch.cat([torch.ones_like(chosen), odds], dim=1) / (1 + odds.sum(1, keepdim=True))
        filled = torch.cat([torch.ones_like(chosen, dtype=torch.bool), log_probs.valid], dim=1)
        return -(target * torch.where(filled, log_choice, 0.0)).sum(1)
