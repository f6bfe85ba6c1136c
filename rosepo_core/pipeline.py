"""The whole flow: dataset -> split -> SFT -> oracle -> rejected sampling -> preferences -> alignment -> evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rosepo_core.config import RunConfig
from rosepo_core.errors import RequestError, nearest
from rosepo_core.registry import Registry, load_plugins
from rosepo_core.stages import alignment, comparison, dataset, oracle, preferences, results, sampling, sft, split
from rosepo_core.stages.evaluation import Evaluation
from rosepo_core.stages.session import RunReporter, Session
from rosepo_core.store import CONFIG, RunStore, fingerprint, write_text

STAGES = ("dataset", "split", "sft", "oracle", "sampling", "preferences", "aligned", "evaluation")
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
    return Path("runs") / f"{config.dataset.name}-{config.loss.name}-{fingerprint(config.resolved(registry))[:8]}"


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
        RequestError: something in the request or the data is wrong; nothing new is left behind.
    """
    if until is not None and until not in STAGES:
        raise RequestError(f"unknown stage '{until}'{nearest(until, STAGES)}")
    registry = registry or load_plugins()
    with _opened(config, RunStore(folder), registry, reporter) as session:
        for stage, table in _stages(session):
            if stage == until:
                break
    return Run(folder, table)


def _stages(session: Session) -> Iterator[tuple[str, Evaluation | None]]:
    """The flow, one step a stage; whoever iterates may stop after any."""
    corpus = dataset.stage(session)
    yield "dataset", None
    cut = split.stage(session, corpus)
    data = split.load_split(cut.folder)
    yield "split", None
    tuned = sft.stage(session, cut, data)
    yield "sft", None
    judge = oracle.stage(session, cut, data)
    yield "oracle", None
    rejected = sampling.stage(session, cut, data, tuned)
    yield "sampling", None
    pairs = preferences.stage(session, data, tuned, judge, rejected)
    yield "preferences", None
    aligned = alignment.stage(session, data, tuned, pairs)
    yield "aligned", None
    table = comparison.stage(session, cut, data, tuned, judge, aligned)
    results.write(session, data, table)
    yield "evaluation", table


@contextmanager
def _opened(config: RunConfig, store: RunStore, registry: Registry, reporter: RunReporter) -> Iterator[Session]:
    """A session whose folder is as it was before when the request turns out wrong before any stage is done."""
    session = Session(config, store, registry, reporter)
    text = config.to_toml(registry)
    file = store.folder / CONFIG
    before = file.read_text(encoding="utf-8") if file.exists() else None
    try:
        store.folder.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
        yield session
        results.write_environment(session)
    except RequestError:
        if not session.artifacts:
            if before is None:
                store.discard()
            else:
                write_text(file, before)
        raise
