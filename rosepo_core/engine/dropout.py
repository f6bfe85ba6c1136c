"""Turns off everything random in training. Alignment compares a model with its reference, so chance must not
matter."""

from __future__ import annotations

import torch


def without_dropout(model: torch.nn.Module) -> None:
    """Let `model` compute as in evaluation, while its parameters are still trained.

    Evaluation mode turns off everything random: dropout modules, dropout in the code of layers (`attention_dropout`
    of most models, OPT's `dropout`), skipped layers, noise in a router. A trainer calls ``model.train()`` before each
    step, which undoes this. So call this function before each forward pass; it is cheap.

    Layers with gradient checkpointing save memory in training mode only. These layers stay in training mode, and the
    dropout probabilities in their code are set to 0 permanently.
    """
    model.eval()
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True
            for name, value in vars(module).items():
                if "drop" in name and isinstance(value, (int, float)):
                    setattr(module, name, 0.0)
