"""What oracles that read a history item by item share: how they are trained, and how they answer about many places.

A network predicts the next item at every position of a sequence. The objective is the softmax cross-entropy over the
whole catalogue; each item has an output bias that starts at the logarithm of its popularity; long sequences are
divided into windows, so that the model learns from all interactions of a user and not only the latest.

The input is a start marker and the items of a sequence, so a target without history is predicted from the marker
only. Windows are padded on the right, where a network that looks back never sees the padding.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from rosepo_core.api import (
    Examples,
    Floats,
    Ints,
    Longs,
    Options,
    OracleContext,
    Places,
    RosepoError,
    Sequences,
    Split,
)
from rosepo_oracles.scored import ScoredOptions, ScoredOracle

LOGITS_PER_CHUNK = 2**22
"""Logits held at once in training, at most (16 MiB)."""

LOGITS_IN_CACHE = 2**18
"""Logits held at once on a CPU if the catalogue is small (1 MiB, so that they stay in the cache: they are read five
times)."""

ROWS_PER_CHUNK = 128
"""Rows of a chunk on a CPU if the catalogue is large: with fewer rows, matrix products are slow."""

SCORES_PER_CHUNK = 2**22
"""Numbers held at once in scoring."""

WINDOWS_PER_PASS = 64
"""Windows per forward pass in scoring."""


class SequentialOptions(ScoredOptions):
    """Options of every oracle that reads histories item by item."""

    hidden_size: int = Field(64, ge=1, description="Size of the item embeddings and of every layer.")
    max_history: int = Field(50, ge=1, description="The most earlier items that a prediction uses.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the embeddings and between the layers.")
    learning_rate: float = Field(8e-3, gt=0, description="Peak learning rate; falls to zero along a half cosine.")
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="Share of the steps in which the learning rate rises.")
    weight_decay: float = Field(1.0, ge=0, description="Decoupled weight decay of the matrices.")
    batch_size: int = Field(32, ge=1, description="Windows of at most max_history + 1 targets per optimizer step.")
    max_epochs: int = Field(8, ge=1, description="Passes over the training interactions.")
    patience: int = Field(
        3, ge=1, description="Stop after this many epochs without a better NDCG@10 on the validation targets."
    )


@dataclass(frozen=True)
class Windows:
    """Parts of users' sequences. Each is a separate sequence that starts with the marker.

    Attributes:
        user: int64 [w].
        start: position of the first target, int64 [w].
        length: number of targets, int64 [w], at least 1.
    """

    user: Longs
    start: Longs
    length: Longs

    def take(self, rows: NDArray[np.integer]) -> Windows:
        """The windows at `rows`."""
        return Windows(self.user[rows], self.start[rows], self.length[rows])

    def inputs(self, sequences: Sequences, marker: int) -> Tensor:
        """The marker, then all targets but the last, int64 [w, longest], padded on the right. The last target is not
        read: what comes next after the end of a sequence is a question, too."""
        column = np.arange(int(self.length.max()))
        read = (column > 0) & (column < self.length[:, None])
        place = (sequences.offsets[self.user] + self.start)[:, None] + column - 1
        inputs = sequences.items[np.where(read, place, 0)].astype(np.int64)
        inputs[:, 0] = marker
        return torch.from_numpy(inputs)

    def targets(self, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """The targets, int64 [w, longest], padded on the right, and which places are not padding, bool [w,
        longest]."""
        column = np.arange(int(self.length.max()))
        filled = column < self.length[:, None]
        place = (sequences.offsets[self.user] + self.start)[:, None] + column
        targets = sequences.items[np.where(filled, place, 0)].astype(np.int64)
        return torch.from_numpy(targets), torch.from_numpy(filled)


def training_windows(lengths: Longs, size: int, rng: np.random.Generator) -> Windows:
    """Windows of at most `size` targets that cover each position of each user once. The borders are random at each
    call, so that over the epochs every position is seen with histories of all lengths."""
    users = np.flatnonzero(lengths)
    lengths = lengths[users]
    first = np.where(lengths > size, rng.integers(1, size + 1, size=len(users)), lengths)
    count = 1 + -(-(lengths - first) // size)
    owner = np.repeat(np.arange(len(users)), count)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    stop = np.minimum(first[owner] + nth * size, lengths[owner])
    start = np.where(nth == 0, 0, first[owner] + (nth - 1) * size)
    return Windows(users[owner], start, stop - start)


def batches(windows: Windows, size: int, rng: np.random.Generator) -> Iterator[Windows]:
    """Batches of about equally long windows, in random order."""
    order = np.argsort(windows.length * rng.uniform(0.8, 1.2, size=len(windows.length)), kind="stable")
    for batch in rng.permutation(-(-len(order) // size)):
        yield windows.take(order[batch * size : (batch + 1) * size])


class Dropout(nn.Module):
    """`torch.nn.Dropout`, but several times as fast on a CPU, where drawing Bernoulli variables is slow."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Zeros with probability `rate`, the rest scaled up."""
        if not self.training or self.rate == 0:
            return x
        kept = (torch.rand_like(x) >= self.rate) * (1 / (1 - self.rate))
        return x * kept


