"""The trainer: transformers' own, on token trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback

from rosepo_core.engine.packing import pack
from rosepo_core.engine.training.checks import check_log
from rosepo_core.engine.training.metrics import MetricSums
from rosepo_core.engine.training.module import TreeModule
from rosepo_core.engine.training.objective import ExampleT, Objective, Pass
from rosepo_core.engine.training.whole_step import with_gradients


class TreeTrainer(Trainer):  # type: ignore[misc]
    """Minimizes an objective on token trees, each batch in passes of at most `token_budget` tokens.

    The loss of each pass is divided by the number of items in the whole optimizer step, and each pass has its own
    backward pass. Each log entry has the objective's metrics, averaged since the last one, and ``num_tokens``, TRL's
    name for the number of tokens trained on so far, without padding.
    """

    def __init__(
        self,
        module: TreeModule,
        args: Any,
        objective: Objective[ExampleT],
        examples: Sequence[ExampleT],
        token_budget: int,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        """
        Args:
            module: what is trained.
            args: a configuration of `training.configuration`.
            objective: what is minimized.
            examples: what is trained on.
            token_budget: most tokens of a pass, padding included.
            callbacks: of transformers.
        """
        self._objective: Objective[Any] = objective
        self._token_budget = token_budget
        self._sums = MetricSums()
        self._trained_tokens = 0
        super().__init__(
            model=module,
            args=args,
            train_dataset=list(examples),
            data_collator=self._collate,
            callbacks=list(callbacks),
        )
        # The loss of each pass is already divided by the number of items in all passes.
        self.model_accepts_loss_kwargs = True

    def _collate(self, examples: Sequence[Any]) -> dict[str, Any]:
        """The passes of a batch, and the number of their tokens without padding."""
        parts = [part for example in examples for part in self._objective.parts(example, self._token_budget)]
        lengths = [len(self._objective.tree(part)) for part in parts]
        members = pack(lengths, self._token_budget)
        passes = [self._objective.stacked([parts[index] for index in held.tolist()]) for held in members]
        return {"passes": passes, "tokens": sum(lengths)}

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> int:
        return sum(one.items for batch in batch_samples for one in batch["passes"])

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The batches of an optimizer step. If the loss is one of the whole step, it is computed here."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._objective.of_whole_step and batches:
            self.model_wrapped.train()
            passes, metrics = with_gradients(
                self.model_wrapped,
                self._objective,
                [one for batch in batches for one in batch["passes"]],
                self.args.device,
                first=self.state.global_step == 0,
            )
            self._sums.add(metrics)
            left = iter(passes)
            batches = [{**batch, "passes": [next(left) for _ in batch["passes"]]} for batch in batches]
        return batches, count

    def training_step(self, model: Any, inputs: Mapping[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of all passes of a batch; returns their loss."""
        make = super().training_step
        self._trained_tokens += inputs["tokens"]
        return torch.stack([make(model, {"pass": one}, num_items_in_batch) for one in inputs["passes"]]).sum()

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The share of one pass in the mean over the items of the step."""
        one: Pass = inputs["pass"].to(self.args.device)
        log_probs = model(one.batch)
        if one.gradient is not None:
            # Its derivative is the gradient of the loss of the whole step, and its value this pass's share of it.
            linear = (one.gradient * log_probs).sum()
            total = linear - linear.detach() + one.share
        else:
            total, metrics = self._objective.loss(log_probs, one, first=self.state.global_step == 0)
            self._sums.add(metrics)
        loss: Tensor = total / num_items_in_batch
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the metrics as well.

        Raises:
            RosepoError: loss or gradient is not a number any more.
        """
        check_log(logs, self.state.global_step)
        super().log(logs | self._sums.read() | {"num_tokens": self._trained_tokens}, start_time)
