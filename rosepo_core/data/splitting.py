"""Divides a corpus into training, validation and test.

Items are numbered in the order of the catalogue, users in the order in which they first appear in the log. A user's
sequence is ordered by time; if timestamps are equal, by the order of rows in the source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import (
    Catalogue,
    Corpus,
    Examples,
    Ints,
    Longs,
    SeenItems,
    Sequences,
    Split,
    Strategy,
)
from rosepo_core.contracts.sections import SplitOptions
from rosepo_core.data.ids import first_rows, numbered
from rosepo_core.data.supplied_examples import index_candidates, index_offered

if TYPE_CHECKING:
    pass


def split_corpus(corpus: Corpus, options: SplitOptions) -> Split:
    """Hold out the end of the log, or keep the parts of given examples.

    ``leave-one-out`` divides each user separately: the last interaction is the test target, the one before it the
    validation target, and the rest is for training. Users with fewer than three interactions are only for training.
    Training on one user may use interactions that are later than another user's test target.

    ``temporal`` divides all users at the same two points in time, so that training cannot learn from later
    interactions. In order of time, the log is cut after the shares ``1 - validation_fraction - test_fraction`` and
    ``1 - test_fraction``. If several interactions have the timestamp of a cut, all of them are after it. In the
    validation and the test window, the target is a user's first interaction. Users without an earlier interaction
    have no history, and give no example.

    In both strategies, a history is all interactions of the user before the target. So the history of a test example
    includes the interactions held out for validation. The sequences of validation and test examples end with the
    target.

    Given examples keep their parts, whatever their times. In the training part, history and target are used for
    training. In the other parts, neither is.

    Raises:
        RequestError: nothing is left to train on or to hold out, or an option asks to split given examples again.
    """
    if corpus.examples is not None:
        _check_uncut(corpus.name, options)
    log = corpus.interactions
    items = corpus.catalogue["item"]
    user, users = _in_order_of_appearance(log["user"])
    time = log["timestamp"].to_numpy()
    offsets = _offsets(np.bincount(user, minlength=users.len()))
    full = Sequences(_in_order_of_time(_index(log["item"], items), user, time, offsets), offsets)

    strategy: Strategy
    if corpus.examples is not None:
        strategy = "given"
        part = (
            pl.DataFrame({"user": users}).join(corpus.examples, on="user", maintain_order="left")["part"].to_numpy()
        )
        train_lengths = np.where(part == "train", full.lengths, 0)
        validation_place = np.where(part == "validation", full.lengths - 1, -1)
        test_place = np.where(part == "test", full.lengths - 1, -1)
        for name, empty in (("train", not train_lengths.any()), ("test", (test_place < 0).all())):
            if empty:
                raise RequestError(f"dataset '{corpus.name}' gives no example of the part '{name}': it needs one")
    elif options.strategy != "temporal":
        strategy = "leave-one-out"
        held_out = full.lengths >= 3
        if not held_out.any():
            raise RequestError(
                f"each of the {users.len()} users of dataset '{corpus.name}' has fewer than 3 interactions: "
                "leave-one-out needs 3 of one user at least; loosen the filters, or set split.strategy='temporal'"
            )
        train_lengths = np.where(held_out, full.lengths - 2, full.lengths)
        validation_place = np.where(held_out, full.lengths - 2, -1)
        test_place = np.where(held_out, full.lengths - 1, -1)
    else:
        strategy = "temporal"
        first_cut, second_cut = _cuts(time, corpus.name, options)
        train_lengths, before_test = (
            np.bincount(user[time < boundary], minlength=users.len()) for boundary in (first_cut, second_cut)
        )
        validation_place = np.where((train_lengths > 0) & (before_test > train_lengths), train_lengths, -1)
        test_place = np.where((before_test > 0) & (full.lengths > before_test), before_test, -1)
        for window, place in (("validation", validation_place), ("test", test_place)):
            if (place < 0).all():
                raise RequestError(
                    f"dataset '{corpus.name}' has no user with an interaction in the {window} window and one before "
                    f"it: raise split.{window}_fraction, or set split.strategy='leave-one-out'"
                )

    train = full.prefix(train_lengths)
    test = _examples(full, train_lengths, test_place)
    catalogue = Catalogue(
        ids=tuple(items),
        titles=tuple(corpus.catalogue["title"]),
        popularity=np.bincount(train.items, minlength=items.len()).astype(np.int64),
        attributes=corpus.catalogue.drop("item", "title"),
    )
    return Split(
        users=tuple(users),
        catalogue=catalogue,
        train=train,
        validation=_examples(full, train_lengths, validation_place),
        test=test,
        seen=SeenItems.of(full, items.len()),
        strategy=strategy,
        supplied_candidates=index_candidates(corpus, users.gather(test.user), test.target, _places(items)),
        offered=index_offered(corpus, users, _places(items)),
        disliked=_disliked(corpus, users, user, time, train_lengths),
    )


def _disliked(corpus: Corpus, users: pl.Series, user: Ints, time: Longs, train_lengths: Longs) -> SeenItems | None:
    """What each user is known to dislike before the first interaction that is held out; `None` if that is not known.

    Args:
        corpus: the corpus.
        users: the ids of the users, by their numbers.
        user: the user of each interaction, int32 [interactions].
        time: its timestamp, int64 [interactions].
        train_lengths: how many interactions of each user are for training, int64 [users].
    """
    if corpus.disliked is None:
        return None
    lengths = np.bincount(user, minlength=len(users))
    until = np.full(len(users), np.iinfo(np.int64).max)
    held_out = train_lengths < lengths
    offsets = _offsets(lengths)
    ordered = time[_in_order_of_time(np.arange(len(user), dtype=np.int32), user, time, offsets)]
    until[held_out] = ordered[(offsets[:-1] + train_lengths)[held_out]]
    items = corpus.catalogue["item"]
    owner, item = _index(corpus.disliked["user"], users), _index(corpus.disliked["item"], items)
    early = (owner >= 0) & (item >= 0) & (corpus.disliked["timestamp"].to_numpy() < until[owner])
    return SeenItems(np.unique(owner[early].astype(np.int64) * len(items) + item[early]), len(items))


def _check_uncut(name: str, options: SplitOptions) -> None:
    for key, value in options:
        default = SplitOptions.model_fields[key].default
        if value != default:
            raise RequestError(
                f"split.{key}={value!r}: dataset '{name}' comes split already, so leave it at {default!r}; what the "
                "dataset itself draws is an option of the dataset"
            )


def _in_order_of_appearance(ids: pl.Series) -> tuple[Ints, pl.Series]:
    """The number of each user in order of first appearance, int32 of the length of `ids`; and the users' ids."""
    numbers, names = numbered(ids)
    first = first_rows(numbers, names.len())
    order = np.argsort(first)[: np.count_nonzero(first < len(numbers))]
    place = np.empty(names.len(), dtype=np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return place[numbers], names.gather(order)


def _index(ids: pl.Series, items: pl.Series) -> Ints:
    """The place of each id in `items`, which has each id once: int32 of the length of `ids`."""
    numbers, names = numbered(ids)
    joined = pl.DataFrame({"item": names}).join(_places(items), on="item", how="left", maintain_order="left")
    place: Ints = joined["place"].fill_null(-1).to_numpy()
    return place[numbers]


def _in_order_of_time(items: Ints, user: Ints, time: Longs, offsets: Longs) -> Ints:
    """The items of one user after another, each user's by time, and by row where times are equal: int32 [n].

    Sorting all rows by user and time would take fifteen times as long as this: rows are grouped by counting, and then
    sorted inside the groups, unless they are in order already, as in most logs.

    Args:
        items: int32 [n].
        user: int32 [n].
        time: int64 [n].
        offsets: where each user begins in the result, int64 [users + 1].
    """
    rows = len(user)
    # A matrix with one entry in each row; its columns, made by counting, hold the rows of each user in their order.
    by_row = csr_array((items, user, np.arange(rows + 1)), shape=(rows, len(offsets) - 1))
    by_user = by_row.tocsc()
    items, time = by_user.data, time[by_user.indices]
    follows = np.ones(rows, dtype=np.bool_)
    follows[offsets[:-1]] = False
    if not (follows[1:] & (time[1:] < time[:-1])).any():
        return items
    users = np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))
    low, high = int(time.min()), int(time.max())
    if (len(offsets) - 1) * (high - low + 1) < 2**63:
        return items[np.argsort(users * (high - low + 1) + (time - low), kind="stable")]
    return items[np.lexsort((time, users))]


