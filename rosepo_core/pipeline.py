"""The whole flow: dataset, split, SFT, oracle, rejected sampling, reference, preferences, alignment,
evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosepo_core.config import RunConfig, load_config
from rosepo_core.errors import RequestError, nearest
from rosepo_core.records import Split
from rosepo_core.registry import Registry, load_plugins
from rosepo_core.stages import (
    alignment,
    comparison,
    dataset,
    oracle,
    preferences,
    reference,
    results,
    sampling,
    several,
    sft,
    split,
)
from rosepo_core.stages.evaluation import Evaluation
from rosepo_core.stages.session import RunReporter, Session
from rosepo_core.store import CONFIG, RunStore, fingerprint

STAGES = ("dataset", "split", "sft", "oracle", "sampling", "reference", "preferences", "aligned", "evaluation")
"""The stages in their order, as `until` names them."""


@dataclass(frozen=True)
class Run:
    """What a run left.

    Attributes:
        folder: the run folder.
        evaluation: the table, where the run went so far.
    """

    folder: Path
    evaluation: Evaluation | None


def default_folder(config: RunConfig, registry: Registry) -> Path:
    """``runs/DATASET-LOSS-FINGERPRINT``: one folder for each resolved configuration."""
    # A plugin may be named as DISTRIBUTION/NAME.
    names = [name.rpartition("/")[2] for name in (config.dataset.name, config.loss.name)]
    return Path("runs") / "-".join([*names, fingerprint(config.resolved(registry))[:8]])


def run(
    config: RunConfig,
    folder: Path,
    reporter: RunReporter,
    *,
    registry: Registry | None = None,
    until: str | None = None,
) -> Run:
    """Run every stage up to `until` in `folder`, reusing what this run or one beside it has made before.

    Raises:
        RequestError: something in the request or the data is wrong. Where this is found before fine-tuning is done,
            the folder is left as it was; later, the finished stages are kept.
    """
    if until is not None and until not in STAGES:
        raise RequestError(f"unknown stage '{until}'{nearest(until, STAGES)}")
    registry = registry or load_plugins()
    table: Evaluation | None = None
    with _opened(config, RunStore(folder), registry, reporter) as session:
        for stage, evaluation in _stages(session):
            table = evaluation
            if stage == until:
                break
    return Run(folder, table)


def evaluate(
    folder: Path,
    overrides: Sequence[tuple[str, Any]],
    reporter: RunReporter,
    *,
    registry: Registry | None = None,
) -> Run:
    """The table of a finished run, made anew where `overrides` change the section ``[evaluation]`` or the metrics;
    nothing is trained.

    Raises:
        RequestError: there is no run or it is not finished, or another section is to be changed; the run is left as
            it was.
    """
    for key, _ in overrides:
        if key.partition(".")[0] not in ("evaluation", "metric"):
            raise RequestError(
                f"'{key}' cannot be changed in a finished run, only evaluation.* and metric can: train a new one"
            )
    registry = registry or load_plugins()
    store = RunStore.open(folder)
    config = load_config(folder / CONFIG, overrides, registry)
    with _opened(config, store, registry, reporter) as session:
        data, table = _evaluated(session)
        results.write(session, data, table)
    return Run(folder, table)


def report(folders: Sequence[Path], out: Path, reporter: RunReporter, *, registry: Registry | None = None) -> None:
    """Write the report of finished runs, one or several side by side, to `out`.

    Raises:
        RequestError: there is no such run or it is not finished; several did not rank the same candidates for the
            same users; or `out` cannot be written.
    """
    reports = {
        label: results.report_data(session, data, [table])
        for label, session, data, table in _finished(folders, reporter, registry)
    }
    results.write_report(reports, out)


def compare(folders: Sequence[Path], reporter: RunReporter, *, registry: Registry | None = None) -> list[Evaluation]:
    """One evaluation a protocol of all models of finished runs; `rosepo_core.stages.several.compare` tests them.

    Raises:
        RequestError: as `report`.
    """
    return several.merged(
        {
            label: several.RunEvaluation([table], data.users, data.catalogue.ids)
            for label, _, data, table in _finished(folders, reporter, registry)
        }
    )


def _finished(
    folders: Sequence[Path], reporter: RunReporter, registry: Registry | None
) -> Iterator[tuple[str, Session, Split, Evaluation]]:
    """Finished runs with their labels; none of their files is changed."""
    registry = registry or load_plugins()
    stores = [RunStore.open(folder) for folder in folders]
    for label, store in zip(several.labels(folders), stores, strict=True):
        session = Session(load_config(store.folder / CONFIG, [], registry), store, registry, reporter)
        yield label, session, *_evaluated(session)


def _evaluated(session: Session) -> tuple[Split, Evaluation]:
    """The table of a session whose other stages are done."""
    done = {stage: session.finished(stage) for stage in STAGES[:-1]}
    data = split.load_split(done["split"].folder)
    drawn = comparison.draw(session, done["split"], data)
    return data, comparison.stage(session, done["split"], drawn, data, done["sft"], done["oracle"], done["aligned"])


def _stages(session: Session) -> Iterator[tuple[str, Evaluation | None]]:
    """The flow, one step a stage; whoever iterates may stop after any."""
    corpus = dataset.stage(session)
    yield "dataset", None
    cut = split.stage(session, corpus)
    data = split.load_split(cut.folder)
    yield "split", None
    # Before anything costly, so that a request for more candidates than there are is turned down at once.
    drawn = comparison.draw(session, cut, data)
    tuned = sft.stage(session, cut, data)
    session.store.commit()
    yield "sft", None
    judge = oracle.stage(session, cut, data)
    yield "oracle", None
    rejected = sampling.stage(session, cut, data, tuned)
    yield "sampling", None
    scored = reference.stage(session, data, tuned, rejected)
    yield "reference", None
    pairs = preferences.stage(session, data, judge, rejected, scored)
    yield "preferences", None
    aligned = alignment.stage(session, data, tuned, pairs)
    yield "aligned", None
    table = comparison.stage(session, cut, drawn, data, tuned, judge, aligned)
    results.write(session, data, table)
    yield "evaluation", table


@contextmanager
def _opened(config: RunConfig, store: RunStore, registry: Registry, reporter: RunReporter) -> Iterator[Session]:
    """A session on a folder that is left as it was if the request turns out wrong before `RunStore.commit`."""
    session = Session(config, store, registry, reporter)
    store.begin(config.to_toml(registry))
    try:
        yield session
    except RequestError:
        store.roll_back()
        raise
    finally:
        store.commit()
    results.write_environment(session)
