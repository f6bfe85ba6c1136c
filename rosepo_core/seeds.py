"""The same configuration under several seeds, to see how much the numbers depend on chance.

Everything random differs between seeds: the adapter's first weights, the order of batches, the oracle's training,
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

from rosepo_core import pipeline, ranks
from rosepo_core.config import RunConfig
from rosepo_core.contracts.errors import RequestError
from rosepo_core.evaluation import side_by_side
from rosepo_core.evaluation.measurement import Column, Metrics
from rosepo_core.evaluation.over_seeds import ComparedModels, compare_over_seeds
from rosepo_core.evaluation.results import Evaluation
from rosepo_core.evaluation.statistics import OverSeeds, over_seeds
from rosepo_core.plugins.registry import Registry
from rosepo_core.report import outputs
from rosepo_core.stages.session import RunReporter, shown
from rosepo_core.store.files import write_text
from rosepo_core.store.marker import MARKER, is_run
from rosepo_core.store.seed_folders import seed_runs

SEEDS = "seeds.json"
SCHEMA = 1
LARGEST = 2**32 - 1


@dataclass(frozen=True)
class Spread:
    """One column of one model over seeds.

    Attributes:
        values: one for each seed; NaN if the metric applied to no user.
        over: statistics of the values that are not NaN; all NaN if there is no such value.
    """

    values: tuple[float, ...]
    over: OverSeeds


@dataclass(frozen=True)
class SeedTable:
    """All models under one protocol.

    Attributes:
        columns: the main columns, by name such as ``"hr@10"``.
        models: the values of each model and column.
    """

    columns: Mapping[str, Column]
    models: Mapping[str, Mapping[str, Spread]]


@dataclass(frozen=True)
class SeedRuns:
    """Finished runs that differ in their seed only.

    Attributes:
        folder: the folder with the runs and seeds.json.
        runs: the run folder of each seed, ascending.
        tables: the table of each protocol.
    """

    folder: Path
    runs: Mapping[int, Path]
    tables: Mapping[str, SeedTable]

    def document(self) -> dict[str, Any]:
        """The contents of seeds.json: ``schema``; ``seeds``, ascending; ``runs``, the names of their folders, in the
        same order; ``protocols``: by protocol, model and column, the ``values`` in the same order and the fields of
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


def default_folder(config: RunConfig) -> Path:
    """The default folder for several seeds: that of a single run, with ``-seeds`` at its end. It does not depend on
    the number of seeds."""
    one = pipeline.default_folder(config)
    return one.with_name(f"{one.name}-seeds")


