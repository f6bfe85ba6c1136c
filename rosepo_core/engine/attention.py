"""Attention in blocks of queries, for short sequences on a CPU.

PyTorch's fused attention for CPUs multiplies every query with every key, masked or not. In a token tree, as in any
text, no token sees a later one: a block of queries needs the keys up to its own end, which are little more than half
of them all. Forward and backward together take two thirds to four fifths of the fused attention's time at 160 to
1,000 tokens (`benchmarks/attention.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.nn.functional import softmax
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "rosepo-blocks"
BLOCK = 64
"""Queries of each head that are computed at once."""

LONG = 1024
"""Longer sequences get the fused attention: what blocks keep for the backward pass grows with the square."""


def _blocks(length: int, keys: int) -> Iterator[tuple[slice, int]]:
    """Queries, and how many keys they need. Behind a cache a query may see any key, so there is one block."""
    step = BLOCK if length == keys else max(1, length)
    for start in range(0, length, step):
        end = min(length, start + step)
        yield slice(start, end), end if length == keys else keys


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
        """Query [b, groups, r, t, d]; key and value [b, groups, s, d]; mask [b, 1, t, s] -> as the query."""
        (batch, groups, repeats, length, size), keys = query.shape, key.shape[2]
        key, value = key.reshape(-1, keys, size), value.reshape(-1, keys, size)
        mixed = torch.empty_like(query, memory_format=torch.contiguous_format)
        kept = []
        for rows, seen in _blocks(length, keys):
            # The query heads of one key head are stacked, so that no key is repeated.
            stacked = (query[:, :, :, rows] * scaling).reshape(batch * groups, -1, size)
            scores = torch.bmm(stacked, key[:, :seen].mT)
            shaped = scores.view(batch, groups, repeats, -1, seen)
            visible = mask[:, :, None, rows, :seen]
            if mask.dtype == torch.bool:
                # A row of -inf alone would be NaN.
                shaped.masked_fill_(~visible, torch.finfo(scores.dtype).min)
            else:
                shaped.add_(visible)
            weights = softmax(scores, dim=-1)
            mixed[:, :, :, rows] = torch.bmm(weights, value[:, :seen]).view(batch, groups, repeats, -1, size)
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
        (batch, groups, _, length, size), keys = gradient.shape, key.shape[1]
        of_query = torch.empty_like(gradient, memory_format=torch.contiguous_format)
        of_key, of_value = torch.zeros_like(key), torch.zeros_like(value)
        for (rows, seen), stacked, weights in zip(_blocks(length, keys), kept[::2], kept[1::2], strict=True):
            block = gradient[:, :, :, rows].reshape(batch * groups, -1, size)
            of_value[:, :seen] += torch.bmm(weights.mT, block)
            of_weights = torch.bmm(block, value[:, :seen].mT)
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            of_query[:, :, :, rows] = (
                torch.bmm(of_scores, key[:, :seen]).mul_(ctx.scaling).view_as(of_query[:, :, :, rows])
            )
            of_key[:, :seen] += torch.bmm(of_scores.mT, stacked)
        shape = (batch, groups, keys, size)
        return of_query, of_key.view(shape), of_value.view(shape), None, None


def block_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245).

    Args:
        query: [b, heads, t, d]. key, value: [b, key heads, s, d].
        attention_mask: bool, true where attended to, or additive, [b, 1, t, s]; causal where there is none. Where
            t = s, no query may see a later key.

    Returns:
        [b, t, heads, d], and None for the weights.
    """
    (batch, heads, length, size), (groups, keys) = query.shape, key.shape[1:3]
    if keys > LONG or dropout:
        mixed, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return mixed, None
    if attention_mask is None:
        attention_mask = torch.ones(1, 1, length, keys, dtype=torch.bool, device=query.device).tril(keys - length)
    grouped = query.reshape(batch, groups, heads // groups, length, size)
    mixed = _BlockAttention.apply(grouped, key, value, attention_mask[..., :keys], scaling or size**-0.5)  # type: ignore[no-untyped-call]
    return mixed.flatten(1, 2).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, block_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
