"""What a trainer on trees minimizes, and the passes in which it is computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from rosepo_core.engine.training.metrics import Totals
from rosepo_core.engine.trees import TokenTree, TreeBatch

PADDING_TOKEN = 0
"""The token that fills shorter trees. It may be any, because no token sees padding."""


@dataclass(frozen=True)
class Pass:
    """The input of one forward and backward pass.

    Attributes:
        batch: packed trees.
        items: how many items the loss of this pass is a sum over.
        inputs: further inputs of the objective.
        gradient: if the loss is one of the whole step, its derivative with respect to each log-probability, [r].
        share: then also this pass's share of the loss, for the log.
        counts: false for a pass that adds nothing. With several processes, one that has fewer trees than the others
            makes such passes to stay in step with them.
    """

    batch: TreeBatch
    items: int
    inputs: Mapping[str, Tensor]
    gradient: Tensor | None = None
    share: Tensor | None = None
    counts: bool = True

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Pass:
        """The same pass on `device`."""
        return replace(
            self,
            batch=self.batch.to(device, non_blocking),
            inputs={name: value.to(device, non_blocking=non_blocking) for name, value in self.inputs.items()},
        )

    def pinned(self) -> Pass:
        """The same pass in memory from which a GPU copies while the processor goes on."""
        batch: dict[str, Any] = {
            name: value.pin_memory() for name, value in vars(self.batch).items() if isinstance(value, Tensor)
        }
        inputs = {name: value.pin_memory() for name, value in self.inputs.items()}
        return replace(self, batch=replace(self.batch, **batch), inputs=inputs)


ExampleT = TypeVar("ExampleT")


class Objective(ABC, Generic[ExampleT]):
    """A loss that is a mean over items, each of which is in one example.

    The loss of a step is the mean over all its items, in however many passes it is computed. So the passes decide
    memory and speed, and only the batch decides the gradient.

    Attributes:
        of_whole_step: whether the loss of an item depends on the other items of the step. If so, `loss` gets all
            passes of the step as one, see `training.whole_step`.
    """

    of_whole_step: bool = False

    def parts(self, example: ExampleT, token_budget: int) -> list[ExampleT]:
        """The same example in parts of at most `token_budget` tokens, as far as it can be divided."""
        return [example]

    @abstractmethod
    def tree(self, example: ExampleT) -> TokenTree:
        """The tree of an example."""

    @abstractmethod
    def items(self, example: ExampleT) -> int:
        """How many items an example has."""

    @abstractmethod
    def stacked(self, examples: Sequence[ExampleT], packed: bool = False) -> Pass:
        """One pass with all these examples; `packed` is that of `TreeBatch.of`."""

    def joined(self, passes: Sequence[Pass]) -> Pass:
        """Several passes as one, whose `batch` is not used. Only for a loss of the whole step."""
        raise NotImplementedError

    @abstractmethod
    def loss(self, log_probs: Tensor, one: Pass, first: bool) -> tuple[Tensor, Totals]:
        """The loss of a pass.

        Args:
            log_probs: log-probability of each response of the batch, [r].
            one: the pass.
            first: whether this is the first optimizer step.

        Returns:
            the sum over the items, and what is logged.
        """
