"""The corpus between a dataset plugin and the split: titles made one line, filters applied, saved and summed up."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from rosepo_core.contracts import Dataset, DatasetOptions, LogOptions
from rosepo_core.errors import PluginError, RequestError
from rosepo_core.records import Corpus
from rosepo_core.registry import running
from rosepo_core.stages.given import PARTS, check_examples, has_candidates, leaks, merge_candidates

if TYPE_CHECKING:
    from rosepo_core.stages.session import Session
    from rosepo_core.store import Artifact

INTERACTIONS = "interactions.parquet"
CATALOGUE = "catalogue.parquet"
EXAMPLES = "examples.parquet"
CORPUS = "corpus.json"
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_ROW = "__row"


def stage(session: Session) -> Artifact:
    """RUN/dataset: the filtered corpus."""
    dataset: Dataset = session.component("dataset")

    def build(folder: Path) -> None:
        with running(dataset):
            corpus = dataset.load(session.reporter)
        corpus = filter_corpus(corpus, dataset.options)
        for note in corpus.notes:
            session.reporter.note(note)
        save_corpus(corpus, folder)

    settings = {"dataset": session.plugin_settings("dataset"), "files": _identities(dataset)}
    return session.artifact("dataset", settings, [], build)


def _identities(dataset: Dataset) -> dict[str, list[tuple[str, int, int]]]:
    """Size and time of change of every file that the dataset reads, so that a changed file is read again."""
    found = {}
    named = [(name, value) for name, value in dataset.options if isinstance(value, str | Path) and value]
    for name, value in [*named, *((str(file), file) for file in dataset.files())]:
        if (path := Path(value).expanduser()).exists():
            files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
            found[name] = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return found


def filter_corpus(corpus: Corpus, options: DatasetOptions) -> Corpus:
    """Make a dataset's corpus fit for a recommender that knows items by their titles.

    In this order:

    1. Titles become one line each: Unicode NFC, runs of white space to one space.
    2. ``min_rating`` drops interactions rated lower, and those without a rating.
    3. Items of the same title become one, under the id and attributes of the first in the catalogue: a model that
       reads and writes titles cannot tell them apart.
    4. ``duplicates`` keeps a user's first or last interaction with an item (by time, then by row), or all.
    5. ``k_core`` drops users and items with fewer interactions, again and again until none is left to drop. Items
       that nobody interacted with leave the catalogue here, too, unless it is 0.

    The order of rows in both tables stays. What was merged or dropped is told in the notes.

    Of given examples only titles are changed, by 1 and 3: an example is what its source says, and the catalogue stays
    whole. The notes tell what leaks between their parts.

    Raises:
        PluginError: the corpus is not as `Corpus` describes, or filters are offered where they do not apply.
        RequestError: an item has no title, ratings are asked for and absent, or a filter leaves nothing.
    """
    _check_contract(corpus)
    is_log = corpus.examples is None
    if isinstance(options, LogOptions) != is_log:
        raise PluginError(
            f"dataset '{corpus.name}' yields {'a log' if is_log else 'given examples'}, so its Options must "
            f"{'extend LogOptions' if is_log else 'extend DatasetOptions, not LogOptions'}"
        )
    notes = list(corpus.notes)
    interactions = corpus.interactions
    if interactions.is_empty():
        raise RequestError(f"dataset '{corpus.name}' has no interactions")
    catalogue = corpus.catalogue.with_columns(one_line(pl.col("title")).alias("title"))
    _check_titles(corpus.name, interactions, catalogue)

    if isinstance(options, LogOptions) and options.min_rating is not None:
        before = interactions
        if "rating" not in before.columns:
            raise RequestError(f"dataset.min_rating: dataset '{corpus.name}' has no ratings; leave it unset")
        interactions = before.filter(pl.col("rating").fill_nan(None) >= options.min_rating)
        _note_dropped(notes, f"min_rating={options.min_rating:g}", before, interactions)

    examples = corpus.examples
    first = catalogue.select("item", pl.col("item").first().over("title").alias("kept"), "title")
    merged = first.filter(pl.col("item") != pl.col("kept"))
    if not merged.is_empty():
        kept, title = merged.row(0)[1:]
        ids = ", ".join(first.filter(pl.col("kept") == kept)["item"])
        notes.append(f"merged {merged.height} items into others of the same title, e.g. '{title}': items {ids}")
        interactions = interactions.with_columns(pl.col("item").replace(merged["item"], merged["kept"]))
        catalogue = catalogue.filter(~pl.col("item").is_in(merged["item"].implode()))
        examples = merge_candidates(corpus, merged)
    corpus = replace(corpus, interactions=interactions, catalogue=catalogue, examples=examples)
    if not isinstance(options, LogOptions):
        return replace(corpus, notes=(*notes, *leaks(corpus)))

    if options.duplicates != "keep":
        before = interactions
        interactions = (
            before.with_row_index(_ROW)
            .sort("timestamp", maintain_order=True)
            .unique(["user", "item"], keep=options.duplicates, maintain_order=True)
            .sort(_ROW)
            .drop(_ROW)
        )
        _note_dropped(notes, f"duplicates='{options.duplicates}'", before, interactions)

    before = interactions
    interactions = _k_core(interactions, options.k_core)
    _note_dropped(notes, f"k_core={options.k_core}", before, interactions)
    if options.k_core > 0:
        every_item = catalogue
        catalogue = every_item.filter(pl.col("item").is_in(interactions["item"].unique().implode()))
        if catalogue.height < every_item.height:
            dropped = every_item.height - catalogue.height
            too_few = (
                "without interactions" if options.k_core == 1 else f"with fewer than {options.k_core} interactions"
            )
            notes.append(f"dropped {dropped} of {every_item.height} items {too_few}")
    return replace(corpus, interactions=interactions, catalogue=catalogue, notes=tuple(notes))


def one_line(title: pl.Expr) -> pl.Expr:
    """Unicode NFC, runs of white space to one space, none at the ends."""
    return title.str.normalize("NFC").str.replace_all(r"\s+", " ").str.strip_chars(" ")


def save_corpus(corpus: Corpus, folder: Path) -> None:
    """Write the corpus into `folder`, which exists."""
    corpus.interactions.write_parquet(folder / INTERACTIONS)
    corpus.catalogue.write_parquet(folder / CATALOGUE)
    if corpus.examples is not None:
        corpus.examples.write_parquet(folder / EXAMPLES)
    about = {"name": corpus.name, "notes": corpus.notes}
    (folder / CORPUS).write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")


def load_corpus(folder: Path) -> Corpus:
    """Read what `save_corpus` wrote."""
    about = json.loads((folder / CORPUS).read_text(encoding="utf-8"))
    return Corpus(
        about["name"],
        pl.read_parquet(folder / INTERACTIONS),
        pl.read_parquet(folder / CATALOGUE),
        tuple(about["notes"]),
        pl.read_parquet(folder / EXAMPLES) if (folder / EXAMPLES).exists() else None,
    )


@dataclass(frozen=True)
class CorpusSummary:
    """What is worth knowing of a corpus before anything is trained on it.

    Attributes:
        name: the dataset's name.
        users: how many have an interaction; each given example is one.
        items: how many are in the catalogue.
        interactions: rows of the log.
        density: share of all pairs of user and item that occur in the log.
        interactions_per_user: minimum, quartiles and maximum: keys "min", "25%", "50%", "75%", "max".
        interactions_per_item: the same over the items of the catalogue.
        duplicate_titles: titles that several items share, with the items' ids.
        first: time of the first interaction: ISO 8601 in UTC where the timestamps look like a time, else the number.
        last: time of the last one.
        ratings: interactions per rating, ascending; empty without ratings or with more than 20 different ones.
        parts: examples per part; empty for a log.
        candidates: minimum, quartiles and maximum of the candidates per test example; empty where none are given.
        notes: the corpus's own.
        warnings: what may spoil a result, a line each.
    """

    name: str
    users: int
    items: int
    interactions: int
    density: float
    interactions_per_user: dict[str, int]
    interactions_per_item: dict[str, int]
    duplicate_titles: dict[str, tuple[str, ...]]
    first: str
    last: str
    ratings: dict[float, int]
    parts: dict[str, int]
    candidates: dict[str, int]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def check_corpus(corpus: Corpus) -> CorpusSummary:
    """Sum a corpus up, filtered or not.

    Raises:
        PluginError: the corpus is not as `Corpus` describes.
        RequestError: it has no interactions, or an item without a title.
    """
    _check_contract(corpus)
    log, catalogue = corpus.interactions, corpus.catalogue
    if log.is_empty():
        raise RequestError(f"dataset '{corpus.name}' has no interactions")
    titles = catalogue.select("item", one_line(pl.col("title")).alias("title"))
    _check_titles(corpus.name, log, titles)
    per_user = log["user"].value_counts()["count"]
    per_item = (
        catalogue.select("item").join(log.group_by("item").len("count"), on="item", how="left")["count"].fill_null(0)
    )
    shared = titles.group_by("title", maintain_order=True).agg("item").filter(pl.col("item").list.len() > 1)
    distinct = log.select("user", "item").n_unique()
    ratings: dict[float, int] = {}
    if "rating" in log.columns and log["rating"].n_unique() <= 20:
        counts = log["rating"].drop_nulls().value_counts().sort("rating")
        ratings = dict(counts.iter_rows())
    times = log["timestamp"].sort()
    examples = corpus.examples
    parts: dict[str, int] = {}
    candidates: dict[str, int] = {}
    if examples is not None:
        parts = {part: examples.filter(part=part).height for part in PARTS}
        if has_candidates(corpus):
            candidates = _quantiles(examples.filter(part="test")["candidates"].list.len())
    return CorpusSummary(
        name=corpus.name,
        users=per_user.len(),
        items=catalogue.height,
        interactions=log.height,
        density=distinct / (per_user.len() * catalogue.height),
        interactions_per_user=_quantiles(per_user),
        interactions_per_item=_quantiles(per_item),
        duplicate_titles={title: tuple(items) for title, items in shared.iter_rows()},
        first=_time(times[0]),
        last=_time(times[-1]),
        ratings=ratings,
        parts=parts,
        candidates=candidates,
        notes=corpus.notes,
        warnings=tuple(_shared_titles(shared) if parts else _warnings(log, per_user, per_item, shared, distinct)),
    )


def _warnings(
    log: pl.DataFrame, per_user: pl.Series, per_item: pl.Series, shared: pl.DataFrame, distinct: int
) -> list[str]:
    found = []
    short = int((per_user < 3).sum())
    if short:
        found.append(
            f"{short} of {per_user.len()} users have fewer than 3 interactions: leave-one-out only trains on them"
        )
    last = log.sort("timestamp", maintain_order=True).group_by("user").agg(pl.col("timestamp").tail(2))["timestamp"]
    tied = int(((last.list.len() == 2) & (last.list.first() == last.list.last())).sum())
    if tied:
        found.append(
            f"the last two interactions of {tied} of {per_user.len()} users have the same timestamp: "
            "the order of their rows decides what is held out"
        )
    if distinct < log.height:
        found.append(
            f"{log.height - distinct} interactions repeat an item of the same user: "
            "dataset.duplicates says which stay"
        )
    found += _shared_titles(shared)
    unused = int((per_item == 0).sum())
    if unused:
        found.append(
            f"{unused} of {per_item.len()} items have no interaction: they are dropped unless dataset.k_core is 0"
        )
    return found


def _shared_titles(shared: pl.DataFrame) -> list[str]:
    if shared.is_empty():
        return []
    return [
        f"{shared.height} titles belong to more than one item: such items are merged, e.g. "
        f"'{shared['title'][0]}': items {', '.join(shared['item'][0])}"
    ]


def _check_contract(corpus: Corpus) -> None:
    wanted: list[tuple[str, pl.DataFrame, dict[str, pl.DataType]]] = [
        ("interactions", corpus.interactions, {"user": pl.String(), "item": pl.String(), "timestamp": pl.Int64()}),
        ("catalogue", corpus.catalogue, {"item": pl.String(), "title": pl.String()}),
    ]
    for table, frame, columns in wanted:
        for column, dtype in columns.items():
            found = frame.schema.get(column)
            where = f"dataset '{corpus.name}': column '{column}' of its {table}"
            if found is None:
                raise PluginError(f"{where} is missing")
            if found != dtype:
                raise PluginError(f"{where} is of type {found}, not {dtype}")
            if column != "title" and frame[column].null_count():
                raise PluginError(f"{where} has {frame[column].null_count()} nulls")
    repeated = corpus.catalogue.filter(pl.col("item").is_duplicated())
    if not repeated.is_empty():
        raise PluginError(f"dataset '{corpus.name}': item '{repeated['item'][0]}' is in its catalogue twice")
    check_examples(corpus)


def _check_titles(name: str, interactions: pl.DataFrame, catalogue: pl.DataFrame) -> None:
    blank = catalogue.filter(pl.col("title").is_null() | (pl.col("title") == ""))
    unknown = interactions.join(catalogue, on="item", how="anti")
    for items, why in ((blank, "has an empty title"), (unknown, "is not in the catalogue")):
        if not items.is_empty():
            raise RequestError(
                f"dataset '{name}': item '{items['item'][0]}' {why} ({items['item'].n_unique()} such items): "
                "give it a title or leave its interactions out"
            )


def _k_core(interactions: pl.DataFrame, k: int) -> pl.DataFrame:
    if k <= 1:
        return interactions
    while True:
        kept = interactions.filter((pl.len().over("user") >= k) & (pl.len().over("item") >= k))
        if kept.height == interactions.height:
            return kept
        interactions = kept


def _note_dropped(notes: list[str], what: str, before: pl.DataFrame, after: pl.DataFrame) -> None:
    if after.is_empty():
        raise RequestError(f"dataset.{what} left none of {before.height} interactions: loosen it")
    if after.height < before.height:
        notes.append(f"{what} dropped {before.height - after.height} of {before.height} interactions")


def _quantiles(counts: pl.Series) -> dict[str, int]:
    names = ("min", "25%", "50%", "75%", "max")
    return {name: int(counts.quantile(q, "lower") or 0) for name, q in zip(names, QUANTILES, strict=True)}


def _time(timestamp: int) -> str:
    """Seconds, milliseconds or microseconds since 1970, told apart by size: each covers 1973 to about 5000."""
    for unit in (1, 1_000, 1_000_000):
        if 10**8 <= timestamp / unit < 10**11:
            return datetime.fromtimestamp(timestamp // unit, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(timestamp)
