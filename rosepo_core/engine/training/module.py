"""The module that is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rosepo_core.engine.dropout import without_dropout
from rosepo_core.engine.head import bare_model
from rosepo_core.engine.log_probs import log_probs
from rosepo_core.engine.precision import autocast
from rosepo_core.engine.trees import TreeBatch


class TreeModule(nn.Module):
    """A language model that takes packed trees and gives log-probabilities of responses.

    The whole computation from token ids to log-probabilities is in `forward`, so that wrappers for several processes
    (DDP, FSDP) see all of it.
    """

    def __init__(self, model: Any, *, dropout: bool, products: torch.dtype | None = None) -> None:
        """
        Args:
            model: a causal language model of transformers, with or without PEFT adapters.
            dropout: false turns off everything random (`engine.dropout`).
            products: the type that products of float32 weights are computed in; `None` for float32.
        """
        super().__init__()
        self.model = model
        # Accelerate divides a model for FSDP into modules of these classes.
        self._no_split_modules = getattr(bare_model(model), "_no_split_modules", None)
        self._dropout = dropout
        self.products = products

    def forward(self, batch: TreeBatch) -> Tensor:
        """Log-probability of each response: float32 [r]. The batch is on the model's device."""
        with autocast(self.model, self.products):
            return log_probs(self.model, batch)

    def train(self, mode: bool = True) -> TreeModule:
        """Set training or evaluation mode. A trainer calls this before each step."""
        super().train(mode)
        if mode and not self._dropout:
            without_dropout(self.model)
        return self

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Recompute activations in the backward pass. The trainer calls this if its arguments say so."""
        self.model.activation_checkpointing_enable(**options)
