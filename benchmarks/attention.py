"""Attention of one layer of SmolLM2-135M (9 heads, 3 key heads of 64), forward and backward, under a causal mask:
rosepo's blocks beside PyTorch's fused attention, in turn.

    python -m benchmarks.attention
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rosepo_core.engine.blocks import block_attention
from rosepo_core.engine.memory import kept_memory

ROUNDS = 15
MODULE = SimpleNamespace(is_causal=True, num_key_value_groups=3, training=True)
SHAPES = ((6, 160), (3, 307), (1, 600), (1, 1000))
"""Sequences, and the tokens of each."""


def milliseconds(attention: Callable[..., Tensor], states: list[Tensor], mask: Tensor) -> float:
    start = time.perf_counter()
    attention(*states, mask, 64**-0.5).sum().backward()
    return 1e3 * (time.perf_counter() - start)


def fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    mixed: Tensor = sdpa_attention_forward(MODULE, query, key, value, mask, scaling=scaling)[0]  # type: ignore[arg-type]
    return mixed


def main() -> None:
    print("| sequences x tokens | blocks, ms | fused, ms | ratio |\n| --- | --- | --- | --- |")
    for batch, length in SHAPES:
        states = [torch.randn(batch, length, heads, 64).transpose(1, 2).requires_grad_() for heads in (9, 3, 3)]
        mask = torch.zeros(batch, 1, length, length)
        mask.masked_fill_(torch.ones(length, length, dtype=torch.bool).triu(1), -torch.inf)
        pairs = []
        with kept_memory():
            for _ in range(ROUNDS):
                ours = milliseconds(block_attention, states, mask)
                pairs.append((ours, milliseconds(fused, states, mask)))
        ours, theirs = (statistics.median(side) for side in zip(*pairs[2:], strict=True))
        ratio = statistics.median(other / blocks for blocks, other in pairs[2:])
        print(f"| {batch} x {length} | {ours:.1f} | {theirs:.1f} | {ratio:.2f} x |")


if __name__ == "__main__":
    main()
