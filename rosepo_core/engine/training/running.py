"""One training from its beginning to its end."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PrinterCallback, TrainerCallback

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import RequestError
from rosepo_core.engine.memory import kept_memory
from rosepo_core.engine.passes import Passes, training_passes
from rosepo_core.engine.preparation import prepared
from rosepo_core.engine.regions import CompiledLayers, pays
from rosepo_core.engine.training.checks import check_weights, rise
from rosepo_core.engine.training.configuration import arguments
from rosepo_core.engine.training.metrics import LogHistory
from rosepo_core.engine.training.module import TreeModule
from rosepo_core.engine.training.objective import ExampleT, Objective
from rosepo_core.engine.training.settings import TrainingSettings
from rosepo_core.engine.training.tracking import Tracking, WritesLines
from rosepo_core.engine.training.trainer import TreeTrainer
from rosepo_core.engine.training.validation import KeepsBest, Validation
from rosepo_core.store.partial import KEEPS_NOTHING, Partial


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the trainer inside the context, because the reporter already shows its progress."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _check_sharding(trainer: TreeTrainer, module: TreeModule, validation: Validation | None) -> None:
    """Check that the model can be trained with its weights spread over processes.

    Raises:
        RequestError: it runs in rows, or is to be judged meanwhile: then passes differ in number between processes.
    """
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return
    if reason := prepared(module.model).reason:
        raise RequestError(
            "the model cannot be trained with FSDP or DeepSpeed, because it reads one response at a time "
            f"({reason}): start the processes without them"
        )
    if validation is not None:
        raise RequestError(
            "sft.patience cannot be used with FSDP or DeepSpeed: leave it out, or start the processes without them"
        )


def train(
    module: TreeModule,
    configuration: Callable[..., Any],
    objective: Objective[ExampleT],
    examples: Sequence[ExampleT],
    settings: TrainingSettings,
    reporter: Reporter,
    tracking: Tracking | None = None,
    validation: Validation | None = None,
    partial: Partial = KEEPS_NOTHING,
) -> LogHistory:
    """Train `module` in place, from the beginning or from the newest checkpoint.

    Args:
        module: its parameters to train require gradients.
        configuration: makes the trainer's configuration of `arguments`.
        objective: what is minimized.
        examples: what is trained on.
        settings: of the training.
        reporter: receives the progress.
        tracking: where the numbers go while the training runs.
        validation: judges the model, whose best weights are kept.
        partial: keeps the checkpoints.

    Returns:
        the trainer's log: one entry a step with ``loss``, ``grad_norm``, ``learning_rate``, ``num_tokens`` and the
        metrics of the objective.

    Raises:
        RosepoError: loss or weights are no numbers any more.
    """
    lengths = np.array([len(objective.tree(example)) for example in examples])
    passes, compiled = _prepare(module.model, settings, lengths, reporter)
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        ahead = stack.enter_context(ThreadPoolExecutor(1, "batches"))
        stack.enter_context(_quiet())
        given = arguments(settings, scratch)
        callbacks: list[TrainerCallback] = []
        if tracking is not None:
            stack.enter_context(tracking.going_on())
            given |= tracking.arguments()
            callbacks.append(WritesLines(tracking))
        args = configuration(**given)
        # A pass may leave experts out, and DDP must look for them. Everything else is used in each pass.
        args.ddp_find_unused_parameters = any("expert" in name for name, _ in module.named_modules())
        trainer = TreeTrainer(module, args, objective, examples, passes, ahead, callbacks, compiled)
        trainer.remove_callback(PrinterCallback)
        _check_sharding(trainer, module, validation)
        best = None if validation is None else KeepsBest(validation, module, trainer.log)
        with kept_memory():
            trainer.train_or_go_on(reporter, partial, best)
    check_weights(module.model)
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    if log and all(entry["learning_rate"] == 0 for entry in log):
        reporter.note("the learning rate was 0 in every step, so nothing was learned: set warmup_ratio to 0")
    if risen := rise([entry["loss"] for entry in log]):
        reporter.note(
            f"the loss rose from {risen[0]:.4g} to {risen[1]:.4g}: the training diverged; lower the learning rate"
        )
    return log


def _prepare(
    model: Any, settings: TrainingSettings, lengths: NDArray[np.integer], reporter: Reporter
) -> tuple[Passes, CompiledLayers | None]:
    """How passes are made, and the compiled layers of the model if it is worth it.

    Args:
        model: what is trained.
        settings: of the training.
        lengths: number of tokens of each tree.
        reporter: told if a kernel cannot be used.
    """
    device = next(model.parameters()).device.type
    if settings.gradient_checkpointing and device == "cuda":
        # The trainer does this only when it starts, and passes are measured before.
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    budget, key, products = settings.token_budget, settings.budget_key, settings.products
    passes = training_passes(model, budget, key, products)
    steps = settings.steps
    if steps is None:
        steps = round(settings.epochs * len(lengths) / settings.batch_size / settings.gradient_accumulation_steps)
    batch = min(len(lengths), settings.batch_size * settings.gradient_accumulation_steps)
    seconds = steps * (passes.cost.fixed + passes.cost.token * batch * float(lengths.mean())) * passes.measured
    if not pays(settings.compile, device, seconds):
        return passes, None
    compiled = CompiledLayers(model)
    with compiled:
        passes = training_passes(model, budget, key, products, in_rows=True)
    if passes.problem:
        reporter.note(f"trees are padded and not put into long rows: {passes.problem}")
    return passes, compiled
