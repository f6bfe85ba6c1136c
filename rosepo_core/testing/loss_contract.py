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
        """The loss is one finite number for each pair, of shape [n], with finite gradients."""
        log_probs = random_log_probs(k=k)
        losses = self.loss(options)(log_probs)
        pairs = len(log_probs.chosen)
        assert losses.shape == (pairs,), (
            f"the loss has the shape {list(losses.shape)} for {pairs} pairs, not [{pairs}]"
        )
        assert losses.isfinite().all(), "a loss is infinite or not a number"
        assert losses.requires_grad, "the loss does not depend on the log-probabilities of the policy"
        for gradient in gradients(self.loss(options), log_probs):
            assert gradient.isfinite().all()

    def test_extreme_margins_stay_finite(self, options: Mapping[str, Any]) -> None:
        """Losses and gradients stay finite if a title is certain or nearly impossible for the policy."""
        for extreme in ("chosen", "rejected"):
            log_probs = random_log_probs()
            values = getattr(log_probs, extreme).detach()
            for other in (values - 200.0, values * 0):
                changed = replace(log_probs, **{extreme: other.clone().requires_grad_()})
                assert self.loss(options)(changed).isfinite().all(), f"a loss is infinite at an extreme {extreme}"
                for gradient in gradients(self.loss(options), changed):
                    assert gradient.isfinite().all(), f"a gradient is infinite at an extreme {extreme}"

    def test_a_step_down_the_gradient_lowers_the_loss(self, options: Mapping[str, Any]) -> None:
        """A step against the gradient lowers the loss."""
        loss, log_probs = self.loss(options), random_log_probs()
        chosen, rejected = gradients(loss, log_probs)
        size = float((chosen.square().sum() + rejected.square().sum()).sqrt())
        assert size > 0, "every gradient is zero"
        moved = replace(
            log_probs,
            chosen=log_probs.chosen.detach() - 1e-2 * chosen / size,
            rejected=log_probs.rejected.detach() - 1e-2 * rejected / size,
        )
        assert loss(moved).detach().double().sum() < loss(log_probs).detach().double().sum(), "the loss did not fall"

    def test_prefers_the_chosen(self, options: Mapping[str, Any]) -> None:
        """Where the policy equals the reference, a step against the gradient makes the chosen response more probable
        or the rejected ones less, and never the reverse.

        All tokens are equally probable, and there is no smoothing.
        """
        log_probs = random_log_probs()
        chosen, rejected = (-2.0 * log_probs.chosen_tokens).float(), (-2.0 * log_probs.rejected_tokens).float()
        even = replace(
            log_probs,
            chosen=chosen.clone().requires_grad_(),
            rejected=rejected.clone().requires_grad_(),
            reference_chosen=chosen,
            reference_rejected=rejected,
            eps=log_probs.eps * 0,
            mismatched=log_probs.reference_mismatched,
        )
        up, down = gradients(self.loss(options), even)
        assert (up <= 1e-7).all(), "a chosen response becomes less probable"
        assert (down[even.valid] >= -1e-7).all(), "a rejected response becomes more probable"
        assert (down.sum(dim=1) - up > 1e-7).all(), "a pair moves neither response"

    def test_ignores_invalid_slots(self, options: Mapping[str, Any]) -> None:
        """What is in empty slots, those that are not `valid`, does not matter."""
        log_probs = random_log_probs()
        empty = ~log_probs.valid
        assert empty.any()
        changed = replace(
            log_probs,
            rejected=log_probs.rejected.detach().masked_fill(empty, -150.0).requires_grad_(),
            reference_rejected=log_probs.reference_rejected.masked_fill(empty, -3.0),
            rejected_tokens=log_probs.rejected_tokens.masked_fill(empty, 0),
            eps=log_probs.eps.masked_fill(empty, 0.9),
            ratings=_emptied(log_probs.ratings, empty),
            delays=_emptied(log_probs.delays, empty),
        )
        loss = self.loss(options)
        assert_equal(loss(changed), loss(log_probs))
        for gradient, other in zip(gradients(loss, changed), gradients(loss, log_probs), strict=True):
            assert_equal(gradient, other)
        assert (gradients(loss, changed)[1][empty] == 0).all()

    @pytest.mark.parametrize("drift", [-3.0, 0.0, 3.0])
    def test_only_a_loss_of_scope_batch_sees_other_pairs(self, options: Mapping[str, Any], drift: float) -> None:
        """The loss of a pair does not depend on the order of the pairs and, if the scope is "pair", not on the other
        pairs.

        So the passes of a step change nothing: pairs come one at a time, in halves, in another order and twice. A
        loss may depend on other pairs in one region only, so the policy is below, near and above the reference.
        """
        import torch

        loss, log_probs = self.loss(options), random_log_probs(drift=drift)
        count = len(log_probs.chosen)
        alike = [torch.arange(count).flip(0), torch.arange(count).roll(4)]
        if loss.scope == "pair":
            alike += [torch.tensor([row]) for row in range(count)]
            alike += [torch.arange(count // 2), torch.arange(count // 2, count), torch.arange(0, count, 2)]
            alike += [torch.arange(count).repeat(2)]
        whole, chosen, rejected = loss(log_probs), *gradients(loss, log_probs)
        for rows in alike:
            part = _leaves(log_probs.take(rows))
            assert_equal(loss(part), whole[rows])
            assert_equal(gradients(loss, part)[0], chosen[rows])
            assert_equal(gradients(loss, part)[1], rejected[rows])

    def test_rewards_are_those_of_each_response(self, options: Mapping[str, Any]) -> None:
        """Rewards have the shapes of the log-probabilities, are finite, and rise with those of their own response
        alone."""
        loss, log_probs = self.loss(options), random_log_probs()
        chosen, rejected = loss.rewards(log_probs)
        assert chosen.shape == log_probs.chosen.shape
        assert rejected.shape == log_probs.rejected.shape
        assert chosen.isfinite().all()
        assert rejected[log_probs.valid].isfinite().all()
        higher = replace(log_probs, chosen=log_probs.chosen + 0.5)
        assert (loss.rewards(higher)[0] > chosen).all()
        assert_equal(loss.rewards(higher)[1][log_probs.valid], rejected[log_probs.valid])
        higher = replace(log_probs, rejected=log_probs.rejected + 0.5)
        assert (loss.rewards(higher)[1] > rejected)[log_probs.valid].all()
        assert_equal(loss.rewards(higher)[0], chosen)

    def test_reads_only_what_it_says(self, options: Mapping[str, Any]) -> None:
        """The loss and its rewards use nothing that its attributes `needs_...` do not declare."""
        log_probs, loss = random_log_probs(), self.loss(options)
        if not loss.needs_mismatched:
            log_probs = replace(log_probs, mismatched=None, reference_mismatched=None)
        if not loss.needs_ratings:
            log_probs = replace(log_probs, ratings=None, delays=None)
        others: list[LogProbs] = []
        if not loss.needs_reference:
            reference = {"reference_chosen": log_probs.reference_chosen - 1}
            others += [replace(log_probs, **reference, reference_rejected=log_probs.reference_rejected + 1)]
        if not loss.needs_smoothing:
            others += [replace(log_probs, eps=log_probs.eps * 0.5)]
        if not loss.needs_tokens:
            tokens = {"chosen_tokens": log_probs.chosen_tokens + 1}
            others += [replace(log_probs, **tokens, rejected_tokens=log_probs.rejected_tokens + 2)]
        for other in others:
            assert_equal(loss(other), loss(log_probs))
            assert_equal(loss.rewards(other)[0], loss.rewards(log_probs)[0])
            valid = log_probs.valid
            assert_equal(loss.rewards(other)[1][valid], loss.rewards(log_probs)[1][valid])


def gradients(loss: PreferenceLoss, log_probs: LogProbs) -> Sequence[Tensor]:
    """Gradients of the summed losses with respect to the policy's log-probabilities: chosen [n] and rejected [n, k],
    0 where the loss does not use them."""
    import torch

    leaves = [log_probs.chosen, log_probs.rejected]
    return torch.autograd.grad(loss(log_probs).sum(), leaves, allow_unused=True, materialize_grads=True)


def _emptied(feedback: Tensor | None, empty: Tensor) -> Tensor:
    """Ratings or delays without those of empty slots."""
    import torch

    assert feedback is not None
    return torch.cat([feedback[:, :1], feedback[:, 1:].masked_fill(empty, torch.nan)], dim=1)


def _leaves(log_probs: LogProbs) -> LogProbs:
    """The same with log-probabilities of the policy that gradients can be asked for."""
    return replace(
        log_probs,
        chosen=log_probs.chosen.detach().requires_grad_(),
        rejected=log_probs.rejected.detach().requires_grad_(),
    )


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    """Check that two tensors are equal up to float32 rounding."""
    import torch

    assert actual.shape == expected.shape, f"{list(actual.shape)} values where {list(expected.shape)} are expected"
    far = float((actual - expected).abs().max()) if len(actual) else 0.0
    torch.testing.assert_close(
        actual, expected, rtol=1e-5, atol=1e-6, msg=f"values that must be equal differ, by up to {far:.2g}"
    )
