"""The whole flow: dataset, split, SFT, oracle, rejected sampling, reference, preferences, alignment,
evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosepo_core.config import RunConfig, added_to, as_written, load_config
from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.contracts.records import Split
from rosepo_core.engine.models import Adapter, find_adapter
from rosepo_core.engine.saved_template import read_template
from rosepo_core.evaluation import ranked_models, side_by_side
from rosepo_core.evaluation.results import Evaluation
from rosepo_core.registry import Registry, load_plugins
from rosepo_core.report import outputs
from rosepo_core.report.page import ReportData
from rosepo_core.stages import aligned, dataset, evaluation, oracle, preferences, reference, sampling, sft, split
from rosepo_core.stages.session import FinishedSession, Handle, RunReporter, Session, UntilReached
from rosepo_core.stages.trained import Trained
from rosepo_core.store import CONFIG, UNFINISHED, RunStore, check_artifact, fingerprint, read_manifest

STAGES = ("dataset", "split", "sft", "oracle", "sampling", "reference", "preferences", "aligned", "evaluation")
"""The stages in their order, as `until` names them."""


@dataclass(frozen=True)
class Run:
    """What a run left.

    Attributes:
        folder: the run folder.
        evaluations: the tables, one a protocol, where the run went so far; else empty.
    """

    folder: Path
    evaluations: tuple[Evaluation, ...] = ()


def default_folder(config: RunConfig, registry: Registry, *, trained: bool = True) -> Path:
    """``runs/DATASET-LOSS-FINGERPRINT``, or ``runs/DATASET-MODEL-FINGERPRINT`` where nothing is `trained`: one folder
    for each resolved configuration."""
    # A plugin may be named as DISTRIBUTION/NAME.
    dataset_name, loss = (name.rpartition("/")[2] for name in (config.dataset.name, config.loss.name))
    what = loss if trained else ranked_models.model_name(config.model.name)
    return Path("runs") / "-".join([dataset_name, what, fingerprint(config.that_decides())[:8]])


def run(
    config: RunConfig,
    folder: Path,
    reporter: RunReporter,
    *,
    registry: Registry | None = None,
    until: str | None = None,
    force: Sequence[str] = (),
    overwrite: bool = False,
) -> Run:
    """Run every stage up to `until` in `folder`, reusing what this run or one beside it has made before.

    What replaces artifacts of the run waits in RUN/unfinished until the run is done again; until then the folder is
    that of the run which was there.

    Args:
        config: the configuration.
        folder: the run folder.
        reporter: hears how far the work is.
        registry: the plugins, those that are installed if not given.
        until: the last stage to do; all if not given.
        force: stages to make anew with all that is made of them, though nothing has changed; ``"evaluation"`` asks
            all models again.
        overwrite: a finished run of another configuration may be replaced.

    Raises:
        RequestError: something in the request or the data is wrong. Where this is found before fine-tuning is done,
            the folder is left as it was; later, the finished stages are kept.
    """
    registry = registry or load_plugins()
    if until is not None:
        _check_stage(until)
    forced = forced_stages(force)
    store = RunStore(folder)
    if not overwrite:
        check_not_finished_otherwise(config, folder, registry)
    tables: tuple[Evaluation, ...] = ()
    # The last stage is followed by what is written about the run.
    until = None if until == STAGES[-1] else until
    with _opened(config, store, registry, reporter, until=until, forced=forced) as session:
        trained = train(session)
        models = ranked_models.of_run(session, trained)
        tables = evaluation.stage(session, trained.split, trained.candidates, models, trained.oracle)
        outputs.write(session, trained, tables)
    return Run(folder, tables)


def _check_stage(stage: str) -> None:
    if stage not in STAGES:
        raise RequestError(f"unknown stage '{stage}'{nearest(stage, STAGES)}")


def forced_stages(names: Sequence[str]) -> Callable[[str], bool]:
    """Whether a stage, or what evaluation asks of a model, is one that `names` say to make anew.

    Raises:
        RequestError: there is no such stage.
    """
    for name in names:
        _check_stage(name)
    return lambda stage: stage in names or (STAGES[-1] in names and stage not in STAGES)


def check_not_finished_otherwise(config: RunConfig, folder: Path, registry: Registry) -> None:
    """See that `folder` holds no finished run of another configuration; keys that change no result do not count.

    Raises:
        RequestError: it does.
    """
    if not read_manifest(folder / STAGES[-1]):
        return
    try:
        before = load_config(folder / CONFIG, [], registry).that_decides()
    except RequestError:
        before = {}
    now = config.that_decides()
    other = [key for section in now for key in _differing(section, before.get(section), now[section])]
    if other:
        shown = ", ".join(other[:3]) + (f" and {len(other) - 3} more" if len(other) > 3 else "")
        raise RequestError(
            f"{folder} holds a finished run of another configuration ({shown}): choose another --run, or replace it "
            "with --overwrite"
        )


def _differing(section: str, before: Any, now: Any) -> list[str]:
    """The keys of a section that differ; the section where it is no table, or a list of them."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return [] if before == now else [section]
    return [f"{section}.{key}" for key in {**now, **before} if before.get(key) != now.get(key)]