def seed_folders(config: RunConfig, folder: Path, count: int) -> dict[int, Path]:
    """The run folder of each seed: ``FOLDER/seed-S``, where S starts with the configured seed.

    Raises:
        RequestError: the number of seeds is impossible, or `folder` has other content than runs under seeds.
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
    """Run the configuration under `count` seeds, starting with its own, and write `folder`/seeds.json when all are
    done.

    Each seed is a complete run. Finished stages, and stages that are the same for all seeds, are reused. So the same
    call continues where it stopped, and a larger `count` adds seeds. `force` and `overwrite` are as in
    `pipeline.run`.

    Raises:
        RequestError: something in the request or the data is wrong. If the first run finds this before fine-tuning is
            done, `folder` stays as it was.
    """
    reporter = shown(reporter)
    runs = seed_folders(config, folder, count)
    existed = folder.exists()
    ranks.meet("before the first seed")
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
            if not existed and ranks.is_first():
                # This works only if the folder is empty.
                with suppress(OSError):
                    folder.rmdir()
            raise
        # seeds.json exists only when all seeds are done, and always describes these.
        if ranks.is_first():
            (folder / SEEDS).unlink(missing_ok=True)
        measured.append(_measured(done))
    return _written(folder, runs, measured)


def evaluate(
    folder: Path,
    overrides: Sequence[tuple[str, Any]],
    reporter: RunReporter,
    *,
    protocols: Sequence[str] = (),
    registry: Registry | None = None,
) -> SeedRuns:
    """Call `pipeline.evaluate` for each run of a folder of seeds, and write seeds.json again.

    Raises:
        RequestError: as `pipeline.evaluate`.
    """
    reporter = shown(reporter)
    runs = seed_runs(folder)
    measured = []
    for place, (seed, run_folder) in enumerate(runs.items(), 1):
        reporter.note(f"seed {seed} ({place} of {len(runs)}): {run_folder}")
        done = pipeline.evaluate(run_folder, overrides, reporter, protocols=protocols, registry=registry)
        measured.append(_measured(done))
    return _written(folder, runs, measured)


def compare(
    folders: Sequence[Path], metric: str, reporter: RunReporter, *, registry: Registry | None = None
) -> list[ComparedModels]:
    """Call `pipeline.compare` for the runs of each seed, and combine the results over all seeds, one for each
    protocol.

    Args:
        folders: folders with runs under the same seeds.
        metric: the column that is compared.
        reporter: receives the progress.
        registry: the plugins; by default those that are installed.

    Raises:
        RequestError: as `pipeline.compare`; or the folders have different seeds, or seeds have different scores.
    """
    by_seed = _runs_by_seed(folders)
    labels = side_by_side.labels(folders)
    found: dict[str, dict[int, Evaluation]] = {}
    for seed, runs in by_seed.items():
        for evaluation in pipeline.compare(runs, metric, reporter, labels=labels, registry=registry):
            found.setdefault(evaluation.protocol, {})[seed] = evaluation
    shared = [each for each in found.values() if each.keys() == by_seed.keys()]
    for evaluations in shared:
        _check_same_comparisons(evaluations)
    return [compare_over_seeds(each, metric) for each in shared]


def _check_same_comparisons(evaluations: Mapping[int, Evaluation]) -> None:
    """Check that the same models are compared under each seed.

    Raises:
        RequestError: they are not, because the runs of some seeds were ranked by another score.
    """
    pairs = {seed: {(each.model, each.baseline) for each in of.comparisons} for seed, of in evaluations.items()}
    first = next(iter(pairs))
    for seed, of_seed in pairs.items():
        if of_seed != pairs[first]:
            raise RequestError(
                f"the runs of seed {seed} rank by another score than those of seed {first}: evaluate each folder by "
                "one score, `rosepo evaluate FOLDER --ranking.score SCORE`"
            )


def report(folders: Sequence[Path], out: Path, reporter: RunReporter, *, registry: Registry | None = None) -> None:
    """Write the report of one or more folders of seeds, with means over seeds, and tests over seeds and users.

    Raises:
        RequestError: as `pipeline.report`; or the folders have different seeds.
    """
    labels = side_by_side.labels(folders)
    seeds = {
        seed: pipeline.report_data(runs, reporter, labels=labels, registry=registry)
        for seed, runs in _runs_by_seed(folders).items()
    }
    first = next(iter(next(iter(seeds.values())).values()))
    title = (
        f"{first.title}, {len(seeds)} seeds" if len(folders) == 1 else f"{' and '.join(labels)}, {len(seeds)} seeds"
    )
    outputs.write_seed_report(title, seeds, out)


def _runs_by_seed(folders: Sequence[Path]) -> dict[int, list[Path]]:
    """The runs of each seed, one from each folder.

    Raises:
        RequestError: the folders have different seeds.
    """
    runs = [seed_runs(folder) for folder in folders]
    for folder, of_folder in zip(folders, runs, strict=True):
        if of_folder.keys() != runs[0].keys():
            raise RequestError(
                f"{folders[0]} has the seeds {', '.join(map(str, runs[0]))} and {folder} "
                f"{', '.join(map(str, of_folder))}: run both under the same, for they are compared seed by seed"
            )
    return {seed: [of_folder[seed] for of_folder in runs] for seed in runs[0]}


def _written(folder: Path, runs: Mapping[int, Path], measured: Sequence[Mapping[str, _Measured]]) -> SeedRuns:
    """The tables of protocols that all seeds have, after seeds.json is written."""
    shared = [protocol for protocol in measured[0] if all(protocol in each for each in measured)]
    tables = {protocol: _table([each[protocol] for each in measured]) for protocol in shared}
    found = SeedRuns(folder, runs, tables)
    if ranks.is_first():
        document = json.dumps(found.document(), ensure_ascii=False, allow_nan=False, indent=1)
        write_text(folder / SEEDS, document + "\n")
    return found


@dataclass(frozen=True)
class _Measured:
    """The numbers of one run's evaluation, without the scores of single users."""

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
    # Metrics and scores may have been added to some of the runs only.
    columns = {name: column for name, column in runs[0].columns.items() if all(name in run.columns for run in runs)}
    return SeedTable(
        columns,
        {
            model: {name: _spread(tuple(run.models[model][name] for run in runs)) for name in columns}
            for model in runs[0].models
            if all(model in run.models for run in runs)
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
