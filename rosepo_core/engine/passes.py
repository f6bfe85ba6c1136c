"""Decides how many tokens a forward pass may have, and what passes cost, in training, scoring, sampling and decoding.

On a CPU both are constants, so that a run repeats bit for bit. On a GPU they come from a few passes of the run's own
model over made-up text: the time of passes of several shapes, and the memory that a token needs, beside the memory
that is free. The measurement is made once for a model and a device in a process. With ``deterministic = true`` both
are constants on a GPU, too.

Nobody can know for sure what fits into a GPU's memory. So work that runs out of memory is repeated once with half the
tokens, which changes no result.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rosepo_core.contracts.errors import RosepoError
from rosepo_core.contracts.records import Longs
from rosepo_core.contracts.sections import TokenBudget
from rosepo_core.engine.head import LOGIT_BYTES, bare_model
from rosepo_core.engine.log_probs import log_probs
from rosepo_core.engine.packing import PassCost, constant_cost, pack, pack_in_rows, price
from rosepo_core.engine.precision import autocast
from rosepo_core.engine.preparation import prepared
from rosepo_core.engine.trees import TokenTree, TreeBatch

T = TypeVar("T")

CONSTANT = {("cpu", True): 1024, ("cpu", False): 4096, ("cuda", True): 2**14, ("cuda", False): 2**16}
"""Tokens of a pass by the type of the device and whether the pass is one of training, where they are not measured."""

FEWEST, MOST = 256, 2**18
"""Limits of a measured budget."""

SHARE = {True: 0.8, False: 0.4}
"""The share of the free memory that passes of training, or others, may fill. A search also keeps keys and values."""

SMALL = (1, 64)
"""Rows and tokens of a row of the smallest measured pass."""

MEASURED_TOKENS = 8192
"""The most tokens of a measured pass."""

WIDTHS = (128, 1024)
"""Tokens of a row in the larger measured passes: with little attention, and with much."""

ROUNDS = 3

TOLERANCE = 0.05
"""Largest mean difference of a token's log-probability between kernels, in nats (bfloat16 rounds to 0.4 %)."""


@dataclass
class Passes:
    """How the passes of one piece of work are made.

    Attributes:
        token_budget: most tokens of a pass, padding included.
        cost: what a pass costs.
        key: the key of the configuration that sets the budget, for errors.
        packed_cost: what a pass over one long row costs (`TreeBatch.packed`); `None` if there are to be none.
        measured: whether costs were measured, and are in seconds.
        problem: why long rows cannot be used; empty if they can, or were not asked for.
        retries: how often work may still be repeated with half the budget.
    """

    token_budget: int
    cost: PassCost
    key: str
    packed_cost: PassCost | None = None
    measured: bool = False
    problem: str = ""
    retries: int = 1

    def groups(self, lengths: Sequence[int] | NDArray[np.integer]) -> list[Longs]:
        """Sequences of these lengths in passes, see `pack`."""
        return pack(lengths, self.token_budget, self.cost)

    def of_trees(self, lengths: Sequence[int] | NDArray[np.integer]) -> tuple[list[Longs], bool]:
        """Trees of these lengths in passes, and whether each pass is one long row: what costs less."""
        padded, lengths = self.groups(lengths), np.asarray(lengths)
        if self.packed_cost is None:
            return padded, False
        rows = pack_in_rows(lengths, self.token_budget)
        of_rows = price(lengths, rows, self.packed_cost, in_rows=True)
        return (rows, True) if of_rows < price(lengths, padded, self.cost, in_rows=False) else (padded, False)

    def within_memory(self, work: Callable[[], T]) -> T:
        """The result of `work`. If it runs out of memory, the budget is halved and it runs once more.

        Args:
            work: makes passes of at most `token_budget` tokens. It may be called again after it failed.

        Raises:
            RosepoError: memory was not enough for half the budget either; the message names the key and a value.
        """
        try:
            return work()
        except torch.OutOfMemoryError:
            if not self.retries or self.token_budget == 1:
                raise RosepoError(
                    f"out of memory in passes of {self.token_budget:,} tokens: set {self.key} to "
                    f"{max(1, self.token_budget // 2)} or less"
                ) from None
        # Only here has the error let go of the tensors of the pass that failed.
        self.retries -= 1
        self.token_budget //= 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self.within_memory(work)