def train(session: Session) -> Trained:
    """The stages before evaluation, in their order."""
    sft.check(session)
    sampling.check_request(session)
    corpus = dataset.stage(session)
    held_out = split.stage(session, corpus)
    # Before anything costly, so that what cannot be drawn or asked is turned down at once.
    candidates = evaluation.draw_candidates(session, held_out)
    fine_tuned = sft.stage(session, held_out)
    session.store.commit()
    smoothing = oracle.stage(session, held_out)
    rejected = sampling.stage(session, held_out, fine_tuned, smoothing)
    scored = reference.stage(session, held_out, fine_tuned, rejected)
    pairs = preferences.stage(session, held_out, smoothing, rejected, scored)
    preferred = aligned.stage(session, held_out, fine_tuned, pairs)
    return Trained(held_out, candidates, fine_tuned, smoothing, pairs, preferred)


def evaluate(
    folder: Path,
    overrides: Sequence[tuple[str, Any]],
    reporter: RunReporter,
    *,
    protocols: Sequence[str] = (),
    registry: Registry | None = None,
) -> Run:
    """The tables of a finished run, made anew where `overrides` change the section ``[evaluation]`` or the metrics;
    nothing is trained.

    Protocols, metrics, their cut-offs and the held-out part are added to those that the run has: its tables grow, and
    what was asked before is not asked again.

    Args:
        folder: the run.
        overrides: as `load_config` takes them.
        reporter: hears how far the work is.
        protocols: further ones.
        registry: the plugins.

    Raises:
        RequestError: there is no run or it is not finished; another section is to be changed; or a metric that the
            run has is to be measured with other options. The run is left as it was.
    """
    for key, _ in overrides:
        if key.partition(".")[0] not in ("evaluation", "metric"):
            raise RequestError(
                f"'{key}' cannot be changed in a finished run, only evaluation.* and metric can: train a new one"
            )
    registry = registry or load_plugins()
    store = RunStore.open(folder)
    if _only_evaluates(folder):
        raise RequestError(
            f"{folder} holds the evaluation of a model: name the model again, --model, and --run {folder}"
        )
    further = [*overrides, *([("evaluation.protocols", list(protocols))] if protocols else [])]
    config = added_to(load_config(folder / CONFIG, [], registry), load_config(folder / CONFIG, further, registry))
    with _opened(config, store, registry, reporter, finished=True) as session:
        trained, tables = _evaluated(session)
        outputs.write(session, trained, tables)
    return Run(folder, tables)


EVALUATED = ("seed", "deterministic", "dataset", "split", "model", "prompt", "evaluation", "metric")
"""The sections of a configuration that say something of a model which is only evaluated."""


