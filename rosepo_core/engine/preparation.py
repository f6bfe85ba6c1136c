"""Prepares a language model once, before it is used: finds out whether it can run in trees, and sets its attention.

After this no call changes the model, so several threads may use one model.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rosepo_core.contracts.records import Ints, Longs
from rosepo_core.engine.adapters import fuse_adapters
from rosepo_core.engine.attention import KINDS, NAME
from rosepo_core.engine.head import bare_model, decoder_of
from rosepo_core.engine.prefixes import PrefixStates
from rosepo_core.engine.rows import Rows, row_log_probs
from rosepo_core.engine.trees import TokenTree, TreeBatch, tree_log_probs

_ATTRIBUTE = "_rosepo_execution"
_LOCK = threading.RLock()
_TESTED: dict[Any, str] = {}
"""The reason of the self-test against trees, by configuration; empty if there is none."""

_WINDOWS = ("sliding_window", "attention_chunk_size")
"""The keys of a configuration from which transformers' masks read the size of windows."""

_SHORT_WINDOW = 5
_TRUNK = 12
"""Number of tokens in the self-test's trunk."""

_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Largest allowed difference of a token's log-probability, in nats, by the type of the weights."""


@dataclass(frozen=True)
class Execution:
    """How a model runs.

    Attributes:
        trees: true if it reads a prompt and all its responses in one sequence; false if it runs in rows
            (`engine.rows`).
        reason: why it does not run in trees; empty if it does.
    """

    trees: bool
    reason: str


def prepared(model: Any) -> Execution:
    """How a model runs. A model is prepared when this is first called for it.

    The LoRA layers are fused (`engine.adapters`). If the model can run in trees, its attention is permanently
    replaced by that of `engine.attention`. A self-test then compares log-probabilities with those of the model's own
    forward pass: for a short tree with several branches, with windows so small that the tree exceeds them, and for a
    search. If they differ, the model keeps its own attention and runs in rows. The test runs once for each
    configuration in a process, and costs a few passes over about fifty tokens.

    Args:
        model: a causal language model of transformers, with or without PEFT adapters.
    """
    found = _known(model)
    if found is None:
        with _LOCK:
            found = _known(model)
            if found is None:
                found = _prepare(model)
                setattr(model, _ATTRIBUTE, found)
    return found


def _known(model: Any) -> Execution | None:
    found: Execution | None = vars(model).get(_ATTRIBUTE)
    if found and found.trees and decoder_of(model).config._attn_implementation != NAME:
        return None  # Someone has set another attention since.
    return found


def _prepare(model: Any) -> Execution:
    fuse_adapters(model)
    bare = bare_model(model)
    config = getattr(model, "active_peft_config", None)
    if config is not None and config.is_prompt_learning:
        return Execution(False, f"its adapter of type {config.peft_type.value} puts vectors before the prompt")
    if bare is not model:
        return prepared(bare)
    reason = _inexpressible(model)
    if not reason:
        with evaluating(model):
            reason = _failed_test(model)
    return Execution(not reason, reason)


def _inexpressible(model: Any) -> str:
    """The part of a model that cannot run in trees, as far as the model's structure shows it; empty if there is
    none."""
    decoder = decoder_of(model)
    kinds = set(getattr(decoder.config, "layer_types", None) or ()) - KINDS
    if kinds:
        return f"it has layers of type {', '.join(sorted(kinds))}"
    for module in decoder.modules():
        if isinstance(module, nn.Conv1d | nn.RNNBase):
            return f"it has layers ({type(module).__name__}) that run along the sequence"
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        return "it counts positions along the sequence"
    if not model._can_set_attn_implementation():
        return "its attention code takes no masks of trees"
    windows = {
        name: size
        for name, size in decoder.config.to_dict().items()
        if re.search(r"window_(size|len)$", name) and isinstance(size, int) and size >= _TRUNK
    }
    for name, size in windows.items():
        if size not in [getattr(decoder.config, known, None) for known in _WINDOWS]:
            return f"it has windows of its own ({name})"
    return ""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside the context, `model` is in evaluation mode and without autocast, so nothing is random or rounded."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            yield
    finally:
        for module in training:
            module.training = True


def _failed_test(model: Any) -> str:
    """Set the attention of `engine.attention` and run the self-test. Returns an empty text if it passes; otherwise
    the reason, and the model gets its own attention back."""
    decoder, weight = decoder_of(model), next(model.parameters())
    key = type(model), model.config.to_json_string(use_diff=False), weight.dtype, weight.device.type
    own = decoder.config._attn_implementation
    if key not in _TESTED:
        _TESTED[key] = _test(model, own)
    _choose_attention(decoder, own, NAME if not _TESTED[key] else own)
    return _TESTED[key]


