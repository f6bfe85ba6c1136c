"""The candidates that every model ranks: the target of each test example, and negatives that its user never chose.

They are drawn once per seed and saved, so that all models, and all runs with this seed, rank the same ones. If the
dataset has its own candidates, these are ranked, in random order: a file may put the target first, and items of equal
score keep the order of their columns.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Candidates, Doubles, Examples, Floats, Longs, Split
from rosepo_core.contracts.sections import HeldOut, Negatives
from rosepo_core.data.unseen_items import draw_unseen, unseen_counts
from rosepo_core.stages import embeddings
from rosepo_core.stages.split import held_out_examples

if TYPE_CHECKING:
    from rosepo_core.stages.session import Handle, Session

CANDIDATES = "candidates.parquet"
BLOCK_CELLS = 1 << 22
"""Cells of the largest temporary array."""


def stage(
    session: Session, split: Handle[Split], negatives: Negatives = "uniform", part: HeldOut = "test"
) -> Handle[Candidates]:
    """RUN/candidates: the items that every model ranks for each example.

    For other negatives than uniform ones the folder is RUN/candidates-NEGATIVES, and for the validation part it ends
    in -validation. Semantic negatives also need RUN/embeddings.

    If the dataset has candidates for its test examples, they replace the uniform ones. Other kinds are still drawn.

    Raises:
        RequestError: negatives cannot be drawn.
    """
    options = session.config.evaluation
    # Most users are in both parts. With the same draws, they would have the same negatives in both.
    seed = session.config.seed if part == "test" else [session.config.seed, *part.encode()]
    supplied = split.content.supplied_candidates if part == "test" and negatives == "uniform" else None
    embedded = embeddings.stage(session, split) if negatives == "semantic" else None

    def build(folder: Path) -> None:
        examples = held_out_examples(session, split.content, part)
        if supplied is None:
            vectors = embedded.content if embedded else None
            candidates = draw_candidates(split.content, examples, options.candidates, seed, negatives, vectors)
        else:
            # Shuffle the candidates of all users, so that the order does not depend on which users are tested.
            ordered = shuffled(supplied, session.rng("order of given candidates"))
            candidates = ordered.take(np.searchsorted(split.content.test.user, examples.user))
            _note_given(session, candidates)
        save_candidates(candidates, split.content, examples, folder)

    settings = {
        "count": options.candidates,
        "negatives": negatives,
        "part": part,
        "max_users": options.max_users,
        "seed": seed,
    }
    inputs: list[Handle[Any]] = [split, *([embedded] if embedded else [])]
    return session.artifact(named("candidates", negatives, part), settings, inputs, build, load_candidates)


def _note_given(session: Session, candidates: Candidates) -> None:
    """Note if `evaluation.candidates` is not used, because the dataset has its own candidates."""
    asked, supplied = session.config.evaluation.candidates, candidates.items.shape[1]
    if asked != supplied:
        session.reporter.note(
            f"evaluation.candidates={asked} is not used: the dataset gives each test example its candidates, "
            f"{supplied} at most"
        )


def protocol_name(candidates: Candidates, negatives: Negatives) -> str:
    """For example ``candidates-20`` or ``candidates-20-popularity``."""
    return named(f"candidates-{candidates.items.shape[1]}", negatives)


def named(what: str, negatives: Negatives = "uniform", part: HeldOut = "test") -> str:
    """A name with the kind of negatives and the part at its end; only `what` for uniform negatives and the test."""
    usual = {"uniform", "test"}
    return "-".join([what, *(each for each in (negatives, part) if each not in usual)])


def draw_candidates(
    split: Split,
    examples: Examples,
    count: int,
    seed: int | list[int],
    negatives: Negatives = "uniform",
    title_embeddings: Floats | None = None,
) -> Candidates:
    """For each example its target and `count` - 1 other items that the user never interacts with, in random order.

    ``uniform`` draws them uniformly without replacement. ``popularity`` draws them one after another, with
    probabilities in proportion to the training popularity of the remaining items; an item without training
    interactions is never drawn. ``semantic`` takes the items whose titles are nearest to the target's by cosine,
    without items that have the same title (`Catalogue.title_numbers`). Of equal items the lower index comes first.
    Only their order is random.

    Args:
        split: the users, the catalogue, and the interactions of all users.
        examples: n examples.
        count: items in a row, including the target.
        seed: seed of the draws.
        negatives: see above.
        title_embeddings: for ``semantic``: rows of unit length, float32 [items, d].

    Raises:
        RequestError: a user has too few items to draw from.
    """
    rng = np.random.default_rng(seed)
    if negatives == "uniform":
        negative_items = _uniform(split, examples, count, rng)
    elif negatives == "popularity":
        negative_items = _popular(split, examples, count, rng)
    else:
        assert title_embeddings is not None
        negative_items = _nearest(split, examples, count, title_embeddings)
    rows = np.concatenate([examples.target[:, None], negative_items], axis=1).astype(np.int32)
    shuffled = rng.permuted(rows, axis=1)
    target_column = np.argmax(shuffled == examples.target[:, None], axis=1).astype(np.int32)
    return Candidates(shuffled, target_column)


def shuffled(candidates: Candidates, rng: np.random.Generator) -> Candidates:
    """The same candidates with each row in random order; empty slots stay at the end."""
    keys = rng.random(candidates.items.shape)
    keys[candidates.items < 0] = np.inf
    order = np.argsort(keys, axis=1)
    column = np.argmax(order == candidates.target_column[:, None], axis=1).astype(np.int32)
    return Candidates(np.take_along_axis(candidates.items, order, axis=1), column)


def _uniform(split: Split, examples: Examples, count: int, rng: np.random.Generator) -> Longs:
    unseen = unseen_counts(split.seen, examples.user)
    _check_enough(split, examples.user, unseen, count, f"unseen items of {len(split.catalogue)}")
    return draw_unseen(split.seen, examples.user, count - 1, rng)


def _popular(split: Split, examples: Examples, count: int, rng: np.random.Generator) -> Longs:
    """Draw by popularity: the items with the largest sums of log weight and Gumbel noise are a draw without
    replacement, in proportion to the weights (Efraimidis and Spirakis, "Weighted random sampling with a reservoir",
    IPL 97(5), 2006; Kool et al., ICML 2019).
    """
    with np.errstate(divide="ignore"):
        weight = np.log(split.catalogue.popularity.astype(np.float64))

    def keys(rows: Longs) -> Doubles:
        return weight + rng.gumbel(size=(len(rows), len(weight)))

    return _largest(split, examples, count, keys, "unseen items with training interactions")


def _nearest(split: Split, examples: Examples, count: int, title_embeddings: Floats) -> Longs:
    titles = split.catalogue.title_numbers

    def cosines(rows: Longs) -> Doubles:
        targets = examples.target[rows]
        near: Doubles = (title_embeddings[targets] @ title_embeddings.T).astype(np.float64)
        # An item with the target's title is no neighbour, because no model could tell the two apart.
        near[titles[targets][:, None] == titles] = -np.inf
        return near

    return _largest(split, examples, count, cosines, f"unseen items of another title, of {len(split.catalogue)}")


def _largest(split: Split, examples: Examples, count: int, keys: Callable[[Longs], Doubles], offered: str) -> Longs:
    """The `count` - 1 unseen items of each example with the largest keys, float64 [rows, items]. Items with the key
    minus infinity cannot be taken."""
    items = len(split.catalogue)
    step = max(1, BLOCK_CELLS // items)
    found = []
    for start in range(0, len(examples), step):
        rows = np.arange(start, min(start + step, len(examples)))
        users = examples.user[rows]
        values = keys(rows)
        values[split.seen.contains(users, np.broadcast_to(np.arange(items), values.shape))] = -np.inf
        _check_enough(split, users, (values > -np.inf).sum(axis=1), count, offered)
        found.append(np.argsort(-values, axis=1, kind="stable")[:, : count - 1])
    return np.concatenate(found)


def _check_enough(split: Split, users: NDArray[np.integer], left: NDArray[np.integer], count: int, what: str) -> None:
    """Check that each of `users` has enough items for `count` candidates."""
    if (left < count - 1).any():
        worst = int(np.argmin(left))
        raise RequestError(
            f"user '{split.users[users[worst]]}' has {left[worst]} {what}, too few for {count} "
            f"candidates: set evaluation.candidates to at most {left[worst] + 1}"
        )


def save_candidates(candidates: Candidates, split: Split, examples: Examples, folder: Path) -> None:
    """Write the candidates of `examples` into `folder`, which exists: one parquet file that others can read, too.

    Columns: ``user`` and ``target`` (the source's ids), ``target_title``, ``candidates`` (the source's item ids),
    ``items`` (the same as indices) and ``target_column``.
    """
    ids = np.array(split.catalogue.ids, dtype=object)
    users = np.array(split.users, dtype=object)
    titles = np.array(split.catalogue.titles, dtype=object)
    pl.DataFrame(
        {
            "user": users[examples.user].tolist(),
            "target": ids[examples.target].tolist(),
            "target_title": titles[examples.target].tolist(),
            "candidates": [ids[row[row >= 0]].tolist() for row in candidates.items],
            "items": candidates.items,
            "target_column": candidates.target_column,
        },
        schema={
            "user": pl.String,
            "target": pl.String,
            "target_title": pl.String,
            "candidates": pl.List(pl.String),
            "items": pl.Array(pl.Int32, candidates.items.shape[1]),
            "target_column": pl.Int32,
        },
    ).write_parquet(folder / CANDIDATES)


def load_candidates(folder: Path) -> Candidates:
    """Read what `save_candidates` wrote."""
    table = pl.read_parquet(folder / CANDIDATES)
    return Candidates(table["items"].to_numpy(), table["target_column"].to_numpy())
