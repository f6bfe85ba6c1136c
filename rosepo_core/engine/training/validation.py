"""Validation while a model is trained: its best weights are kept, and training ends when it gets no better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from rosepo_core.engine.precision import autocast
from rosepo_core.engine.training.module import TreeModule

Heard = Callable[[int, float], None]
"""Is told a result of validation: step and value."""


@dataclass
class Validation:
    """How a model is judged during its training, and what was found.

    Attributes:
        name: of the measure, for logs.
        measure: a function of the model, in evaluation mode and without gradients; more is better.
        every: the model is judged before the first step, after so many steps, and after the last one.
        patience: training ends when so many results after each other bring no better one.
        points: the results so far: step and value.
        heard: is told each result, step and value, once it is kept. What it raises ends the training.
    """

    name: str
    measure: Callable[[Any], float]
    every: int
    patience: int
    points: list[tuple[int, float]] = field(default_factory=list)
    heard: Heard | None = None

    @property
    def kept(self) -> int:
        """The step with the best result, the first of equal ones. A result that is not a number is the worst."""
        return max(self.points, key=lambda point: (-math.inf if math.isnan(point[1]) else point[1], -point[0]))[0]

    @property
    def is_over(self) -> bool:
        """Whether the last `patience` results brought no better one."""
        steps = [step for step, _ in self.points]
        return len(steps) - 1 - steps.index(self.kept) >= self.patience


class KeepsBest(TrainerCallback):  # type: ignore[misc]
    """Judges a module while it is trained, and gives it its best weights at the end."""

    def __init__(self, validation: Validation, module: TreeModule, log: Callable[[dict[str, float]], None]) -> None:
        """`log` is the trainer's."""
        self._validation = validation
        self._module = module
        self._log = log
        self._best: Mapping[str, Tensor] = {}

    def counts(self) -> list[tuple[int, float]]:
        """What was found so far, for `restore`."""
        return list(self._validation.points)

    def weights(self) -> Mapping[str, Tensor]:
        """The best weights so far, for `restore`."""
        return self._best

    def restore(self, counts: Sequence[tuple[int, float]], weights: Mapping[str, Tensor]) -> None:
        """Go on from what `counts` and `weights` returned."""
        self._validation.points[:] = [(step, value) for step, value in counts]
        self._best = weights

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Judge the model as it is before the first step."""
        if not self._validation.points:
            self._judge(state.global_step, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Judge the model if it is time, and end the training if it has been no better for too long."""
        if state.global_step % self._validation.every and state.global_step < state.max_steps:
            return
        self._judge(state.global_step, control)
        control.should_training_stop = control.should_training_stop or self._validation.is_over

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the best weights."""
        with torch.no_grad():
            for name, weight in self._trained():
                weight.copy_(self._best[name])

    @torch.no_grad()
    def _judge(self, step: int, control: Any) -> None:
        self._module.eval()
        with autocast(self._module.model, self._module.products):
            value = self._validation.measure(self._module.model)
        self._validation.points.append((step, value))
        if self._validation.kept == step:
            self._best = {name: weight.detach().to("cpu", copy=True) for name, weight in self._trained()}
        # What is logged here must not count as the log of the step.
        due = control.should_log
        self._log({f"eval_{self._validation.name}": value})
        control.should_log = due
        if self._validation.heard is not None:
            self._validation.heard(step, value)

    def _trained(self) -> list[tuple[str, Tensor]]:
        return [(name, weight) for name, weight in self._module.named_parameters() if weight.requires_grad]