def _choose_attention(decoder: Any, now: str, wanted: str) -> None:
    decoder.set_attn_implementation(wanted)
    # Layers that PEFT replicated have copies of the configuration, which the line above does not change.
    for module in decoder.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", None) == now:
            config._attn_implementation = wanted


@contextmanager
def _short_windows(config: Any) -> Iterator[None]:
    """Inside the context, windows are so small that a short text exceeds them."""
    kept = {name: getattr(config, name) for name in _WINDOWS if getattr(config, name, None)}
    for name in kept:
        setattr(config, name, min(_SHORT_WINDOW, kept[name]))
    try:
        yield
    finally:
        for name, size in kept.items():
            setattr(config, name, size)


@torch.no_grad()
def _test(model: Any, own: str) -> str:
    """The difference between trees and rows (the model's own forward pass), as a text; empty if there is none."""
    decoder, device = decoder_of(model), next(model.parameters()).device
    draw, vocabulary = np.random.default_rng(0), model.get_input_embeddings().num_embeddings
    trunk: Ints = draw.integers(0, vocabulary, _TRUNK, dtype=np.int32)
    # Two branches start at the trunk's end, one starts earlier, and one response is in the trunk.
    visible = np.array([_TRUNK, _TRUNK, _TRUNK - 4, 3])
    responses = [draw.integers(0, vocabulary, length, dtype=np.int32) for length in (4, 4, 6)]
    responses.append(trunk[3:6])
    tree = TokenTree.grow(
        trunk,
        rows=np.arange(4),
        columns=np.zeros(4, np.int64),
        visible=visible,
        lengths=np.array([len(response) for response in responses]),
        targets=np.concatenate(responses),
        in_trunk=np.array([False, False, False, True]),
    )
    batch = TreeBatch.of([tree], pad_token_id=0).to(device)
    rows = Rows.of(batch)
    with _short_windows(decoder.config):
        expected = row_log_probs(model, rows.input_ids, rows.row, rows.column, batch.targets, rows.input_ids.numel())
        if not expected.isfinite().all():
            return ""
        try:
            _choose_attention(decoder, own, NAME)
            found = {
                "a tree's": tree_log_probs(model, batch),
                "a search's": _searched(model, trunk, visible[:3], responses[:3]).to(device),
            }
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            return f"a test of it failed ({type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')})"
        finally:
            _choose_attention(decoder, NAME, own)
    for what, values in found.items():
        # The median over each response's tokens, because rounding may send single tokens to another expert.
        off = (values - expected[: len(values)]).abs()
        starts = np.cumsum([len(response) for response in responses])[:-1].tolist()
        worst = max(float(part.median()) for part in off.tensor_split(starts) if len(part))
        if not worst <= _TOLERANCE[next(model.parameters()).dtype]:
            return f"{what} log-probabilities were off by {worst:.2g} in a test"
    return ""


def _searched(model: Any, trunk: Ints, visible: Longs, responses: Sequence[Ints]) -> Tensor:
    """Log-probabilities of the tokens of responses, computed as in a search: [sum of lengths]."""
    count = np.array([len(response) for response in responses])
    # Two prompts: the last response grows from the second, the others from the first, which is the whole trunk.
    prompts = [trunk, trunk[: visible[-1]]]
    row = np.array([0] * (len(visible) - 1) + [1])
    states = PrefixStates(model, prompts, token_budget=1024)
    ends = states.prompt_ends(np.arange(2), np.array([len(prompt) for prompt in prompts]))
    first = states.log_probs(ends, row, np.array([response[0] for response in responses]))
    hidden, _ = states.extend(
        row=row,
        length=visible,
        depth=np.zeros(len(row), np.int64),
        paths=np.zeros((len(row), 0), np.bool_),
        paths_row=row,
        path=np.arange(len(row)),
        tokens=np.concatenate([response[:-1] for response in responses]).astype(np.int64),
        counts=count - 1,
    )
    following = np.concatenate([response[1:] for response in responses])
    rest = states.log_probs(hidden, np.arange(len(following)), following)
    parts = np.split(rest, np.cumsum(count - 1)[:-1])
    return torch.from_numpy(np.concatenate([np.append(one, part) for one, part in zip(first, parts, strict=True)]))
