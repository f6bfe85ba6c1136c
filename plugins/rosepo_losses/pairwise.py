"""Functions for losses over pairs: a row with K rejected responses is K pairs, and its loss is the mean over them."""

from __future__ import annotations

import torch
from torch import Tensor

from rosepo_core.api import LogProbs


def log_ratios(log_probs: LogProbs) -> tuple[Tensor, Tensor]:
    """log pi - log ref of the chosen responses, [n, 1], and of the rejected ones, [n, K], 0 in invalid slots."""
    # Mask the operands, not the difference: a mask after an operation still gives the gradient 0 * nan.
    policy = torch.where(log_probs.valid, log_probs.rejected, 0.0)
    reference = torch.where(log_probs.valid, log_probs.reference_rejected, 0.0)
    return (log_probs.chosen - log_probs.reference_chosen)[:, None], policy - reference


def mean_over_valid(pair_loss: Tensor, valid: Tensor) -> Tensor:
    """Mean of `pair_loss` [n, K] over each row's valid slots: [n].

    `pair_loss` must be finite in the invalid slots, too; otherwise their gradients are not 0.
    """
    return torch.where(valid, pair_loss, 0.0).sum(1) / valid.sum(1).clamp(min=1)
