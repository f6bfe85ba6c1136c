"""The settings of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from rosepo_core.contracts.sections import Compile, TokenBudget


@dataclass(frozen=True)
class TrainingSettings:
    """The settings that fine-tuning and alignment have in common.

    Attributes:
        learning_rate: peak learning rate.
        batch_size: sequences (fine-tuning) or trees (alignment) in a batch.
        token_budget: most tokens of a forward pass, padding included (`engine.passes`); memory and speed only.
        budget_key: the key of the configuration that sets `token_budget`, for errors.
        compile: whether decoder layers are compiled (`engine.regions`); speed only.
        steps: optimizer steps; `None` for as many as `epochs` has.
        epochs: passes over what is trained on.
        warmup_ratio: share of the steps in which the learning rate rises, 0 to 1.
        lr_scheduler_type: how the learning rate changes, a name of transformers' `SchedulerType`.
        gradient_accumulation_steps: batches per optimizer step.
        optim: the optimizer, a name of transformers' `OptimizerNames`.
        weight_decay: decoupled weight decay.
        max_grad_norm: the gradient is clipped to this norm; 0 clips nothing.
        gradient_checkpointing: recompute activations in the backward pass; memory and speed only.
        products: the type that products of float32 weights are computed in; `None` for float32.
        seed: of the order of examples, and of dropout.
        trainer: further arguments of TRL's configuration, by name (`configuration.PASSED`).
    """

    learning_rate: float
    batch_size: int
    token_budget: TokenBudget = "auto"
    budget_key: str = "token_budget"
    compile: Compile = False
    steps: int | None = None
    epochs: float = 1.0
    warmup_ratio: float = 0.0
    lr_scheduler_type: str = "linear"
    gradient_accumulation_steps: int = 1
    optim: str = "adamw_torch_fused"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = False
    products: torch.dtype | None = None
    seed: int = 0
    trainer: Mapping[str, Any] = field(default_factory=dict)
