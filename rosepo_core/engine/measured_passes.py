"""Measures what passes of a model cost on a GPU, in time and memory, with a few passes over made-up text."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rosepo_core.engine.head import bare_model
from rosepo_core.engine.log_probs import log_probs
from rosepo_core.engine.packing import PassCost
from rosepo_core.engine.precision import autocast
from rosepo_core.engine.preparation import evaluating, prepared
from rosepo_core.engine.trees import TokenTree, TreeBatch

SMALL = (1, 64)
"""Rows and tokens of a row of the smallest measured pass."""

MEASURED_TOKENS = 8192
"""The most tokens of a measured pass."""

WIDTHS = (128, 1024)
"""Tokens of a row in the larger measured passes: with little attention, and with much."""

ROUNDS = 3

TOLERANCE = 0.05
"""Largest mean difference of a token's log-probability between kernels, in nats (bfloat16 rounds to 0.4 %)."""


@dataclass(frozen=True)
class MeasuredPasses:
    """What was measured of a model.

    Attributes:
        cost: of a pass, in seconds.
        bytes: memory that a pass needs for each token.
        packed_cost: of a pass over one long row, in seconds; `None` if it was not measured, or long rows cannot be
            used.
        problem: why long rows cannot be used; empty if they can, or were not asked for.
    """

    cost: PassCost
    bytes: float
    packed_cost: PassCost | None = None
    problem: str = ""


_MEASURED: dict[Any, MeasuredPasses] = {}


def measured_passes(model: Any, training: bool, products: torch.dtype | None, in_rows: bool) -> MeasuredPasses:
    """The result of `measure_passes` for this model, measured once in a process."""
    parameters = list(model.parameters())
    trained = sum(each.numel() for each in parameters if each.requires_grad)
    checkpointed = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    config = bare_model(model).config.to_json_string(use_diff=False)
    key = config, str(parameters[0].device), parameters[0].dtype, training, products, trained, checkpointed, in_rows
    if key not in _MEASURED:
        _MEASURED[key] = measure_passes(model, training=training, products=products, in_rows=in_rows)
    return _MEASURED[key]


def measure_passes(
    model: Any,
    *,
    training: bool,
    products: torch.dtype | None = None,
    in_rows: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> MeasuredPasses:
    """Measure passes of a model over made-up text. Gradients, modes and random numbers are as before afterwards.

    Args:
        model: a causal language model of transformers, with or without PEFT adapters.
        training: measure forward and backward passes; otherwise forward passes without gradients.
        products, in_rows: as in `training_passes`.
        clock: gives the time in seconds.
    """
    device = next(model.parameters()).device

    def total(batch: TreeBatch) -> Tensor:
        with torch.set_grad_enabled(training), autocast(model, products):
            return log_probs(model, batch).sum()

    def measured(rows: int, width: int, packed: bool = False) -> tuple[float, float]:
        """Seconds of a pass, and bytes for each of its tokens."""
        batch = _made_up(model, rows, width, packed).to(device)
        before = _memory(device)
        times = []
        # The first pass of a shape sets things up.
        for _ in range(1 + ROUNDS):
            start = clock()
            found = total(batch)
            if training:
                torch.autograd.backward(found)
                model.zero_grad()
            _synchronize(device)
            times.append(clock() - start)
        return statistics.median(times[1:]), (_peak(device) - before) / (rows * width)

    with _untouched(model, device):
        small, needed = measured(*SMALL)
        most = MEASURED_TOKENS
        if needed:
            most = int(min(most, torch.cuda.mem_get_info(device)[0] / 4 / needed))
        longest = getattr(bare_model(model).config.get_text_config(), "max_position_embeddings", None) or WIDTHS[1]
        widths = [min(width, longest, max(most, SMALL[1])) for width in WIDTHS]
        shapes = [(max(1, most // width), width) for width in widths]
        times, bytes_per_token = zip(*(measured(*shape) for shape in shapes), strict=True)
        packed_cost, problem = None, ""
        if in_rows and prepared(model).trees:
            try:
                problem = _differs(model, device)
                in_row = [measured(*shape, packed=True)[0] for shape in (SMALL, *shapes)]
                packed_cost = None if problem else fitted_cost([SMALL, *shapes], in_row)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                # A prototype of PyTorch's, compiled for this card: whatever it says, padded trees are right.
                problem = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
    cost = fitted_cost([SMALL, *shapes], [small, *times])
    # In the small pass, what a pass needs once counts for too much.
    return MeasuredPasses(cost, max(bytes_per_token), packed_cost, problem)


@torch.no_grad()
def _differs(model: Any, device: torch.device) -> str:
    """What is wrong with log-probabilities in a long row, beside those of padded trees; empty if nothing is."""
    with evaluating(model):
        batches = [_made_up(model, 2, SMALL[1], packed).to(device) for packed in (False, True)]
        padded, in_row = (log_probs(model, batch) for batch in batches)
    off = float((in_row - padded).abs().sum()) / batches[0].targets.numel()
    return "" if off <= TOLERANCE else f"log-probabilities of tokens were off by {off:.2g} in a test"


def fitted_cost(shapes: Sequence[tuple[int, int]], seconds: Sequence[float]) -> PassCost:
    """The cost of passes of three shapes (rows, tokens of a row) that took so many seconds: the solution of three
    equations. No part of it is below zero: what noise would make negative is zero, and the others are fitted without
    it."""
    rows, width = np.array(shapes, dtype=np.float64).T
    parts = np.stack([np.ones_like(rows), rows * width, rows * width**2], axis=1)
    kept = [0, 1, 2]
    found = np.zeros(3)
    while kept:
        found[:] = 0
        found[kept] = np.linalg.lstsq(parts[:, kept], np.array(seconds), rcond=None)[0]
        if found.min() >= 0:
            break
        kept.remove(int(found.argmin()))
    fixed, token, square = found.tolist()
    # A pass of no cost for its tokens would be as long as memory allows, whatever the padding.
    return PassCost(fixed, max(token, 1e-12), square)


def _made_up(model: Any, rows: int, width: int, packed: bool = False) -> TreeBatch:
    """Random texts whose second half is a response, with a branch of one token before it."""
    vocabulary: int = model.get_input_embeddings().num_embeddings
    ids = np.random.default_rng(0).integers(0, vocabulary, (rows, width), dtype=np.int32)
    trunk, half = width - 1, width // 2
    trees = [
        TokenTree.grow(
            row[:trunk],
            rows=np.arange(2),
            columns=np.zeros(2, np.int64),
            visible=np.array([trunk - half, trunk - half]),
            lengths=np.array([half, 2]),
            targets=np.concatenate([row[trunk - half : trunk], row[-2:]]),
            in_trunk=np.array([True, False]),
        )
        for row in ids
    ]
    return TreeBatch.of(trees, pad_token_id=0, packed=packed)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(device: torch.device) -> int:
    """Bytes in use now; 0 if nobody counts them. The peak is counted from here on."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _peak(device: torch.device) -> int:
    """Most bytes in use since the last call of `_memory`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


@contextmanager
def _untouched(model: Any, device: torch.device) -> Iterator[None]:
    """Afterwards, gradients and the state of random numbers are as before."""
    parameters = [each for each in model.parameters() if each.requires_grad]
    gradients = [each.grad for each in parameters]
    for each in parameters:
        each.grad = None
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        for each, gradient in zip(parameters, gradients, strict=True):
            each.grad = gradient
