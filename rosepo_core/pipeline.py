"""The whole pipeline: dataset, split, SFT, oracle, rejected sampling, reference, preferences, alignment,
evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosepo_core import ranks
from rosepo_core.config import RunConfig, added_to, as_written, column_name, load_config
from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.contracts.paths import expanded
from rosepo_core.contracts.records import Split
from rosepo_core.engine.models import Adapter, find_adapter, resolve_model
from rosepo_core.engine.policy import PolicySlot
from rosepo_core.engine.saved_template import read_template
from rosepo_core.engine.training.validation import Heard
from rosepo_core.evaluation import outside, ranked_models, side_by_side
from rosepo_core.evaluation.results import Evaluation
from rosepo_core.plugins.one_file import check_recorded
from rosepo_core.plugins.recorded import as_made, read_records
from rosepo_core.plugins.registry import Registry, load_plugins
from rosepo_core.report import outputs
from rosepo_core.report.in_notebooks import as_html, in_short
from rosepo_core.report.page import ReportData
from rosepo_core.stages import (
    STAGES,
    aligned,
    dataset,
    evaluation,
    optimization,
    oracle,
    preferences,
    prior,
    ratings,
    reference,
    sampling,
    sft,
    split,
)
from rosepo_core.stages.rounds import rounds_of, stages_of
from rosepo_core.stages.session import (
    FinishedSession,
    Handle,
    ReadingSession,
    RunReporter,
    Session,
    UntilReached,
    shown,
)
from rosepo_core.stages.trained import Trained, TrainedRound
from rosepo_core.store import fingerprint
from rosepo_core.store.artifacts import check_artifact, is_own_artifact, read_manifest
from rosepo_core.store.changes import CONFIG, UNFINISHED
from rosepo_core.store.marker import read_listed
from rosepo_core.store.run_store import RunStore, has_stage
from rosepo_core.store.shared_store import SharedStore


@dataclass(frozen=True)
class Run:
    """The result of a run.

    Attributes:
        folder: the run folder.
        evaluations: the tables, one for each protocol; empty if the run ended before evaluation.
    """

    folder: Path
    evaluations: tuple[Evaluation, ...] = ()

    def __repr__(self) -> str:
        return f"<Run {self.folder}: {in_short(self.evaluations)}>"

    def _repr_html_(self) -> str:
        """The table, for notebooks."""
        return as_html(self.evaluations)


def default_folder(config: RunConfig, *, trained: bool = True) -> Path:
    """``runs/DATASET-SAMPLER-ORACLE-LOSS-FINGERPRINT``, or ``runs/DATASET-MODEL-FINGERPRINT`` where nothing is
    `trained`: one folder for each resolved configuration. Several samplers or losses are joined by ``+``."""
    sections = ("dataset", "sampler", "oracle", "loss") if trained else ("dataset",)
    # A plugin may be named as DISTRIBUTION/NAME.
    names = ["+".join(column_name(choice.name) for choice in config.choices(section)) for section in sections]
    if not trained:
        names.append(ranked_models.model_name(config.model.name))
    return Path("runs") / "-".join([*names, fingerprint(config.that_decides())[:8]])


def run(
    config: RunConfig,
    folder: Path,
    reporter: RunReporter,
    *,
    registry: Registry | None = None,
    until: str | None = None,
    force: Sequence[str] = (),
    overwrite: bool = False,
    heard: Heard | None = None,
    policy: PolicySlot | None = None,
) -> Run:
    """Run every stage up to `until` in `folder`. Finished stages of this run, or of runs beside it, are reused.

    New artifacts that will replace artifacts of the run wait in RUN/unfinished until all are done. Until then, the
    folder holds the old run.

    Args:
        config: the configuration.
        folder: the run folder.
        reporter: receives the progress.
        registry: the plugins; by default those that are installed.
        until: the last stage to do; by default all stages are done.
        force: stages to make again although nothing has changed, with all stages that depend on them. With
            ``"evaluation"``, all models are asked again.
        overwrite: whether a finished run of another configuration may be replaced.
        heard: is told each result of validation during SFT: step and value. What it raises ends the run, and what is
            done is kept.
        policy: holds the model of the section ``[model]`` for several runs of this process: it is loaded once.

    Raises:
        RequestError: something in the request or the data is wrong. If this is found before fine-tuning is done, the
            folder stays as it was; later, the finished stages are kept.
    """
    registry, reporter = registry or load_plugins(), shown(reporter)
    if until is not None:
        check_stage(until, config.rounds)
    forced = forced_stages(force, config.rounds)
    store = SharedStore(folder)
    if not overwrite:
        config = to_go_on_with(config, folder, registry)
    tables: tuple[Evaluation, ...] = ()
    # After the last stage, the report and other files about the run are written, so it must not end the session.
    until = None if until == STAGES[-1] else until
    with _opened(
        config, store, registry, reporter, until=until, forced=forced, heard=heard, policy=policy
    ) as session:
        if "oracle" in (until, *force) and not oracle.needed(session):
            raise RequestError("nothing in this run asks the oracle, so the run has no stage 'oracle'")
        trained = train(session)
        tables = _tables(session, trained)
        if ranks.is_first():
            outputs.write(session, trained, tables)
    return Run(folder, tables)


def check_stage(stage: str, rounds: int) -> None:
    """
    Raises:
        RequestError: a run with so many rounds has no such stage.
    """
    known = stages_of(rounds)
    if stage not in known:
        raise RequestError(f"unknown stage '{stage}'{nearest(stage, known)}")


def forced_stages(names: Sequence[str], rounds: int = 1) -> Callable[[str], bool]:
    """A function that says whether a stage of a run with so many rounds must be made again because of `names`.

    The answers of models in evaluation are artifacts of their own, and belong to the name ``"evaluation"``. A prior
    does not, because a model may have been trained with it; it is made again with the model that it belongs to.

    Raises:
        RequestError: there is no stage with such a name.
    """
    for name in names:
        check_stage(name, rounds)
    known = stages_of(rounds)

    def forced(stage: str) -> bool:
        return stage in names or (STAGES[-1] in names and stage not in known and not stage.startswith(prior.PREFIX))

    return forced


def to_go_on_with(config: RunConfig, folder: Path, registry: Registry) -> RunConfig:
    """The configuration to run in `folder`: `config`. If a finished run of it is there and was evaluated further
    since, its additional metrics, protocols, parts, negatives and cut-offs are kept.

    Raises:
        RequestError: `folder` holds a finished run of another configuration. Keys that change no result do not count.
    """
    if not has_stage(folder, STAGES[-1]):
        return config
    remedy = "choose another --run, or replace it with --overwrite"
    try:
        read_listed(folder, CONFIG)
        before = load_config(folder / CONFIG, [], registry, purpose="use")
    except RequestError as error:
        raise RequestError(
            f"{folder} holds a finished run, and its configuration is wrong ({error}): {remedy}"
        ) from None
    try:
        together = added_to(before, config)
    except RequestError:
        # A metric has other options.
        together = config
    if other := _differing(before, together, list(RunConfig.model_fields)):
        raise RequestError(f"{folder} holds a finished run of another configuration ({other}): {remedy}")
    return together


def _differing(before: RunConfig, now: RunConfig, sections: Sequence[str]) -> str:
    """The first keys in these sections that differ and can change a result; empty if there are none."""
    old, new = before.that_decides(), now.that_decides()
    keys: list[str] = []
    for section in (name for name in sections if name in {**old, **new}):
        was, is_now = old.get(section), new.get(section)
        # One loss is a table, and several are a list.
        if isinstance(was, dict) and isinstance(is_now, dict):
            keys += [f"{section}.{key}" for key in {**is_now, **was} if was.get(key) != is_now.get(key)]
        elif was != is_now:
            keys.append(section)
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def train(session: Session) -> Trained:
    """Run the stages before evaluation, in their order."""
    optimization.check(session)
    sft.check(session)
    sampling.check_request(session)
    reference.check(session)
    oracle.check(session)
    corpus = dataset.stage(session)
    ratings.check(session, corpus)
    held_out = split.stage(session, corpus)
    sampling.check_split(session, held_out)
    # Before any expensive work, so that impossible requests fail at once.
    candidates = evaluation.draw_candidates(session, held_out)
    fine_tuned = sft.stage(session, held_out)
    session.store.commit()
    smoothing = oracle.stage(session, held_out, fine_tuned) if oracle.needed(session) else None
    current, rounds = fine_tuned, list[TrainedRound]()
    for number in rounds_of(session.config.rounds):
        rejected = sampling.stage(session, held_out, current, smoothing, number)
        if rounds:
            fine_tuned = sft.stage(session, held_out, current, number)
        scored = reference.stage(session, held_out, fine_tuned, rejected, number)
        pairs = preferences.stage(session, corpus, held_out, smoothing, rejected, scored, number)
        current = aligned.stage(session, held_out, fine_tuned, pairs, number)
        rounds.append(TrainedRound(number, fine_tuned, pairs, current))
    return Trained(held_out, candidates, smoothing, tuple(rounds))


def evaluate(
    folder: Path,
    overrides: Sequence[tuple[str, Any]],
    reporter: RunReporter,
    *,
    protocols: Sequence[str] = (),
    scores: Sequence[str] = (),
    registry: Registry | None = None,
) -> Run:
    """Evaluate a finished run again, with changes in the sections ``[evaluation]`` and ``[ranking]`` or in the
    metrics. Nothing is trained.

    Protocols, negatives, held-out parts, metrics, cut-offs and scores of `ranking.score` are added to those of the
    run: its tables grow, and the models are not asked again what they were asked before.

    Args:
        folder: the run folder.
        overrides: as in `load_config`.
        reporter: receives the progress.
        protocols: additional protocols.
        scores: files with the scores of other recommenders for the run's candidates, each ``FILE`` or ``NAME=FILE``.
            Each becomes a row of the tables.
        registry: the plugins; by default those that are installed.

    Raises:
        RequestError: there is no run, or it is not finished; the overrides change another section; or they change the
            options of a metric that the run already has. The run stays as it was.
    """
    for key, _ in overrides:
        if key.partition(".")[0] not in ("evaluation", "metric", "ranking", "checkpoint"):
            raise RequestError(
                f"'{key}' cannot be changed in a finished run, only evaluation.*, ranking.* and metric can: train a "
                "new one"
            )
    files = outside.named_files(scores)
    registry, reporter = registry or load_plugins(), shown(reporter)
    store = SharedStore.open(folder)
    if _only_evaluates(folder):
        raise RequestError(
            f"{folder} holds the evaluation of a model: name the model again, --model, and --run {folder}"
        )
    further = [*overrides, *([("evaluation.protocols", list(protocols))] if protocols else [])]
    before, asked = (load_config(folder / CONFIG, keys, registry, purpose="use") for keys in ([], further))
    config = as_made(added_to(before, asked), registry, read_records(folder))
    asks_oracle = config.ranking.score == "fusion" and "oracle" in config.ranking.features
    if asks_oracle and not has_stage(folder, "oracle") and has_stage(folder, "aligned"):
        others = [name for name in config.ranking.features if name != "oracle"]
        raise RequestError(
            f"{folder} has trained no oracle, because nothing in it asked one: rank without it, "
            f"--ranking.features '{json.dumps(others)}'"
        )
    with _opened(config, store, registry, reporter, finished=True) as session:
        # All metrics are measured again, and the model card shows a prompt.
        session.require("metric", "prompt")
        trained = train(session)
        tables = _tables(session, trained, files)
        if ranks.is_first():
            outputs.write(session, trained, tables)
    return Run(folder, tables)


EVALUATED = (
    *("seed", "deterministic", "dataset", "split", "model", "prompt"),
    *("ranking", "evaluation", "metric", "checkpoint"),
)
"""The sections of a configuration that matter for a model that is only evaluated."""


def evaluation_config(file: Path | None, overrides: Sequence[tuple[str, Any]], registry: Registry) -> RunConfig:
    """As `load_config`, for `evaluate_model`. If the model has its own prompt template, it is used instead of the one
    in the file or the defaults. Overrides of the prompt come before both.

    Raises:
        RequestError: as `load_config`; an override is not in a section of `EVALUATED`; or the model's prompt template
            cannot be read.
    """
    for key, _ in overrides:
        if key.partition(".")[0] not in EVALUATED:
            raise RequestError(
                f"'{key}' says nothing of a model that is only evaluated; known: {', '.join(EVALUATED)}"
            )
    config = load_config(file, overrides, registry)
    folder = expanded(config.model.name)
    saved = read_template(folder)
    if saved is None:
        return config
    own: list[tuple[str, Any]] = [("dataset.history_length", saved.history_length)]
    # Options belong to their template. If the user names another template, the saved options do not apply.
    if config.prompt.name == saved.name or not any(key in ("prompt", "prompt.name") for key, _ in overrides):
        check_recorded(saved.name, folder, own=is_own_artifact(folder))
        own += [
            ("prompt", saved.name),
            *((f"prompt.{key}", value) for key, value in saved.options.items() if value is not None),
        ]
    return load_config(file, [*((key, as_written(value)) for key, value in own), *overrides], registry)


def evaluate_model(
    config: RunConfig, folder: Path, reporter: RunReporter, *, registry: Registry | None = None
) -> Run:
    """Evaluate the model in ``[model]``, beside popularity, in a run folder of its own. Nothing is trained.

    The model may be any model that a run can start from, or a folder with a PEFT adapter, whose
    ``adapter_config.json`` names the base model. Prompts are made with the base model's tokenizer. Sections that are
    not in `EVALUATED` are not used.

    If `folder` holds a finished evaluation of this model, the tables are added to it, as `evaluate` does.

    Raises:
        RequestError: something in the request, the data or the model is wrong; or `folder` holds a finished
            evaluation of another model, of other data, or with other settings. The folder is left as it was.
    """
    registry, reporter = registry or load_plugins(), shown(reporter)
    store = SharedStore(folder)
    if has_stage(folder, "sft"):
        raise RequestError(f"{folder} is a run that trained a model: choose another --run")
    if has_stage(folder, "evaluation"):
        read_listed(folder, CONFIG)
        before = load_config(folder / CONFIG, [], registry, purpose="use")
        config = _added_to_evaluation(before, config, folder)
    adapter = _named_adapter(config, reporter)
    with _opened(config, store, registry, reporter, base=adapter.base if adapter else None) as session:
        session.check_prompts()
        _, tables = _evaluated_model(session, adapter)
        outputs.write_tables(session, tables)
    return Run(folder, tables)


def _named_adapter(config: RunConfig, reporter: RunReporter) -> Adapter | None:
    """The adapter that the configuration names, as rank 0 found it, see `find_adapter`."""

    def find() -> list[str] | None:
        adapter = find_adapter(config.model.name, reporter)
        return [str(adapter.folder), adapter.base] if adapter else None

    found = ranks.told_by_first("finding the adapter", find)
    return Adapter(Path(found[0]), found[1]) if found else None


def _added_to_evaluation(before: RunConfig, asked: RunConfig, folder: Path) -> RunConfig:
    """The configuration of the finished evaluation in `folder` with what is asked for added.

    Raises:
        RequestError: they differ in more than what can be added.
    """
    together = added_to(before, asked)
    several = {key: value for key, value in before.evaluation if isinstance(value, tuple)}
    without_added = together.model_copy(
        update={
            "metric": before.metric,
            "ranking": before.ranking,
            "evaluation": together.evaluation.model_copy(update=several),
        }
    )
    if other := _differing(before, without_added, EVALUATED):
        raise RequestError(f"{folder} holds a finished evaluation that differs in {other}: choose another --run")
    return together


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
    """The data of a report on finished runs, by label. By default the labels are the distinct parts of the folders'
    names.

    Raises:
        RequestError: there is no such run, or it is not finished, or it did not train.
    """
    for folder in filter(_only_evaluates, folders):
        raise RequestError(
            f"{folder} only evaluates a model (`rosepo evaluate --model`): a report is of runs that trained; `rosepo "
            "compare` takes it"
        )
    found: dict[str, ReportData] = {}
    for run in finished_runs(folders, labels, reporter, registry):
        assert run.trained is not None
        found[run.label] = outputs.report_data(run.session, run.trained, run.evaluations)
    return found


def compare(
    folders: Sequence[Path],
    metric: str,
    reporter: RunReporter,
    *,
    labels: Sequence[str] | None = None,
    registry: Registry | None = None,
) -> list[Evaluation]:
    """One evaluation for each protocol, with all models of finished runs, and with comparisons to the first run.

    The main model of a run is its aligned model, or the only model of an evaluation. The main model of each later run
    is compared with that of the first run, by the last `ranking.score` that all runs have.

    Args:
        folders: run folders of `run` or `evaluate_model`.
        metric: the column that is compared.
        reporter: receives the progress.
        labels: labels of the runs; by default the distinct parts of the folders' names.
        registry: the plugins; by default those that are installed.

    Raises:
        RequestError: as `report`; or the metric does not exist for single users.
    """
    found: dict[str, side_by_side.RunEvaluation] = {}
    for run in finished_runs(folders, labels, reporter, registry):
        data = run.split.content
        found[run.label] = side_by_side.RunEvaluation(
            run.evaluations, data.users, data.catalogue.ids, run.subject, run.session.config.ranking.score
        )
    return side_by_side.side_by_side(found, metric)


@dataclass(frozen=True)
class FinishedRun:
    """A finished run as it was left.

    Attributes:
        label: its name beside other runs.
        session: what reads it.
        split: RUN/split.
        evaluations: the tables, one for each protocol.
        subject: the model that the run is about.
        trained: its stages, if it trained.
    """

    label: str
    session: Session
    split: Handle[Split]
    evaluations: tuple[Evaluation, ...]
    subject: str
    trained: Trained | None = None


def finished_runs(
    folders: Sequence[Path],
    labels: Sequence[str] | None,
    reporter: RunReporter,
    registry: Registry | None = None,
) -> Iterator[FinishedRun]:
    """Finished runs, read from their artifacts as these are. Nothing in their folders changes.

    Args:
        folders: run folders of `run` or `evaluate_model`.
        labels: labels of the runs; by default the distinct parts of the folders' names.
        reporter: receives the progress.
        registry: the plugins; by default those that are installed.

    Raises:
        RequestError: a run has not finished a stage, or a file is damaged.
    """
    registry = registry or load_plugins()
    # All are opened before any is read: a mistyped one must not cost the time of the others.
    stores = [RunStore.open(folder) for folder in folders]
    for label, store in zip(labels or side_by_side.labels(folders), stores, strict=True):
        config = load_config(store.folder / CONFIG, [], registry, purpose="read")
        config = as_made(config, registry, read_records(store.folder))
        with store.working(store.config, stages_of(config.rounds), reading=True):
            commands = _commands(config, store.folder)
            if _only_evaluates(store.folder):
                adapter = find_adapter(config.model.name, reporter)
                base = adapter.base if adapter else None
                session = ReadingSession(config, store, registry, reporter, commands, base=base)
                held_out, tables = _evaluated_model(session, adapter)
                subject = ranked_models.model_name(config.model.name)
                yield FinishedRun(label, session, held_out, tables, subject)
            else:
                session = ReadingSession(config, store, registry, reporter, commands)
                trained, tables = _evaluated(session)
                yield FinishedRun(label, session, trained.split, tables, "aligned", trained)


def _commands(config: RunConfig, folder: Path) -> Callable[[str], str]:
    """The command that makes a stage of a run which was finished before."""
    if _only_evaluates(folder):
        again = f"rosepo evaluate --model {config.model.name} --config {folder / CONFIG} --run {folder}"
        return lambda _: again
    train_again = f"rosepo train --config {folder / CONFIG} --run {folder}"
    stages = stages_of(config.rounds)[:-1]
    return lambda stage: train_again if stage in stages else f"rosepo evaluate {folder}"


def _only_evaluates(folder: Path) -> bool:
    """Whether a run folder is one of `evaluate_model`."""
    return has_stage(folder, "evaluation") and not has_stage(folder, "sft")


def _evaluated(session: Session) -> tuple[Trained, tuple[Evaluation, ...]]:
    """The tables of a run that has trained."""
    trained = train(session)
    return trained, _tables(session, trained)


def _tables(session: Session, trained: Trained, scores: Mapping[str, Path] | None = None) -> tuple[Evaluation, ...]:
    """The tables of a run that has trained, with rows from outside: those that it has, and those of `scores`."""
    models = ranked_models.of_run(session, trained)
    models += outside.ranked_models(session, trained.split, trained.candidates, scores or {})
    return evaluation.stage(session, trained.split, trained.candidates, models, trained.oracle)


def _evaluated_model(session: Session, adapter: Adapter | None) -> tuple[Handle[Split], tuple[Evaluation, ...]]:
    """The tables of the model that the configuration names."""
    held_out = split.stage(session, dataset.stage(session))
    models = ranked_models.of_model(session, held_out, adapter)
    candidates = evaluation.draw_candidates(session, held_out, [each.name for each in models])
    return held_out, evaluation.stage(session, held_out, candidates, models)


def _of_training(folder: Path, rounds: int) -> set[str]:
    """The stages before evaluation of a finished run, and the priors that they were made from."""
    stages = stages_of(rounds)[:-1]
    manifests = [manifest for stage in stages if (manifest := read_manifest(folder / stage))]
    return {*stages, *(name for manifest in manifests for name in manifest["inputs"])}


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
    heard: Heard | None = None,
    policy: PolicySlot | None = None,
) -> Iterator[Session]:
    """A session on a folder. If the request fails before `RunStore.commit`, the folder stays as it was."""
    session = (
        FinishedSession(config, store, registry, reporter, _of_training(store.folder, config.rounds))
        if finished
        else Session(
            config, store, registry, reporter, base=base, until=until, forced=forced, heard=heard, policy=policy
        )
    )
    ranks.told_by_first("checking the model", lambda: check_artifact(expanded(config.model.name)))
    if ranks.count() > 1 and not finished:
        # One process fetches or converts the model. The others find it.
        ranks.told_by_first("fetching the model", lambda: str(resolve_model(base or config.model.name, reporter)))
    unneeded = () if oracle.needed(session) else ("oracle",)
    with store.working(config.to_toml(), set(stages_of(config.rounds)).difference(unneeded)):
        with suppress(UntilReached):
            yield session
        outputs.write_environment(session)
    if store.is_apart:
        reporter.note(
            f"{store.folder} stays as it was: the new stages wait in {store.folder / UNFINISHED} until each stage of "
            "the run has its successor; run the same command without --until"
        )
