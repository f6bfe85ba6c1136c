"""Log-probabilities in a tree equal those of one plain sequence a response, values and gradients alike."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from rosepo_core.contracts.records import Catalogue, Examples, Ints, Sequences
from rosepo_core.data.listed_candidates import draw_lists
from rosepo_core.engine import head, scoring
from rosepo_core.engine.log_probs import log_probs
from rosepo_core.engine.prompt_trees import prompt_trees
from rosepo_core.engine.scoring import score_items
from rosepo_core.engine.trees import TreeBatch
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.testing import prompt_template


class Progress:
    def __init__(self) -> None:
        self.seen: list[tuple[int, int, str]] = []

    def progress(self, done: int, total: int, unit: str) -> None:
        self.seen.append((done, total, unit))

    def note(self, message: str) -> None:
        raise AssertionError(message)


def users(*lengths: int) -> Examples:
    """Every place of users with so many of the catalogue's 40 items."""
    rng = np.random.default_rng(7)
    items = np.array([item for length in lengths for item in rng.permutation(40)[:length]], dtype=np.int32)
    sequences = Sequences(items, np.cumsum([0, *lengths]).astype(np.int64))
    places = np.array([place for length in lengths for place in range(length)], dtype=np.int32)
    return Examples.of(sequences, np.repeat(np.arange(len(lengths)), lengths).astype(np.int32), places)


def responses(examples: Examples, k: int) -> Ints:
    """The target, then k others, some of them missing."""
    others = np.random.default_rng(3).integers(-1, 40, (len(examples), k))
    return np.concatenate([examples.target[:, None], others], axis=1).astype(np.int32)


def plain(
    model: Any,
    template: PromptTemplate,
    examples: Examples,
    items: Ints,
    shared: bool,
    candidates: Ints | None = None,
) -> dict[Any, Tensor]:
    """The same by the book: prompt and response as one causal sequence, by (row, column)."""
    found = {}
    device = next(model.parameters()).device
    for row, prompt in enumerate(template.prompts(examples, shared=shared, candidates=candidates)):
        for column in np.flatnonzero(items[row] >= 0).tolist():
            response = template.response_ids[items[row, column]]
            ids = torch.from_numpy(np.concatenate([prompt, response])).long().to(device)
            steps = model(input_ids=ids[None]).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            found[row, column] = steps.gather(1, ids[len(prompt) :, None]).sum()
    return found


TEMPLATES = {
    "timeline": {"header": "Chosen:\n"},
    "timeline, cut": {"header": "Chosen:\n", "titles": "short", "max_length": 90},
    "chat": {"name": "chat", "instruction": "Go.", "question": "Next?"},
}


@pytest.fixture(params=TEMPLATES)
def template(request: pytest.FixtureRequest, tiny_tokenizer: Any, catalogue: Catalogue) -> PromptTemplate:
    return prompt_template(TEMPLATES[request.param], tiny_tokenizer, catalogue, 5)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("pad_left", [False, True])
@pytest.mark.parametrize("k", [1, 4])
def test_trees_give_the_plain_log_probabilities(
    template: PromptTemplate, tiny_model: Any, shared: bool, pad_left: bool, k: int
) -> None:
    examples = users(1, 3, 8)
    items = responses(examples, k)
    trees = prompt_trees(template, examples, items, shared=shared)
    assert len({len(tree) for tree in trees}) > 1, "nothing would be padded"
    batch = TreeBatch.of(trees, 0, pad_left=pad_left)
    with torch.no_grad():
        values = log_probs(tiny_model, batch)
        expected = plain(tiny_model, template, examples, items, shared)
    keys = list(zip(batch.rows.tolist(), batch.columns.tolist(), strict=True))
    assert sorted(keys) == sorted(expected)
    torch.testing.assert_close(values, torch.stack([expected[key] for key in keys]), atol=1e-4, rtol=0)


def weights_of(examples: Examples, items: Ints) -> Any:
    """A weight a response, as different losses would give."""
    return np.random.default_rng(5).normal(size=items.shape).astype(np.float32)


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def with_adapter(model: Any, **options: Any) -> Any:
    torch.manual_seed(1)
    adapted = get_peft_model(
        copy.deepcopy(model), LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM", **options)
    )
    return adapted.eval()


