"""Training: supervised fine-tuning with TRL's SFTTrainer, and preference optimization on token trees.

The trainer for preferences has a configuration that extends TRL's DPOConfig, and metrics with TRL's names. This is
the only module that imports TRL.
"""

from __future__ import annotations

import logging
import math
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset as Table
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    DataCollator,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
)
from trl import DPOConfig, SFTConfig, SFTTrainer

from rosepo_core.contracts.components import PreferenceLoss, Reporter
from rosepo_core.contracts.errors import PluginError, RosepoError
from rosepo_core.contracts.records import Floats, Ints, LogProbs
from rosepo_core.engine.dropout import without_dropout
from rosepo_core.engine.memory import kept_memory
from rosepo_core.engine.precision import autocast
from rosepo_core.engine.scoring import log_probs, sequence_log_probs
from rosepo_core.engine.trees import TokenTree, TreeBatch, pack

LogHistory = list[dict[str, float]]


@dataclass
class _Settled:
    """Settings in which both trainings differ from transformers' `TrainingArguments`."""

    warmup_ratio: float = field(default=0.0, metadata={"help": "Share of the steps in which the rate rises, 0 to 1."})

    @property
    def n_gpu(self) -> int:
        """At most one. With several GPUs, transformers would use DataParallel, which splits a batch by its first
        dimension. A packed batch of trees cannot be split in this way."""
        visible: int = super().n_gpu  # type: ignore[misc]
        return min(1, visible)

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """The number of warm-up steps. transformers would read a ratio of 1 as one step."""
        return math.ceil(num_training_steps * self.warmup_ratio)


@dataclass
class _FineTuningConfig(_Settled, SFTConfig):  # type: ignore[misc]
    """TRL's `SFTConfig`."""


@dataclass
class AlignmentConfig(_Settled, DPOConfig):  # type: ignore[misc]
    """TRL's `DPOConfig`, for its `beta` and its names. The objective is a `PreferenceLoss` and not `loss_type`. The
    pairs have the log-probabilities of the reference. The prompt template shortens long prompts."""


@dataclass(frozen=True)
class PreferenceTree:
    """A tree, and for each of its pairs the inputs of the loss other than the policy's log-probabilities.

    Attributes:
        tree: the rows of its responses number the pairs of this tree from 0. Column 0 is the chosen response, and
            column 1 + j the rejected response in slot j.
        eps: smoothing factors, float32 [pairs, K].
        reference: log-probabilities of the reference model, float32 [pairs, 1 + K]; any value in an empty slot.
    """

    tree: TokenTree
    eps: Floats
    reference: Floats

    @staticmethod
    def of(tree: TokenTree, eps: Floats, reference: Floats) -> PreferenceTree:
        """From a tree whose rows refer to rows of the tables `eps` and `reference`."""
        rows, local = np.unique(tree.rows, return_inverse=True)
        return PreferenceTree(tree.with_rows(local), eps[rows], reference[rows])

    def __len__(self) -> int:
        return len(self.eps)

    def split(self, token_budget: int) -> list[PreferenceTree]:
        """The same pairs in trees as `TokenTree.split_examples` makes them."""
        return [PreferenceTree.of(part, self.eps, self.reference) for part in self.tree.split_examples(token_budget)]


class _Trees(Dataset[PreferenceTree]):
    def __init__(self, trees: Sequence[PreferenceTree]) -> None:
        self.trees = trees

    def __len__(self) -> int:
        return len(self.trees)

    def __getitem__(self, index: int) -> PreferenceTree:
        return self.trees[index]


