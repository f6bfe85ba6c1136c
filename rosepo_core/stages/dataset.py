"""The stage `dataset`: reads the corpus with the dataset plugin, cleans titles, applies filters and saves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from rosepo_core.contracts.components import Dataset, DatasetOptions
from rosepo_core.contracts.records import Corpus
from rosepo_core.data.filters import filter_corpus
from rosepo_core.registry import running

if TYPE_CHECKING:
    from rosepo_core.stages.session import Handle, Session

INTERACTIONS = "interactions.parquet"
CATALOGUE = "catalogue.parquet"
EXAMPLES = "examples.parquet"
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
