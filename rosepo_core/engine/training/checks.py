"""Checks of what is trained: losses that break their contract, and numbers that are none any more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rosepo_core import ranks
from rosepo_core.contracts.components import PreferenceLoss
from rosepo_core.contracts.errors import DivergedError, PluginError
from rosepo_core.contracts.records import LogProbs
from rosepo_core.engine.sharding import local_part

SHOWN = 5
"""The most examples that an error names."""


def check_losses(loss: PreferenceLoss, losses: Any, pairs: LogProbs) -> None:
    """Check the result of a loss.

    Raises:
        PluginError: the loss broke its contract; the message names it and its result.
    """
    name, count = loss.origin or type(loss).__qualname__, len(pairs.chosen)
    if not isinstance(losses, Tensor):
        raise PluginError(f"{name} returned {type(losses).__name__}, not a tensor with the loss of each pair")
    if losses.shape != (count,) or not losses.is_floating_point():
        found = f"{str(losses.dtype).removeprefix('torch.')} {tuple(losses.shape)}"
        raise PluginError(f"{name} returned {found}, not the loss of each pair, float ({count},); do not average it")
    if not losses.requires_grad:
        raise PluginError(f"{name} returned losses without a gradient; make them of log_probs with torch alone")
    known = pairs.chosen.isfinite() & (pairs.rejected.isfinite() | ~pairs.valid).all(1)
    wrong = torch.nonzero(known & ~losses.isfinite())
    if len(wrong):
        row = int(wrong[0])
        raise PluginError(
            f"{name} returned {losses[row].item()} for a pair whose log-probabilities are numbers (row {row}); mind "
            "what log_probs.valid leaves out"
        )


def check_log(logs: Mapping[str, float], step: int) -> None:
    """Check a log entry.

    Raises:
        DivergedError: loss or gradient is not a number any more.
    """
    for name, words in (("loss", "the loss"), ("grad_norm", "the gradient")):
        if not math.isfinite(logs.get(name, 0.0)):
            raise broken(f"{words} is {float(logs[name])} in step {step}")


def in_examples(numbers: Sequence[int], count: int) -> str:
    """A clause that names training examples.

    Args:
        numbers: the places of those that are known to be the cause, among all examples; empty if none is.
        count: the number of examples in the step.
    """
    if not numbers:
        return f", with {count} training examples of which none is the cause alone"
    shown = ", ".join(str(number) for number in numbers[:SHOWN])
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f", in training example {shown}{more} (counted from 0)"


def rise(losses: Sequence[float]) -> tuple[float, float] | None:
    """The loss at the beginning and at the end of a training whose loss has risen, as medians of a tenth of the
    steps; `None` if it has not doubled, or there are fewer than ten steps."""
    size = len(losses) // 10
    if not size:
        return None
    first, last = float(np.median(losses[:size])), float(np.median(losses[-size:]))
    return (first, last) if last > 2 * first > 0 else None


def check_weights(model: nn.Module) -> None:
    """Check the weights after a training, on all processes of the run.

    Raises:
        DivergedError: some trained weights are no numbers any more.
    """
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    mine = np.array([not bool(local_part(weight).isfinite().all()) for weight in trained.values()])
    any_broken = np.any([each["broken"] for each in ranks.gathered("checking weights", {"broken": mine})], axis=0)
    if any_broken.any():
        raise broken(f"not all of {list(trained)[int(any_broken.argmax())]} are numbers")


def broken(what: str) -> DivergedError:
    """The error of a training that ends without a model. Its checkpoints stay, from before."""
    return DivergedError(
        f"training failed: {what}; no model of it is kept. Lower the learning rate, or compute in float32 with "
        "model.dtype = 'float32'"
    )
