"""The trainers by what they log and change, against plain computation and against TRL's own DPOTrainer."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset as Table
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from trl import DPOConfig, DPOTrainer

from rosepo_core import ranks
from rosepo_core.contracts.components import PreferenceLoss, Reporter
from rosepo_core.contracts.errors import DivergedError, PluginError, RosepoError
from rosepo_core.contracts.records import Catalogue, Examples, Floats, Ints, LogProbs, Pairs, Sequences
from rosepo_core.contracts.sections import AlignmentOptions, SFTOptions
from rosepo_core.engine.head import decoder_of
from rosepo_core.engine.passes import training_passes
from rosepo_core.engine.scoring import score_items
from rosepo_core.engine.training import PreferenceTree, TrainingSettings, align_preferences, fine_tune
from rosepo_core.engine.training.alignment import PreferencePairs
from rosepo_core.engine.training.checks import rise
from rosepo_core.engine.training.configuration import AlignmentConfig
from rosepo_core.engine.training.mixture import Mixture
from rosepo_core.engine.training.module import TreeModule
from rosepo_core.engine.training.trainer import TreeTrainer
from rosepo_core.engine.training.whole_step import with_gradients
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.stages.aligned import preference_trees
from rosepo_core.stages.session import QuietReporter
from rosepo_core.testing import prompt_template

QUIET = QuietReporter()
CHAT = {"name": "chat", "instruction": "Go.", "question": "Next?"}
TRL_METRICS = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)


@pytest.fixture
def template(tiny_tokenizer: Any, catalogue: Catalogue) -> PromptTemplate:
    return prompt_template({"header": "Chosen:\n"}, tiny_tokenizer, catalogue, 5)


@pytest.fixture
def lora(tiny_model: Any) -> Any:
    """A copy of the tiny model with a fresh adapter."""
    return with_lora(tiny_model)


def with_lora(tiny_model: Any, init: bool = True) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=init)
    return get_peft_model(copy.deepcopy(tiny_model), config).train()


def users(*lengths: int) -> Sequences:
    rng = np.random.default_rng(7)
    items = np.array([item for length in lengths for item in rng.permutation(40)[:length]], dtype=np.int32)
    return Sequences(items, np.cumsum([0, *lengths]).astype(np.int64))


def places(sequences: Sequences) -> Examples:
    """Every place with something before it."""
    user = np.repeat(np.arange(len(sequences)), sequences.lengths)
    position = np.arange(len(user)) - sequences.offsets[user]
    return Examples.of(sequences, user[position > 0].astype(np.int32), position[position > 0].astype(np.int32))


def dpo(beta: float = 0.1) -> PreferenceLoss:
    loss: PreferenceLoss = load_plugins().create("loss", "dpo", {"beta": beta})
    return loss


def references(model: Any, template: PromptTemplate, examples: Examples, rejected: Ints) -> Floats:
    """As the stage makes them: -inf where there is no item."""
    responses = np.concatenate([examples.target[:, None], rejected], axis=1)
    scores = score_items(model.eval(), template, examples, responses, 4096, QUIET, shared=True)
    model.train()
    return scores


def pairs_of(examples: Examples, rejected: Ints, reference: Floats) -> Pairs:
    eps = np.random.default_rng(1).uniform(0, 0.4, rejected.shape).astype(np.float32)
    return Pairs(examples, rejected, eps, reference[:, 0], reference[:, 1:])


def draw(examples: Examples, k: int, holes: bool = False) -> Ints:
    """Rejected items, none the target; with holes every row keeps at least one."""
    rng = np.random.default_rng(11)
    away = rng.permuted(np.tile(np.arange(1, 40), (len(examples), 1)), axis=1)[:, :k]
    rejected = ((examples.target[:, None] + away) % 40).astype(np.int32)
    if holes:
        empty = rng.random(rejected.shape) < 0.5
        empty[np.arange(len(examples)), rng.integers(0, k, len(examples))] = False
        assert empty.any()
        rejected[empty] = -1
    return rejected


SETTINGS = TrainingSettings(batch_size=4, token_budget=2048, learning_rate=1e-2, steps=1)


def tuned(model: Any, sequences: Any, reporter: Reporter = QUIET, **options: Any) -> list[dict[str, float]]:
    return fine_tune(model, sequences, replace(SETTINGS, **options), reporter)


def aligned(
    model: Any, trees: Sequence[PreferenceTree], loss: PreferenceLoss | None = None, **options: Any
) -> list[dict[str, float]]:
    return align_preferences(model, loss or dpo(), trees, replace(SETTINGS, **options), QUIET)


def parameters(model: Any) -> dict[str, Tensor]:
    """On the CPU: training moves a model to the GPU where there is one."""
    return {name: parameter.detach().cpu().clone() for name, parameter in model.named_parameters()}


def changed(before: dict[str, Tensor], model: Any) -> set[str]:
    return {name for name, parameter in parameters(model).items() if not torch.equal(parameter, before[name])}


def test_sft_begins_at_the_mean_over_the_labelled_tokens(tiny_model, lora, tiny_tokenizer, template):
    sequences = template.sft_sequences(users(3, 9, 2))
    assert len({len(ids) for ids, _ in sequences}) > 1, "nothing would be padded"
    total, count = 0.0, 0
    with torch.no_grad():
        for ids, labelled in sequences:
            tokens = torch.from_numpy(ids).long()
            steps = tiny_model(input_ids=tokens[None]).logits[0, :-1].log_softmax(-1)
            of_tokens = steps.gather(1, tokens[1:, None])[:, 0]
            total -= float(of_tokens[torch.from_numpy(labelled[1:])].sum())
            count += int(labelled.sum())
    log = tuned(lora, sequences, batch_size=len(sequences))
    assert len(log) == 1
    assert log[0]["loss"] == pytest.approx(total / count, abs=1e-4)
    # The last token of a sequence is only predicted.
    assert log[0]["num_tokens"] == sum(len(ids) - 1 for ids, _ in sequences)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_sft_changes_the_adapter_alone_and_learns_a_pattern(lora, tiny_tokenizer, template, checkpointing):
    pattern = Sequences(np.tile(np.array([3, 14, 15, 9, 26], dtype=np.int32), 4), np.arange(0, 21, 5))
    before = parameters(lora)
    log = tuned(lora, template.sft_sequences(pattern), steps=8, gradient_checkpointing=checkpointing)
    assert [entry["step"] for entry in log] == list(range(1, 9))
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]
    assert changed(before, lora) == {name for name in before if "lora_" in name}


def test_sft_of_all_weights(tiny_model, tiny_tokenizer, template):
    model = copy.deepcopy(tiny_model).train()
    sequences = template.sft_sequences(users(4, 4))
    before = parameters(model)
    log = tuned(model, sequences, steps=3)
    assert log[-1]["loss"] < log[0]["loss"]
    assert changed(before, model) == before.keys()


def test_alignment_begins_at_ln_2_and_logs_what_trl_logs(lora, template):
    examples = places(users(5, 3, 4))
    rejected = draw(examples, 1)
    reference = references(lora, template, examples, rejected)
    pairs = pairs_of(examples, rejected, reference)
    trees = preference_trees(template, pairs)
    assert sorted(len(tree) for tree in trees) == [2, 3, 4]
    before = parameters(lora)
    log = aligned(lora, trees, batch_size=3, steps=2)
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert log[1]["loss"] < log[0]["loss"]
    assert all(name in entry for entry in log for name in TRL_METRICS)
    assert log[0]["logps/chosen"] == pytest.approx(reference[:, 0].mean(), abs=1e-3)
    assert log[0]["logps/rejected"] == pytest.approx(reference[:, 1].mean(), abs=1e-3)
    assert log[0]["smoothing"] == pytest.approx(pairs.eps.mean(), abs=1e-6)
    assert changed(before, lora) == {name for name in before if "lora_" in name}


@pytest.mark.parametrize("none", [0.0, -np.inf])
def test_metrics_count_each_pair_once_and_holes_not_at_all(lora, template, none):
    examples = places(users(5, 3))
    rejected = draw(examples, 3, holes=True)
    held = rejected >= 0
    reference = references(lora, template, examples, rejected)
    mean = {"chosen": reference[:, 0].mean(), "rejected": reference[:, 1:][held].mean()}
    # The policy gives the chosen one a nat more than the reference does, and the rejected ones two nats less.
    shifted = np.where(np.isfinite(reference), reference + np.float32([-1, 2, 2, 2]), np.float32(none))
    pairs = pairs_of(examples, rejected, shifted.astype(np.float32))
    (entry,) = aligned(lora, preference_trees(template, pairs), batch_size=2)
    expected = {
        "loss": math.log1p(math.exp(-0.3)),
        "rewards/chosen": 0.1,
        "rewards/rejected": -0.2,
        "rewards/margins": 0.3,
        "rewards/accuracies": 1.0,
        "logps/chosen": mean["chosen"],
        "logps/rejected": mean["rejected"],
        "smoothing": pairs.eps[held].mean(),
    }
    assert {name: entry[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert math.isfinite(entry["grad_norm"])
    assert entry["grad_norm"] > 0


def test_holes_leave_the_loss_of_the_pairs_that_are_there(lora, template):
    """Three slots of which one is filled are one pair."""
    examples = places(users(4, 3))
    single = draw(examples, 1)
    three = np.full((len(examples), 3), -1, dtype=np.int32)
    slot = np.arange(len(examples)) % 3
    three[np.arange(len(examples)), slot] = single[:, 0]
    trained = []
    for rejected in (single, three):
        model = copy.deepcopy(lora)
        reference = references(model, template, examples, rejected) - 0.5 * (np.arange(rejected.shape[1] + 1) > 0)
        trees = preference_trees(template, pairs_of(examples, rejected, reference.astype(np.float32)))
        trained.append((stepped(model, trees, batch_size=2), model))
    assert trained[0][0]["loss"] == pytest.approx(trained[1][0]["loss"], abs=1e-5)
    others = parameters(trained[1][1])
    for name, one in parameters(trained[0][1]).items():
        assert_close(one, others[name], atol=1e-5, rtol=0, msg=name)


def stepped(model: Any, trees: Sequence[PreferenceTree], **options: Any) -> dict[str, float]:
    """One step of plain gradient descent with rate 1, so that parameters change by their gradients."""
    plain = {"optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    return aligned(model, trees, **{**plain, **options})[0]


class Passes:
    """Hears the shape of every forward pass of a model, [rows, tokens], while it is entered."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.shapes: list[tuple[int, int]] = []

    def __enter__(self) -> Passes:
        def hear(_: Any, positional: Any, named: Any) -> None:
            self.shapes.append(tuple(named["input_ids"].shape))

        self._hook = decoder_of(self._model).register_forward_pre_hook(hear, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    @property
    def tokens(self) -> list[int]:
        """Of each pass, padding included."""
        return [rows * length for rows, length in self.shapes]


def compare(first: dict[str, Tensor], second: dict[str, Tensor], untrained: Any) -> None:
    """Training reached the same parameters both ways, and they are others than before."""
    assert any(not torch.equal(parameter, first[name]) for name, parameter in parameters(untrained).items())
    for name, parameter in first.items():
        assert_close(parameter, second[name], atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize(
    ("cut", "passes"),
    [
        ({"batch_size": 4, "token_budget": 1}, 11),
        ({"batch_size": 4, "token_budget": 150}, None),
        ({"batch_size": 1, "gradient_accumulation_steps": 4}, 4),
    ],
    ids=["a pass an example", "passes of a budget", "accumulated batches"],
)
def test_a_step_is_the_same_in_however_many_passes(tiny_model, template, cut, passes):
    model = with_lora(tiny_model, init=False)
    examples = places(users(6, 2, 4, 3))
    rejected = draw(examples, 2, holes=True)
    reference = references(model, template, examples, rejected)
    reference += np.random.default_rng(2).normal(size=reference.shape).astype(np.float32)
    trees = preference_trees(template, pairs_of(examples, rejected, reference))
    assert sorted(map(len, trees)) == [1, 2, 3, 5]
    whole, often = copy.deepcopy(model), copy.deepcopy(model)
    expected = stepped(whole, trees, batch_size=4)
    with Passes(often) as heard:
        found = stepped(often, trees, **cut)
    assert passes in (None, len(heard.shapes))
    # Every part of a tree has the trunk up to its examples again.
    assert found.pop("num_tokens") >= expected.pop("num_tokens") == sum(len(tree.tree) for tree in trees)
    assert found == pytest.approx(expected, abs=1e-4, rel=1e-4)
    compare(parameters(whole), parameters(often), model)


def test_a_large_tree_is_trained_in_parts_of_the_budget(tiny_model, tiny_tokenizer, catalogue):
    template = prompt_template({"header": "Chosen:\n"}, tiny_tokenizer, catalogue, 20)
    model = with_lora(tiny_model, init=False)
    examples = places(users(21))
    rejected = draw(examples, 10)
    reference = references(model, template, examples, rejected) + 0.5
    (tree,) = preference_trees(template, pairs_of(examples, rejected, reference))
    budget = 400
    assert len(tree.tree) > 3 * budget
    whole, parts = copy.deepcopy(model), copy.deepcopy(model)
    with Passes(whole) as once:
        stepped(whole, [tree], batch_size=1, token_budget=10**6)
    with Passes(parts) as often:
        stepped(parts, [tree], batch_size=1, token_budget=budget)
    assert once.shapes == [(1, len(tree.tree))]
    assert max(often.tokens) <= budget
    # Every part has the trunk up to its examples again.
    assert sum(often.tokens) > len(tree.tree)
    compare(parameters(whole), parameters(parts), model)


def test_sft_is_the_same_in_however_many_passes(tiny_model, tiny_tokenizer, template):
    sequences = template.sft_sequences(users(2, 3, 5, 4, 5, 5, 3, 2))
    lengths = [len(ids) for ids, _ in sequences]
    assert len(sequences) == 8
    assert len(set(lengths)) > 1
    longest = max(lengths)
    logs = []
    for budget in (1, longest, 3 * longest, 10**6):
        model = with_lora(tiny_model)
        with Passes(model) as heard:
            logs.append(tuned(model, sequences, batch_size=8, token_budget=budget, steps=2))
        assert sum(rows for rows, _ in heard.shapes) == 2 * 8
        assert max(heard.tokens) <= max(budget, longest)
        assert budget > 1 or len(heard.shapes) == 2 * 8
    for log in logs[1:]:
        for one, other in zip(logs[0], log, strict=True):
            assert (one["loss"], one["grad_norm"]) == pytest.approx((other["loss"], other["grad_norm"]), abs=1e-3)


def test_accumulated_batches_have_the_gradient_of_all_at_once(tiny_model, template):
    sequences = template.sft_sequences(users(2, 3, 5, 4, 5, 5, 3, 2))
    plain = {"optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    start = with_lora(tiny_model, init=False)
    whole, parts = copy.deepcopy(start), copy.deepcopy(start)
    expected = tuned(whole, sequences, batch_size=8, **plain)
    # Sequences have other numbers of tokens, so a mean over the means of batches would be another one.
    found = tuned(parts, sequences, batch_size=3, gradient_accumulation_steps=3, **plain)
    assert found[0]["loss"] == pytest.approx(expected[0]["loss"], abs=1e-5)
    assert found[0]["grad_norm"] == pytest.approx(expected[0]["grad_norm"], rel=1e-4)
    compare(parameters(whole), parameters(parts), start)


def test_every_epoch_has_each_sequence_once(lora, template):
    sequences = template.sft_sequences(users(2, 3, 5, 4, 5, 5, 3, 2))
    tokens = sum(len(ids) - 1 for ids, _ in sequences)
    log = tuned(lora, sequences, batch_size=3, gradient_accumulation_steps=2, steps=None, epochs=2.0)
    # Batches of 3, 3 and 2 sequences: a step of two and a step of one in each epoch.
    assert [entry["epoch"] for entry in log] == pytest.approx([2 / 3, 1, 5 / 3, 2])
    assert [log[1]["num_tokens"], log[3]["num_tokens"]] == [tokens, 2 * tokens]


@pytest.fixture
def many() -> Sequences:
    """300 users with as many items as logs have: log-normal, most a few and some the whole catalogue."""
    lengths = np.random.default_rng(5).lognormal(mean=2, sigma=0.7, size=300).round().clip(2, 40).astype(int)
    return users(*lengths.tolist())


@pytest.mark.parametrize(
    ("options", "k"),
    [({"header": "Chosen:\n"}, 1), (CHAT, 1), (CHAT, 15)],
    ids=["timeline", "chat", "chat, K = 15"],
)
def test_less_than_one_token_in_ten_is_padding(tiny_model, tiny_tokenizer, catalogue, many, options, k):
    """With batches and budget as they are by default."""
    template = prompt_template(options, tiny_tokenizer, catalogue, 20)
    model = with_lora(tiny_model)
    sequences = template.sft_sequences(many)[:160]
    assert np.std([len(ids) for ids, _ in sequences]) > 20
    default = SFTOptions()
    with Passes(model) as heard:
        tuned(
            model,
            sequences,
            batch_size=default.batch_size,
            token_budget=default.token_budget,
            steps=None,
        )
    needed = sum(len(ids) - 1 for ids, _ in sequences)
    assert needed <= sum(heard.tokens) < needed / 0.9
    assert max(rows for rows, _ in heard.shapes) > 1, "nothing could be padded"

    examples = places(many)
    examples = examples.take(np.flatnonzero(examples.position % 4 == 1)[:120])
    rejected = draw(examples, k)
    nothing = np.zeros((len(examples), k + 1), dtype=np.float32)
    trees = preference_trees(template, pairs_of(examples, rejected, nothing))
    of_alignment = AlignmentOptions()
    with Passes(model) as heard:
        aligned(model, trees, batch_size=of_alignment.batch_size, token_budget=of_alignment.token_budget, steps=None)
    needed = sum(len(tree.tree) for tree in trees)
    assert needed <= sum(heard.tokens) < needed / 0.9
    assert max(rows for rows, _ in heard.shapes) > 1, "nothing could be padded"


class LargestLogits(TorchDispatchMode):
    """Bytes of the largest table with a vocabulary's width that any operation returns; the head's own weight and its
    gradient are none."""

    def __init__(self, head: Tensor) -> None:
        super().__init__()
        self._vocabulary, self._weight = len(head), {tuple(head.shape), tuple(head.T.shape)}
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and self._vocabulary in each.shape[-2:] and each.ndim > 1:
                size = each.numel() * each.element_size() * (tuple(each.shape) not in self._weight)
                self.bytes = max(self.bytes, size)
        return result


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen head", "trained head"])
def test_logits_come_a_chunk_at_a_time(tiny_model, tiny_tokenizer, template, monkeypatch, frozen):
    model = with_lora(tiny_model) if frozen else copy.deepcopy(tiny_model).train()
    head = tiny_model.get_output_embeddings().weight
    limit = 10 * 4 * 4 * len(head)
    monkeypatch.setattr("rosepo_core.engine.head.LOGIT_BYTES", limit)
    for size in ("LOGITS_IN_CACHE", "LOGITS_ON_GPU"):
        monkeypatch.setattr(f"rosepo_core.engine.head.{size}", 1)
    monkeypatch.setattr("rosepo_core.engine.head.BLOCK", 16)
    sequences = users(5, 5, 5)
    examples = places(sequences)
    rejected = draw(examples, 2)
    assert 4 * len(head) * sum(int(labelled.sum()) for _, labelled in template.sft_sequences(sequences)) > limit
    with LargestLogits(head) as scored:
        reference = references(model, template, examples, rejected)
    with LargestLogits(head) as fine_tuned:
        tuned(model, template.sft_sequences(sequences))
    with LargestLogits(head) as trained:
        aligned(model, preference_trees(template, pairs_of(examples, rejected, reference)))
    seen = {"scoring": scored.bytes, "sft": fine_tuned.bytes, "alignment": trained.bytes}
    if frozen:
        assert set(seen.values()) == {0}, "tiles are narrower than the vocabulary"
    else:
        assert min(seen.values()) > 0, seen
        assert max(seen.values()) <= limit, seen


@pytest.mark.parametrize("method", ["lora", "full"])
def test_bfloat16_learns_as_float32_does(tiny_model, tiny_tokenizer, template, method):
    """An adapter on a base in bfloat16; all weights in float32 with their products in bfloat16."""
    sequences = users(5, 3, 4, 5)
    examples = places(sequences)
    rejected = draw(examples, 2)
    logs, types = [], []
    for dtype in (torch.float32, torch.bfloat16):
        base = copy.deepcopy(tiny_model)
        model = with_lora(base.to(dtype)) if method == "lora" else base.train()
        options = {"learning_rate": 1e-2 if method == "lora" else 1e-3}
        if method == "full" and dtype == torch.bfloat16:
            options["products"] = dtype
        computed: set[torch.dtype] = set()
        layer = base.model.layers[0].mlp.down_proj
        layer.register_forward_hook(lambda _, __, output, seen=computed: seen.add(output.dtype))
        sft = tuned(model, template.sft_sequences(sequences), steps=6, **options)
        reference = references(model, template, examples, rejected)
        trees = preference_trees(template, pairs_of(examples, rejected, reference))
        computed.clear()
        logs.append((sft, aligned(model, trees, steps=6, **options)))
        types.append({weight.dtype for weight in model.parameters() if weight.requires_grad})
        assert method == "lora" or computed == {dtype}
    assert types == [{torch.float32}, {torch.float32}]
    for stage, tolerance in ((0, 0.05), (1, 0.1)):
        exact, rounded = ([entry["loss"] for entry in log[stage]] for log in logs)
        assert exact[-1] < exact[0] - 0.01
        assert rounded == pytest.approx(exact, abs=tolerance)


def test_one_seed_gives_one_log(tiny_model, template, tiny_tokenizer):
    examples = places(users(5, 3, 4, 6, 2))
    rejected = draw(examples, 2)
    logs = []
    for seed in (3, 3, 4):
        model = with_lora(tiny_model)
        sequences = template.sft_sequences(examples.sequences)
        sft = tuned(model, sequences, batch_size=2, steps=2, seed=seed)
        reference = references(model, template, examples, rejected)
        trees = preference_trees(template, pairs_of(examples, rejected, reference))
        logs.append((sft, aligned(model, trees, batch_size=2, steps=2, seed=seed)))
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]


def test_checkpointing_changes_memory_alone(lora, template):
    examples = places(users(5, 3))
    rejected = draw(examples, 1)
    # Away from the policy: the sign of a margin of 0, which counts as accuracy, would be that of rounding.
    reference = references(lora, template, examples, rejected) + np.float32([0.5, 0])
    trees = preference_trees(template, pairs_of(examples, rejected, reference))
    plain, checkpointed = (
        aligned(copy.deepcopy(lora), trees, steps=2, gradient_checkpointing=flag) for flag in (False, True)
    )
    for one, other in zip(plain, checkpointed, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("where", ["adapter", "attention"])
def test_dropout_is_off_in_alignment(tiny_model, template, where):
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    base = copy.deepcopy(tiny_model)
    if where == "adapter":
        config.lora_dropout = 0.5
    else:
        for layer in base.model.layers:
            layer.self_attn.attention_dropout = 0.1
    model = get_peft_model(base, config)
    examples = places(users(5, 3))
    rejected = draw(examples, 1)
    trees = preference_trees(template, pairs_of(examples, rejected, references(model, template, examples, rejected)))
    assert aligned(model, trees)[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_alignment_config_is_a_dpo_config():
    config = AlignmentConfig(output_dir="unused", beta=0.3, use_cpu=True, bf16=False)
    assert isinstance(config, DPOConfig)
    assert config.beta == 0.3


@pytest.mark.parametrize(
    ("ratio", "rates"),
    [(0.0, [4, 3, 2, 1]), (0.5, [0, 2, 4, 2]), (1.0, [0, 1, 2, 3])],
)
def test_warmup_is_a_share_of_the_steps(lora, tiny_tokenizer, template, ratio, rates):
    """Up from 0 in a straight line and down to 0 in another; a ratio of 1 is all the steps, not one."""
    log = tuned(
        lora,
        template.sft_sequences(users(4, 4)),
        steps=4,
        warmup_ratio=ratio,
        learning_rate=0.04,
    )
    assert [entry["learning_rate"] for entry in log] == pytest.approx([rate / 100 for rate in rates])


class Notes(QuietReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


class Own(PreferenceLoss):
    """Someone's, of whom the message must speak."""

    origin = "loss 'own' of acme 1.0"

    def __init__(self, of_pairs: Any) -> None:
        super().__init__()
        self._of_pairs = of_pairs

    def __call__(self, log_probs: LogProbs) -> Any:
        return self._of_pairs(log_probs.chosen - log_probs.rejected[:, 0])


@pytest.mark.parametrize(
    ("of_pairs", "message"),
    [
        (torch.mean, "returned float32 (), not the loss of each pair, float (3,); do not average it"),
        (lambda margin: margin[:, None], "returned float32 (3, 1), not the loss of each pair"),
        (lambda margin: margin > 0, "returned bool (3,), not the loss of each pair"),
        (lambda margin: margin.detach().numpy(), "returned ndarray, not a tensor"),
        (lambda margin: margin.detach(), "returned losses without a gradient"),
        (lambda margin: margin / 0 * 0, "returned nan for a pair whose log-probabilities are numbers (row 0)"),
    ],
)
def test_a_loss_that_breaks_its_contract_is_named_in_the_first_step(lora, template, of_pairs, message):
    examples = places(users(4))
    rejected = draw(examples, 1)
    trees = preference_trees(template, pairs_of(examples, rejected, np.zeros((3, 2), dtype=np.float32)))
    with pytest.raises(PluginError, match=re.escape(f"loss 'own' of acme 1.0 {message}")):
        aligned(lora, trees, loss=Own(of_pairs))


def test_a_loss_that_breaks_later_is_named_too(lora, template):
    examples = places(users(4))
    trees = preference_trees(template, pairs_of(examples, draw(examples, 1), np.zeros((3, 2), dtype=np.float32)))
    asked = []

    def breaks(margin: Tensor) -> Tensor:
        asked.append(1)
        return -margin if len(asked) == 1 else margin / 0 * 0

    with pytest.raises(PluginError, match=re.escape("loss 'own' of acme 1.0 returned nan for a pair whose")):
        aligned(lora, trees, loss=Own(breaks), steps=3)


def test_a_step_that_breaks_is_named_with_its_example_before_it_changes_weights(tiny_model, template):
    sequences = template.sft_sequences(users(4, 4, 4))
    torch.manual_seed(0)
    model = type(tiny_model)(type(tiny_model.config)(**{**tiny_model.config.to_dict(), "tie_word_embeddings": False}))
    tokens = [set(ids.tolist()) for ids, _ in sequences]
    with torch.no_grad():
        model.get_input_embeddings().weight[min(tokens[1] - tokens[0] - tokens[2])] = torch.nan
    before = parameters(model.train())
    with pytest.raises(DivergedError) as error:
        tuned(model, sequences, steps=3)
    assert str(error.value) == (
        "training failed: the gradient is nan in step 1, in training example 1 (counted from 0); no model of it is "
        "kept. Lower the learning rate, or compute in float32 with model.dtype = 'float32'"
    )
    assert changed(before, model) == {"model.embed_tokens.weight"}  # NaN equals nothing.


def test_a_loss_that_has_risen_is_told_of(tiny_model, template):
    assert rise([1.0] * 10 + [2.5] * 10) == (1.0, 2.5)
    assert rise([1.0] * 10 + [1.9] * 10) is None
    assert rise([3.0] + [9.0] * 8) is None
    reporter = Notes()
    tuned(
        copy.deepcopy(tiny_model).train(),
        template.sft_sequences(users(4, 4)),
        reporter,
        steps=10,
        learning_rate=100.0,
    )
    assert any("the training diverged; lower the learning rate" in note for note in reporter.notes)


def test_training_that_breaks_is_told_of_at_once(tiny_model, tiny_tokenizer, template):
    sequences = template.sft_sequences(users(4, 4, 4))
    model = copy.deepcopy(tiny_model).train()
    with pytest.raises(RosepoError, match=r"training failed: .* in step [12], .* Lower the learning rate"):
        tuned(model, sequences, learning_rate=1e30, steps=3)
    # The last step's weights are seen by nobody before they are written.
    model = copy.deepcopy(tiny_model).train()
    model.register_parameter("spare", torch.nn.Parameter(torch.tensor([torch.nan])))
    with pytest.raises(RosepoError, match=r"training failed: not all of spare are numbers"):
        tuned(model, sequences)


def test_a_learning_rate_that_is_0_throughout_is_noted(lora, tiny_tokenizer, template):
    sequences = template.sft_sequences(users(4, 4))
    one, two = Notes(), Notes()
    tuned(lora, sequences, steps=1, warmup_ratio=0.1, reporter=one)
    assert one.notes == ["the learning rate was 0 in every step, so nothing was learned: set warmup_ratio to 0"]
    tuned(lora, sequences, steps=2, warmup_ratio=0.1, reporter=two)
    assert two.notes == []


def test_several_gpus_do_not_end_in_data_parallel(monkeypatch, lora, template):
    """transformers counts the visible ones; with two it would wrap the model in DataParallel."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    plain = DPOConfig(output_dir="unused", bf16=False)
    assert plain.n_gpu == 2, "transformers no longer counts"
    examples = places(users(3))
    rejected = draw(examples, 1)
    trees = preference_trees(template, pairs_of(examples, rejected, references(lora, template, examples, rejected)))
    args = AlignmentConfig(output_dir="unused", bf16=False, per_device_train_batch_size=3)
    module = TreeModule(lora, dropout=False)
    passes = training_passes(lora, 2048, "token_budget")
    trainer = TreeTrainer(module, args, PreferencePairs(dpo()), trees, passes, ThreadPoolExecutor(1))
    assert (args.n_gpu, args.train_batch_size) == (1, 3)
    assert trainer._wrap_model(module) is module


class _AsGiven(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer with its batches in the order given."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_step_is_trls_own(tmp_path: Path, tiny_model, tiny_tokenizer, catalogue, method):
    """The same pairs as text through TRL's DPOTrainer: ids, loss, metrics and gradients."""
    template = prompt_template(CHAT, tiny_tokenizer, catalogue, 5)
    start = with_lora(tiny_model, init=False) if method == "lora" else copy.deepcopy(tiny_model).train()
    examples = places(users(4, 2, 3))
    rejected = draw(examples, 1)

    def moved(model: Any) -> Any:
        """The policy some steps away from the reference."""
        generator = torch.Generator().manual_seed(9)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and ".ref." not in name:
                    parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        return model

    theirs = copy.deepcopy(start)
    texts = template.response_texts
    table = Table.from_dict(
        {
            "prompt": template.prompt_texts(examples, shared=True),
            "chosen": [texts[item] for item in examples.target.tolist()],
            "rejected": [texts[item] for item in rejected[:, 0].tolist()],
        }
    )
    trainer = _AsGiven(
        model=theirs,
        args=DPOConfig(
            beta=0.1,
            max_length=None,
            precompute_ref_log_probs=True,
            bf16=False,
            disable_tqdm=True,
            learning_rate=1.0,
            logging_steps=1,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            max_steps=1,
            optim="sgd",
            output_dir=str(tmp_path),
            per_device_train_batch_size=len(examples),
            report_to="none",
            save_strategy="no",
            use_cpu=True,
        ),
        train_dataset=table,
        processing_class=tiny_tokenizer,
    )
    prompts = template.prompts(examples, shared=True)
    assert trainer.train_dataset["prompt_ids"][:] == [ids.tolist() for ids in prompts]
    for name, items in (("chosen_ids", examples.target), ("rejected_ids", rejected[:, 0])):
        assert trainer.train_dataset[name][:] == [template.response_ids[item].tolist() for item in items.tolist()]
    reference = references(start, template, examples, rejected)
    for column, name in enumerate(("ref_chosen_logps", "ref_rejected_logps")):
        np.testing.assert_allclose(reference[:, column], trainer.train_dataset[name][:], atol=1e-4)
    before = parameters(moved(theirs))
    trainer.train()
    expected = trainer.state.log_history[0]
    assert abs(expected["loss"] - math.log(2)) > 1e-3, "the policy is still the reference"

    ours = moved(copy.deepcopy(start))
    trees = preference_trees(template, pairs_of(examples, rejected, reference))
    found = stepped(ours, trees, batch_size=len(trees))
    for name in ("loss", "grad_norm", *TRL_METRICS):
        assert found[name] == pytest.approx(expected[name], abs=1e-4, rel=1e-4), name
    reached, targets = parameters(ours), parameters(theirs)
    trained = [name for name, parameter in ours.named_parameters() if parameter.requires_grad]
    for name in trained:
        assert_close(reached[name] - before[name], targets[name] - before[name], atol=1e-4, rtol=0, msg=name)
    assert max(float((reached[name] - before[name]).abs().max()) for name in trained) > 1e-2


def with_mismatched(model: Any, template: PromptTemplate) -> tuple[Pairs, Ints]:
    """Pairs with a mismatched item each, whose reference is apart from the policy by noise around -0.5; and the
    numbers of tokens of their chosen responses."""
    examples = places(users(5, 3, 4, 2))
    rejected, mismatched = draw(examples, 2, holes=True), np.roll(examples.target, 3)
    own = references(model, template, examples, np.concatenate([rejected, mismatched[:, None]], axis=1))
    noise = np.random.default_rng(5).normal(-0.5, 1.0, own.shape).astype(np.float32)
    reference = np.where(np.isfinite(own), own + noise, own).astype(np.float32)
    pairs = pairs_of(examples, rejected, reference[:, :-1])
    pairs = replace(pairs, mismatched=mismatched, reference_mismatched=reference[:, -1])
    return pairs, template.response_lengths[examples.target]


def test_a_loss_of_the_whole_step_does_not_see_passes(lora, template):
    """KTO in one pass, in passes of 40 tokens and with accumulated gradients, against its formula in numpy."""
    pairs, _ = with_mismatched(lora, template)
    trees = preference_trees(template, pairs)
    loss: PreferenceLoss = load_plugins().create("loss", "kto", {"beta": 0.5})
    trained = []
    for options in (
        {"batch_size": 4, "token_budget": 4096},
        {"batch_size": 4, "token_budget": 40},
        {"batch_size": 1, "token_budget": 40, "gradient_accumulation_steps": 4},
    ):
        model = copy.deepcopy(lora)
        with Passes(model) as passes:
            entry = stepped(model, trees, loss=loss, **options)
        trained.append((entry, parameters(model), len(passes.tokens)))
    # Each pass is run twice.
    assert trained[0][2] % 2 == trained[1][2] % 2 == 0
    assert trained[1][2] > trained[0][2]

    held = pairs.rejected >= 0
    policy = references(lora, template, pairs.examples, pairs.responses[:, 1:])
    ratios = np.where(np.isfinite(policy), policy, 0) - np.where(np.isfinite(policy), pairs.reference, 0)
    baseline = max(0.0, ratios[:, -1].mean())
    assert baseline > 0.1
    desirable = 1 / (1 + np.exp(-0.5 * (baseline - ratios[:, 0])))
    undesirable = np.where(held, 1 / (1 + np.exp(-0.5 * (ratios[:, 1:-1] - baseline))), 0).sum(1) / held.sum(1)
    expected = {
        "loss": (desirable + undesirable).mean() / 2,
        "rewards/chosen": 0.5 * ratios[:, 0].mean(),
        "rewards/rejected": 0.5 * ratios[:, 1:-1][held].mean(),
    }
    for entry, found, _ in trained:
        assert {name: entry[name] for name in expected} == pytest.approx(expected, abs=1e-4)
        assert entry["grad_norm"] == pytest.approx(trained[0][0]["grad_norm"], rel=1e-4)
        for name, one in found.items():
            assert_close(one, trained[0][1][name], atol=1e-5, rtol=0, msg=name)
    assert entry["grad_norm"] > 1e-3


def test_ranks_share_the_loss_of_the_whole_step(monkeypatch, lora, template):
    """Two ranks with half of the trees each get the gradients that one process with all of them gets."""
    pairs, _ = with_mismatched(lora, template)
    trees = preference_trees(template, pairs)
    objective = PreferencePairs(load_plugins().create("loss", "kto", {"beta": 0.5}))
    halves = [objective.stacked(trees[:2], False), objective.stacked(trees[2:], False)]
    module = TreeModule(lora, dropout=False).train()
    cpu = torch.device("cpu")
    alone, _ = with_gradients(module, objective, halves, cpu, True)

    sent: list[Any] = []
    monkeypatch.setattr(ranks, "count", lambda: 2)
    for rank in (1, 0):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)

        def gathered(place: str, arrays: Any) -> list[Any]:
            sent.append(arrays)
            return [arrays, *reversed(sent[:-1])] if len(sent) > 1 else [arrays, arrays]

        monkeypatch.setattr(ranks, "gathered", gathered)
        (found,), _ = with_gradients(module, objective, [halves[rank]], cpu, True)
    # The last one is rank 0, which saw what rank 1 had sent.
    assert_close(found.gradient, alone[0].gradient)
    assert found.share is not None
    assert alone[0].share is not None
    assert_close(found.share, alone[0].share)


def test_each_term_of_a_sum_is_logged(lora, template):
    """0.5 DPO + 0.1 SFT, and the rewards of DPO."""
    pairs, tokens = with_mismatched(lora, template)
    trees = preference_trees(template, replace(pairs, mismatched=None, reference_mismatched=None))
    sft: PreferenceLoss = load_plugins().create("loss", "sft", {})
    entry = stepped(copy.deepcopy(lora), trees, loss=Mixture({"dpo": (dpo(0.2), 0.5), "sft": (sft, 0.1)}))
    alone = stepped(copy.deepcopy(lora), trees, loss=dpo(0.2))

    policy = references(lora, template, pairs.examples, pairs.rejected)
    assert entry["loss/sft"] == pytest.approx(-(policy[:, 0] / tokens).mean(), abs=1e-4)
    assert entry["loss/dpo"] == pytest.approx(alone["loss"], abs=1e-5)
    assert entry["loss"] == pytest.approx(0.5 * entry["loss/dpo"] + 0.1 * entry["loss/sft"], abs=1e-5)
    assert entry["rewards/margins"] == pytest.approx(alone["rewards/margins"], abs=1e-5)
    assert "loss/dpo" not in alone


def test_the_loss_that_breaks_its_contract_in_a_sum_is_named(lora, template):
    pairs, _ = with_mismatched(lora, template)
    trees = preference_trees(template, replace(pairs, mismatched=None, reference_mismatched=None))
    mixed = Mixture({"dpo": (dpo(), 1.0), "own": (Own(torch.mean), 1.0)})
    with pytest.raises(
        PluginError, match=r"loss 'own' of acme 1\.0 returned float32 \(\), not the loss of each pair"
    ):
        aligned(lora, trees, loss=mixed)
