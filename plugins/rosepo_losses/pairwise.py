"""Losses over pairs: a row with K rejected responses is K pairs, and its loss is the mean over them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from rosepo_core.api import LogProbs
from rosepo_losses.smoothing import SmoothedLoss, SmoothingOptions

MOST = 0.45
"""The highest eps of the variant ``robust``, which divides by 1 - 2 eps."""


class PairwiseOptions(SmoothingOptions):
    """Options of every loss over pairs."""

    variant: Literal["conservative", "robust"] = Field(
        "conservative",
        description="How eps enters: 'conservative' is (1 - eps) loss(w, l) + eps loss(l, w), 'robust' is unbiased "
        "under flipped labels: [(1 - eps) loss(w, l) - eps loss(l, w)] / (1 - 2 eps).",
    )

    @field_validator("variant")
    @classmethod
    def _of_smoothed_losses(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("smoothing") == "none" and value == "robust":
            raise ValueError("without smoothing there is nothing to correct; set smoothing, or leave it out")
        return value


class PairwiseLoss(SmoothedLoss):
    """A loss that compares a score of the chosen response with a score of each rejected one.

    A subclass defines `scores` and `pair`. The base class smooths the pair losses and averages them over the valid
    slots of each row.

    - ``conservative``: (1 - eps) loss(w, l) + eps loss(l, w), in which loss(l, w) has the two responses swapped. For
      DPO this is conservative DPO (Mitchell, "A note on DPO with noisy preferences", 2023).
    - ``robust``: [(1 - eps) loss(w, l) - eps loss(l, w)] / (1 - 2 eps). If labels are flipped with probability eps,
      its expectation is the loss under true labels (Chowdhury et al., "Provably robust DPO", arXiv 2403.00409).
      An eps of the oracle above 0.45 counts as 0.45.
    """

    Options = PairwiseOptions

    def scores(self, log_probs: LogProbs) -> tuple[Tensor, Tensor]:
        """What the loss compares: of the chosen responses [n, 1], and of the rejected ones [n, K], finite in empty
        slots. By default log pi - log ref."""
        return log_ratios(log_probs)

    @abstractmethod
    def pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """The loss of pairs whose preferred response has the first score. Both tensors broadcast to [n, K]."""

    def __call__(self, log_probs: LogProbs) -> Tensor:
        """Loss of each row: float [n]."""
        chosen, rejected = self.scores(log_probs)
        losses = self.pair(chosen, rejected)
        if self.options.smoothing != "none":
            eps, swapped = self.eps(log_probs), self.pair(rejected, chosen)
            if self.options.variant == "robust":
                eps = eps.clamp(max=MOST) if isinstance(eps, Tensor) else eps
                losses = ((1 - eps) * losses - eps * swapped) / (1 - 2 * eps)
            else:
                losses = (1 - eps) * losses + eps * swapped
        return mean_over_valid(losses, log_probs.valid)


def log_ratios(log_probs: LogProbs) -> tuple[Tensor, Tensor]:
    """log pi - log ref of the chosen responses, [n, 1], and of the rejected ones, [n, K], 0 in empty slots."""
    # Mask the operands, not the difference: a mask after an operation still gives the gradient 0 * nan.
    reference = torch.where(log_probs.valid, log_probs.reference_rejected, 0.0)
    chosen, rejected = log_policy(log_probs)
    return chosen - log_probs.reference_chosen[:, None], rejected - reference


def log_policy(log_probs: LogProbs) -> tuple[Tensor, Tensor]:
    """log pi of the chosen responses, [n, 1], and of the rejected ones, [n, K], 0 in empty slots."""
    return log_probs.chosen[:, None], torch.where(log_probs.valid, log_probs.rejected, 0.0)


def per_token(scores: tuple[Tensor, Tensor], log_probs: LogProbs) -> tuple[Tensor, Tensor]:
    """Scores that are sums over tokens, [n, 1] and [n, K], as means over the tokens of each response."""
    chosen, rejected = scores
    return chosen / log_probs.chosen_tokens.clamp(min=1)[:, None], rejected / log_probs.rejected_tokens.clamp(min=1)


def negative_log_likelihood(log_probs: LogProbs) -> Tensor:
    """-log pi(y_w) / |y_w|, the mean over the tokens of the chosen response: [n]."""
    return -log_probs.chosen / log_probs.chosen_tokens.clamp(min=1)


def mean_over_valid(pair_loss: Tensor, valid: Tensor) -> Tensor:
    """Mean of `pair_loss` [n, K] over each row's valid slots: [n].

    `pair_loss` must be finite in the invalid slots, too; otherwise their gradients are not 0.
    """
    return torch.where(valid, pair_loss, 0.0).sum(1) / valid.sum(1).clamp(min=1)
