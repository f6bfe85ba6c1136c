"""The stage `dataset`: reads the corpus with the dataset plugin, cleans titles, applies filters and saves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from rosepo_core.contracts.components import Dataset, DatasetOptions
from rosepo_core.contracts.records import Corpus
from rosepo_core.data.filters import filter_corpus
from rosepo_core.data.ids import names_of
from rosepo_core.plugins.registry import running

if TYPE_CHECKING:
    from rosepo_core.stages.session import Handle, Session

INTERACTIONS = "interactions.parquet"
IDS = {"user": "users", "item": "items"}
"""What the names of files with the ids of users and items end in; the numbers of the ids are in the log."""
CATALOGUE = "catalogue.parquet"
EXAMPLES = "examples.parquet"
DISLIKED = "disliked.parquet"
CORPUS = "corpus.json"


def stage(session: Session) -> Handle[Corpus]:
    """RUN/dataset: the filtered corpus."""
    dataset: Dataset = session.component("dataset")

    def build(folder: Path) -> None:
        with running(dataset):
            corpus = dataset.load(session.reporter)
        corpus = filter_corpus(corpus, dataset.options)
        for note in corpus.notes:
            session.reporter.note(note)
        save_corpus(corpus, folder)

    def settings() -> dict[str, Any]:
        return {"dataset": session.plugin_settings("dataset", without=DatasetOptions.model_fields)}

    return session.artifact("dataset", settings, [], build, load_corpus)


def save_corpus(corpus: Corpus, folder: Path) -> None:
    """Write the corpus into `folder`, which exists.

    Ids that are `polars.Enum` are written as their numbers, and once as text in a file of their own: columns of
    categories take twenty times as long to read from Parquet.
    """
    _save_log(corpus.interactions, folder, INTERACTIONS)
    corpus.catalogue.write_parquet(folder / CATALOGUE)
    if corpus.examples is not None:
        corpus.examples.write_parquet(folder / EXAMPLES)
    if corpus.disliked is not None:
        _save_log(corpus.disliked, folder, DISLIKED)
    about = {"name": corpus.name, "notes": corpus.notes}
    (folder / CORPUS).write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")


def load_corpus(folder: Path) -> Corpus:
    """Read what `save_corpus` wrote."""
    about = json.loads((folder / CORPUS).read_text(encoding="utf-8"))
    return Corpus(
        about["name"],
        _load_log(folder, INTERACTIONS),
        pl.read_parquet(folder / CATALOGUE),
        tuple(about["notes"]),
        pl.read_parquet(folder / EXAMPLES) if (folder / EXAMPLES).exists() else None,
        _load_log(folder, DISLIKED) if (folder / DISLIKED).exists() else None,
    )


def _save_log(log: pl.DataFrame, folder: Path, name: str) -> None:
    for column, of in IDS.items():
        if isinstance(log.schema[column], pl.Enum):
            ids = log[column]
            names_of(ids).alias(column).to_frame().write_parquet(_ids_file(folder / name, of))
            log = log.with_columns(ids.to_physical())
    # Numbers of users and items hardly get smaller by a slower compression.
    log.write_parquet(folder / name, compression="lz4", statistics=False)


def _load_log(folder: Path, name: str) -> pl.DataFrame:
    log = pl.read_parquet(folder / name)
    for column, of in IDS.items():
        if (_ids_file(folder / name, of)).exists():
            names = pl.read_parquet(_ids_file(folder / name, of))[column]
            log = log.with_columns(log[column].cat.to(pl.Enum(names)))
    return log


def _ids_file(log: Path, of: str) -> Path:
    return log.with_name(f"{log.stem}-{of}.parquet")
