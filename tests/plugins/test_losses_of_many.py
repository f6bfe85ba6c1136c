"""The losses over many rejected responses, against numbers worked out by hand and against other formulas."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from rosepo_core.api import LogProbs, PreferenceLoss
from rosepo_core.plugins.registry import load_plugins
from rosepo_losses.dynamic_po import top_cluster

NAMES = ("s-dpo", "dmpo", "mppo", "dynamic-po", "rec-po", "sft")


def loss_named(name: str, **options: Any) -> PreferenceLoss:
    made: PreferenceLoss = load_plugins().create("loss", f"rosepo/{name}", options)
    return made


def row(chosen: float, rejected: list[float], won: float, lost: list[float], **others: Any) -> LogProbs:
    """One row with these log-probabilities and log-ratios; every response has one token."""
    double = torch.float64
    policy = torch.tensor([rejected], dtype=double)
    shape = policy.shape
    return LogProbs(
        chosen=torch.tensor([chosen], dtype=double).requires_grad_(),
        rejected=policy.clone().requires_grad_(),
        reference_chosen=torch.tensor([chosen - won], dtype=double),
        reference_rejected=policy - torch.tensor([lost], dtype=double),
        chosen_tokens=torch.ones(1, dtype=torch.long),
        rejected_tokens=others.get("tokens", torch.ones(shape, dtype=torch.long)),
        eps=torch.tensor([others.get("eps", [0.0] * len(rejected))], dtype=double),
        valid=torch.ones(shape, dtype=torch.bool),
        ratings=torch.full((1, 1 + len(rejected)), 4.0),
        delays=torch.zeros(1, 1 + len(rejected)),
    )


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        # -log sigmoid(-log(e^(-1 - 2) + e^(1 - 2))) = log(1 + e^-3 + e^-1) = log 1.4176665095
        ("s-dpo", {}, 0.3490122168),
        # eps 0.2 and 0.5 are the odds 0.25 and 1, so the target is (1, 0.25, 1) / 2.25. With log Z = 2.3490122168:
        # (0.3490122168 + 0.25 * 3.3490122168 + 1.3490122168) / 2.25
        ("s-dpo", {"smoothing": "oracle"}, 1.1267899946),
        # -log sigmoid(0.5 * (2 - 0))
        ("dmpo", {"beta": 0.5}, 0.3132616875),
        # -log sigmoid(2 e^-2 - e^-2 - e^-3) = -log sigmoid(0.0855482149)
        ("mppo", {}, 0.6512876064),
    ],
)
def test_one_row_worked_out_by_hand(name: str, options: Any, expected: float) -> None:
    """r_w = 2 and r_l = -1 and 1; log pi = -2, and -2 and -3."""
    loss = loss_named(name, **options)(row(-2.0, [-2.0, -3.0], 2.0, [-1.0, 1.0], eps=[0.2, 0.5]))
    assert loss.tolist() == pytest.approx([expected], abs=1e-9)


def test_dynamic_po_where_the_policy_is_wrong() -> None:
    """Only -4 is at least the chosen -5. d1 = -5 - -4 = -1, d2 = -4 - (-9 - 10) / 2 = 5.5, and
    tanh((-1 - 5.5 - 2) / (1 + 5.5)) = tanh(-1.3076923077) = -0.8636903362, so beta_l = 1 - 0.4318451681 =
    0.5681548319. The loss is -log sigmoid(0.5681548319 (1 - 2))."""
    given = row(-5.0, [-4.0, -9.0, -10.0], 1.0, [2.0, 0.0, -3.0])
    loss = loss_named("dynamic-po")(given)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([1.0170432787], abs=1e-9)
    assert given.rejected.grad is not None
    assert given.rejected.grad[0, 0] > 0
    assert given.rejected.grad[0, 1:].tolist() == [0, 0]


def test_dynamic_po_where_the_policy_is_right() -> None:
    """None is as probable as the chosen -1. The three clusters are (-2, -2.5), (-7, -7.2) and (-12), and the others
    have the mean -26.2 / 3 = -8.7333333333.

    -2: d1 = 1, d2 = 6.7333333333: 1 + tanh(-7.7333333333 / 7.7333333333) / 2 = 0.6192029220.
    -2.5: d1 = 1.5, d2 = 6.2333333333: 1 + tanh(-6.7333333333 / 7.7333333333) / 2 = 0.6491378212.
    With r_w = 1, and r_l = 0 and 0.5: (0.6192029220 * 1 + 0.6491378212 * 0.5) / 2 = 0.4718859163.
    """
    given = row(-1.0, [-12.0, -2.0, -7.2, -2.5, -7.0], 1.0, [9.0, 0.0, 9.0, 0.5, 9.0])
    assert loss_named("dynamic-po")(given).tolist() == pytest.approx([0.4847842784], abs=1e-9)


def test_the_margin_of_dynamic_po() -> None:
    """Above, with the published code's margin of 6: tanh(-12.5 / 6.5) = -0.9581322 in place of -0.8636903."""
    given = row(-5.0, [-4.0, -9.0, -10.0], 1.0, [2.0, 0.0, -3.0])
    beta = 1 + math.tanh(-12.5 / 6.5) / 2
    expected = math.log1p(math.exp(beta))
    assert loss_named("dynamic-po", margin=6.0)(given).tolist() == pytest.approx([expected], abs=1e-9)


