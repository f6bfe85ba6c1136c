"""SASRec, self-attentive sequential recommendation (Kang and McAuley, ICDM 2018, arXiv 1808.09781), as an oracle."""

from __future__ import annotations

import math
from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from rosepo_core.api import Options
from rosepo_oracles.sequential import Dropout, SequenceNetwork, SequentialOptions, SequentialOracle


class SASRecOptions(SequentialOptions):
    """Options of `sasrec`."""

    layers: int = Field(2, ge=1, description="Self-attention blocks.")
    heads: int = Field(
        2, ge=1, validate_default=True, description="Attention heads per block; must divide hidden_size."
    )

    @field_validator("heads")
    @classmethod
    def _heads_fit(cls, value: int, info: ValidationInfo) -> int:
        size = info.data.get("hidden_size", value)
        if size % value:
            raise ValueError(f"must divide hidden_size ({size})")
        return value


class Block(nn.Module):
    """Causal self-attention and a position-wise feed-forward network (equations 2 to 8 of the paper)."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(size)
        self.attention_in = nn.Linear(size, 3 * size)
        self.attention_out = nn.Linear(size, size)
        self.feed_forward_norm = nn.LayerNorm(size)
        self.feed_forward = nn.Sequential(
            nn.Linear(size, size), nn.ReLU(), Dropout(dropout), nn.Linear(size, size), Dropout(dropout)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Float [b, t, size] to the same shape."""
        # Not one permutation of all three: its gradient would be put together twice.
        parts = self.attention_in(self.attention_norm(x)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.dropout(self.attention_out(attended.transpose(1, 2).flatten(-2)))
        return x + self.feed_forward(self.feed_forward_norm(x))


class Network(SequenceNetwork):
    """Embeddings of items and positions, and blocks of self-attention."""

    def __init__(self, items: int, options: SASRecOptions) -> None:
        size = options.hidden_size
        super().__init__(items, size)
        self.position = nn.Embedding(options.max_history + 1, size)
        self.dropout = Dropout(options.dropout)
        self.blocks = nn.Sequential(*(Block(size, options.heads, options.dropout) for _ in range(options.layers)))
        self.norm = nn.LayerNorm(size)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, inputs: Tensor) -> Tensor:
        """Int64 [b, t] to hidden states, float [b, t, size]."""
        x = self.item(inputs) * math.sqrt(self.item.embedding_dim) + self.position.weight[: inputs.shape[1]]
        hidden: Tensor = self.norm(self.blocks(self.dropout(x)))
        return hidden


class SASRec(SequentialOracle):
    """Logits of the next item by causal self-attention over the history.

    As in the paper: input and output share the item embeddings; positions are learned; causal self-attention blocks
    have layer normalization before each part and residual connections around it; one pass predicts the next item at
    every position.

    Different from the paper: the objective is the softmax cross-entropy over the whole catalogue instead of one
    sampled negative, which ranks much better (Klenitskiy and Vasilev, RecSys 2023; Petrov and Macdonald, RecSys
    2023); each item has an output bias that starts at the logarithm of its popularity; long sequences are divided
    into windows.
    """

    Options: ClassVar[type[Options]] = SASRecOptions
    name = "sasrec"

    def build(self, items: int) -> Network:
        """A new network for a catalogue of `items` items."""
        return Network(items, self.options)