class SequenceNetwork(nn.Module):
    """From item numbers to hidden states; the score of item i is ``hidden @ item.weight[i] + bias[i]``.

    `item` has one row more than the catalogue has items: the start marker. Input and output share the embeddings.
    """

    def __init__(self, items: int, size: int) -> None:
        super().__init__()
        self.items = items
        self.item = nn.Embedding(items + 1, size)
        self.bias = nn.Parameter(torch.zeros(items))

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """Int64 [b, t] to hidden states, float [b, t, size]. A state depends on its own input and those before it."""


class CatalogueCrossEntropy(torch.autograd.Function):
    """Mean of -log softmax(hidden @ weight.T + bias)[target]. The gradient is computed in the same pass, one chunk of
    rows at a time, so that the logits of a whole batch never exist at once."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        """Hidden [n, d], weight [items, d], bias [items], target int64 [n]."""
        d_hidden, d_weight, d_bias = torch.empty_like(hidden), torch.zeros_like(weight), torch.zeros_like(bias)
        log_likelihood = hidden.new_zeros(())
        rows = len(target)
        if hidden.device.type == "cpu":
            rows = max(ROWS_PER_CHUNK, LOGITS_IN_CACHE // len(weight))
        rows = max(1, min(rows, LOGITS_PER_CHUNK // len(weight)))
        for h, d_h, t in zip(hidden.split(rows), d_hidden.split(rows), target[:, None].split(rows), strict=True):
            gradient = torch.addmm(bias, h, weight.T).softmax(dim=1)
            likelihood = gradient.gather(1, t)
            log_likelihood += likelihood.log().sum()
            gradient.scatter_(1, t, likelihood - 1)
            torch.mm(gradient, weight, out=d_h)
            d_weight.addmm_(gradient.T, h)
            d_bias += gradient.sum(dim=0)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.count = len(target)
        return -log_likelihood / len(target)

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of the mean."""
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        scale = d_loss / ctx.count
        return d_hidden * scale, d_weight * scale, d_bias * scale, None


