"""Log-probabilities of tokens from hidden states through a frozen language-model head.

The gradient of log p(target | h) in h is W[target] - softmax(h W') W: it needs the probabilities and nothing of what
comes later, so it is made while they are at hand. A chunk of logits is computed once and never kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 128
"""Hidden states whose logits exist at a time: enough for full speed, and 49,152 logits of each are 25 MB."""


def _log_probs(hidden: Tensor, weight: Tensor, targets: Tensor, jacobian: Tensor | None) -> Tensor:
    """float32 [n]; writes the gradients of each in its hidden state into `jacobian`, [n, d], if there is one."""
    log_probs = torch.empty(len(hidden), device=hidden.device)
    for start in range(0, len(hidden), CHUNK):
        rows = slice(start, start + CHUNK)
        logits = (hidden[rows] @ weight.T).float()
        normalizer = logits.logsumexp(-1, keepdim=True)
        log_probs[rows] = (logits.gather(1, targets[rows, None]) - normalizer)[:, 0]
        if jacobian is not None:
            probabilities = logits.sub_(normalizer).exp_().to(weight.dtype)
            jacobian[rows] = weight[targets[rows]] - probabilities @ weight
    return log_probs


class _FrozenHeadLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        jacobian = torch.empty_like(hidden)
        log_probs = _log_probs(hidden, weight, targets, jacobian)
        ctx.save_for_backward(jacobian)
        return log_probs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (jacobian,) = ctx.saved_tensors
        return (gradients[0][:, None] * jacobian).to(jacobian.dtype), None, None


def frozen_head_log_probs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """log softmax(hidden weight')[target] of each row, differentiable in `hidden` alone.

    Args:
        hidden: [n, d]. weight: of the head, [vocabulary, d], without gradient. targets: int64 [n].

    Returns:
        float32 [n].
    """
    if not torch.is_grad_enabled():
        return _log_probs(hidden, weight, targets, None)
    result: Tensor = _FrozenHeadLogProbs.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    return result
