"""Direct Preference Optimization."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rosepo_losses.pairwise import PairwiseLoss, PairwiseOptions


class DPOOptions(PairwiseOptions):
    """Options of `dpo`."""

    beta: float = Field(0.1, gt=0, description="Higher values keep the policy closer to the reference.")


class DPO(PairwiseLoss):
    """-log sigmoid(Delta), Delta = beta [(log pi(y_w) - log ref(y_w)) - (log pi(y_l) - log ref(y_l))].

    Rafailov et al., Direct Preference Optimization (arXiv 2305.18290), equation 7; with one rejected response it is
    TRL's ``loss_type="sigmoid"``. Each rejected response makes a pair with the chosen one; the loss of a row is the
    mean over its valid pairs. Without a reference (``alignment.reference = "none"``), Delta compares log pi alone.
    """

    Options = DPOOptions

    def pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """-log sigmoid(beta (r_w - r_l))."""
        return -logsigmoid(self.beta * (chosen - rejected))
