"""What the rows of `benchmarks/bench.py` have in common: the log, the model, the same pairs, and a clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from rosepo_core.api import Examples, Ints, PreferenceLoss, Split
from rosepo_core.engine.attention import NAME as PRODUCTS
from rosepo_core.engine.models import computes_bfloat16, load_model, load_tokenizer
from rosepo_core.engine.prompts import PromptTemplate, make_template
from rosepo_core.engine.scoring import score_items
from rosepo_core.engine.training import PreferenceTree
from rosepo_core.records import Pairs
from rosepo_core.registry import load_plugins
from rosepo_core.sections import PromptOptions, SplitOptions
from rosepo_core.stages.alignment import preference_trees
from rosepo_core.stages.dataset import filter_corpus
from rosepo_core.stages.split import split_corpus
from rosepo_core.testing.toys import SilentReporter

MODEL = "smollm2-135m"
DTYPE = "bfloat16" if computes_bfloat16() else "float32"
"""Of the base on both sides; bfloat16 where the processor has no instructions for it would starve the peers."""
HISTORY = 20
LAST_PLACES = 20


@cache
def split() -> Split:
    """MovieLens-100K, leave-one-out."""
    dataset = load_plugins().create("dataset", "movielens-100k", {})
    return split_corpus(filter_corpus(dataset.load(SilentReporter()), dataset.options), SplitOptions())


def tokenizer() -> Any:
    return load_tokenizer(MODEL, SilentReporter())


def template(kind: str, candidates: int = 0) -> PromptTemplate:
    """`timeline` or `chat` prompts with histories of at most `HISTORY` titles, their years left out."""
    options = PromptOptions(template=kind, titles="short", candidates=candidates)
    return make_template(options, tokenizer(), split().catalogue, HISTORY)


def bare_model(attention: str = PRODUCTS) -> Any:
    model: Any = load_model(MODEL, DTYPE, SilentReporter())[0]
    model.set_attn_implementation(attention)
    return model


def adapted_model(attention: str = PRODUCTS) -> Any:
    """SmolLM2-135M with a fresh LoRA adapter, rank 8, on all linear layers."""
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(bare_model(attention), config).train()


def examples(users: int, places: int, *, seed: int = 0) -> Examples:
    """The last `places` training targets of users drawn from those with at least twice `HISTORY` items."""
    train = split().train
    chosen = np.random.default_rng(seed).choice(np.flatnonzero(train.lengths >= 2 * HISTORY), users, replace=False)
    back = np.arange(places, 0, -1)
    position = (train.lengths[chosen][:, None] - back).astype(np.int32)
    return Examples(train, np.repeat(chosen, places).astype(np.int32), position.ravel())


def rejected(of: Examples, k: int) -> Ints:
    """Uniform items other than the target, int32 [n, k]."""
    items = len(split().catalogue)
    away = np.random.default_rng(1).integers(1, items, (len(of), k))
    return ((of.target[:, None] + away) % items).astype(np.int32)


def trees(model: Any, of: PromptTemplate, pairs: Examples, negatives: Ints) -> list[PreferenceTree]:
    """The pairs with their reference log-probabilities, as `rosepo train` makes them."""
    responses = np.concatenate([pairs.target[:, None], negatives], axis=1)
    was_training = model.training
    reference = score_items(model.eval(), of, pairs, responses, 4096, SilentReporter(), shared=True)
    model.train(was_training)
    eps = np.zeros(negatives.shape, dtype=np.float32)
    return list(preference_trees(of, Pairs(pairs, negatives, eps, reference[:, 0], reference[:, 1:])))


def dpo() -> PreferenceLoss:
    loss: PreferenceLoss = load_plugins().create("loss", "dpo", {})
    return loss


def training_rate(model: Any, batch: int = 4, length: int = 200) -> Callable[[], float]:
    """Gives a function that times the floor: tokens a second through the model's frozen layers, forward and backward,
    without adapters, head, masks or optimizer."""
    decoder = model.get_base_model().get_decoder() if hasattr(model, "get_base_model") else model.get_decoder()
    embeddings = torch.zeros(batch, length, decoder.config.hidden_size, dtype=decoder.dtype, requires_grad=True)

    def once() -> float:
        start = time.perf_counter()
        with model.disable_adapter() if hasattr(model, "disable_adapter") else torch.enable_grad():
            decoder(inputs_embeds=embeddings, use_cache=False).last_hidden_state.sum().backward()
        return batch * length / (time.perf_counter() - start)

    return once


def forward_rate(model: Any, batch: int = 4, length: int = 200) -> Callable[[], float]:
    """Gives a function that times the floor of scoring: tokens a second through the model below its head."""
    ids = torch.randint(17, 40000, (batch, length))

    @torch.no_grad()
    def once() -> float:
        start = time.perf_counter()
        model.get_decoder()(input_ids=ids, use_cache=False)
        return batch * length / (time.perf_counter() - start)

    return once


def row(
    name: str,
    work: str,
    unit: str,
    *,
    ours: list[float],
    theirs: list[float],
    peer_name: str,
    target: float,
    floor: float | None = None,
    note: str = "",
) -> dict[str, Any]:
    """A row of the table from alternating measurements of work per second.

    Args:
        ours, theirs: work per second, measurement i of one right after measurement i of the other.
        target: the ratio to reach.
        floor: work per second if only the tokens that must be processed were, at the model's own rate.
    """
    ratio = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
    mine = statistics.median(ours)
    return {
        "name": name,
        "work": work,
        "unit": unit,
        "rosepo": mine,
        "peer": statistics.median(theirs),
        "peer_name": peer_name,
        "ratio": ratio,
        "target": target,
        "floor_ratio": None if floor is None else floor / mine,
        "measurements": len(ours),
        "note": note,
    }
