"""The trainer's configurations, which extend TRL's. This is the only module that imports TRL."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from trl import DPOConfig, SFTConfig

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
    }
