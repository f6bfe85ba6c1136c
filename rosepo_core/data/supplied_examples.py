"""Examples that are already split: their checks, leaks between their parts, and their candidates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import numpy as np
import polars as pl

from rosepo_core.contracts.errors import PluginError
from rosepo_core.contracts.records import Candidates, Corpus, Ints, Part, Sequences

PARTS: tuple[str, ...] = get_args(Part)

RUN = 5
"""If this many titles in a row, ending with the target, are the same in two rows, the rows are taken to belong to one
person. Rows of published files are often overlapping windows of one history, with the target of one in the next."""


def check_examples(corpus: Corpus) -> None:
    """
    Raises:
        PluginError: the examples are not as `Corpus` describes.
    """
    examples = corpus.examples
    if examples is None:
        return
    where = f"dataset '{corpus.name}': its examples"
    columns: dict[str, pl.DataType] = {"user": pl.String(), "part": pl.String()}
    if has_candidates(corpus):
        columns["candidates"] = pl.List(pl.String())
    for column, dtype in columns.items():
        if (actual := examples.schema.get(column)) != dtype:
            raise PluginError(f"{where} have a column '{column}' of type {actual}, not {dtype}")
    lengths = corpus.interactions.group_by("user").len()
    for wrong, why in (
        (examples.filter(pl.col("user").is_null() | pl.col("user").is_duplicated()), "name a user twice, or none"),
        (
            examples.filter(~pl.col("part").is_in(PARTS).fill_null(False)),
            f"have a part other than {', '.join(PARTS)}",
        ),
        (lengths.join(examples, on="user", how="anti"), "lack a user of the interactions"),
        (examples.join(lengths, on="user", how="anti"), "have a user without interactions"),
        (lengths.filter(pl.col("len") < 2), "have a target without a history"),
        (
            _wrong_candidates(corpus, examples),
            "have test candidates without the target once, or beyond the catalogue",
        ),
    ):
        if not wrong.is_empty():
            raise PluginError(f"{where} {why}: user '{wrong['user'][0]}'")


def has_candidates(corpus: Corpus) -> bool:
    """Whether the examples bring the candidates to rank."""
    return corpus.examples is not None and "candidates" in corpus.examples.columns


def _wrong_candidates(corpus: Corpus, examples: pl.DataFrame) -> pl.DataFrame:
    if not has_candidates(corpus):
        return examples.clear()
    targets = _in_time(corpus).unique("user", keep="last").select("user", target="item")
    candidate = pl.col("candidates")
    return (
        examples.filter(part="test")
        .join(targets, on="user", maintain_order="left")
        .explode("candidates")
        .group_by("user", maintain_order=True)
        .agg(
            hits=(candidate == pl.col("target")).sum(),
            known=candidate.is_in(corpus.catalogue["item"].implode()).all(),
        )
        .filter((pl.col("hits") != 1) | ~pl.col("known"))
    )


def _in_time(corpus: Corpus) -> pl.DataFrame:
    return corpus.interactions.sort("timestamp", maintain_order=True)


def merge_candidates(corpus: Corpus, merged: pl.DataFrame) -> pl.DataFrame | None:
    """The examples, with the items of `merged` (columns ``item``, ``kept``) replaced in their lists of candidates,
    and without the duplicates that this makes."""
    if corpus.examples is None or not has_candidates(corpus):
        return corpus.examples
    replaced = pl.element().replace(merged["item"], merged["kept"]).unique(maintain_order=True)
    return corpus.examples.with_columns(pl.col("candidates").list.eval(replaced))


def leaks(corpus: Corpus) -> Iterator[str]:
    """Notes on validation and test examples that leak, because an earlier part contains them, too.

    Compare the last `RUN` titles of an example, which end with its target. The example leaks if one example of the
    training part (or, for the test part, of the validation part) has the same titles in the same order, at any
    position. An example with fewer titles leaks if another example begins with all of them.
    """
    if corpus.examples is None:
        return
    run = [f"{back} before" for back in range(RUN)]
    log = _in_time(corpus).join(corpus.examples.select("user", "part"), on="user", maintain_order="left")
    log = log.with_columns(pl.col("item").shift(back).over("user").alias(name) for back, name in enumerate(run))
    held_out = log.unique("user", keep="last")
    for earlier, part in ((PARTS[:1], "validation"), (PARTS[:2], "test")):
        of_part = held_out.filter(part=part)
        known = log.filter(pl.col("part").is_in(earlier))
        count = of_part.join(known, on=run, how="semi", nulls_equal=True).height
        if count:
            yield (
                f"leakage: {count} of {of_part.height} {part} examples have their last {RUN} titles, or all if "
                f"fewer, in the same order in an example of {' or '.join(earlier)}"
            )


def index_candidates(corpus: Corpus, users: pl.Series, targets: Ints, places: pl.DataFrame) -> Candidates | None:
    """The candidates of given examples; `None` if the corpus has none.

    Args:
        corpus: any corpus.
        users: the users of the test part, [n].
        targets: their targets, int32 [n].
        places: columns ``item`` and ``place``, the number of each item of the catalogue.
    """
    if corpus.examples is None or not has_candidates(corpus):
        return None
    rows = pl.DataFrame({"user": users}).join(corpus.examples, on="user", maintain_order="left")["candidates"]
    lengths = rows.list.len().to_numpy()
    flat = pl.DataFrame({"item": rows.explode()}).join(places, on="item", maintain_order="left")
    items: Ints = np.full((len(lengths), lengths.max()), -1, dtype=np.int32)
    items[np.arange(items.shape[1]) < lengths[:, None]] = flat["place"].to_numpy()
    return Candidates(items, np.argmax(items == targets[:, None], axis=1).astype(np.int32))


def index_offered(corpus: Corpus, users: pl.Series, places: pl.DataFrame) -> Sequences | None:
    """The candidates of given examples for training, by user; `None` if the corpus has none.

    Args:
        corpus: any corpus.
        users: all users, [users].
        places: columns ``item`` and ``place``, the number of each item of the catalogue.
    """
    if corpus.examples is None or not has_candidates(corpus):
        return None
    training = corpus.examples.filter(pl.col("part") == "train").select("user", "candidates")
    listed = pl.DataFrame({"user": users}).join(training, on="user", how="left", maintain_order="left")
    lengths = listed["candidates"].list.len().fill_null(0).to_numpy().astype(np.int64)
    if not lengths.any():
        return None
    names = listed["candidates"].filter(pl.Series(lengths > 0)).explode()
    # Only the candidates of the test must be in the catalogue.
    flat = pl.DataFrame({"item": names}).join(places, on="item", how="left", maintain_order="left")["place"]
    items = flat.fill_null(-1).to_numpy().astype(np.int32)
    owner = np.repeat(np.arange(len(users)), lengths)[items >= 0]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(users)))]).astype(np.int64)
    return Sequences(items[items >= 0], offsets)
