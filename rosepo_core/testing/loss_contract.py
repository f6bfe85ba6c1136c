"""Tests for every preference loss, as a class to inherit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from rosepo_core.contracts.components import PreferenceLoss
from rosepo_core.contracts.records import LogProbs
from rosepo_core.testing.component_contract import ComponentContract
from rosepo_core.testing.toys import random_log_probs

if TYPE_CHECKING:
    from torch import Tensor


class LossContract(ComponentContract):
    """Tests for every preference loss."""

    kind = "loss"

    def loss(self, options: Mapping[str, Any]) -> PreferenceLoss:
        """The loss under test."""
        return cast(PreferenceLoss, self.make(options))

    @pytest.mark.parametrize("k", [1, 3])
    def test_one_finite_loss_for_each_pair(self, options: Mapping[str, Any], k: int) -> None:
        """The result has shape [n], and is differentiable in the policy's log-probabilities."""
        log_probs = random_log_probs(k=k)
        losses = self.loss(options)(log_probs)
        assert losses.shape == log_probs.chosen.shape
        assert losses.isfinite().all()
        for gradient in gradients(self.loss(options), log_probs):
            assert gradient.isfinite().all()

    def test_extreme_margins_stay_finite(self, options: Mapping[str, Any]) -> None:
        """Losses and gradients are finite, even if a title is certain or nearly impossible for the policy."""
        for unlikely in ("chosen", "rejected"):
            log_probs = random_log_probs()
            lowered = getattr(log_probs, unlikely).detach() - 200.0
            log_probs = replace(log_probs, **{unlikely: lowered.requires_grad_()})
            assert self.loss(options)(log_probs).isfinite().all()
            for gradient in gradients(self.loss(options), log_probs):
                assert gradient.isfinite().all()

    def test_a_step_down_the_gradient_lowers_the_loss(self, options: Mapping[str, Any]) -> None:
        """A step against the gradient lowers the loss."""
        loss, log_probs = self.loss(options), random_log_probs()
        chosen, rejected = gradients(loss, log_probs)
        size = float((chosen.square().sum() + rejected.square().sum()).sqrt())
        assert size > 0
        moved = replace(
            log_probs,
            chosen=log_probs.chosen.detach() - 1e-2 * chosen / size,
            rejected=log_probs.rejected.detach() - 1e-2 * rejected / size,
        )
        assert loss(moved).detach().double().sum() < loss(log_probs).detach().double().sum()

    def test_prefers_the_chosen(self, options: Mapping[str, Any]) -> None:
        """If the policy equals the reference, all tokens are equally probable and there is no smoothing, the loss
        raises the chosen response and lowers the rejected ones."""
        log_probs = random_log_probs()
        chosen, rejected = (-2.0 * log_probs.chosen_tokens).float(), (-2.0 * log_probs.rejected_tokens).float()
        even = replace(
            log_probs,
            chosen=chosen.clone().requires_grad_(),
            rejected=rejected.clone().requires_grad_(),
            reference_chosen=chosen,
            reference_rejected=rejected,
            eps=log_probs.eps * 0,
        )
        up, down = gradients(self.loss(options), even)
        assert (up < 0).all()
        assert (down[even.valid] >= 0).all()
        assert (down.sum(dim=1) > 0).all()

    def test_ignores_invalid_slots(self, options: Mapping[str, Any]) -> None:
        """The content of empty slots does not matter."""
        log_probs = random_log_probs()
        empty = ~log_probs.valid
        assert empty.any()
        changed = replace(
            log_probs,
            rejected=log_probs.rejected.detach().masked_fill(empty, -150.0).requires_grad_(),
            reference_rejected=log_probs.reference_rejected.masked_fill(empty, -3.0),
            rejected_tokens=log_probs.rejected_tokens.masked_fill(empty, 0),
            eps=log_probs.eps.masked_fill(empty, 0.9),
        )
        loss = self.loss(options)
        assert_equal(loss(changed), loss(log_probs))
        for gradient, other in zip(gradients(loss, changed), gradients(loss, log_probs), strict=True):
            assert_equal(gradient, other)
        assert (gradients(loss, changed)[1][empty] == 0).all()

    def test_pairs_do_not_mix(self, options: Mapping[str, Any]) -> None:
        """The loss of a pair does not depend on the other pairs of the batch."""
        log_probs, loss = random_log_probs(), self.loss(options)
        rows = list(range(len(log_probs.chosen)))[::-2]
        part = LogProbs(**{field: getattr(log_probs, field)[rows] for field in LogProbs.__dataclass_fields__})
        assert_equal(loss(part), loss(log_probs)[rows])

    def test_reads_only_what_it_says(self, options: Mapping[str, Any]) -> None:
        """The loss uses nothing that `needs_reference` and `needs_smoothing` do not declare."""
        log_probs, loss = random_log_probs(), self.loss(options)
        expected = loss(log_probs)
        if not loss.needs_reference:
            other = replace(
                log_probs,
                reference_chosen=log_probs.reference_chosen - 1,
                reference_rejected=log_probs.reference_rejected + 1,
            )
            assert_equal(loss(other), expected)
        if not loss.needs_smoothing:
            assert_equal(loss(replace(log_probs, eps=log_probs.eps * 0.5)), expected)


def gradients(loss: PreferenceLoss, log_probs: LogProbs) -> Sequence[Tensor]:
    """Gradients of the summed losses with respect to the policy's log-probabilities: chosen [n] and rejected [n,
    k]."""
    import torch

    return torch.autograd.grad(loss(log_probs).sum(), [log_probs.chosen, log_probs.rejected])


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    """Whether two tensors are equal up to float32 rounding."""
    import torch

    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