def evaluation_config(file: Path | None, overrides: Sequence[tuple[str, Any]], registry: Registry) -> RunConfig:
    """As `load_config`, for `evaluate_model`: a model that brings its prompt template is asked with that, in place of
    what the file or the defaults say; an override of the prompt stands above it.

    Raises:
        RequestError: also where an override is of another section than `EVALUATED`, or the model's prompt template
            cannot be read.
    """
    for key, _ in overrides:
        if key.partition(".")[0] not in EVALUATED:
            raise RequestError(
                f"'{key}' says nothing of a model that is only evaluated; known: {', '.join(EVALUATED)}"
            )
    config = load_config(file, overrides, registry)
    saved = read_template(Path(config.model.name).expanduser())
    if saved is None:
        return config
    own: list[tuple[str, Any]] = [("dataset.history_length", saved.history_length)]
    # Options belong to the name beside them: those of another template than the one that is asked for say nothing.
    if config.prompt.name == saved.name or not any(key in ("prompt", "prompt.name") for key, _ in overrides):
        own += [("prompt", saved.name), *((f"prompt.{key}", value) for key, value in saved.options.items())]
    return load_config(file, [*((key, as_written(value)) for key, value in own), *overrides], registry)


def evaluate_model(
    config: RunConfig, folder: Path, reporter: RunReporter, *, registry: Registry | None = None
) -> Run:
    """Evaluate the model that ``[model]`` names, beside popularity, in a run folder of its own; nothing is trained.

    The model may be anything that a run can start from, or a folder with a PEFT adapter, which names its base model
    in ``adapter_config.json``; prompts are made by the base model's tokenizer. Sections beside `EVALUATED` are not
    used.

    Raises:
        RequestError: something in the request, the data or the model is wrong; the folder is left as it was.
    """
    registry = registry or load_plugins()
    store = RunStore(folder)
    if read_manifest(folder / "sft"):
        raise RequestError(f"{folder} is a run that trained a model: choose another --run")
    adapter = find_adapter(config.model.name, reporter)
    with _opened(config, store, registry, reporter, base=adapter.base if adapter else None) as session:
        _, tables = _evaluated_model(session, adapter)
        outputs.write_tables(session, tables)
    return Run(folder, tables)


def report(folders: Sequence[Path], out: Path, reporter: RunReporter, *, registry: Registry | None = None) -> None:
    """Write the report of finished runs, one or several side by side, to `out`.

    Raises:
        RequestError: there is no such run or it is not finished; several did not rank the same candidates for the
            same users; or `out` cannot be written.
    """
    outputs.write_report(report_data(folders, reporter, registry=registry), out)


def report_data(
    folders: Sequence[Path],
    reporter: RunReporter,
    *,
    labels: Sequence[str] | None = None,
    registry: Registry | None = None,
) -> dict[str, ReportData]:
    """What a report shows of finished runs, by their labels: what tells their folders apart if none are given.

    Raises:
        RequestError: there is no such run, or it is not finished.
    """
    return {
        label: outputs.report_data(session, trained, tables)
        for label, session, trained, tables in _finished(folders, labels, reporter, registry)
    }