class SequentialOracle(ScoredOracle):
    """An oracle whose scores are the logits of the next item. A subclass makes the network with `build`.

    Training stops when NDCG@10 of the validation targets gets no better, and the best epoch is kept.

    Attributes:
        name: the name in error messages.
        network: the network, once it is fitted or restored.
    """

    Options: ClassVar[type[Options]] = SequentialOptions
    name: ClassVar[str]

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.network: SequenceNetwork | None = None
        # Where a restored network answers; `learn` is told where to compute.
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    @abstractmethod
    def build(self, items: int) -> SequenceNetwork:
        """A new network for a catalogue of `items` items."""

    def learn(self, split: Split, context: OracleContext) -> Mapping[str, float]:
        """Train, and stop early.

        Returns:
            ``ndcg@10``, ``hr@10`` (validation targets among all unseen items), ``epochs`` (until the best epoch);
            without validation examples, only ``epochs``.
        """
        self.device = context.device
        with torch.random.fork_rng(devices=[self.device] if self.device.startswith("cuda") else []):
            torch.manual_seed(context.seed)
            return self._train(split, context)

    def state(self) -> Mapping[str, NDArray[Any]]:
        """The network's parameters by name, and the temperature."""
        parameters = {name: value.cpu().numpy() for name, value in self._fitted.state_dict().items()}
        return {**super().state(), **parameters}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Load the result of `state`."""
        super().restore(state)
        arrays = {name: array for name, array in state.items() if name != "temperature"}
        network = self.build(len(arrays["bias"]))
        network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
        self.network = network.to(self.device).eval()

    def score(self, places: Places, items: Ints) -> Floats:
        """Logits of the next item, float32 [n, m]; -inf where the item is -1. Their softmax over the catalogue is the
        probability of each item to come next."""
        network = self._fitted
        hidden = self._hidden(places)
        scores = np.empty(items.shape, dtype=np.float32)
        rows = max(1, SCORES_PER_CHUNK // max(1, items.shape[1] * self.options.hidden_size))
        with torch.no_grad():
            for at in range(0, len(places), rows):
                some = torch.from_numpy(np.maximum(items[at : at + rows], 0).astype(np.int64)).to(self.device)
                products = torch.einsum("nmd,nd->nm", network.item(some), hidden[at : at + rows])
                scores[at : at + rows] = (products + network.bias[some]).cpu().numpy()
        scores[items < 0] = -np.inf
        return scores

    @property
    def _fitted(self) -> SequenceNetwork:
        if self.network is None:
            raise RosepoError(f"the oracle '{self.name}' is asked before it was fitted or restored")
        return self.network

    def _train(self, split: Split, context: OracleContext) -> dict[str, float]:
        options: SequentialOptions = self.options
        popularity = torch.from_numpy(split.catalogue.popularity + 1.0).float()
        network = self.build(len(split.catalogue))
        with torch.no_grad():
            network.bias.copy_(popularity.log() - popularity.log().mean())
        network = self.network = network.to(self.device)
        parameters = list(network.parameters())
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
                {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
            ],
            lr=options.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        size = options.max_history + 1
        best: dict[str, float] = {"ndcg@10": -1.0}
        kept = network.state_dict()
        for epoch in range(options.max_epochs):
            network.train()
            windows = training_windows(split.train.lengths, size, context.rng)
            steps = -(-len(windows.user) // options.batch_size)
            for step, batch in enumerate(batches(windows, options.batch_size, context.rng)):
                done = (epoch + step / steps) / options.max_epochs
                rate = options.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
                if options.warmup_ratio:
                    rate *= min(1.0, (done + 1 / (steps * options.max_epochs)) / options.warmup_ratio)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                inputs = batch.inputs(split.train, network.items).to(self.device)
                targets, filled = (each.to(self.device) for each in batch.targets(split.train))
                weight = network.item.weight[: network.items]
                loss = CatalogueCrossEntropy.apply(network(inputs)[filled], weight, network.bias, targets[filled])
                if not math.isfinite(loss.item()):
                    raise RosepoError(
                        f"the oracle '{self.name}' diverged in epoch {epoch + 1}: set oracle.learning_rate lower "
                        f"than {options.learning_rate:g}"
                    )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            context.reporter.progress(epoch + 1, options.max_epochs, "epochs")
            network.eval()
            if not len(split.validation):
                continue
            quality = self._rank(split.validation)
            if quality["ndcg@10"] > best["ndcg@10"]:
                best = quality | {"epochs": float(epoch + 1)}
                kept = {name: value.clone() for name, value in network.state_dict().items()}
            elif epoch + 1 - best["epochs"] >= options.patience:
                break
        if not len(split.validation):
            return {"epochs": float(options.max_epochs)}
        network.load_state_dict(kept)
        return best

    def _rank(self, examples: Examples) -> dict[str, float]:
        """NDCG@10 and HR@10 of the targets among all items that are not in the history."""
        network = self._fitted
        hidden = self._hidden(examples)
        above = np.empty(len(examples), dtype=np.int64)
        rows = max(1, SCORES_PER_CHUNK // network.items)
        for at in range(0, len(examples), rows):
            some = examples.take(np.arange(at, min(at + rows, len(examples))))
            with torch.no_grad():
                found = torch.addmm(network.bias, hidden[at : at + rows], network.item.weight[: network.items].T)
                scores = found.cpu().numpy()
            target = np.take_along_axis(scores, some.target[:, None].astype(np.int64), axis=1)
            owner = np.repeat(np.arange(len(some)), some.position)
            first = np.repeat(np.cumsum(some.position) - some.position, some.position)
            place = some.sequences.offsets[some.user][owner] + np.arange(len(owner)) - first
            scores[owner, some.sequences.items[place]] = -np.inf
            above[at : at + rows] = (scores > target).sum(axis=1)
        gain = np.where(above < 10, 1 / np.log2(above + 2), 0.0)
        return {"ndcg@10": float(gain.mean()), "hr@10": float((above < 10).mean())}

    def _hidden(self, places: Places) -> Tensor:
        """The state that predicts each example's target: float [n, size].

        The history is all items before the target, up to `max_history` items. In longer sequences, a window starts at
        every (`max_history` / 4)th position, and the earliest window that reaches an example is used for it. So an
        example sees at least three quarters of `max_history` items, and the many examples of one window cost one
        pass. The items that an example sees depend on its position only.
        """
        longest: int = self.options.max_history
        stride = max(1, longest // 4)
        position = places.position.astype(np.int64)
        start = np.where(position <= longest, 0, -(-(position - longest) // stride) * stride)
        order = np.lexsort((position, start, places.user))
        user, start, position = places.user[order].astype(np.int64), start[order], position[order]
        last = np.ones(len(order), dtype=np.bool_)
        last[:-1] = (user[1:] != user[:-1]) | (start[1:] != start[:-1])
        windows = Windows(user[last], start[last], position[last] - start[last] + 1)
        window: Longs = np.cumsum(last) - last
        by_length = np.argsort(windows.length, kind="stable")
        place = np.empty_like(by_length)
        place[by_length] = np.arange(len(by_length))
        by_place = np.argsort(place[window], kind="stable")
        order, row, column = order[by_place], place[window][by_place], (position - start)[by_place]
        hidden = torch.empty(len(order), self.options.hidden_size, device=self.device)
        with torch.no_grad():
            for at in range(0, len(by_length), WINDOWS_PER_PASS):
                batch = windows.take(by_length[at : at + WINDOWS_PER_PASS])
                inputs = batch.inputs(places.sequences, self._fitted.items).to(self.device)
                here = slice(*np.searchsorted(row, [at, at + WINDOWS_PER_PASS]))
                hidden[order[here]] = self._fitted(inputs)[row[here] - at, column[here]]
        return hidden
