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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from rosepo_core import ranks
from rosepo_core.contracts.errors import RosepoError
from rosepo_core.contracts.records import Longs
from rosepo_core.contracts.sections import TokenBudget
from rosepo_core.engine.head import LOGIT_BYTES
from rosepo_core.engine.measured_passes import MeasuredPasses, measured_passes
from rosepo_core.engine.packing import PassCost, constant_cost, pack, pack_in_rows, price

T = TypeVar("T")

CONSTANT = {("cpu", True): 1024, ("cpu", False): 4096, ("cuda", True): 2**14, ("cuda", False): 2**16}
"""Tokens of a pass by the type of the device and whether the pass is one of training, where they are not measured."""

FEWEST, MOST = 256, 2**18
"""Limits of a measured budget."""

SHARE = {True: 0.8, False: 0.4}
"""The share of the free memory that passes of training, or others, may fill. A search also keeps keys and values."""


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
    passes = _passes(model, wanted, key, training=True, products=products, in_rows=in_rows)
    if ranks.count() == 1:
        return passes
    # Ranks go through a step together: with the same passes, and none of them can repeat it alone.
    passes = replace(passes, retries=0)
    return _as_first(passes) if passes.measured else passes


def _as_first(passes: Passes) -> Passes:
    """What rank 0 measured."""
    found = ranks.told_by_first("measuring passes", lambda: asdict(passes))
    costs = {name: PassCost(**found[name]) for name in ("cost", "packed_cost") if found[name] is not None}
    return Passes(**{**found, **costs})


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
    measured = measured_passes(model, training, products, in_rows)
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


def _fitting(model: Any, measured: MeasuredPasses, training: bool) -> int:
    device = next(model.parameters()).device
    free, _ = torch.cuda.mem_get_info(device)
    # Memory that torch holds and does not use.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    trained = sum(each.numel() * each.element_size() for each in model.parameters() if each.requires_grad)
    # Logits; in training also a gradient and Adam's two moments.
    free -= 2 * LOGIT_BYTES + (3 * trained if training else 0)
    return int(min(MOST, max(FEWEST, SHARE[training] * free / measured.bytes)))
