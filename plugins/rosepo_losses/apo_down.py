"""Anchored Preference Optimization that lowers the chosen response, too."""

from __future__ import annotations

import torch
from torch import Tensor

from rosepo_losses.apo_zero import APOOptions
from rosepo_losses.pairwise import PairwiseLoss


class APODown(PairwiseLoss):
    """sigmoid(beta r_w) + 1 - sigmoid(beta (r_w - r_l)), with r = log pi - log ref.

    D'Oosterlinck et al., Anchored Preference Optimization (arXiv 2408.06266), equation 8, plus 1 as in TRL's
    ``loss_type="apo_down"``. It lowers the chosen response, too, and the rejected one more: for chosen titles that
    are worse than what the model would write. In recommendation the chosen title is what the user took, so this is
    rarely what one wants. Each rejected response makes a pair with the chosen one; the loss of a row is the mean over
    its valid pairs.
    """

    Options = APOOptions

    def pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """sigmoid(beta r_w) + 1 - sigmoid(beta (r_w - r_l))."""
        return torch.sigmoid(self.beta * chosen) + torch.sigmoid(self.beta * (rejected - chosen))
