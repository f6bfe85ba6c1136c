"""What the rows of `benchmarks/bench.py` have in common: the log, the model, the same pairs, and a clock."""

from __future__ import annotations

import statistics
import time
from contextlib import nullcontext
from functools import cache
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rosepo_core.api import Examples, Ints, PreferenceLoss, Split
from rosepo_core.contracts.records import Pairs
from rosepo_core.contracts.sections import SplitOptions
from rosepo_core.data.filters import filter_corpus
from rosepo_core.data.listed_candidates import draw_lists
from rosepo_core.data.splitting import split_corpus
from rosepo_core.engine.attention import NAME as BLOCKS
from rosepo_core.engine.models import load_model, load_tokenizer, resolve_model
from rosepo_core.engine.precision import bfloat16_pays
from rosepo_core.engine.scoring import score_items
from rosepo_core.engine.training import PreferenceTree
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.stages.aligned import preference_trees
from rosepo_core.testing import prompt_template
from rosepo_core.testing.toys import SilentReporter

MODEL = "smollm2-135m"
DTYPE = "bfloat16" if bfloat16_pays(576, 1536) else "float32"
"""Of the base on both sides; bfloat16 where it is the slower one would starve the peers."""
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
    options = {"name": kind, "titles": "short", **({"candidates": candidates} if candidates else {})}
    return prompt_template(options, tokenizer(), split().catalogue, HISTORY)


def bare_model(attention: str = BLOCKS) -> Any:
    model: Any = load_model(MODEL, DTYPE, SilentReporter())[0]
    model.set_attn_implementation(attention)
    return model


def adapted_model(attention: str = BLOCKS) -> Any:
    """SmolLM2-135M with a fresh LoRA adapter, rank 8, on all linear layers."""
    return _adapted(bare_model(attention))


def peer_model() -> Any:
    """The same model with the same adapter, as transformers and PEFT load it."""
    folder = resolve_model(MODEL, SilentReporter())
    return _adapted(AutoModelForCausalLM.from_pretrained(str(folder), dtype=DTYPE, attn_implementation="sdpa"))


def _adapted(model: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config).train()


def examples(users: int, places: int, *, seed: int = 0) -> Examples:
    """The last `places` training targets of users drawn from those with at least twice `HISTORY` items."""
    train = split().train
    chosen = np.random.default_rng(seed).choice(np.flatnonzero(train.lengths >= 2 * HISTORY), users, replace=False)
    back = np.arange(places, 0, -1)
    position = (train.lengths[chosen][:, None] - back).astype(np.int32)
    return Examples.of(train, np.repeat(chosen, places).astype(np.int32), position.ravel())


def rejected(of: Examples, k: int) -> Ints:
    """Uniform items other than the target, int32 [n, k]."""
    items = len(split().catalogue)
    away = np.random.default_rng(1).integers(1, items, (len(of), k))
    return ((of.target[:, None] + away) % items).astype(np.int32)


def lists(of: PromptTemplate, pairs: Examples, negatives: Ints | None = None) -> Ints | None:
    """The candidates that the prompts list, where they list any."""
    count = of.candidates
    return draw_lists(pairs, count, len(split().catalogue), [0], rejected=negatives) if count else None


def trees(model: Any, of: PromptTemplate, pairs: Examples, negatives: Ints) -> list[PreferenceTree]:
    """The pairs with their reference log-probabilities, as `rosepo train` makes them."""
    responses = np.concatenate([pairs.target[:, None], negatives], axis=1)
    was_training = model.training
    listed = lists(of, pairs, negatives)
    reference = score_items(
        model.eval(), of, pairs, responses, "auto", SilentReporter(), shared=True, candidates=listed
    )
    model.train(was_training)
    eps = np.zeros(negatives.shape, dtype=np.float32)
    return list(preference_trees(of, Pairs(pairs, negatives, eps, reference[:, 0], reference[:, 1:], listed)))


def dpo() -> PreferenceLoss:
    loss: PreferenceLoss = load_plugins().create("loss", "dpo", {})
    return loss


class Floor:
    """What the tokens that must be processed take at the bare model's own rate: each token through the frozen layers,
    the state before each response token through the head, without adapters, masks or optimizer.
    """

    def __init__(self, model: Any, *, backward: bool, batch: int = 4, length: int = 200) -> None:
        """`backward`: forward and backward, the weights frozen; else forward alone."""
        self._model, self._backward, self._shape = model, backward, (batch, length)
        self._bare = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._layers: list[float] = []
        self._head: list[float] = []

    def measure(self) -> None:
        """Time both rates once, beside what they are the floor of."""
        decoder, weight = self._bare.get_decoder(), self._bare.get_output_embeddings().weight
        embeddings = torch.zeros(*self._shape, weight.shape[1], dtype=decoder.dtype, requires_grad=self._backward)
        states = torch.randn(512, weight.shape[1], dtype=weight.dtype)
        start = time.perf_counter()
        with (
            self._model.disable_adapter() if hasattr(self._model, "disable_adapter") else nullcontext(),
            torch.set_grad_enabled(self._backward),
        ):
            hidden = decoder(inputs_embeds=embeddings, use_cache=False).last_hidden_state
            if self._backward:
                hidden.sum().backward()
        self._layers.append((time.perf_counter() - start) / embeddings.shape[:2].numel())
        start = time.perf_counter()
        with torch.no_grad():
            logits = states @ weight.T
            if self._backward:
                logits @ weight
        self._head.append((time.perf_counter() - start) / len(states))

    def seconds(self, tokens: float, states: float) -> float:
        """For so many tokens, and distinct states before response tokens, at the medians of what was measured."""
        return tokens * statistics.median(self._layers) + states * statistics.median(self._head)


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
