"""GRU4Rec, a recurrent network over the history (Hidasi et al., "Session-based recommendations with recurrent neural
networks", ICLR 2016, arXiv 1511.06939), as an oracle."""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from rosepo_core.api import Options
from rosepo_oracles.sequential import Dropout, SequenceNetwork, SequentialOptions, SequentialOracle


class GRU4RecOptions(SequentialOptions):
    """Options of `gru4rec`."""

    layers: int = Field(1, ge=1, description="Layers of gated recurrent units.")


class Network(SequenceNetwork):
    """Item embeddings and gated recurrent units (equations 1 to 4 of the paper)."""

    def __init__(self, items: int, options: GRU4RecOptions) -> None:
        size = options.hidden_size
        super().__init__(items, size)
        self.dropout = Dropout(options.dropout)
        between = options.dropout if options.layers > 1 else 0.0
        self.units = nn.GRU(size, size, options.layers, batch_first=True, dropout=between)
        self.norm = nn.LayerNorm(size)
        nn.init.normal_(self.item.weight, std=0.02)

    def forward(self, inputs: Tensor) -> Tensor:
        """Int64 [b, t] to hidden states, float [b, t, size]."""
        states, _ = self.units(self.dropout(self.item(inputs) * math.sqrt(self.item.embedding_dim)))
        hidden: Tensor = self.norm(self.dropout(states))
        return hidden


class GRU4Rec(SequentialOracle):
    """Logits of the next item by gated recurrent units over the history.

    As in the paper: gated recurrent units read one item after another, and their state ranks the whole catalogue.

    Different from the paper: input and output share the item embeddings, as later versions of the authors' own code
    can; the objective is the softmax cross-entropy over the whole catalogue instead of a pairwise ranking loss over
    the items of a mini-batch (Hidasi and Karatzoglou, CIKM 2018, have cross-entropy, too); a layer normalization
    follows the units; training is that of `sasrec`: windows of the users' sequences, and no session-parallel
    mini-batches.
    """

    Options: ClassVar[type[Options]] = GRU4RecOptions
    name = "gru4rec"

    def build(self, items: int) -> Network:
        """A new network for a catalogue of `items` items."""
        return Network(items, self.options)
