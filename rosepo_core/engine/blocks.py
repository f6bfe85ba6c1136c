"""Attention in blocks of queries, for short sequences on a CPU.

PyTorch's fused attention for CPUs multiplies every query with every key, masked or not. In a token tree, as in plain
text, no token sees a later one. So a block of queries needs only the keys up to its own end, a little more than half
of all keys on average. Forward and backward together take two thirds to four fifths of the time of the fused
attention at 160 to 1,000 tokens (`benchmarks/attention.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.nn.functional import softmax

BLOCK = 64
"""Number of queries of each head that are computed at once."""

LONG = 1024
"""Blocks are used up to this number of keys, because the memory for the backward pass grows with its square."""


def _blocks(length: int, keys: int) -> Iterator[tuple[slice, int]]:
    """The queries of each block, and how many keys they need. If there are more keys than queries (a cache), every
    query may see any key, so there is one block."""
    step = BLOCK if length == keys else max(1, length)
    for start in range(0, length, step):
        end = min(length, start + step)
        yield slice(start, end), end if length == keys else keys


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
        """Query [b, groups, r, t, d]; key [b, groups, s, d]; value [b, groups, s, e]; mask [b, 1, t, s] ->
        [b, groups, r, t, e]."""
        (batch, groups, repeats, length, size), keys, width = query.shape, key.shape[2], value.shape[3]
        key, value = key.reshape(-1, keys, size), value.reshape(-1, keys, width)
        mixed = query.new_empty(batch, groups, repeats, length, width)
        kept = []
        for rows, seen in _blocks(length, keys):
            # The query heads of one key head are stacked, so that no key is repeated.
            stacked = (query[:, :, :, rows] * scaling).reshape(batch * groups, -1, size)
            scores = torch.bmm(stacked, key[:, :seen].mT)
            shaped = scores.view(batch, groups, repeats, -1, seen)
            visible = mask[:, :, None, rows, :seen]
            if mask.dtype == torch.bool:
                # A row with only -inf would become NaN.
                shaped.masked_fill_(~visible, torch.finfo(scores.dtype).min)
            else:
                shaped.add_(visible)
            weights = softmax(scores, dim=-1)
            mixed[:, :, :, rows] = torch.bmm(weights, value[:, :seen]).view(batch, groups, repeats, -1, width)
            if any(ctx.needs_input_grad):
                kept += [stacked, weights]
        ctx.save_for_backward(key, value, *kept)
        ctx.scaling = scaling
        return mixed

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value."""
        (gradient,) = gradients
        key, value, *kept = ctx.saved_tensors
        (batch, groups, repeats, length, width), (keys, size) = gradient.shape, key.shape[1:]
        of_query = gradient.new_empty(batch, groups, repeats, length, size)
        of_key, of_value = torch.zeros_like(key), torch.zeros_like(value)
        for (rows, seen), stacked, weights in zip(_blocks(length, keys), kept[::2], kept[1::2], strict=True):
            block = gradient[:, :, :, rows].reshape(batch * groups, -1, width)
            of_value[:, :seen] += torch.bmm(weights.mT, block)
            of_weights = torch.bmm(block, value[:, :seen].mT)
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            of_query[:, :, :, rows] = (
                torch.bmm(of_scores, key[:, :seen]).mul_(ctx.scaling).view_as(of_query[:, :, :, rows])
            )
            of_key[:, :seen] += torch.bmm(of_scores.mT, stacked)
        shape = (batch, groups, keys)
        return of_query, of_key.view(*shape, size), of_value.view(*shape, width), None, None


def block_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245) without dropout.

    Args:
        query: [b, heads, t, d]. key: [b, key heads, s, d]. value: [b, key heads, s, e].
        mask: bool, true where a query sees a key, or numbers to add to the scores, [b, 1, t, s]; by default causal.
            If t = s, no query may see a later key.
        scaling: factor of the scores; by default 1 / sqrt(d).

    Returns:
        [b, t, heads, e].
    """
    (batch, heads, length, size), (groups, keys) = query.shape, key.shape[1:3]
    if mask is None:
        mask = torch.ones(1, 1, length, keys, dtype=torch.bool, device=query.device).tril(keys - length)
    grouped = query.reshape(batch, groups, heads // groups, length, size)
    mixed: Tensor = _BlockAttention.apply(grouped, key, value, mask[..., :keys], scaling or size**-0.5)  # type: ignore[no-untyped-call]
    return mixed.flatten(1, 2).transpose(1, 2).contiguous()
