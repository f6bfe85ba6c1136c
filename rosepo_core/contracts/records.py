"""Frozen records that pass between the stages.

Item and user numbers are dense indices that start at 0: into the catalogue and into the users of the split. `-1`
means "no item". Do not write to the arrays.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]

Part = Literal["train", "validation", "test"]
Strategy = Literal["leave-one-out", "temporal", "given"]


@dataclass(frozen=True)
class Corpus:
    """The result of a dataset: a log of interactions and a catalogue, with the ids of the source.

    The split stage divides the log into training, validation and test. A dataset can also give examples that are
    already divided into parts. Then every example is a user of its own: the user's items are the history and, as the
    latest item, the target. `of_examples` makes such a corpus.

    Attributes:
        name: the dataset's name, for tables and reports.
        interactions: columns ``user`` (str), ``item`` (str), ``timestamp`` (int64, seconds since 1970 or any other
            monotone count) and, where the source has one, ``rating`` (float64). The order of rows is the source's and
            breaks ties in time. In a log, the ids may be `polars.Enum` instead (`rosepo_core.api.coded`), which takes
            a quarter of the memory.
        catalogue: columns ``item`` (str, unique), ``title`` (str, never empty) and any attributes (e.g. ``year``,
            ``genres`` as list[str]).
        notes: messages for the user, one line each, such as guessed columns and dropped rows.
        examples: `None` for a log. For given examples, one row for each user of the log: columns ``user`` (str),
            ``part`` (str, a `Part`) and, where the source has them, ``candidates`` (list[str], ids of the items to
            rank for a test example, exactly one of them the target; may be null for other parts).
        disliked: what users rated low or skipped, if the source knows: columns ``user``, ``item``, ``timestamp`` as
            in the interactions, among which it must not be. In a log, `LogOptions.min_rating` adds what it drops.
    """

    name: str
    interactions: pl.DataFrame
    catalogue: pl.DataFrame
    notes: tuple[str, ...] = ()
    examples: pl.DataFrame | None = None
    disliked: pl.DataFrame | None = None

    @staticmethod
    def of_examples(
        name: str, examples: pl.DataFrame, catalogue: pl.DataFrame, notes: tuple[str, ...] = ()
    ) -> Corpus:
        """A corpus of given examples.

        Args:
            name: the dataset's name.
            examples: columns ``user`` (str, unique: the example's name), ``part`` (str, a `Part`), ``history``
                (list[str], item ids, oldest first, never empty), ``target`` (str) and perhaps ``candidates``.
            catalogue: as the attribute of `Corpus`.
            notes: as the attribute of `Corpus`.
        """
        import polars as pl

        interactions = (
            examples.select("user", item=pl.col("history").list.concat(pl.col("target")))
            .explode("item")
            .select("user", "item", timestamp=pl.int_range(pl.len(), dtype=pl.Int64).over("user"))
        )
        return Corpus(name, interactions, catalogue, notes, examples.drop("history", "target"))


def plain_title(title: str) -> str:
    """A title as titles are compared: after Unicode NFKC, case folding and collapsing of white space."""
    return " ".join(unicodedata.normalize("NFKC", title).casefold().split())


@dataclass(frozen=True)
class Catalogue:
    """The items that can be recommended, in index order.

    Attributes:
        ids: the source's item ids, [items].
        titles: the titles as the source has them, [items].
        popularity: training interactions per item, int64 [items]; never counts validation or test.
        attributes: the catalogue's other columns in the same order (may have no columns).
    """

    ids: tuple[str, ...]
    titles: tuple[str, ...]
    popularity: Longs
    attributes: pl.DataFrame

    def __len__(self) -> int:
        return len(self.titles)

    @cached_property
    def title_numbers(self) -> Ints:
        """A number for each title, int32 [items]. Two items have the same number if their titles are equal after
        Unicode NFKC, case folding and collapsing of white space."""
        numbers: dict[str, int] = {}
        normal = map(plain_title, self.titles)
        return np.array([numbers.setdefault(title, len(numbers)) for title in normal], dtype=np.int32)

    @cached_property
    def genres(self) -> Bools | None:
        """Which genres each item has: bool [items, genres]. `None` if there is no attribute ``genres`` with lists of
        text, or text separated by ``|``."""
        if "genres" not in self.attributes.columns:
            return None
        column = self.attributes["genres"]
        if str(column.dtype) == "String":
            column = column.str.split("|")
        if str(column.dtype) != "List(String)":
            return None
        names: dict[str, int] = {}
        pairs = [
            (item, names.setdefault(genre, len(names)))
            for item, genres in enumerate(column.to_list())
            for genre in genres or ()
            if genre
        ]
        if not pairs:
            return None
        of = np.zeros((len(self), len(names)), dtype=np.bool_)
        rows, columns = np.array(pairs).T
        of[rows, columns] = True
        return of


@dataclass(frozen=True)
class Sequences:
    """Items of each user in order of time, in one flat array.

    Attributes:
        items: int32 [total], the users' items one user after another.
        offsets: int64 [users + 1]; user u has ``items[offsets[u]:offsets[u + 1]]``.
    """

    items: Ints
    offsets: Longs

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, user: int) -> Ints:
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    @property
    def lengths(self) -> Longs:
        """int64 [users]."""
        return np.diff(self.offsets)

    def prefix(self, lengths: Longs) -> Sequences:
        """The first ``lengths[u]`` items of each user u."""
        lengths = np.minimum(lengths, self.lengths)
        rest = self.lengths - lengths
        if not rest.any():
            return self
        kept = np.repeat(np.tile([True, False], len(self)), np.stack([lengths, rest], axis=1).ravel())
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Sequences(self.items[kept], offsets)


@dataclass(frozen=True)
class Places:
    """Points in histories, without the item that comes next. Models are asked what comes next at these points.

    Attributes:
        sequences: the sequences that the places are in.
        user: the user of each place, int32 [n].
        position: how many of the user's items come before the place, int32 [n]; at most the length of the sequence.
        of_split: whether users have the numbers of the split. In recommending they do not: a sequence is then the
            history of anyone, and users only number the sequences.
    """

    sequences: Sequences
    user: Ints
    position: Ints
    of_split: bool = field(default=True, kw_only=True)

    def __len__(self) -> int:
        return len(self.user)

    def histories(self, length: int) -> Ints:
        """The last `length` items before each place, oldest first: int32 [n, length], padded on the left with -1."""
        back = np.arange(length, 0, -1)
        place = self.position[:, None].astype(np.int64) - back[None, :]
        flat = self.sequences.offsets[self.user][:, None] + np.maximum(place, 0)
        inside = np.minimum(flat, len(self.sequences.items) - 1)
        return np.where(place >= 0, self.sequences.items[inside], -1).astype(np.int32)

    def take(self, rows: NDArray[np.integer]) -> Self:
        """The places at `rows`, in that order."""
        return replace(self, user=self.user[rows], position=self.position[rows])


@dataclass(frozen=True)
class Examples(Places):
    """Places with a target item for each: the item that should come next. Training learns from examples.

    Attributes:
        target: int32 [n].
    """

    target: Ints

    @staticmethod
    def of(sequences: Sequences, user: Ints, position: Ints) -> Examples:
        """Examples whose targets are the items at these places in the sequences.

        Args:
            sequences: the sequences that the places are in.
            user: int32 [n].
            position: int32 [n], below the length of each user's sequence.
        """
        return Examples(sequences, user, position, sequences.items[sequences.offsets[user] + position])

    def take(self, rows: NDArray[np.integer]) -> Self:
        """The examples at `rows`, in that order."""
        return replace(self, user=self.user[rows], position=self.position[rows], target=self.target[rows])


def _sorted_once(keys: Longs) -> Longs:
    """Each different key once, ascending. `numpy.unique` does the same by hashing, which takes eighty times as long
    for millions of keys."""
    ordered = np.sort(keys)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


@dataclass(frozen=True)
class SeenItems:
    """Which items each user has interacted with.

    Attributes:
        keys: int64, sorted and unique: ``user * items + item``.
        items: number of items in the catalogue.
    """

    keys: Longs
    items: int

    @staticmethod
    def of(sequences: Sequences, items: int) -> SeenItems:
        """From all the interactions in `sequences`."""
        users = np.repeat(np.arange(len(sequences), dtype=np.int64), sequences.lengths)
        return SeenItems(_sorted_once(users * items + sequences.items), items)

    def contains(self, users: NDArray[np.integer], items: NDArray[np.integer]) -> Bools:
        """Whether users[i] has interacted with items[i, j]: bool of the shape of `items` ([n] or [n, k])."""
        users = users.reshape(users.shape + (1,) * (items.ndim - users.ndim))
        wanted = users.astype(np.int64) * self.items + items
        if not len(self.keys):
            return np.zeros(wanted.shape, dtype=np.bool_)
        found = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        hit: Bools = (self.keys[found] == wanted) & (items >= 0)
        return hit

    def of_user(self, user: int) -> Longs:
        """The items of one user, ascending: int64 [m]."""
        low, high = np.searchsorted(self.keys, [user * self.items, (user + 1) * self.items])
        return self.keys[low:high] - user * self.items


@dataclass(frozen=True)
class Split:
    """The corpus, divided into its parts.

    `train` holds only the interactions that training may see. The histories of validation and test examples hold all
    interactions before their target.

    Attributes:
        users: the source's user ids in index order, [users].
        catalogue: the items, popularity counted over `train` alone.
        train: each user's training interactions; for given examples, the whole examples of the training part.
        validation: at most one example for each user.
        test: at most one example for each user.
        seen: all interactions of each user in train, validation and test. Candidates for evaluation exclude them.
        strategy: how the corpus was divided.
        supplied_candidates: the items that the dataset wants to be ranked for each test example; `None` where
            candidates are drawn.
        offered: the items that the dataset offers each user together with the target of their training example, the
            target among them; no items for other users. `None` if the dataset offers none in training.
        disliked: the items that each user rated low or skipped, before the first interaction that is held out; `None`
            if that is not known.
    """

    users: tuple[str, ...]
    catalogue: Catalogue
    train: Sequences
    validation: Examples
    test: Examples
    seen: SeenItems
    strategy: Strategy = "leave-one-out"
    supplied_candidates: Candidates | None = None
    offered: Sequences | None = None
    disliked: SeenItems | None = None

    @cached_property
    def train_seen(self) -> SeenItems:
        """The items that training may know of each user: training interactions and those before a validation target,
        and nothing that is held out. The second kind adds items only where a given example is for validation only."""
        examples = self.validation
        before = np.zeros(len(examples.sequences), dtype=np.int64)
        before[examples.user] = examples.position
        known = (SeenItems.of(each, len(self.catalogue)) for each in (self.train, examples.sequences.prefix(before)))
        return SeenItems(_sorted_once(np.concatenate([each.keys for each in known])), len(self.catalogue))


@dataclass(frozen=True)
class Candidates:
    """Items that every model ranks for a test example: drawn once per seed, or given by the dataset, and saved.

    Attributes:
        items: int32 [n, c], -1 where a row has fewer; the target stands in each row once, at a random column.
        target_column: int32 [n].
    """

    items: Ints
    target_column: Ints

    def take(self, rows: NDArray[np.integer]) -> Candidates:
        """The candidates of the examples at `rows`, in that order."""
        return Candidates(self.items[rows], self.target_column[rows])


@dataclass(frozen=True)
class LogProbs:
    """The input of a preference loss: a batch of n pairs with up to K rejected responses each.

    Log-probabilities of a response are sums over its tokens.

    Attributes:
        chosen: log-probability of the chosen response under the policy, float [n].
        rejected: log-probabilities of the rejected responses under the policy, float [n, K].
        reference_chosen: log-probability of the chosen response under the reference model, float [n].
        reference_rejected: log-probabilities of the rejected responses under the reference model, float [n, K].
        chosen_tokens: number of tokens of the chosen response, int64 [n].
        rejected_tokens: numbers of tokens of the rejected responses, int64 [n, K].
        eps: the smoothing factor, P(the user prefers the rejected response), float [n, K] in [0, 1).
        valid: which rejected slots hold a response, bool [n, K]; at least one in each row.
        mismatched: log-probability of a response of another pair, drawn at random, after the prompt of each row,
            under the policy, float [n]; `None` unless the loss needs it.
        reference_mismatched: the same under the reference model.
        ratings: the user's ratings of the chosen item and of the rejected ones, float [n, 1 + K], NaN where the user
            has not rated one; `None` unless the loss needs them.
        delays: how many places after the chosen item the user took each, float [n, 1 + K]: 0 for the chosen one, NaN
            for items that the user did not take after it.
    """

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    eps: Tensor
    valid: Tensor
    mismatched: Tensor | None = None
    reference_mismatched: Tensor | None = None
    ratings: Tensor | None = None
    delays: Tensor | None = None

    def take(self, rows: Tensor) -> LogProbs:
        """The pairs at `rows`, in that order: int64 [m]."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        taken: dict[str, Any] = {name: None if value is None else value[rows] for name, value in values.items()}
        return LogProbs(**taken)


@dataclass(frozen=True)
class Pairs:
    """Preference pairs, with everything that alignment needs.

    Attributes:
        examples: n examples; the chosen response is the example's target.
        rejected: the rejected items, int32 [n, K], -1 for an empty slot.
        eps: the smoothing factor, float32 [n, K] in [0, 1).
        reference_chosen: log-probability of the target under the reference model, float32 [n].
        reference_rejected: log-probabilities of the rejected items under the reference model, float32 [n, K], 0 for
            an empty slot.
        listed: the candidates in the list of each prompt, int32 [n, c], with the target and the rejected items among
            them; `None` if prompts have no list.
        mismatched: an item of another pair for each prompt, int32 [n], see `PreferenceLoss.needs_mismatched`; `None`
            unless the loss needs it.
        reference_mismatched: log-probabilities of the mismatched items under the reference model, float32 [n].
        ratings, delays: as in `LogProbs`, float32 [n, 1 + K].
    """

    examples: Examples
    rejected: Ints
    eps: Floats
    reference_chosen: Floats
    reference_rejected: Floats
    listed: Ints | None = None
    mismatched: Ints | None = None
    reference_mismatched: Floats | None = None
    ratings: Floats | None = None
    delays: Floats | None = None

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def responses(self) -> Ints:
        """The items whose log-probabilities the loss needs: the target, the rejected items and, where there is one,
        the mismatched item; int32 [n, 1 + K] or [n, 2 + K], -1 for an empty slot."""
        columns = [self.examples.target[:, None], self.rejected]
        return np.concatenate([*columns, *([] if self.mismatched is None else [self.mismatched[:, None]])], axis=1)

    @property
    def reference(self) -> Floats:
        """The log-probabilities of `responses` under the reference model, float32 of the same shape."""
        columns = [self.reference_chosen[:, None], self.reference_rejected]
        others = [] if self.reference_mismatched is None else [self.reference_mismatched[:, None]]
        return np.concatenate([*columns, *others], axis=1)
