"""The trainer: transformers' own, on token trees."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard
from accelerate.utils import DistributedType
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from rosepo_core import ranks
from rosepo_core.engine.passes import Passes
from rosepo_core.engine.training.checkpoints import ResumableTrainer
from rosepo_core.engine.training.checks import broken, check_log, in_examples
from rosepo_core.engine.training.metrics import MetricSums, Totals
from rosepo_core.engine.training.module import TreeModule
from rosepo_core.engine.training.objective import ExampleT, Objective, Pass
from rosepo_core.engine.training.sharing import shared_passes
from rosepo_core.engine.training.whole_step import with_gradients


class TreeTrainer(ResumableTrainer):
    """Minimizes an objective on token trees, each batch in the passes that cost least.

    The loss of each pass is divided by the number of items in the whole optimizer step, and each pass has its own
    backward pass. Each log entry has the objective's metrics, averaged since the last one, and ``num_tokens``, TRL's
    name for the number of tokens trained on so far, without padding.

    Batches are made ahead, while those before them are computed. Their order and content are the same.

    A step that runs out of memory is repeated from its beginning with half the tokens in a pass, see
    `Passes.within_memory`.
    """

    def __init__(
        self,
        module: TreeModule,
        args: Any,
        objective: Objective[ExampleT],
        examples: Sequence[ExampleT],
        passes: Passes,
        ahead: Executor,
        callbacks: Sequence[TrainerCallback] = (),
        compiled: AbstractContextManager[None] | None = None,
    ) -> None:
        """
        Args:
            module: what is trained.
            args: a configuration of `training.configuration`.
            objective: what is minimized.
            examples: what is trained on.
            passes: how batches are made into passes.
            ahead: makes the batches.
            callbacks: of transformers.
            compiled: a context for forward and backward passes (`engine.regions`).
        """
        self._objective: Objective[Any] = objective
        self._passes = passes
        self._compiled = compiled or nullcontext()
        self._sums = MetricSums()
        self._trained_tokens = 0
        self._ahead = ahead
        self._batches: Iterator[Future[dict[str, Any]]] = iter(())
        self._waiting: deque[Future[dict[str, Any]]] = deque()
        super().__init__(
            model=module,
            args=args,
            train_dataset=list(examples),
            data_collator=self._collate,
            callbacks=list(callbacks),
        )
        # The loss of each pass is already divided by the number of items in all passes.
        self.model_accepts_loss_kwargs = True

    def counts(self) -> dict[str, Any]:
        """The tokens that were trained on, and the metrics since the last log entry."""
        return {"tokens": self._trained_tokens, "metrics": self._sums.state()}

    def restore_counts(self, counts: dict[str, Any]) -> None:
        """See `ResumableTrainer.restore_counts`."""
        self._trained_tokens = counts["tokens"]
        self._sums.restore(counts["metrics"], self.args.device)

    def _collate(self, examples: Sequence[Any]) -> Future[dict[str, Any]]:
        return self._ahead.submit(self._batch, examples)

    def _batch(self, examples: Sequence[Any]) -> dict[str, Any]:
        """A batch: its examples, this process's passes, the budget that they were made for, and the numbers of
        tokens (without padding) and of items of the whole batch."""
        budget = self._passes.token_budget
        parts = [part for example in examples for part in self._objective.parts(example, budget)]
        lengths = [len(self._objective.tree(part)) for part in parts]
        members, packed, count = shared_passes(lengths, self._passes)
        passes = [self._objective.stacked([parts[index] for index in held.tolist()], packed) for held in members]
        if len(passes) < count:
            shortest = self._objective.stacked([parts[lengths.index(min(lengths))]], packed=False)
            passes += [replace(shortest, counts=False)] * (count - len(passes))
        if self.args.device.type == "cuda":
            with torch.cuda.device(self.args.device):
                passes = [one.pinned() for one in passes]
        items = sum(self._objective.items(part) for part in parts)
        return {"examples": examples, "passes": passes, "budget": budget, "tokens": sum(lengths), "items": items}

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of all examples, also with several processes. `_collate` takes this process's share of each."""
        loader: DataLoader[Any] = super().get_train_dataloader()
        if isinstance(loader.batch_sampler, BatchSamplerShard):
            # Accelerate would give each process other batches, and fill up the last one.
            loader.batch_sampler.num_processes, loader.batch_sampler.process_index = 1, 0
            loader.batch_sampler.even_batches = False
        return loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[Future[dict[str, Any]]], num_batches: int, device: torch.device
    ) -> tuple[list[Mapping[str, Any]], int]:
        """The batches of an optimizer step, and the number of their items. Those of the next step are begun. If the
        loss is one of the whole step, it is computed here."""
        if epoch_iterator is not self._batches:
            self._batches, self._waiting = epoch_iterator, deque()
        self._waiting.extend(islice(epoch_iterator, 2 * num_batches - len(self._waiting)))
        batches = [self._waiting.popleft().result() for _ in range(min(num_batches, len(self._waiting)))]
        self._random = _random_states(self.args.device)
        with self._compiled:
            self._step, metrics = self._passes.within_memory(lambda: self._ready(batches))
        self._sums.add(metrics)
        self._done = 0
        return self._step, sum(batch["items"] for batch in self._step)

    def _ready(self, batches: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], Totals]:
        """The batches of an optimizer step in passes of the present budget; if the loss is one of the whole step,
        with the gradients of their log-probabilities, and what is logged of it."""
        budget = self._passes.token_budget
        ready = [each if each["budget"] == budget else self._batch(each["examples"]) for each in batches]
        if not self._objective.of_whole_step or not ready:
            return ready, {}
        self.model_wrapped.train()
        passes, metrics = with_gradients(
            self.model_wrapped,
            self._objective,
            [one for batch in ready for one in batch["passes"]],
            self.args.device,
            first=self.state.global_step == 0,
        )
        left = iter(passes)
        return [{**batch, "passes": [next(left) for _ in batch["passes"]]} for batch in ready], metrics

    def training_step(self, model: Any, inputs: Mapping[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of all passes of a batch; returns their loss, times the number of processes, because
        gradients and logged losses are averaged over these."""
        make, sums, again = super().training_step, self._sums.copy(), False

        def passed(batch: Mapping[str, Any]) -> Tensor:
            *before, last = batch["passes"]
            losses = []
            for one in before:
                with self._without_exchange(model):
                    losses.append(make(model, {"pass": one}, num_items_in_batch))
            losses.append(make(model, {"pass": last}, num_items_in_batch))
            return torch.stack(losses).sum()

        def from_the_beginning() -> Tensor:
            nonlocal again
            if again:
                # The gradients hold parts of a pass that failed. Earlier batches of the optimizer step are repeated
                # for their gradients alone.
                model.zero_grad()
                _set_random_states(self._random, self.args.device)
                self._step, _ = self._ready(self._step)
                for batch in self._step[: self._done]:
                    passed(batch)
                self._sums = sums.copy()
            again = True
            return passed(self._step[self._done])

        with self._compiled:
            loss = self._passes.within_memory(from_the_beginning)
        self._trained_tokens += inputs["tokens"]
        self._done += 1
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The norm of the gradient of a step. It is checked before the step changes any weight.

        Raises:
            DivergedError: it is not a number.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not math.isfinite(norm):
            count = sum(len(batch["examples"]) for batch in self._step)
            where = in_examples(self._causes(), count)
            before = self._partial.checkpoint()
            kept = "" if before is None else f"; {before} is from before"
            raise broken(f"the gradient is {float(norm)} in step {self.state.global_step + 1}{where}{kept}")
        return norm

    def _causes(self) -> list[int]:
        """The examples of the step whose own loss is not a number, by their places among all examples. With several
        processes, or a loss of the whole step, they are not looked for.

        Raises:
            PluginError: a loss broke its contract.
        """
        if ranks.count() > 1 or self._objective.of_whole_step:
            return []
        numbers = {id(example): number for number, example in enumerate(self.train_dataset)}
        found = []
        for example in (example for batch in self._step for example in batch["examples"]):
            one = self._objective.stacked([example]).to(self.args.device)
            with self.compute_loss_context_manager():
                loss, _ = self._objective.loss(self.model(one.batch), one, first=True)
            if not bool(loss.isfinite()):
                found.append(numbers[id(example)])
        return sorted(found)

    @contextmanager
    def _without_exchange(self, model: Any) -> Iterator[None]:
        """Inside the context, gradients are added up in this process. The last pass of a batch exchanges them.

        With FSDP, they are exchanged after each pass, because the gradients of all weights would not fit in memory.
        """
        state = self.accelerator.gradient_state
        exchanges = state.sync_gradients
        state._set_sync_gradients(False)
        fsdp = self.accelerator.distributed_type == DistributedType.FSDP
        try:
            with nullcontext() if fsdp else self.accelerator.no_sync(model):
                yield
        finally:
            state._set_sync_gradients(exchanges)

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The share of one pass in the mean over the items of the step."""
        one: Pass = inputs["pass"].to(self.args.device, non_blocking=True)
        log_probs = model(one.batch)
        if one.gradient is not None:
            # Its derivative is the gradient of the loss of the whole step, and its value this pass's share of it.
            linear = (one.gradient * log_probs).sum()
            total = linear - linear.detach() + one.share
        else:
            total, metrics = self._objective.loss(log_probs, one, first=self.state.global_step == 0)
            if not one.counts:
                total, metrics = 0 * total, {name: (0 * value, 0) for name, (value, _) in metrics.items()}
            self._sums.add(metrics)
        loss: Tensor = total * ranks.count() / num_items_in_batch
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the metrics of the steps as well.

        Raises:
            RosepoError: loss or gradient is not a number any more.
        """
        check_log(logs, self.state.global_step)
        metrics = self._sums.read() if "loss" in logs else {}
        super().log(logs | metrics | {"num_tokens": self._trained_tokens}, start_time)


def _random_states(device: torch.device) -> list[Tensor]:
    """The states of torch's generators of random numbers."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_states(states: Sequence[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)