def compare(
    folders: Sequence[Path],
    metric: str,
    reporter: RunReporter,
    *,
    labels: Sequence[str] | None = None,
    registry: Registry | None = None,
) -> list[Evaluation]:
    """One evaluation a protocol of all models of finished runs, with what each later run is about, its aligned model
    or the one that it only evaluates, compared with the first's.

    Args:
        folders: of `run` or `evaluate_model`.
        metric: the column that is compared.
        reporter: hears how far the work is.
        labels: of the runs; what tells their folders apart if not given.
        registry: of plugins, those that are installed if not given.

    Raises:
        RequestError: as `report`; or there is no such metric for single users.
    """
    registry = registry or load_plugins()
    # All are opened before any is worked on: a mistyped one must not cost the time of the others.
    stores = [RunStore.open(folder) for folder in folders]
    found: dict[str, side_by_side.RunEvaluation] = {}
    for label, store in zip(labels or side_by_side.labels(folders), stores, strict=True):
        config = load_config(store.folder / CONFIG, [], registry)
        with store.working(store.config, STAGES, reading=True):
            if _only_evaluates(store.folder):
                adapter = find_adapter(config.model.name, reporter)
                session = Session(config, store, registry, reporter, base=adapter.base if adapter else None)
                held_out, tables = _evaluated_model(session, adapter)
                subject = ranked_models.model_name(config.model.name)
            else:
                trained, tables = _evaluated(FinishedSession(config, store, registry, reporter, STAGES[:-1]))
                held_out = trained.split
                subject = "aligned"
            data = held_out.content
        found[label] = side_by_side.RunEvaluation(tables, data.users, data.catalogue.ids, subject)
    return side_by_side.side_by_side(found, metric)


def _finished(
    folders: Sequence[Path], labels: Sequence[str] | None, reporter: RunReporter, registry: Registry | None
) -> Iterator[tuple[str, Session, Trained, tuple[Evaluation, ...]]]:
    """Finished runs with their labels. Their files stay as they are, unless something that they were made with has
    changed since."""
    registry = registry or load_plugins()
    stores = [RunStore.open(folder) for folder in folders]
    for folder in filter(_only_evaluates, folders):
        raise RequestError(
            f"{folder} only evaluates a model (`rosepo evaluate --model`): a report is of runs that trained; `rosepo "
            "compare` takes it"
        )
    for label, store in zip(labels or side_by_side.labels(folders), stores, strict=True):
        with store.working(store.config, STAGES, reading=True):
            config = load_config(store.folder / CONFIG, [], registry)
            session = FinishedSession(config, store, registry, reporter, STAGES[:-1])
            yield label, session, *_evaluated(session)


def _only_evaluates(folder: Path) -> bool:
    """Whether a run folder is one of `evaluate_model`."""
    return bool(read_manifest(folder / "evaluation")) and not read_manifest(folder / "sft")


def _evaluated(session: Session) -> tuple[Trained, tuple[Evaluation, ...]]:
    """The tables of a run that has trained."""
    trained = train(session)
    models = ranked_models.of_run(session, trained)
    return trained, evaluation.stage(session, trained.split, trained.candidates, models, trained.oracle)


def _evaluated_model(session: Session, adapter: Adapter | None) -> tuple[Handle[Split], tuple[Evaluation, ...]]:
    """The tables of the model that the configuration names."""
    held_out = split.stage(session, dataset.stage(session))
    candidates = evaluation.draw_candidates(session, held_out)
    models = ranked_models.of_model(session, held_out, adapter)
    return held_out, evaluation.stage(session, held_out, candidates, models)


@contextmanager
def _opened(
    config: RunConfig,
    store: RunStore,
    registry: Registry,
    reporter: RunReporter,
    *,
    base: str | None = None,
    until: str | None = None,
    finished: bool = False,
    forced: Callable[[str], bool] = lambda _: False,
) -> Iterator[Session]:
    """A session on a folder that is left as it was if the request turns out wrong before `RunStore.commit`."""
    session = (
        FinishedSession(config, store, registry, reporter, STAGES[:-1])
        if finished
        else Session(config, store, registry, reporter, base=base, until=until, forced=forced)
    )
    check_artifact(Path(config.model.name).expanduser())
    with store.working(config.to_toml(), STAGES):
        with suppress(UntilReached):
            yield session
        outputs.write_environment(session)
    if store.is_apart:
        reporter.note(
            f"{store.folder} stays as it was: the new stages wait in {store.folder / UNFINISHED} until each stage of "
            "the run has its successor; run the same command without --until"
        )
