"""Training without anything random: alignment compares a model with its reference, and chance must not."""

from __future__ import annotations

import torch


def without_dropout(model: torch.nn.Module) -> None:
    """Let `model` compute as in evaluation, while its parameters go on being trained.

    Evaluation mode is what turns everything off: dropout modules, dropout that a layer's own code calls
    (`attention_dropout` of most models, OPT's `dropout`), skipped layers, noise in a router. A trainer that calls
    ``model.train()`` before each step undoes it, so call this again before each forward pass; that is cheap.

    Layers that save memory by gradient checkpointing do so in training mode alone. They alone keep it, and the
    dropout that their own code calls gets probability 0 for good.
    """
    model.eval()
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True
            for name, value in vars(module).items():
                if "drop" in name and isinstance(value, (int, float)):
                    setattr(module, name, 0.0)
