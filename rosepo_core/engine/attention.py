"""Attention as plain matrix products, for short sequences on a CPU.

PyTorch's fused attention for CPUs takes a third of a training step of a small model in bfloat16, most of it backward.
Its merit is that it never holds a [length, length] table, which is no burden at a few hundred tokens; from `LONG`
tokens on it is what is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softmax
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "rosepo-products"
LONG = 640
"""Keys from which on the fused attention is used: its memory grows with their number, not with the square."""


def attention_products(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245) with the query heads of one key head stacked.

    No key is repeated, as it is where each query head gets a copy of its own.

    Args:
        query: [b, heads, t, d]. key, value: [b, key heads, s, d]. attention_mask: bool, true where attended to, or
            additive, [b, 1, t, s]; causal where there is none.

    Returns:
        [b, t, heads, d], and None for the weights.
    """
    (batch, heads, length, size), (groups, keys) = query.shape, key.shape[1:3]
    if keys >= LONG or dropout:
        mixed, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return mixed, None
    stacked = query.reshape(batch, groups, heads // groups * length, size) * (scaling or size**-0.5)
    scores = (stacked @ key.transpose(2, 3)).view(batch, groups, heads // groups, length, keys)
    if attention_mask is None:
        attention_mask = torch.ones(length, keys, dtype=torch.bool, device=query.device).tril(keys - length)
        attention_mask = attention_mask[None, None]
    mask = attention_mask[..., :keys][:, :, None]
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if mask.dtype == torch.bool else scores + mask
    weights = softmax(scores, dim=-1).view(batch, groups, heads // groups * length, keys)
    return (weights @ value).view(batch, heads, length, size).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention_products)
AttentionMaskInterface.register(NAME, sdpa_mask)
