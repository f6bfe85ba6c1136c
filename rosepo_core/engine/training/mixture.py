"""A sum of preference losses."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rosepo_core.contracts.components import PreferenceLoss
from rosepo_core.contracts.records import LogProbs
from rosepo_core.plugins.registry import running


class Mixture(PreferenceLoss):
    """sum_i weight_i loss_i. It needs what any of its losses needs; its rewards are those of the first one.

    Attributes:
        losses: the losses and their weights, by the names that they have in the training log.
    """

    def __init__(self, losses: Mapping[str, tuple[PreferenceLoss, float]]) -> None:
        """`losses` is not empty."""
        super().__init__()
        self.losses = losses
        parts = [loss for loss, _ in losses.values()]
        self._first = parts[0]
        self.scope = "batch" if any(loss.scope == "batch" for loss in parts) else "pair"
        self.needs_reference = any(loss.needs_reference for loss in parts)
        self.needs_smoothing = any(loss.needs_smoothing for loss in parts)
        self.needs_tokens = any(loss.needs_tokens for loss in parts)
        self.needs_mismatched = any(loss.needs_mismatched for loss in parts)
        self.needs_ratings = any(loss.needs_ratings for loss in parts)

    @property
    def beta(self) -> float:
        """That of the first loss."""
        return self._first.beta

    def rewards(self, log_probs: LogProbs) -> tuple[Tensor, Tensor]:
        """Those of the first loss."""
        return self._first.rewards(log_probs)

    def terms(self, log_probs: LogProbs) -> dict[str, Tensor]:
        """The loss of each pair without its weight, float [n], by the names of the losses."""
        found: dict[str, Tensor] = {}
        for name, (loss, _) in self.losses.items():
            with running(loss):
                found[name] = loss(log_probs)
        return found

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of `terms`: float [n]."""
        weighted = [weight * terms[name] for name, (_, weight) in self.losses.items()]
        # Without a zero to start from, one loss of weight 1 keeps its last bit.
        return sum(weighted[1:], weighted[0])

    def __call__(self, log_probs: LogProbs) -> Tensor:
        """Loss of each pair: float [n]."""
        return self.total(self.terms(log_probs))
