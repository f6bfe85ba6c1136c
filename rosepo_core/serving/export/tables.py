"""Exports tables of a run: preference pairs for other trainers, and the scores of a model for its candidates."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl

from rosepo_core import pipeline
from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.evaluation.decision_rules import ranked_name
from rosepo_core.stages.preferences import PAIRS
from rosepo_core.stages.session import RunReporter
from rosepo_core.store.artifacts import reading
from rosepo_core.store.files import write_bytes
from rosepo_core.store.run_store import RunStore

PAIR_COLUMNS = ("prompt", "chosen", "rejected")


def read_pairs(run: Path) -> pl.DataFrame:
    """The preference pairs of a run as texts, one rejected title in each row, as TRL's DPOTrainer reads them:
    ``prompt``, ``chosen`` and ``rejected``.

    Raises:
        RequestError: there is no run, or it has not finished the stage `preferences`.
    """
    folder = RunStore.open(run).artifact("preferences").folder
    with reading(folder):
        return pl.read_parquet(folder / PAIRS, columns=list(PAIR_COLUMNS))


def export_pairs(run: Path, file: Path) -> int:
    """Write the result of `read_pairs`.

    Args:
        run: the run.
        file: a new file, .jsonl or .parquet.

    Returns:
        number of pairs.

    Raises:
        RequestError: the run has no pairs, or `file` exists or has another ending.
    """
    _check_file(file, (".jsonl", ".parquet"))
    table = read_pairs(run)
    _write(table, file)
    return table.height


def export_scores(
    run: Path, file: Path, reporter: RunReporter, *, model: str | None = None, protocol: str | None = None
) -> int:
    """Write the scores that a model gave to the candidates of a finished run: ``user`` and ``item``, the log's own
    ids, and ``score``, float32. `rosepo evaluate --scores` reads such a file.

    Args:
        run: the run.
        file: a new file, .parquet or .csv.
        reporter: receives the progress.
        model: a row of the run's tables; by default the aligned model by the run's `ranking.score`.
        protocol: a protocol with candidates; by default the first.

    Returns:
        number of scores.

    Raises:
        RequestError: the run is not finished, has no such model or protocol, or `file` exists or has another ending.
    """
    _check_file(file, (".parquet", ".csv"))
    [found] = pipeline.finished_runs([run], None, reporter)
    tables = {each.protocol: each for each in found.evaluations if each.candidates is not None}
    if not tables:
        raise RequestError(f"{run} ranks no candidates: evaluate it with --protocol candidates")
    if protocol is not None and protocol not in tables:
        raise RequestError(f"{run} ranks no candidates under '{protocol}'{nearest(protocol, tables)}")
    table = tables[protocol] if protocol is not None else next(iter(tables.values()))
    name = model or ranked_name(found.subject, found.session.config.ranking.score)
    if name not in table.models:
        raise RequestError(f"{run} has no row '{name}' under {table.protocol}{nearest(name, table.models)}")
    scores, split = table.models[name].scores, found.split.content
    assert table.candidates is not None
    assert scores is not None
    row, column = np.nonzero(table.candidates.items >= 0)
    users, ids = np.array(split.users, dtype=object), np.array(split.catalogue.ids, dtype=object)
    made = pl.DataFrame(
        {
            "user": users[table.examples.user[row]].tolist(),
            "item": ids[table.candidates.items[row, column]].tolist(),
            "score": scores[row, column],
        },
        schema={"user": pl.String, "item": pl.String, "score": pl.Float32},
    )
    _write(made, file)
    return made.height


def _check_file(file: Path, endings: tuple[str, ...]) -> None:
    if file.suffix.lower() not in endings:
        raise RequestError(f"{file}: the name must end in {' or '.join(endings)}")
    if file.exists():
        raise RequestError(f"{file} exists: name a new file")


def _write(table: pl.DataFrame, file: Path) -> None:
    """Write a table completely or not at all."""
    content = BytesIO()
    if file.suffix.lower() == ".parquet":
        table.write_parquet(content)
    elif file.suffix.lower() == ".csv":
        table.write_csv(content)
    else:
        table.write_ndjson(content)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, content.getvalue())
    except OSError as error:
        raise RequestError(f"{file} cannot be written: {error.strerror}; name another file") from None
