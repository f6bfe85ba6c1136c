"""Anchored Preference Optimization that raises the chosen response."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rosepo_losses.pairwise import PairwiseLoss, PairwiseOptions


class APOOptions(PairwiseOptions):
    """Options of `apo-zero` and `apo-down`."""

    beta: float = Field(0.1, gt=0, description="Higher values keep the policy closer to the reference.")


class APOZero(PairwiseLoss):
    """1 - sigmoid(beta r_w) + sigmoid(beta r_l), with r = log pi - log ref.

    D'Oosterlinck et al., Anchored Preference Optimization (arXiv 2408.06266), equation 7, plus 1 as in TRL's
    ``loss_type="apo_zero"``. It raises the chosen response and lowers the rejected one, each against the reference on
    its own: for chosen titles that are better than what the model would write. Each rejected response makes a pair
    with the chosen one; the loss of a row is the mean over its valid pairs. Without a reference, sigmoid(beta log pi)
    is nearly 0 for every title, and so are the gradients.
    """

    Options = APOOptions

    def pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """1 - sigmoid(beta r_w) + sigmoid(beta r_l)."""
        return torch.sigmoid(-self.beta * chosen) + torch.sigmoid(self.beta * rejected)