class _InPasses(Trainer):  # type: ignore[misc]
    """A trainer that computes each batch in several passes. The collator lists them under ``passes``, and the number
    of their tokens without padding under ``tokens``.

    The loss of each pass is divided by the count of the whole optimizer step, and each pass has its own backward
    pass. So the passes decide memory and speed, and only the batch decides the gradient. Each log entry has
    ``num_tokens``, TRL's name for the number of tokens trained on so far.
    """

    trained_tokens = 0
    products: torch.dtype | None = None
    """The type of products with weights; `None` for the type of the weights."""

    def training_step(self, model: Any, inputs: Mapping[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of all passes; returns their loss."""
        make = super().training_step
        self.trained_tokens += inputs["tokens"]
        return torch.stack([make(model, one, num_items_in_batch) for one in inputs["passes"]]).sum()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log without the metrics of TRL's trainer, which need a second pass over the logits.

        Raises:
            RosepoError: loss or gradient is not a number any more.
        """
        for name, words in (("loss", "the loss"), ("grad_norm", "the gradient")):
            if not math.isfinite(logs.get(name, 0.0)):
                raise _broken(f"{words} is {float(logs[name])} in step {self.state.global_step}")
        Trainer.log(self, logs | {"num_tokens": self.trained_tokens}, start_time)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        passes = [one for batch in batch_samples for one in batch["passes"]]
        return super()._get_num_items_in_batch(passes, device)


class _SFTTrainer(_InPasses, SFTTrainer):  # type: ignore[misc]
    """TRL's trainer with the engine's own language-model head. The loss is the same, but computed only at positions
    with a label, in passes of at most `token_budget` tokens."""

    def __init__(self, token_budget: int, **options: Any) -> None:
        super().__init__(**options)
        self._token_budget = token_budget
        self._pad: DataCollator = self.data_collator
        self.data_collator: DataCollator = self._collate

    def _collate(self, sequences: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        lengths = [len(each["input_ids"]) for each in sequences]
        members = pack(lengths, self._token_budget)
        passes = [self._pad([sequences[index] for index in held.tolist()]) for held in members]
        return {"passes": passes, "tokens": sum(lengths)}

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Mean negative log-probability of the labels of the step."""
        labelled = inputs["labels"] != -100
        labelled[:, 0] = False
        count = num_items_in_batch if num_items_in_batch is not None else labelled.sum()
        with autocast(model, self.products):
            of_tokens = sequence_log_probs(model, inputs["input_ids"], labelled)
        loss: Tensor = -of_tokens.sum() / count
        return loss


class AlignmentTrainer(_InPasses):
    """Preference optimization on token trees, in passes of at most `token_budget` tokens. Longer trees are split
    between examples.

    Logs, averaged over the pairs since the last log, with TRL's names: ``rewards/chosen``,
    ``rewards/rejected``, ``rewards/accuracies``, ``rewards/margins``, ``logps/chosen``, ``logps/rejected``; and
    ``smoothing``, the mean eps. Rewards are beta (log pi - log ref).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: AlignmentConfig,
        loss: PreferenceLoss,
        trees: Sequence[PreferenceTree],
        pad_token_id: int,
        token_budget: int,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self._loss = loss
        self._sums: dict[str, float] = defaultdict(float)
        self._pad_token_id = pad_token_id
        self._token_budget = token_budget
        args.remove_unused_columns = False
        super().__init__(
            model=model,
            args=args,
            train_dataset=_Trees(trees),
            data_collator=self._collate,
            callbacks=list(callbacks),
        )
        # The loss below is already divided by the number of pairs in all passes.
        self.model_accepts_loss_kwargs = True

    def _collate(self, trees: Sequence[PreferenceTree]) -> dict[str, Any]:
        parts = [part for tree in trees for part in tree.split(self._token_budget)]
        lengths = [len(part.tree) for part in parts]
        members = pack(lengths, self._token_budget)
        passes = [self._padded([parts[index] for index in held.tolist()]) for held in members]
        return {"passes": passes, "tokens": sum(lengths)}

    def _padded(self, trees: Sequence[PreferenceTree]) -> dict[str, Any]:
        width = max(tree.reference.shape[1] for tree in trees)
        pad = [width - tree.reference.shape[1] for tree in trees]
        reference = [
            torch.nn.functional.pad(torch.from_numpy(tree.reference), (0, p))
            for tree, p in zip(trees, pad, strict=True)
        ]
        eps = [
            torch.nn.functional.pad(torch.from_numpy(tree.eps), (0, p)) for tree, p in zip(trees, pad, strict=True)
        ]
        offsets = torch.tensor([0, *[len(tree) for tree in trees]]).cumsum(0)
        return {
            "batch": TreeBatch.of([tree.tree for tree in trees], self._pad_token_id),
            "offsets": offsets[:-1],
            "reference": torch.cat(reference),
            "eps": torch.cat(eps),
        }

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        return torch.tensor(sum(len(one["eps"]) for batch in batch_samples for one in batch["passes"]), device=device)

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Mean loss over the pairs of the step."""
        without_dropout(model)
        pairs = self._log_probs(model, inputs)
        losses = self._loss(pairs)
        if self.state.global_step == 0:
            _check_losses(self._loss, losses, pairs)
        self._measure(pairs)
        count = num_items_in_batch if num_items_in_batch is not None else len(losses)
        return losses.sum() / count

    def _log_probs(self, model: Any, inputs: Mapping[str, Any]) -> LogProbs:
        batch: TreeBatch = inputs["batch"].to(self.args.device)
        reference, eps = inputs["reference"], inputs["eps"]
        rows = inputs["offsets"][batch.trees] + batch.rows
        with autocast(model, self.products):
            values = log_probs(model, batch)
        policy = torch.zeros_like(reference).index_put((rows, batch.columns), values)
        tokens = torch.zeros_like(reference, dtype=torch.long).index_put((rows, batch.columns), batch.lengths)
        valid = tokens > 0
        return LogProbs(
            chosen=policy[:, 0],
            rejected=policy[:, 1:],
            reference_chosen=reference[:, 0],
            reference_rejected=reference[:, 1:],
            chosen_tokens=tokens[:, 0],
            rejected_tokens=tokens[:, 1:],
            eps=eps,
            valid=valid[:, 1:],
        )

    @torch.no_grad()
    def _measure(self, pairs: LogProbs) -> None:
        valid = pairs.valid
        chosen = self._loss.beta * (pairs.chosen - pairs.reference_chosen)
        rejected = self._loss.beta * (pairs.rejected - pairs.reference_rejected)
        margins = chosen[:, None] - rejected
        for name, values in (
            ("rewards/rejected", rejected),
            ("rewards/accuracies", (margins > 0).float()),
            ("rewards/margins", margins),
            ("logps/rejected", pairs.rejected),
            ("smoothing", pairs.eps),
        ):
            self._sums[name] += float(values[valid].sum())
        self._sums["rewards/chosen"] += float(chosen.sum())
        self._sums["logps/chosen"] += float(pairs.chosen.sum())
        self._sums["rejected"] += float(valid.sum())
        self._sums["pairs"] += len(chosen)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the preference metrics to what is logged."""
        rejected, pairs = self._sums.pop("rejected", 0.0), self._sums.pop("pairs", 0.0)
        if pairs:
            per_pair = ("rewards/chosen", "logps/chosen")
            logs |= {
                name: total / (pairs if name in per_pair else max(rejected, 1.0))
                for name, total in self._sums.items()
            }
        self._sums.clear()
        super().log(logs, start_time)


def _check_losses(loss: PreferenceLoss, losses: Any, pairs: LogProbs) -> None:
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


def _broken(what: str) -> RosepoError:
    return RosepoError(
        f"training failed: {what}; nothing of it is kept. Lower the learning rate, or compute in float32 with "
        "model.dtype = 'float32'"
    )


class _Progress(TrainerCallback):  # type: ignore[misc]
    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._reporter.progress(state.global_step, state.max_steps, "steps")


def _arguments(seed: int, gradient_checkpointing: bool) -> dict[str, Any]:
    return {
        "bf16": False,
        "data_seed": seed,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "gradient_checkpointing": gradient_checkpointing,
        "logging_first_step": True,
        # With this filter, a loss that is not a number would be replaced by another value.
        "logging_nan_inf_filter": False,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "seed": seed,
        "use_cpu": not torch.cuda.is_available(),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the trainers inside the context, because the reporter already shows their progress."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _train(
    trainer: _InPasses, model: PreTrainedModel, reporter: Reporter, products: torch.dtype | None
) -> LogHistory:
    trainer.products = products
    trainer.remove_callback(PrinterCallback)
    with kept_memory():
        trainer.train()
    for name, weight in model.named_parameters():
        if weight.requires_grad and not weight.isfinite().all():
            raise _broken(f"not all of {name} are numbers")
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    if log and all(entry["learning_rate"] == 0 for entry in log):
        reporter.note("the learning rate was 0 in every step, so nothing was learned: set warmup_ratio to 0")
    return log


def fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[tuple[Ints, Any]],
    *,
    batch_size: int,
    token_budget: int,
    learning_rate: float,
    steps: int | None,
    epochs: float,
    warmup_ratio: float,
    weight_decay: float,
    gradient_checkpointing: bool,
    seed: int,
    reporter: Reporter,
    products: torch.dtype | None = None,
) -> LogHistory:
    """Supervised fine-tuning in place with TRL's SFTTrainer, on responses only.

    Args:
        model: with the parameters to train requiring gradients.
        sequences: token ids int32 [t] and, of the same shape, which of them are a response's, bool.
        batch_size: sequences per optimizer step.
        token_budget: most tokens of a forward pass, padding included; memory and speed only.
        products: the type that products of float32 weights are computed in, `None` for float32.

    Returns:
        the trainer's log: one entry a step with ``loss``, ``grad_norm``, ``learning_rate``...

    Raises:
        RosepoError: loss or weights are no numbers any more.
    """
    table = Table.from_dict(
        {
            "input_ids": [ids.tolist() for ids, _ in sequences],
            "labels": [
                [token if kept else -100 for token, kept in zip(ids.tolist(), mask.tolist(), strict=True)]
                for ids, mask in sequences
            ],
        }
    )
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        args = _FineTuningConfig(
            output_dir=scratch,
            dataset_kwargs={"skip_prepare_dataset": True},
            learning_rate=learning_rate,
            max_length=None,
            max_steps=-1 if steps is None else steps,
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size,
            warmup_ratio=warmup_ratio,
            weight_decay=weight_decay,
            **_arguments(seed, gradient_checkpointing),
        )
        trainer = _SFTTrainer(
            token_budget,
            model=model,
            args=args,
            train_dataset=table,
            processing_class=tokenizer,
            callbacks=[_Progress(reporter)],
        )
        return _train(trainer, model, reporter, products)


def align_preferences(
    model: PreTrainedModel,
    loss: PreferenceLoss,
    trees: Sequence[PreferenceTree],
    pad_token_id: int,
    *,
    batch_size: int,
    token_budget: int,
    gradient_checkpointing: bool,
    learning_rate: float,
    steps: int | None,
    epochs: float,
    warmup_ratio: float,
    weight_decay: float,
    max_grad_norm: float = 1.0,
    seed: int,
    reporter: Reporter,
    products: torch.dtype | None = None,
) -> LogHistory:
    """Preference optimization in place, without any dropout (`engine.dropout`).

    Args:
        model: with the parameters to train requiring gradients.
        pad_token_id: any id of the vocabulary.
        batch_size: trees per optimizer step.
        token_budget: most tokens of a forward pass, padding included; memory and speed only.
        max_grad_norm: clip the gradient to this norm; by default as in `fine_tune`.
        products: the type that products of float32 weights are computed in, `None` for float32.

    Returns:
        the trainer's log: one entry a step with ``loss`` and the metrics of `AlignmentTrainer`.

    Raises:
        PluginError: the loss breaks its contract.
        RosepoError: loss or weights are no numbers any more.
    """
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        args = AlignmentConfig(
            output_dir=scratch,
            beta=loss.beta,
            learning_rate=learning_rate,
            max_grad_norm=max_grad_norm,
            max_steps=-1 if steps is None else steps,
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size,
            warmup_ratio=warmup_ratio,
            weight_decay=weight_decay,
            **_arguments(seed, gradient_checkpointing),
        )
        trainer = AlignmentTrainer(model, args, loss, trees, pad_token_id, token_budget, [_Progress(reporter)])
        return _train(trainer, model, reporter, products)
