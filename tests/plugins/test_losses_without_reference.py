"""The losses without a reference against TRL 1.16 and against numbers worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rosepo_core.api import LogProbs, PreferenceLoss
from rosepo_core.plugins.registry import load_plugins

CPU = SimpleNamespace(device=torch.device("cpu"))


def loss_named(name: str, **options: Any) -> PreferenceLoss:
    made: PreferenceLoss = load_plugins().create("loss", f"rosepo/{name}", options)
    return made


def pairs(chosen: Any, rejected: Any, chosen_tokens: Any, rejected_tokens: Any) -> LogProbs:
    """One rejected response each, and no reference."""
    count = len(chosen)
    return LogProbs(
        chosen=torch.as_tensor(chosen, dtype=torch.float64).clone().requires_grad_(),
        rejected=torch.as_tensor(rejected, dtype=torch.float64).clone()[:, None].requires_grad_(),
        reference_chosen=torch.zeros(count, dtype=torch.float64),
        reference_rejected=torch.zeros(count, 1, dtype=torch.float64),
        chosen_tokens=torch.as_tensor(chosen_tokens),
        rejected_tokens=torch.as_tensor(rejected_tokens)[:, None],
        eps=torch.zeros(count, 1, dtype=torch.float64),
        valid=torch.ones(count, 1, dtype=torch.bool),
    )


@pytest.fixture(scope="module")
def some() -> LogProbs:
    random = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 9, (2, 6), generator=random)
    return pairs(*(-lengths * (0.2 + torch.rand(2, 6, generator=random))), *lengths)


def compared(given: LogProbs, mine: torch.Tensor, chosen: torch.Tensor, rejected: torch.Tensor, theirs: Any) -> None:
    """Check losses of pairs, and their gradients in the log-probabilities, against TRL's."""
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7, check_dtype=False)
    leaves = [given.chosen, given.rejected]
    mine_by = torch.autograd.grad(mine.sum(), leaves)
    their_by = torch.autograd.grad(theirs.sum(), leaves)
    for one, other in zip(mine_by, their_by, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cpo_equals_trls_preference_term(some: LogProbs, smoothing: float) -> None:
    from trl.experimental.cpo import CPOTrainer

    given = some
    settings = SimpleNamespace(accelerator=CPU, alpha=0.0, beta=0.3, label_smoothing=smoothing, loss_type="sigmoid")
    theirs, chosen, rejected = CPOTrainer.cpo_loss(settings, given.chosen, given.rejected[:, 0])
    constant = {"smoothing": "constant", "epsilon": smoothing} if smoothing else {}
    loss = loss_named("cpo", beta=0.3, alpha=0.0, **constant)

    compared(given, loss(given), chosen, rejected, theirs)
    torch.testing.assert_close(loss.rewards(given)[0].detach(), chosen)
    torch.testing.assert_close(loss.rewards(given)[1][:, 0].detach(), rejected)


def test_simpo_equals_trls(some: LogProbs) -> None:
    from trl.experimental.cpo import CPOTrainer

    given = some
    means = given.chosen / given.chosen_tokens, given.rejected[:, 0] / given.rejected_tokens[:, 0]
    settings = {"beta": 2.5, "simpo_gamma": 0.7, "label_smoothing": 0.0, "loss_type": "simpo"}
    theirs, chosen, rejected = CPOTrainer.cpo_loss(SimpleNamespace(accelerator=CPU, alpha=0.0, **settings), *means)
    loss = loss_named("simpo", beta=2.5, gamma=0.7)

    compared(given, loss(given), chosen, rejected, theirs)
    torch.testing.assert_close(loss.rewards(given)[0].detach(), chosen)
    torch.testing.assert_close(loss.rewards(given)[1][:, 0].detach(), rejected)


def test_orpo_equals_trls(some: LogProbs) -> None:
    """TRL's trainer adds the likelihood, and subtracts what `odds_ratio_loss` returns."""
    from trl.experimental.orpo import ORPOTrainer

    given = some
    means = given.chosen / given.chosen_tokens, given.rejected[:, 0] / given.rejected_tokens[:, 0]
    ratio, chosen, rejected, *_ = ORPOTrainer.odds_ratio_loss(SimpleNamespace(accelerator=CPU, beta=0.3), *means)

    compared(given, loss_named("orpo", beta=0.3)(given), chosen, rejected, -means[0] - ratio)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        # -log sigmoid(2 * (-4 / 2) - 2 * (-6 / 3) - 1) = -log sigmoid(-1)
        ("simpo", {}, 1.3132616875),
        # -log sigmoid(0.5 * (-4 - -6)) + 4 / 2 = 0.3132616875 + 2
        ("cpo", {"beta": 0.5}, 2.3132616875),
        # without the likelihood
        ("cpo", {"beta": 0.5, "alpha": 0.0}, 0.3132616875),
        # both responses have the odds e^-2 / (1 - e^-2): 2 + 0.1 ln 2
        ("orpo", {}, 2.0693147181),
        # 1 * (e^-2 - e^-2) = 0
        ("mppo", {}, 0.6931471806),
        ("sft", {}, 2.0),
    ],
)
def test_one_pair_worked_out_by_hand(name: str, options: Any, expected: float) -> None:
    """log pi(y_w) = -4 over 2 tokens, log pi(y_l) = -6 over 3 tokens."""
    loss = loss_named(name, **options)
    assert loss(pairs([-4.0], [-6.0], [2], [3])).tolist() == pytest.approx([expected], abs=1e-9)


def test_orpo_with_different_odds() -> None:
    """log odds(y_w) = log(e^-1 / (1 - e^-1)) = -0.5413248546 and log odds(y_l) = log(e^-2 / (1 - e^-2)) =
    -1.8545865421: 1 - 0.1 log sigmoid(1.3132616875) = 1 + 0.1 * 0.2381830264."""
    loss = loss_named("orpo")
    assert loss(pairs([-2.0], [-6.0], [2], [3])).tolist() == pytest.approx([1.0238183026], abs=1e-9)


def test_swapping_keeps_the_margin_of_simpo() -> None:
    """Both responses have a mean of -2: eps mixes -log sigmoid(-1) with itself."""
    loss = loss_named("simpo", smoothing="constant", epsilon=0.3)
    assert loss(pairs([-4.0], [-6.0], [2], [3])).tolist() == pytest.approx([1.3132616875], abs=1e-9)


def test_a_certain_response_has_finite_odds() -> None:
    given = pairs([0.0], [-6.0], [2], [3])
    loss = loss_named("orpo")(given)
    loss.sum().backward()
    assert given.chosen.grad is not None
    assert math.isfinite(loss.item())
    assert math.isfinite(given.chosen.grad.item())