def _places(known: pl.Series) -> pl.DataFrame:
    return pl.DataFrame({"item": known, "place": np.arange(known.len(), dtype=np.int32)})


def _offsets(lengths: NDArray[np.integer]) -> Longs:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _cuts(time: Longs, name: str, options: SplitOptions) -> tuple[int, int]:
    """The first timestamp of the validation window and the first of the test window."""
    rest = 1 - options.validation_fraction - options.test_fraction
    if rest <= 0:
        raise RequestError(
            f"split.validation_fraction={options.validation_fraction:g} and "
            f"split.test_fraction={options.test_fraction:g} leave nothing to train on: their sum must be below 1"
        )
    ordered = np.sort(time)
    first, second = (
        ordered[min(round(share * len(time)), len(time) - 1)] for share in (rest, 1 - options.test_fraction)
    )
    if first == ordered[0] or first == second:
        part = "training" if first == ordered[0] else "validation"
        raise RequestError(
            f"dataset '{name}' has too few different timestamps to cut in time: nothing is left for {part}; "
            "set split.strategy='leave-one-out', or raise the fractions"
        )
    return int(first), int(second)


def _examples(full: Sequences, train_lengths: Longs, place: Longs) -> Examples:
    """One example for each user whose `place` is not -1. The sequences of these users end with the target; those of
    other users hold their training interactions."""
    user = np.flatnonzero(place >= 0).astype(np.int32)
    sequences = full.prefix(np.where(place >= 0, place + 1, train_lengths))
    return Examples.of(sequences, user, place[user].astype(np.int32))
