"""Self-Play Preference Optimization, with hard labels."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from rosepo_losses.pairwise import PairwiseLoss, PairwiseOptions


class SPPOOptions(PairwiseOptions):
    """Options of `sppo`."""

    beta: float = Field(0.1, gt=0, description="The log-ratios are drawn to 1 / (2 beta) and -1 / (2 beta) nats.")


class SPPO(PairwiseLoss):
    """(r_w - 1 / (2 beta))^2 + (r_l + 1 / (2 beta))^2, with r = log pi - log ref.

    Wu et al., Self-Play Preference Optimization (arXiv 2405.00675), equation 4.7 with P = 1 for the chosen and P = 0
    for the rejected response, and beta for the paper's 1 / eta; TRL's ``loss_type="sppo_hard"``. Each rejected
    response makes a pair with the chosen one; the loss of a row is the mean over its valid pairs. Both log-ratios are
    sums over tokens, so the targets are the same for short and long titles. Without a reference, both log-ratios are
    log pi, which cannot reach the positive target.
    """

    Options = SPPOOptions

    def pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """(r_w - 1 / (2 beta))^2 + (r_l + 1 / (2 beta))^2."""
        target = 1 / (2 * self.beta)
        return (chosen - target) ** 2 + (rejected + target) ** 2