@pytest.mark.parametrize("training", ["full", "adapter", "adapter on the head too"])
def test_gradients_are_the_plain_ones(
    training: str, template: PromptTemplate, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The head's gradient is put together from several chunks.
    monkeypatch.setattr(head, "LOGIT_BYTES", 50 * 16 * tiny_model.config.vocab_size)
    if training == "full":
        model = copy.deepcopy(tiny_model)
    elif training == "adapter":
        model = with_adapter(tiny_model, target_modules="all-linear")
    else:
        model = with_adapter(tiny_model, target_modules=["q_proj", "lm_head"])
    examples = users(2, 6)
    items = responses(examples, 2)
    weights = weights_of(examples, items)
    batch = TreeBatch.of(prompt_trees(template, examples, items, shared=True), 0)
    of_tree = torch.from_numpy(weights[batch.rows, batch.columns])
    found = gradients(model, (log_probs(model, batch) * of_tree).sum())
    book = plain(model, template, examples, items, True)
    expected = gradients(model, sum(float(weights[key]) * value for key, value in book.items()))  # type: ignore[arg-type]
    assert found.keys() == expected.keys()
    assert found
    for name in expected:
        scale = max(1.0, float(expected[name].abs().max()))
        torch.testing.assert_close(found[name] / scale, expected[name] / scale, atol=1e-4, rtol=0, msg=name)


def test_scores_come_back_in_place_however_the_work_is_cut(
    template: PromptTemplate, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = users(4, 9, 1)
    items = responses(examples, 6)
    with torch.no_grad():
        expected = np.full(items.shape, -np.inf, dtype=np.float32)
        for key, value in plain(tiny_model, template, examples, items, False).items():
            expected[key] = value
    monkeypatch.setattr(scoring, "BRANCH_TOKENS", 20)
    monkeypatch.setattr(scoring, "BLOCK_RESPONSES", 30)
    reporter = Progress()
    scores = score_items(tiny_model, template, examples, items, 300, reporter)
    assert scores.dtype == np.float32
    assert np.isneginf(scores[items < 0]).all()
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    held = int((items >= 0).sum())
    assert reporter.seen[-1] == (held, held, "titles")
    assert len(reporter.seen) > 4


def test_listed_candidates_stay_with_their_examples_however_the_work_is_cut(
    tiny_model: Any, tiny_tokenizer: Any, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"name": "chat", "instruction": "Go.", "question": "Next?", "candidates": 3}
    template = prompt_template(options, tiny_tokenizer, catalogue, 5)
    examples = users(4, 9, 1)
    items, listed = responses(examples, 6), draw_lists(examples, 3, len(catalogue), [0])
    with torch.no_grad():
        expected = np.full(items.shape, -np.inf, dtype=np.float32)
        for key, value in plain(tiny_model, template, examples, items, False, listed).items():
            expected[key] = value
    monkeypatch.setattr(scoring, "BLOCK_RESPONSES", 30)
    scores = score_items(tiny_model, template, examples, items, 300, Progress(), candidates=listed)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_the_items_of_no_example_are_no_work(tiny_model: Any, template: PromptTemplate) -> None:
    examples = users(3)
    nothing = score_items(tiny_model, template, examples, np.full((3, 2), -1, dtype=np.int32), 300, Progress())
    assert np.isneginf(nothing).all()
    assert score_items(tiny_model, template, users(), np.empty((0, 2), dtype=np.int32), 300, Progress()).shape == (
        0,
        2,
    )


def test_an_adapter_changes_scores_while_it_is_on(tiny_model: Any, template: PromptTemplate) -> None:
    batch = TreeBatch.of(prompt_trees(template, users(5), responses(users(5), 2)), 0)
    with torch.no_grad():
        adapted = with_adapter(tiny_model, target_modules="all-linear")
        with adapted.disable_adapter():
            without = log_probs(adapted, batch)
        torch.testing.assert_close(without, log_probs(tiny_model, batch), atol=1e-4, rtol=0)
        assert (log_probs(adapted, batch) - without).abs().max() > 0.01


def test_a_model_whose_attention_is_changed_later_is_prepared_again(
    tiny_model: Any, template: PromptTemplate
) -> None:
    batch = TreeBatch.of(prompt_trees(template, users(5), responses(users(5), 2)), 0)
    model = copy.deepcopy(tiny_model)
    with torch.no_grad():
        expected = log_probs(model, batch)
        model.set_attn_implementation("eager")
        torch.testing.assert_close(log_probs(model, batch), expected, atol=1e-4, rtol=0)


def test_scaled_and_capped_logits_are_scaled_and_capped(tiny_model: Any, template: PromptTemplate) -> None:
    batch = TreeBatch.of(prompt_trees(template, users(4), responses(users(4), 1)), 0)
    scaled = copy.deepcopy(tiny_model)
    with torch.no_grad():
        before = log_probs(scaled, batch)
        scaled.config.logits_scaling = 1e6
        uniform = -batch.lengths * np.log(scaled.config.vocab_size)
        torch.testing.assert_close(log_probs(scaled, batch), uniform.float(), atol=1e-2, rtol=0)
        scaled.config.logits_scaling = None
        scaled.config.final_logit_softcapping = 1e4
        torch.testing.assert_close(log_probs(scaled, batch), before, atol=1e-2, rtol=0)
        scaled.config.final_logit_softcapping = 1e-6
        torch.testing.assert_close(log_probs(scaled, batch), uniform.float(), atol=1e-2, rtol=0)


@pytest.mark.real
@pytest.mark.parametrize("kind", ["timeline", "chat"])
def test_smollm2_scores_titles_as_it_does_plainly(kind: str, catalogue: Catalogue) -> None:
    from rosepo_core.engine.models import load_model

    class Quiet(Progress):
        def note(self, message: str) -> None:
            pass

    model, tokenizer = load_model("smollm2-135m", "float32", Quiet())
    template = prompt_template({"name": kind}, tokenizer, catalogue, 5)
    examples = users(6).take(np.array([5, 2]))
    items = responses(examples, 3)
    scores = score_items(model.eval(), template, examples, items, 2048, Quiet())
    with torch.no_grad():
        for key, value in plain(model, template, examples, items, False).items():
            assert scores[key] == pytest.approx(float(value), abs=1e-3)
