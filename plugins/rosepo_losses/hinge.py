"""The hinge loss of SLiC-HF."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn.functional import relu

from rosepo_losses.pairwise import PairwiseLoss, PairwiseOptions


class HingeOptions(PairwiseOptions):
    """Options of `hinge`."""

    beta: float = Field(0.1, gt=0, description="A pair is done at a margin of 1 / beta nats.")


class Hinge(PairwiseLoss):
    """max(0, 1 - beta (r_w - r_l)), with r = log pi - log ref.

    The calibration loss of Zhao et al., SLiC-HF (arXiv 2305.10425), max(0, delta - log pi(y_w) + log pi(y_l)), on
    log-ratios in place of log-probabilities, with delta = 1 / beta: the form of TRL's ``loss_type="hinge"`` and of
    Liu et al. (RSO, arXiv 2309.06657). SLiC-HF's own form is ``alignment.reference = "none"`` together with an `sft`
    term. Each rejected response makes a pair with the chosen one; the loss of a row is the mean over its valid pairs.
    A pair beyond its margin has no gradient.
    """

    Options = HingeOptions

    def pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """max(0, 1 - beta (r_w - r_l))."""
        return relu(1 - self.beta * (chosen - rejected))
