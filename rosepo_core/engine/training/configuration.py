"""The trainer's configurations, which extend TRL's. This is the only module that imports TRL."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from transformers import Trainer, get_scheduler
from transformers.training_args import OptimizerNames
from trl import DPOConfig, SFTConfig

from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.engine.training.settings import TrainingSettings


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
class FineTuningConfig(_Settled, SFTConfig):  # type: ignore[misc]
    """TRL's `SFTConfig`."""


@dataclass
class AlignmentConfig(_Settled, DPOConfig):  # type: ignore[misc]
    """TRL's `DPOConfig`, for its `beta` and its names. The objective is a `PreferenceLoss` and not `loss_type`. The
    pairs have the log-probabilities of the reference. The prompt template shortens long prompts."""


PASSED = (
    *("adam_beta1", "adam_beta2", "adam_epsilon", "optim_args", "optim_target_modules", "lr_scheduler_kwargs"),
    *("logging_steps", "dataloader_drop_last", "torch_empty_cache_steps", "activation_checkpointing_kwargs"),
)
"""The arguments of TRL's configurations that ``[sft.trainer]`` and ``[alignment.trainer]`` may set."""

_SETTLED_BY = {
    "learning_rate": "{section}.learning_rate",
    "lr_scheduler_type": "{section}.lr_scheduler_type",
    "optim": "{section}.optim",
    "weight_decay": "{section}.weight_decay",
    "max_grad_norm": "{section}.max_grad_norm",
    "gradient_accumulation_steps": "{section}.gradient_accumulation_steps",
    "per_device_train_batch_size": "{section}.batch_size",
    "max_steps": "{section}.steps",
    "num_train_epochs": "{section}.epochs",
    "warmup_ratio": "{section}.warmup_ratio",
    "warmup_steps": "{section}.warmup_ratio",
    **dict.fromkeys(("auto_find_batch_size", "packing", "padding_free"), "{section}.token_budget"),
    **dict.fromkeys(("gradient_checkpointing", "activation_checkpointing"), "sft.gradient_checkpointing"),
    **dict.fromkeys(("max_length", "truncation_mode"), "prompt.max_length"),
    **dict.fromkeys(("bf16", "fp16", "model_init_kwargs"), "model.dtype"),
    **dict.fromkeys(("seed", "data_seed"), "seed"),
    "full_determinism": "deterministic",
    **dict.fromkeys(("output_dir", "run_name"), "--run"),
    **dict.fromkeys(("report_to", "project"), "--track"),
    "loss_type": "loss (sft.objective in SFT)",
    "beta": "loss.beta",
    "label_smoothing": "oracle",
    **dict.fromkeys(("precompute_ref_log_probs", "sync_ref_model"), "alignment.reference"),
}
"""What rosepo settles itself, and its own key for it."""


def _passed(configuration: type, section: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the user gives in the table ``[SECTION.trainer]``.

    Raises:
        RequestError: one is unknown, or of a wrong type, or is settled by rosepo.
    """
    known = {each.name for each in fields(configuration)}
    types = get_type_hints(configuration)
    checked = {}
    for name, value in given.items():
        option = f"option '{section}.trainer.{name}'"
        if name in _SETTLED_BY:
            raise RequestError(f"{option}: set {_SETTLED_BY[name].format(section=section)} instead")
        if name not in known:
            raise RequestError(f"unknown {option}{nearest(name, PASSED)}")
        if name not in PASSED:
            raise RequestError(f"{option}: rosepo does not use it; it takes {', '.join(PASSED)}")
        try:
            checked[name] = TypeAdapter(types[name]).validate_python(value, strict=True)
        except ValidationError as error:
            raise RequestError(f"{option} = {value!r}: {error.errors()[0]['msg']}") from None
    return checked


def check_settings(configuration: type, section: str, settings: TrainingSettings) -> None:
    """Check, before any work, what the trainer would otherwise refuse in the middle of a run.

    Args:
        configuration: `FineTuningConfig` or `AlignmentConfig`.
        section: the section of the settings, for errors.
        settings: of the training.

    Raises:
        RequestError: an optimizer or a schedule that does not exist, or that lacks a package or an argument; or a
            wrong argument of the trainer.
    """
    passed = _passed(configuration, section, settings.trainer)
    names = [each.value for each in OptimizerNames]
    if settings.optim not in names:
        raise RequestError(f"option '{section}.optim' = '{settings.optim}': unknown{nearest(settings.optim, names)}")
    with tempfile.TemporaryDirectory() as folder:
        key = "trainer"
        try:
            args = configuration(**arguments(settings, folder) | passed)
            key = "optim"
            if not settings.trainer.get("optim_target_modules"):
                Trainer.get_optimizer_cls_and_kwargs(args)
            key = "lr_scheduler_type"
            rate = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
            get_scheduler(args.lr_scheduler_type, rate, 1, 10, scheduler_specific_kwargs=args.lr_scheduler_kwargs)
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            raise RequestError(f"option '{section}.{key}': {next(iter(str(error).splitlines()), '')}") from None


def arguments(settings: TrainingSettings, folder: str) -> dict[str, Any]:
    """The arguments of both configurations.

    Args:
        settings: of the training.
        folder: the folder that the trainer may write to.
    """
    return {
        "bf16": False,
        "data_seed": settings.seed,
        # All buffers are the same in all processes.
        "ddp_broadcast_buffers": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "learning_rate": settings.learning_rate,
        "logging_first_step": True,
        # With this filter, a loss that is not a number would be replaced by another value.
        "logging_nan_inf_filter": False,
        "logging_steps": 1,
        "lr_scheduler_type": settings.lr_scheduler_type,
        "max_grad_norm": settings.max_grad_norm,
        "max_steps": -1 if settings.steps is None else settings.steps,
        "num_train_epochs": settings.epochs,
        "optim": settings.optim,
        "output_dir": folder,
        "per_device_train_batch_size": settings.batch_size,
        # The examples are trees and have no columns.
        "remove_unused_columns": False,
        "report_to": "none",
        "save_strategy": "no",
        "seed": settings.seed,
        "use_cpu": not torch.cuda.is_available(),
        "warmup_ratio": settings.warmup_ratio,
        "weight_decay": settings.weight_decay,
        **settings.trainer,
    }
