"""Attention masks and attention kernels of prepared models.

transformers makes the attention masks of a model from rules, one for each kind of layer (full, sliding window,
chunks). A rule says for two positions of a sequence whether one sees the other. A model with the attention
implementation `NAME` gets both from this module: the mask of a rule, and the attention of a layer. In a plain pass,
the masks are those of transformers. In a pass with a `Layout` (for example a token tree), the layout knows which
tokens come before which, and applies the model's own rule to their depths. So sliding windows are right for every
model.

Attention is computed by the first of these kernels that supports every option of the layer: FlexAttention (for a mask
of blocks), blocks of queries (on a CPU), PyTorch's scaled dot product, the model's own code. An option that a kernel
does not support, such as a cap on the scores or an attention sink, is never ignored.

No global setting is switched: a layout is valid for calls of its own thread inside `laid_out`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from rosepo_core.engine.blocks import LONG, block_attention
from rosepo_core.engine.flex import BlockMask, block_sparse_attention, dense

NAME = "rosepo"
"""The name of this attention implementation."""

KINDS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""The kinds of layers that a rule describes completely."""

_ALREADY_DONE = frozenset({"sliding_window", "position_ids"})
"""Options of layers that are already applied in the mask, or in the queries and keys."""

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(sequence, head, query position, key position) -> whether the query sees the key; all broadcast to [b, 1, t, s]."""


Mask = Tensor | BlockMask


class Layout(Protocol):
    """How the tokens of a pass belong together."""

    def mask(self, rule: Rule | None, dtype: torch.dtype) -> Mask | None:
        """The mask of the layers of one kind, [b, 1, t, s].

        Args:
            rule: the rule of the layers, to apply to depths; `None` if tokens see all earlier tokens.
            dtype: type of the hidden states.

        Returns:
            bool, true where a token sees another; or numbers of `dtype` to add to the scores; or a mask of blocks;
            or `None` for the plain causal mask.
        """

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Mask | None, **options: Any
    ) -> Tensor:
        """The result of `attention` for the layout's tokens: [b, t, heads, e]."""


_LAYOUT: ContextVar[Layout | None] = ContextVar("layout", default=None)


@contextmanager
def laid_out(layout: Layout) -> Iterator[None]:
    """Inside the context, and in this thread, models with the implementation `NAME` read tokens in this layout.

    Give the models an attention mask of ones, [b, t]. Without a mask, transformers takes repeated positions for
    packed sequences.
    """
    token = _LAYOUT.set(layout)
    try:
        yield
    finally:
        _LAYOUT.reset(token)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Mask | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> Tensor:
    """Attention of one layer, by the first kernel that supports all options.

    Args:
        module: the layer's attention module.
        query: [b, heads, t, d]. key: [b, key heads, s, d]. value: [b, key heads, s, e].
        mask: a result of `Layout.mask`.
        dropout: dropout probability. scaling: factor of the scores; by default 1 / sqrt(d).
        options: all other options of the layer.

    Returns:
        [b, t, heads, e].

    Raises:
        NotImplementedError: no kernel here supports an option, and the model's code has no attention function.
    """
    causal = options.pop("is_causal", None)
    causal = getattr(module, "is_causal", True) if causal is None else causal
    others = {
        name: option
        for name, option in options.items()
        if name not in _ALREADY_DONE and option is not None and option is not False
    }
    if isinstance(mask, BlockMask):
        if not others and not dropout:
            return block_sparse_attention(query, key, value, mask, scaling)
        mask = dense(mask)
    if others:
        return _own_attention(module, query, key, value, mask, causal, others, dropout=dropout, scaling=scaling)
    # Blocks of queries would be compiled anew for each length.
    on_cpu = query.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_cpu and key.shape[2] <= LONG and not dropout and (causal or mask is not None):
        return block_attention(query, key, value, mask, scaling)
    mixed: Tensor = sdpa_attention_forward(
        module, query, key, value, mask, dropout=dropout, scaling=scaling, is_causal=causal
    )[0]
    return mixed


def _own_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    others: dict[str, Any],
    **known: Any,
) -> Tensor:
    """Attention by the default function in the model's own module."""
    for kind in type(module).__mro__:
        function = getattr(sys.modules[kind.__module__], "eager_attention_forward", None)
        if function is not None:
            break
    else:
        raise NotImplementedError(f"{type(module).__name__} computes attention with {', '.join(sorted(others))}")
    length, keys = query.shape[2], key.shape[2]
    if mask is None and causal:
        mask = torch.ones(1, 1, length, keys, dtype=torch.bool, device=query.device).tril(keys - length)
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, torch.finfo(query.dtype).min).to(query.dtype)
    mixed: Tensor = function(module, query, key, value, mask, **known, **others)[0]
    return mixed


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Mask | None, **options: Any
) -> tuple[Tensor, None]:
    # Compiled layers cannot read the layout. They are compiled for trees alone (`engine.regions`), whose mask says
    # everything.
    layout = None if torch.compiler.is_compiling() else _LAYOUT.get()
    attend = attention if layout is None else layout.attend
    return attend(module, query, key, value, attention_mask, **options), None


def _mask(
    *,
    batch_size: int,
    mask_function: Rule,
    dtype: torch.dtype = torch.float32,
    local_size: int | None = None,
    use_vmap: bool = False,
    **options: Any,
) -> Mask | None:
    layout = _LAYOUT.get()
    if layout is None:
        plain: Tensor | None = sdpa_mask(
            batch_size=batch_size, mask_function=mask_function, local_size=local_size, use_vmap=use_vmap, **options
        )
        return plain
    if use_vmap:
        raise NotImplementedError("a mask of the model's own besides causality and windows")
    return layout.mask(mask_function if local_size is not None else None, dtype)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