def scoring_passes(model: Any, wanted: TokenBudget) -> Passes:
    """The passes of scoring, sampling and decoding.

    Args:
        model: a causal language model, in evaluation mode.
        wanted: ``model.token_budget`` of the configuration.
    """
    return _passes(model, wanted, "model.token_budget", training=False)


def training_passes(
    model: Any, wanted: TokenBudget, key: str, products: torch.dtype | None = None, *, in_rows: bool = False
) -> Passes:
    """The passes of a training.

    Args:
        model: a causal language model; the parameters to train require gradients.
        wanted: the budget in the configuration. key: its key.
        products: the type that products of float32 weights are computed in; `None` for float32.
        in_rows: whether trees may also stand in one long row, where that costs less. This compiles a kernel, and the
            layers if they are to be compiled.
    """
    return _passes(model, wanted, key, training=True, products=products, in_rows=in_rows)


def _passes(
    model: Any,
    wanted: TokenBudget,
    key: str,
    *,
    training: bool,
    products: torch.dtype | None = None,
    in_rows: bool = False,
) -> Passes:
    device = next(model.parameters()).device
    if device.type != "cuda" or torch.are_deterministic_algorithms_enabled():
        return Passes(constant_budget(wanted, training, device.type), constant_cost(device.type), key)
    measured = _measured(model, training, products, in_rows)
    return Passes(
        token_budget=_fitting(model, measured, training) if wanted == "auto" else wanted,
        cost=measured.cost,
        key=key,
        packed_cost=measured.packed_cost,
        measured=True,
        problem=measured.problem,
    )


def constant_budget(wanted: TokenBudget, training: bool, device: str) -> int:
    """The tokens of a pass where they are not measured, on a device of this type (``"cpu"``, ``"cuda"``)."""
    return CONSTANT.get((device, training), CONSTANT["cpu", training]) if wanted == "auto" else wanted


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


def _measured(model: Any, training: bool, products: torch.dtype | None, in_rows: bool) -> MeasuredPasses:
    parameters = list(model.parameters())
    trained = sum(each.numel() for each in parameters if each.requires_grad)
    checkpointed = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    config = bare_model(model).config.to_json_string(use_diff=False)
    key = config, str(parameters[0].device), parameters[0].dtype, training, products, trained, checkpointed, in_rows
    if key not in _MEASURED:
        _MEASURED[key] = measure_passes(model, training=training, products=products, in_rows=in_rows)
    return _MEASURED[key]


def _fitting(model: Any, measured: MeasuredPasses, training: bool) -> int:
    device = next(model.parameters()).device
    free, _ = torch.cuda.mem_get_info(device)
    # Memory that torch holds and does not use.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    trained = sum(each.numel() * each.element_size() for each in model.parameters() if each.requires_grad)
    # Logits; in training also a gradient and Adam's two moments.
    free -= 2 * LOGIT_BYTES + (3 * trained if training else 0)
    return int(min(MOST, max(FEWEST, SHARE[training] * free / measured.bytes)))


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
                problem = _differs(*(float(total(_made_up(model, *SMALL, packed))) for packed in (False, True)))
                in_row = [measured(*shape, packed=True)[0] for shape in (SMALL, *shapes)]
                packed_cost = None if problem else fitted_cost([SMALL, *shapes], in_row)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                # A prototype of PyTorch's, compiled for this card: whatever it says, padded trees are right.
                problem = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
    cost = fitted_cost([SMALL, *shapes], [small, *times])
    return MeasuredPasses(cost, max(needed, *bytes_per_token), packed_cost, problem)


def _differs(padded: float, in_row: float) -> str:
    """What is wrong with a log-probability in a long row, beside that of padded trees; empty if nothing is."""
    off = abs(in_row - padded) / SMALL[1]
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
    """Random texts whose second half is a response, with a branch of one token."""
    vocabulary: int = model.get_input_embeddings().num_embeddings
    ids = np.random.default_rng(0).integers(0, vocabulary, (rows, width), dtype=np.int32)
    trunk, half = width - 1, width // 2
    trees = [
        TokenTree.grow(
            row[:trunk],
            rows=np.arange(2),
            columns=np.zeros(2, np.int64),
            visible=np.array([trunk - half, trunk]),
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