def test_the_top_cluster_is_that_of_the_best_of_all_partitions() -> None:
    """Against a search of all cuts of the sorted values, for 1 to 7 values, some of them equal."""
    random = torch.Generator().manual_seed(5)
    for count in range(1, 8):
        values = torch.randint(-9, 0, (40, 7), generator=random).double() + 0.01 * torch.rand(40, 7, generator=random)
        order = torch.rand(40, 7, generator=random).argsort(dim=1)
        valid = order < count
        found = top_cluster(values, valid)
        for line in range(40):
            held = sorted(values[line][valid[line]].tolist(), reverse=True)
            clusters = min(3, count)

            def spread(cuts: tuple[int, ...], held: list[float] = held) -> float:
                parts = [held[a:b] for a, b in zip((0, *cuts), (*cuts, len(held)), strict=True)]
                return sum(sum((value - sum(part) / len(part)) ** 2 for value in part) for part in parts)

            best = min(itertools.combinations(range(1, count), clusters - 1), key=spread)
            top = set(held[: best[0]] if best else held)
            assert set(values[line][found[line]].tolist()) == top


def test_rec_po_worked_out_by_hand() -> None:
    """r_w = 2, r_l = -1, 1 and 0. The chosen item has 5 stars. The first rejected one has 4 and came 3 places later,
    s = 4 / 4^0.5 = 2; the second has 2 and came before, s = 2 / 11^0.5 = 0.6030226892; the third is unknown,
    s = 3 / 11^0.5 = 0.9045340337.

    log(1 + e^(-3 + 5 / 2) + e^(-1 + 5 / 0.6030226892) + e^(-2 + 5 / 0.9045340337)) with the exponents -0.5,
    7.2915619759 and 3.5277079839.
    """
    given = row(-2.0, [-2.0, -3.0, -2.0], 2.0, [-1.0, 1.0, 0.0])
    nan = math.nan
    given = replace(given, ratings=torch.tensor([[5.0, 4.0, 2.0, nan]]), delays=torch.tensor([[0.0, 3.0, nan, nan]]))
    expected = math.log(1 + math.exp(-0.5) + math.exp(7.2915619759) + math.exp(3.5277079839))
    assert expected == pytest.approx(7.3158, abs=1e-3)
    assert loss_named("rec-po")(given).tolist() == pytest.approx([expected], abs=1e-6)
    assert loss_named("rec-po", margin=0.0)(given).item() == pytest.approx(loss_named("s-dpo")(given).item())
    # Half the weight, no fading and 4 stars for the unknown: the exponents are -3 + 0.625, -1 + 1.25 and -2 + 0.625.
    expected = math.log(1 + math.exp(-2.375) + math.exp(0.25) + math.exp(-1.375))
    other = loss_named("rec-po", margin=0.5, decay=0.0, unrated_rating=4.0)
    assert other(given).tolist() == pytest.approx([expected], abs=1e-6)


@pytest.mark.parametrize("smoothing", ["none", "oracle"])
def test_with_one_rejected_response_s_dpo_is_rosepo(smoothing: str) -> None:
    given = row(-2.0, [-3.0], 2.0, [-1.0], eps=[0.3])
    other = loss_named("rosepo", beta=1.0, smoothing=smoothing)
    assert loss_named("s-dpo", smoothing=smoothing)(given).item() == pytest.approx(other(given).item(), abs=1e-12)
    assert loss_named("dmpo")(given).item() == pytest.approx(loss_named("dpo")(given).item(), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    """At a place where no response is near the boundary of `dynamic-po`, whose beta is a constant by definition."""
    random = torch.Generator().manual_seed(1)
    rejected = -5 - 10 * torch.rand(4, 3, generator=random, dtype=torch.float64)
    chosen = -4 + torch.rand(4, generator=random, dtype=torch.float64)
    given = LogProbs(
        chosen=chosen.requires_grad_(),
        rejected=rejected.requires_grad_(),
        reference_chosen=-5 * torch.rand(4, generator=random, dtype=torch.float64),
        reference_rejected=-5 * torch.rand(4, 3, generator=random, dtype=torch.float64),
        chosen_tokens=torch.tensor([2, 3, 1, 4]),
        rejected_tokens=torch.full((4, 3), 2),
        eps=0.4 * torch.rand(4, 3, generator=random, dtype=torch.float64),
        valid=torch.tensor([[True, True, True], [True, False, True], [False, True, True], [True, False, False]]),
        ratings=torch.randint(1, 6, (4, 4), generator=random).double(),
        delays=torch.randint(0, 9, (4, 4), generator=random).double(),
    )
    options = {"smoothing": "oracle"} if name == "s-dpo" else {}
    loss = loss_named(name, **options)
    if name == "dynamic-po":
        at_boundary, beta = loss._of_the_boundary(given)
        loss._of_the_boundary = lambda log_probs: (at_boundary, beta)

    def of(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return loss(LogProbs(**{**vars(given), "chosen": chosen, "rejected": rejected}))

    assert torch.autograd.gradcheck(of, (given.chosen, given.rejected))


@pytest.mark.parametrize("name", NAMES)
def test_garbage_in_empty_slots_changes_nothing(name: str) -> None:
    whole = row(-2.0, [-3.0, math.nan, -math.inf], 2.0, [-1.0, 0.0, 0.0], eps=[0.3, math.nan, 2.0])
    whole.valid[0, 1:] = False
    alone = row(-2.0, [-3.0], 2.0, [-1.0], eps=[0.3])
    options = {"smoothing": "oracle"} if name == "s-dpo" else {}
    loss = loss_named(name, **options)
    values = []
    for given in (whole, alone):
        value = loss(given)
        value.sum().backward()
        assert given.chosen.grad is not None
        values.append((value.item(), given.chosen.grad.item()))
    assert values[0] == pytest.approx(values[1], abs=1e-12)
    if name != "sft":
        assert whole.rejected.grad is not None
        assert whole.rejected.grad[0, 1:].tolist() == [0, 0]
