"""The results of one model for the test users: the input of metrics, the same for all protocols."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rosepo_core.contracts.ranking import Ranks, rank_in_lists, rank_targets, top_items
from rosepo_core.contracts.records import Bools, Catalogue, Doubles, Examples, Floats, Ints, Longs, SeenItems

Direction = Literal["higher", "lower", "neither"]
OutcomeNeed = Literal["scores", "answers", "title-embeddings", "genres"]

MISSING = {
    "scores": "the model gave lists without scores",
    "answers": "the model only ranked, and wrote nothing",
    "title-embeddings": "there are no title embeddings",
    "genres": "the catalogue has no column 'genres' of lists of text, or of text with '|' between",
}
"""The reason why an outcome does not have the data that a metric needs."""


@dataclass(frozen=True)
class Measure:
    """How to read the numbers of a metric.

    Attributes:
        title: the metric's name in tables, without the cut-off.
        direction: which direction is better. For metrics of popularity, "better" means less popularity bias at equal
            accuracy.
        group: the heading of its group in tables.
        low: the lowest possible value.
        high: the highest possible value.
        decimals: number of decimals in tables.
    """

    title: str
    direction: Direction
    group: str
    low: float = 0.0
    high: float = 1.0
    decimals: int = 3


@dataclass(frozen=True)
class Outcome:
    """The results of one model for n test examples. The model ranked candidates or the whole catalogue, or wrote
    freely.

    Make one with `of_scores` or `of_lists`.

    Attributes:
        examples: the n test examples.
        catalogue: all items, with their popularity and attributes.
        seen: every interaction of each user in the whole log, including held-out interactions.
        ks: the cut-offs of metrics that name none.
        targets: the items held out for each example, int32 [n, t], the next item first; -1 fills rows with fewer.
        ranks: the ranks of the targets; arrays [n, t].
        top: the recommended items, best first: int32 [n, k], k at least any cut-off; -1 for an empty position.
        items: the ranked items, int32 [n, m], -1 for an empty position; `None` if the model did not rank.
        scores: float [n, m], higher is better, -inf where there is no item; `None` if the model did not rank.
        answered: which positions of `top` are an answer, even if it is no item: bool [n, k]; `None` if the model did
            not write.
        title_embeddings: returns rows of unit length, float32 [items, d]; `None` if no metric needs them.
    """

    examples: Examples
    catalogue: Catalogue
    seen: SeenItems
    ks: tuple[int, ...]
    targets: Ints
    ranks: Ranks
    top: Ints
    items: Ints | None = None
    scores: Floats | None = None
    answered: Bools | None = None
    title_embeddings: Callable[[], Floats] | None = None

    def __len__(self) -> int:
        return len(self.examples)

    @classmethod
    def of_scores(
        cls,
        examples: Examples,
        catalogue: Catalogue,
        seen: SeenItems,
        ks: tuple[int, ...],
        items: Ints,
        scores: Floats,
        target_column: Ints,
        *,
        length: int | None = None,
        title_embeddings: Callable[[], Floats] | None = None,
    ) -> Outcome:
        """From scores of candidates, or of the whole catalogue, where -1 replaces items that must not be recommended.

        Arguments that are not described here are as the attributes of this class.

        Args:
            examples: the n test examples.
            target_column: int32 [n] or [n, t], the columns of the targets in `items`; -1 fills rows with fewer.
            length: length of the lists; by default the largest of `ks`.

        Raises:
            ValueError: as `rank_targets`.
        """
        columns = target_column.reshape(len(examples), -1)
        return cls(
            examples=examples,
            catalogue=catalogue,
            seen=seen,
            ks=ks,
            targets=np.where(columns >= 0, np.take_along_axis(items, np.maximum(columns, 0), axis=1), -1),
            ranks=rank_targets(scores, columns, items >= 0),
            top=top_items(scores, items, length or max(ks)),
            items=items,
            scores=scores,
            title_embeddings=title_embeddings,
        )

    @classmethod
    def of_lists(
        cls,
        examples: Examples,
        catalogue: Catalogue,
        seen: SeenItems,
        ks: tuple[int, ...],
        top: Ints,
        *,
        answered: Bools | None = None,
        targets: Ints | None = None,
        title_embeddings: Callable[[], Floats] | None = None,
    ) -> Outcome:
        """From lists. A target that is not in its list has no rank.

        Arguments that are not described here are as the attributes of this class.

        Args:
            examples: the n test examples.
            answered: for a model that writes freely. An answer that is no title of the catalogue is -1 in `top`.
            targets: by default the one target of each example.
        """
        targets = examples.target[:, None] if targets is None else targets
        return cls(
            examples=examples,
            catalogue=catalogue,
            seen=seen,
            ks=ks,
            targets=targets,
            ranks=rank_in_lists(top, targets),
            top=top,
            answered=answered,
            title_embeddings=title_embeddings,
        )

    def take(self, rows: NDArray[np.integer]) -> Outcome:
        """The examples at `rows`, in that order."""
        return replace(
            self,
            examples=self.examples.take(rows),
            targets=self.targets[rows],
            ranks=Ranks(self.ranks.above[rows], self.ranks.tied[rows]),
            top=self.top[rows],
            items=None if self.items is None else self.items[rows],
            scores=None if self.scores is None else self.scores[rows],
            answered=None if self.answered is None else self.answered[rows],
        )

    def offers(self, need: OutcomeNeed) -> bool:
        """Whether this outcome has the data that a metric needs."""
        return {
            "scores": self.scores is not None,
            "answers": self.answered is not None,
            "title-embeddings": self.title_embeddings is not None,
            "genres": self.genres is not None,
        }[need]

    def without_items(self) -> Bools:
        """Which users' lists have no item, even if the model wrote an answer: bool [n]."""
        silent: Bools = np.all(self.top < 0, axis=1)
        return silent

    def list_means(self, values: Doubles, k: int) -> Doubles:
        """Mean of ``values[item]``, float64 [items], over the first k items of each list: float64 [n], NaN for a list
        without any."""
        top = self.top[:, :k]
        held = top >= 0
        with np.errstate(invalid="ignore"):
            means: Doubles = np.where(held, values[top], 0.0).sum(axis=1) / held.sum(axis=1)
        return means

    def list_counts(self, k: int) -> Longs:
        """How many lists have each item among their first k: int64 [items]."""
        top = self.top[:, :k]
        return np.bincount(top[top >= 0], minlength=len(self.catalogue)).astype(np.int64)

    @cached_property
    def histories(self) -> tuple[Longs, Ints]:
        """The interactions before each target, in flat arrays: the example of each interaction, int64 [total], and
        its item, int32 [total]."""
        examples = self.examples
        row = np.repeat(np.arange(len(examples)), examples.position)
        first = np.repeat(np.cumsum(examples.position) - examples.position, examples.position)
        place = examples.sequences.offsets[examples.user][row] + np.arange(len(row)) - first
        return row, examples.sequences.items[place]

    @property
    def genres(self) -> Bools | None:
        """See `Catalogue.genres`."""
        return self.catalogue.genres
