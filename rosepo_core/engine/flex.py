"""Attention by PyTorch's FlexAttention, for trees that stand one after another in a long row.

A kernel for dense masks multiplies every query with every key. FlexAttention skips blocks in which nothing is seen,
and in a row of many trees these are nearly all. Which blocks they are follows from the numbers of a block's tokens
(`TreeBatch.enter` and `TreeBatch.leave`), so no mask of the whole row is ever made.

This is the only module that uses FlexAttention, which PyTorch calls a prototype.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask as BlockMask
from torch.nn.attention.flex_attention import flex_attention

BLOCK = 128
"""Queries and keys of a block."""

Sees = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(sequence, head, query, key) -> whether the query sees the key; indices that broadcast."""


def sees(enter: Tensor, leave: Tensor, depth: Tensor, rule: Sees | None) -> Sees:
    """Whether a token sees another.

    Args:
        enter, leave: as in `TreeBatch`, int64 [b, t].
        depth: depth of each token, int64 [b, t].
        rule: what layers of one kind allow (sequence, head, query depth, key depth); `None` if they allow all.
    """

    def seen(sequence: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        number = enter[sequence, query]
        below = (enter[sequence, key] <= number) & (number < leave[sequence, key])
        if rule is None:
            return below
        return below & rule(sequence, head, depth[sequence, query], depth[sequence, key])

    return seen


def block_mask(enter: Tensor, leave: Tensor, depth: Tensor, rule: Sees | None) -> BlockMask:
    """The mask of `sees` with the blocks in which something is seen; if there is no rule, it also has the blocks in
    which everything is seen. The arguments are those of `sees`."""
    width = enter.shape[1]
    blocks = -(-width // BLOCK)
    # The last block is filled with the last token.
    place = torch.arange(blocks * BLOCK, device=enter.device).clamp_(max=width - 1).view(blocks, BLOCK)
    entered, left = enter[:, place], leave[:, place]
    low, high = entered.amin(-1), entered.amax(-1)
    low_query, high_query = low[:, :, None], high[:, :, None]
    some = (low[:, None] <= high_query) & (low_query < left.amax(-1)[:, None])
    whole = (high[:, None] <= low_query) & (high_query < left.amin(-1)[:, None])
    partial = some if rule is not None else some & ~whole
    counts, places = _listed(partial)
    full_counts, full_places = _listed(whole) if rule is None else (None, None)
    return BlockMask.from_kv_blocks(
        counts,
        places,
        full_counts,
        full_places,
        BLOCK_SIZE=BLOCK,
        mask_mod=sees(enter, leave, depth, rule),
        seq_lengths=(width, width),
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """For blocks bool [b, queries, keys]: how many there are for each block of queries, int32 [b, 1, queries], and
    which, the true ones first, int32 [b, 1, queries, keys]."""
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[:, None], order.int()[:, None]


def dense(mask: BlockMask) -> Tensor:
    """The mask for kernels without blocks: bool [b, 1, t, s]."""
    rows, _, length, keys = mask.shape
    device = mask.kv_indices.device
    sequence = torch.arange(rows, device=device)[:, None, None, None]
    query, key = torch.arange(length, device=device)[:, None], torch.arange(keys, device=device)
    found: Tensor = mask.mask_mod(sequence, torch.zeros_like(sequence[:1]), query, key)
    return found


def block_sparse_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scaling: float | None
) -> Tensor:
    """Grouped-query attention without dropout. On a CPU there is no backward pass.

    Args:
        query: [b, heads, t, d]. key: [b, key heads, t, d]. value: [b, key heads, t, e].
        mask: a `block_mask`.
        scaling: factor of the scores; by default 1 / sqrt(d).

    Returns:
        [b, t, heads, e].
    """
    attend = _compiled() if query.is_cuda and not torch.compiler.is_compiling() else flex_attention
    grouped = query.shape[1] != key.shape[1]
    mixed: Tensor = attend(query, key, value, block_mask=mask, scale=scaling, enable_gqa=grouped)
    return mixed.transpose(1, 2).contiguous()


@cache
def _compiled() -> Any:
    # Without compilation, it would compute all scores. Rows have many lengths.
    return torch.compile(flex_attention, dynamic=True)
