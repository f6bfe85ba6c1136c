"""Log-probabilities of tokens from hidden states through a frozen language-model head.

The gradient of log p(target | h) in h is W[target] - softmax(h W') W. The second term is the mean row of W under the
model's distribution; it depends on h alone and needs nothing of what comes later, so it is made on the way. The
vocabulary is gone through in tiles that stay in the processor's cache, with a running maximum as in online softmax
(Milakov and Gimelshein 2018, arXiv 1805.02867): no logit is written to memory or computed twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LOGITS_IN_CACHE = 2**20
"""Logits in a tile on a CPU: 4 MiB."""

LOGITS_ON_GPU = 2**24
"""Logits in a tile on a GPU, where few large products are fast: 64 MiB."""

BLOCK = 256
"""Tokens of the vocabulary in a tile: a multiple of this, as narrower and odd-sized products are slower by half."""


def _tiled(hidden: Tensor, weight: Tensor, targets: Tensor, states: Tensor, mean: Tensor | None) -> Tensor:
    """Log-probabilities, float32 [m]; writes the mean row of `weight` for each state into `mean`, float32 [n, d]."""
    logits_at_once = LOGITS_IN_CACHE if hidden.device.type == "cpu" else LOGITS_ON_GPU
    width = BLOCK * max(1, logits_at_once // (BLOCK * max(1, len(hidden))))
    top = torch.full((len(hidden), 1), -torch.inf, device=hidden.device)
    total = torch.zeros_like(top)
    chosen = torch.zeros(len(targets), device=hidden.device)
    for first in range(0, len(weight), width):
        rows = weight[first : first + width]
        tile = (hidden @ rows.T).float()
        column = targets - first
        here = (column >= 0) & (column < len(rows))
        chosen = torch.where(here, tile[states, column.clamp(0, len(rows) - 1)], chosen)
        new_top = torch.maximum(top, tile.amax(1, keepdim=True))
        shrunk = (top - new_top).exp_()
        tile.sub_(new_top).exp_()
        total.mul_(shrunk).add_(tile.sum(1, keepdim=True))
        if mean is not None:
            mean.mul_(shrunk).add_(tile.to(rows.dtype) @ rows)
        top = new_top
    if mean is not None:
        mean.div_(total)
    return chosen - (top + total.log())[states, 0]


class _FrozenHeadLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, states: Tensor) -> Tensor:
        mean = torch.zeros(hidden.shape, device=hidden.device)
        log_probs = _tiled(hidden, weight, targets, states, mean)
        ctx.save_for_backward(mean, weight, targets, states)
        return log_probs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        mean, weight, targets, states = ctx.saved_tensors
        of_state = torch.zeros(len(mean), device=mean.device).index_add_(0, states, gradient)
        of_hidden = (-of_state[:, None] * mean).index_add_(0, states, gradient[:, None] * weight[targets].float())
        return of_hidden.to(weight.dtype), None, None, None


def frozen_head_log_probs(hidden: Tensor, weight: Tensor, targets: Tensor, states: Tensor) -> Tensor:
    """log softmax(hidden[state] weight')[target] of each target, differentiable in `hidden` alone.

    A state with many targets, such as the end of a prompt, is multiplied with the vocabulary once.

    Args:
        hidden: [n, d]. weight: of the head, [vocabulary, d], without gradient.
        targets: int64 [m]. states: the row of `hidden` that comes before each target, int64 [m].

    Returns:
        float32 [m].
    """
    if not torch.is_grad_enabled():
        return _tiled(hidden, weight, targets, states, None)
    result: Tensor = _FrozenHeadLogProbs.apply(hidden, weight, targets, states)  # type: ignore[no-untyped-call]
    return result
