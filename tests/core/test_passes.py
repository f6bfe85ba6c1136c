"""How many tokens a pass has, what passes cost, and what happens when memory runs out."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from rosepo_core import ranks
from rosepo_core.contracts.errors import RosepoError
from rosepo_core.contracts.records import Examples, Sequences
from rosepo_core.engine import measured_passes, passes, trees
from rosepo_core.engine.decoding import Trunks, decode
from rosepo_core.engine.measured_passes import MeasuredPasses, fitted_cost, measure_passes
from rosepo_core.engine.packing import CPU, GPU, PassCost
from rosepo_core.engine.passes import (
    Passes,
    constant_budget,
    scoring_passes,
    training_passes,
)
from rosepo_core.engine.prompt_trees import prompt_trunks
from rosepo_core.engine.scoring import score_items
from rosepo_core.engine.title_trie import title_trie
from rosepo_core.engine.writing import write_answers
from rosepo_core.testing import prompt_template
from rosepo_core.testing.toys import SilentReporter

QUIET = SilentReporter()
HISTORY = Sequences(np.array([3, 5, 7, 9, 1, 2, 3, 4, 8, 9], np.int32), np.array([0, 4, 10], np.int64))
EXAMPLES = Examples.of(HISTORY, np.array([0, 0, 1, 1, 1], np.int32), np.array([1, 3, 1, 3, 5], np.int32))
ITEMS = np.array([[1, 2], [3, -1], [4, 5], [6, 7], [10, 11]], np.int32)


@pytest.fixture
def template(tiny_tokenizer: Any, catalogue: Any) -> Any:
    return prompt_template({"name": "chat"}, tiny_tokenizer, catalogue, 4)


class Full(torch.nn.Module):
    """A layer with memory for so many tokens in a pass."""

    def __init__(self, inner: torch.nn.Module, most: int) -> None:
        super().__init__()
        self.inner, self.most, self.failures = inner, most, 0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[:-1].numel() > self.most:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        result: torch.Tensor = self.inner(hidden)
        return result


def short_of_memory(model: Any, most: int) -> tuple[Any, Full]:
    model = copy.deepcopy(model)
    layer = model.model.layers[1].mlp = Full(model.model.layers[1].mlp, most)
    return model, layer


def test_the_budget_and_the_costs_are_constants_on_a_cpu(tiny_model: Any) -> None:
    found = scoring_passes(tiny_model, "auto"), training_passes(tiny_model, "auto", "sft.token_budget")
    assert [(each.token_budget, each.cost) for each in found] == [(4096, CPU), (1024, CPU)]
    assert scoring_passes(tiny_model, 77).token_budget == 77
    assert [constant_budget("auto", training, "cuda") for training in (True, False)] == [16_384, 65_536]
    assert constant_budget(77, True, "cuda") == 77


def test_scores_are_the_same_after_a_retry_with_half_the_budget(tiny_model: Any, template: Any) -> None:
    expected = score_items(tiny_model, template, EXAMPLES, ITEMS, 400, QUIET)
    model, layer = short_of_memory(tiny_model, 250)
    found = score_items(model, template, EXAMPLES, ITEMS, 400, QUIET)
    assert layer.failures == 1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_after_the_second_failure_one_error_names_the_key_and_a_value(tiny_model: Any, template: Any) -> None:
    model, layer = short_of_memory(tiny_model, 3)
    with pytest.raises(RosepoError) as error:
        score_items(model, template, EXAMPLES, ITEMS, 400, QUIET)
    assert str(error.value) == "out of memory in passes of 200 tokens: set model.token_budget to 100 or less"
    assert layer.failures == 2


def test_a_search_goes_on_where_memory_ran_out(tiny_model: Any, template: Any) -> None:
    def listed(model: Any, budget: int) -> Any:
        trunks = Trunks(*prompt_trunks(template, EXAMPLES))
        return decode(model, trunks, title_trie(template), 3, reporter=QUIET, token_budget=budget, exact=True)

    expected = listed(tiny_model, 400)
    # What prompts share is read once. A pass has 363 tokens at most; with half the budget, 254.
    model, layer = short_of_memory(tiny_model, 300)
    items, scores = listed(model, 900)
    assert layer.failures == 1
    np.testing.assert_array_equal(items, expected[0])
    np.testing.assert_allclose(scores, expected[1], rtol=0, atol=1e-5)


def test_writing_goes_on_where_memory_ran_out(tiny_model: Any, tiny_tokenizer: Any, template: Any) -> None:
    twice = EXAMPLES.take(np.array([0, 4, 4, 1, 1]))
    expected = write_answers(tiny_model, template, tiny_tokenizer, twice, 400, QUIET)
    # A pass has 254 tokens at most; with half the budget, 185.
    model, layer = short_of_memory(tiny_model, 200)
    assert write_answers(model, template, tiny_tokenizer, twice, 900, QUIET) == expected
    assert layer.failures == 1


def test_three_passes_show_the_three_costs() -> None:
    shapes = [(1, 64), (64, 128), (8, 1024)]

    def seconds(cost: PassCost) -> list[float]:
        return [float(cost.of(rows, width)) for rows, width in shapes]

    cost = PassCost(fixed=0.15, token=2e-6, square=3e-9)
    found = fitted_cost(shapes, seconds(cost))
    assert (found.fixed, found.token, found.square) == pytest.approx((0.15, 2e-6, 3e-9))
    # By noise, the pass with long rows was the faster one: nothing is left for attention.
    noisy = seconds(PassCost(0.15, 2e-6))
    noisy[2] *= 0.9
    found = fitted_cost(shapes, noisy)
    assert found.square == 0
    # The line through the short pass and the mean of the long ones.
    token = ((noisy[1] + noisy[2]) / 2 - noisy[0]) / (8192 - 64)
    assert (found.fixed, found.token) == pytest.approx((noisy[0] - 64 * token, token))


def test_measuring_leaves_the_model_as_it_was(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_passes, "MEASURED_TOKENS", 512)
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.5, task_type="CAUSAL_LM")
    model = get_peft_model(copy.deepcopy(tiny_model), config).train()
    trained = [each for each in model.parameters() if each.requires_grad]
    for each in trained:
        each.grad = torch.ones_like(each)
    state = torch.get_rng_state()
    times = iter(range(1000))
    measured = measure_passes(model, training=True, clock=lambda: float(next(times)))
    # The clock says that every pass takes a second.
    assert measured.cost.fixed == pytest.approx(1.0)
    assert measured.cost.token * 512 < 1e-6
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(each.grad, torch.ones_like(each)) for each in trained)


def test_long_rows_are_used_where_they_are_right_and_cost_less(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_passes, "MEASURED_TOKENS", 128)
    monkeypatch.setattr(measured_passes, "WIDTHS", (32, 64))

    def measured() -> MeasuredPasses:
        return measure_passes(tiny_model, training=False, in_rows=True)

    found = measured()
    assert found.problem == ""
    assert found.packed_cost is not None

    lengths = [100, 10, 10, 10]
    # One pass either way: 400 padded tokens, or 130.
    costs = {"cost": PassCost(50.0), "key": "k"}
    groups, packed = Passes(1000, **costs, packed_cost=PassCost(50.0, token=2.0)).of_trees(lengths)
    # Padded, two passes are cheaper: 100 + 100 + 30. In a row it is 50 + 2 x 130.
    assert ([each.tolist() for each in groups], packed) == ([[0], [1, 2, 3]], False)
    groups, packed = Passes(1000, **costs, packed_cost=PassCost(50.0, token=1.3)).of_trees(lengths)
    assert ([each.tolist() for each in groups], packed) == ([[0, 1, 2, 3]], True)
    assert not Passes(1000, **costs).of_trees(lengths)[1]

    # A kernel that shows tokens everything before them is found out.
    whole = trees.block_mask
    monkeypatch.setattr(
        trees, "block_mask", lambda enter, leave, depth, rule: whole(enter, leave + 10**6, depth, rule)
    )
    found = measured()
    assert "log-probabilities of tokens were off by" in found.problem
    assert found.packed_cost is None


def test_ranks_make_the_passes_that_rank_0_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Passes(5000, PassCost(0.1, 2e-6), "k", packed_cost=PassCost(0.2, 1e-6), measured=True, retries=0)
    # What ranks tell each other is JSON.
    monkeypatch.setattr(ranks, "told_by_first", lambda place, work: json.loads(json.dumps(asdict(first))))
    assert passes._as_first(Passes(4000, PassCost(0.3), "k", measured=True, retries=0)) == first
    first.packed_cost = None
    assert passes._as_first(first) == first


class Card:
    """As much of a GPU as budgets look at."""

    def __init__(self, free: int) -> None:
        self.mem_get_info = lambda device: (free, 2 * free)
        self.memory_reserved = lambda device: 300
        self.memory_allocated = lambda device: 100


def test_a_measured_budget_fills_the_free_memory_but_for_what_is_needed_besides(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "cuda", Card(10 * 2**30))
    measured = MeasuredPasses(GPU, bytes=1_000_000.0)
    held = 2 * 256 * 2**20
    assert passes._fitting(tiny_model, measured, False) == int(0.4 * (10 * 2**30 + 200 - held) / 1e6)
    weights = 3 * sum(each.numel() * 4 for each in tiny_model.parameters())
    assert passes._fitting(tiny_model, measured, True) == int(0.8 * (10 * 2**30 + 200 - held - weights) / 1e6)
    assert passes._fitting(tiny_model, MeasuredPasses(GPU, bytes=1e12), True) == 256
    assert passes._fitting(tiny_model, MeasuredPasses(GPU, bytes=1.0), True) == 2**18
