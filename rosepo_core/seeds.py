"""The same configuration under several seeds, and how much its numbers move with what is drawn.

Between two seeds differs all that is drawn: the adapter's first weights, the order of batches, the oracle's training,
rejected items, test users and candidates. The log and its split are the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rosepo_core import pipeline
from rosepo_core.config import RunConfig
from rosepo_core.contracts.errors import RequestError
from rosepo_core.evaluation.measurement import Column, Metrics
from rosepo_core.evaluation.statistics import OverSeeds, over_seeds
from rosepo_core.registry import Registry
from rosepo_core.stages.session import RunReporter
from rosepo_core.store import MARKER, is_run, write_text

SEEDS = "seeds.json"
SCHEMA = 1
LARGEST = 2**32 - 1


@dataclass(frozen=True)
class Spread:
    """One column of one model over seeds.

    Attributes:
        values: one a seed, NaN where the metric applied to nobody.
        over: of the values that are not NaN; all NaN where none is left.
    """

    values: tuple[float, ...]
    over: OverSeeds


@dataclass(frozen=True)
class SeedTable:
    """All models under one protocol.

    Attributes:
        columns: the main ones, by name such as ``"hr@10"``.
        models: model to column to its values.
    """

    columns: Mapping[str, Column]
    models: Mapping[str, Mapping[str, Spread]]


@dataclass(frozen=True)
class SeedRuns:
    """Finished runs that differ in their seed alone.

    Attributes:
        folder: what holds them and seeds.json.
        runs: each seed's run folder, by seed, ascending.
        tables: by protocol.
    """

    folder: Path
    runs: Mapping[int, Path]
    tables: Mapping[str, SeedTable]

    def document(self) -> dict[str, Any]:
        """The contents of seeds.json: ``schema``; ``seeds``, ascending; ``runs``, their folders in this one, in the
        same order; ``protocols``: protocol to model to column to ``values`` in that order and the fields of
        `OverSeeds`. A number that does not exist is null."""
        return {
            "schema": SCHEMA,
            "seeds": list(self.runs),
            "runs": [run.name for run in self.runs.values()],
            "protocols": {
                protocol: {
                    model: {column: _fields(spread) for column, spread in spreads.items()}
                    for model, spreads in table.models.items()
                }
                for protocol, table in self.tables.items()
            },
        }


def default_folder(config: RunConfig, registry: Registry) -> Path:
    """Of runs under several seeds, however many: that of the one run with ``-seeds`` behind it."""
    one = pipeline.default_folder(config, registry)
    return one.with_name(f"{one.name}-seeds")


def seed_folders(config: RunConfig, folder: Path, count: int) -> dict[int, Path]:
    """Where the run of each seed has its place: ``FOLDER/seed-S`` for S from the configured seed on.

    Raises:
        RequestError: there is no such number of seeds, or `folder` holds other things than runs under seeds.
    """
    if count < 1:
        raise RequestError(f"--seeds {count}: say how many seeds to run, 1 or more, e.g. --seeds 5")
    if config.seed + count - 1 > LARGEST:
        raise RequestError(
            f"seed={config.seed} and --seeds {count} go beyond the largest seed, {LARGEST}: lower seed"
        )
    if is_run(folder):
        raise RequestError(f"{folder} is a plain run (it has {MARKER}): choose another --run for --seeds")
    if folder.exists() and not (
        folder.is_dir() and (not any(folder.iterdir()) or any(is_run(each) for each in folder.glob("seed-*")))
    ):
        raise RequestError(f"{folder} exists and holds no runs under seeds (seed-*/{MARKER}): choose another --run")
    return {seed: folder / f"seed-{seed}" for seed in range(config.seed, config.seed + count)}


def run_seeds(
    config: RunConfig,
    folder: Path,
    count: int,
    reporter: RunReporter,
    *,
    registry: Registry | None = None,
    force: Sequence[str] = (),
    overwrite: bool = False,
) -> SeedRuns:
    """Run the configuration under `count` seeds, its own the first, and write `folder`/seeds.json once all are done.

    Each is a complete run. What is finished, or the same under another seed, is reused; so doing this again continues
    where it stopped, and a larger `count` adds seeds. `force` and `overwrite` are those of `pipeline.run`.

    Raises:
        RequestError: something in the request or the data is wrong. Where the first seed's run finds this before
            fine-tuning is done, `folder` is left as it was.
    """
    runs = seed_folders(config, folder, count)
    existed = folder.exists()
    measured: list[Mapping[str, _Measured]] = []
    for seed, run_folder in runs.items():
        reporter.note(f"seed {seed} ({len(measured) + 1} of {count}): {run_folder}")
        try:
            done = pipeline.run(
                config.model_copy(update={"seed": seed}),
                run_folder,
                reporter,
                registry=registry,
                force=force,
                overwrite=overwrite,
            )
        except RequestError:
            if not existed:
                # Only where it is empty.
                with suppress(OSError):
                    folder.rmdir()
            raise
        # It is there once all seeds are done, and then is about them.
        (folder / SEEDS).unlink(missing_ok=True)
        measured.append(_measured(done))
    found = SeedRuns(
        folder, runs, {protocol: _table([each[protocol] for each in measured]) for protocol in measured[0]}
    )
    write_text(folder / SEEDS, json.dumps(found.document(), ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    return found


@dataclass(frozen=True)
class _Measured:
    """What is kept of one run's evaluation: its numbers, and not the scores of every user."""

    columns: Mapping[str, Column]
    models: Mapping[str, Metrics]


def _measured(done: pipeline.Run) -> Mapping[str, _Measured]:
    """By protocol."""
    return {
        evaluation.protocol: _Measured(
            {name: evaluation.columns[name] for name in evaluation.main_columns},
            {model: result.metrics for model, result in evaluation.models.items()},
        )
        for evaluation in done.evaluations
    }


def _table(runs: Sequence[_Measured]) -> SeedTable:
    columns = runs[0].columns
    return SeedTable(
        columns,
        {
            model: {name: _spread(tuple(run.models[model][name] for run in runs)) for name in columns}
            for model in runs[0].models
        },
    )


def _spread(values: tuple[float, ...]) -> Spread:
    known = [value for value in values if not math.isnan(value)]
    return Spread(values, over_seeds(known) if known else OverSeeds(*[math.nan] * 4))


def _fields(spread: Spread) -> dict[str, Any]:
    over = {name: _null_for_nan(value) for name, value in asdict(spread.over).items()}
    return {"values": [_null_for_nan(value) for value in spread.values], **over}


def _null_for_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
