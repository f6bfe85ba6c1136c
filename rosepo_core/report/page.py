"""The report: one HTML file about one or more runs. It runs no script and loads nothing from the network.

`ReportData` is plain data, and every part of it is optional; sections without data are left out. Charts are static
SVG: they can be printed, open everywhere, follow the reader's light or dark mode, and cannot run code from a title.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rosepo_core.contracts.ranking import head_items
from rosepo_core.contracts.records import Floats, Pairs, Split
from rosepo_core.contracts.sections import Score
from rosepo_core.contracts.untrusted_text import visible
from rosepo_core.evaluation import side_by_side
from rosepo_core.evaluation.conditional_logit import ConditionalLogit
from rosepo_core.evaluation.confidence import confidences
from rosepo_core.evaluation.measurement import Comparison, headline, widest
from rosepo_core.evaluation.over_seeds import ComparedModels, compare_over_seeds
from rosepo_core.evaluation.results import Evaluation
from rosepo_core.evaluation.run_models import (
    RUN_MODELS,
    RowName,
    few_rows,
    last_language_model,
    run_model,
    score_in_use,
)
from rosepo_core.evaluation.statistics import OverSeeds, holm, over_seeds
from rosepo_core.evaluation.tables import first_oracle_quality
from rosepo_core.report import figures
from rosepo_core.report.charts import Chart, number
from rosepo_core.report.differences import differing
from rosepo_core.report.display import model_styles, model_title, signed
from rosepo_core.report.result_tables import (
    Number,
    Results,
    Weights,
    mean_fusion,
    numbers_of,
    results_tables,
    weights_table,
)

SHOWN_USERS = 12
SHOWN_ITEMS = 5


@dataclass(frozen=True)
class ReportRound:
    """The data of a report on one round of a run.

    Attributes:
        model: the name of the model that the round left, as in tables.
        sft_log: the log of the SFT trainer.
        validation: the results of validation during SFT (`stages.validation.save_curve`).
        alignment_log: the log of the alignment trainer.
        pairs: the preference pairs.
        similarity: cosines of title embeddings, float32 [m] each: of each target and its rejected item, and of the
            same number of targets and random items.
    """

    model: str = "aligned"
    sft_log: figures.Log = ()
    validation: Mapping[str, Any] | None = None
    alignment_log: figures.Log = ()
    pairs: Pairs | None = None
    similarity: tuple[Floats, Floats] | None = None


@dataclass(frozen=True)
class ReportData:
    """The data of a report on one run.

    Attributes:
        title: the headline, e.g. ``"movielens-100k, smollm2-135m, rosepo"``.
        command: the command line that made the run.
        summary: the settings of the run in a few words, label -> value.
        config: the resolved configuration as TOML.
        evaluations: one for each protocol.
        score: the score by which the run's models rank.
        split: needed for the users' lists and for the popularity of pairs.
        rounds: the rounds of the run, in their order; most runs have one.
        history_length: how many items of a user's history are shown.
        seconds: the time of each stage, in order.
        environment: versions, by name.
        notes: notes for the reader, one sentence each.
    """

    title: str
    command: str = ""
    summary: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    evaluations: Sequence[Evaluation] = ()
    score: Score = "likelihood"
    split: Split | None = None
    rounds: Sequence[ReportRound] = ()
    history_length: int = 8
    seconds: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class ShownItem:
    """A title, whether the item is popular (`contracts.ranking.head_items`), and whether it is the target."""

    title: str
    popular: bool
    target: bool


@dataclass(frozen=True)
class ShownUser:
    """One user's test example: the end of the history, the target, and the recommendations of each model.

    Attributes:
        user: the source's id.
        earlier: number of history items before those shown.
        history: the shown items, oldest first.
        target: the held-out item.
        models: for each model: title, CSS class, the target's rank in words, top items.
    """

    user: str
    earlier: int
    history: tuple[ShownItem, ...]
    target: ShownItem
    models: tuple[tuple[str, str, str, tuple[ShownItem, ...]], ...]


@dataclass(frozen=True)
class _Protocol:
    name: str
    users: str
    part: str
    asked: str
    recall: str
    offered: str
    note: str
    results: Results
    weights: Weights | None
    terms: Mapping[str, str]
    verdicts: tuple[str, ...]
    figures: tuple[Chart, ...]


INTERVALS_OVER_USERS = (
    "Below each mean over users is its 95\N{NO-BREAK SPACE}% interval (BCa bootstrap over users) for this model "
    "only, and the number of users if the metric does not apply to all. To compare two models, look at the paired "
    "difference at the top, and at the tests in metrics.json. Ties in rank count as the mean over all their orders."
)
INTERVALS_OVER_SEEDS = (
    "Each number is a mean over the seeds; below it is its 95\N{NO-BREAK SPACE}% interval over seeds (Student) for "
    "this model only. To compare two models, look at the paired difference at the top, which is tested over seeds "
    "and users."
)


@dataclass(frozen=True)
class _Stage:
    name: str
    time: str
    share: float


@dataclass(frozen=True)
class _Round:
    """The part about one round. Its title is empty if the run has only one."""

    title: str
    training: list[Chart]
    preferences: list[Chart]


@dataclass(frozen=True)
class _Run:
    """The part of the report about one run. Its label and the suffix of its ids are empty if there is only one run.
    `own` are the settings that differ from other runs."""

    label: str
    own: Mapping[str, str]
    suffix: str
    data: ReportData
    rounds: list[_Round]
    has_training: bool
    has_means: bool
    has_preferences: bool
    stages: list[_Stage]
    total: str


def render(data: ReportData) -> str:
    """The report of a run as HTML. Every text in `data` is shown as plain text and never interpreted."""
    run = _run("", {}, "", data, RUN_MODELS["aligned"].style)
    protocols = _protocols(data.evaluations, data.split)
    return _page(data.title, protocols, data, [run], users=_users(data.evaluations, data))


def render_side_by_side(title: str, evaluations: Sequence[Evaluation], runs: Mapping[str, ReportData]) -> str:
    """The report of several runs as HTML: one table with all their models, then a part for each run.

    Args:
        title: the headline.
        evaluations: evaluations of all runs together, one for each protocol
            (`rosepo_core.evaluation.side_by_side.side_by_side`).
        runs: runs by label, at least one.
    """
    first = next(iter(runs.values()))
    styles = model_styles(evaluations[0].models) if evaluations else {}
    own = differing({label: data.config for label, data in runs.items()})
    parts = [
        _run(
            label,
            own.get(label, {}),
            f"-{place}",
            data,
            styles.get(f"aligned ({label})", RUN_MODELS["aligned"].style),
        )
        for place, (label, data) in enumerate(runs.items(), 1)
    ]
    logs = {
        label: {each.model: (each.sft_log, each.alignment_log) for each in data.rounds}
        for label, data in runs.items()
    }
    growth = figures.growth(evaluations[0], logs) if evaluations else None
    users = _users(evaluations, first)
    return _page(title, _protocols(evaluations, first.split), first, parts, growth=growth, users=users)


def render_seeds(title: str, tables: Sequence[Mapping[int, Evaluation]], runs: Mapping[str, ReportData]) -> str:
    """The report of runs that differ in their seed only, as HTML: tables with means over seeds, then a part for each
    run.

    Args:
        title: the headline.
        tables: for each protocol, its evaluation under each seed.
        runs: runs by label, at least one.
    """
    own = differing({label: data.config for label, data in runs.items()})
    parts = [
        _run(label, own.get(label, {}), f"-{place}", data, RUN_MODELS["aligned"].style)
        for place, (label, data) in enumerate(runs.items(), 1)
    ]
    return _page(title, [_seed_protocol(by_seed) for by_seed in tables], next(iter(runs.values())), parts)


def _run(label: str, own: Mapping[str, str], suffix: str, data: ReportData, style: str) -> _Run:
    """The part about one run. `style` is the colour of the run's aligned model, in its curves and in the table."""
    longest = max(data.seconds.values(), default=0.0) or 1.0
    rounds = [_round(number, data, style) for number in range(len(data.rounds))]
    training = [chart for each in rounds for chart in each.training]
    return _Run(
        label=label,
        own=own,
        suffix=suffix,
        data=data,
        rounds=rounds,
        has_training=bool(training),
        has_means=any("raw" in line.style for chart in training for line in chart.lines),
        has_preferences=any(each.preferences for each in rounds),
        stages=[
            _Stage(name, _duration(seconds), round(100 * seconds / longest, 2))
            for name, seconds in data.seconds.items()
        ],
        total=_duration(sum(data.seconds.values())),
    )


def _round(place: int, data: ReportData, style: str) -> _Round:
    """The part about one round of a run. `style` is the colour of the run's aligned model."""
    each, last = data.rounds[place], place == len(data.rounds) - 1
    known = run_model(each.model)
    training = figures.training(
        each.sft_log, each.alignment_log, style if last or known is None else known.style, each.validation
    )
    popularity = data.split.catalogue.popularity if data.split else None
    # The oracle is the same in all rounds.
    quality = first_oracle_quality(data.evaluations) if place == 0 else None
    preferences = figures.preferences(each.pairs, quality, popularity, each.similarity) if each.pairs else []
    return _Round(f"Round {place + 1}" if len(data.rounds) > 1 else "", training, preferences)


def _protocols(evaluations: Sequence[Evaluation], split: Split | None) -> list[_Protocol]:
    shown: dict[str, Mapping[str, ConditionalLogit]] = {}
    found = []
    for evaluation in evaluations:
        if evaluation.models:
            same = next((name for name, fusions in shown.items() if fusions == evaluation.fusions), "")
            found.append(_protocol(evaluation, split, same))
            shown.setdefault(evaluation.protocol, evaluation.fusions)
    return found


def _users(evaluations: Sequence[Evaluation], data: ReportData) -> tuple[ShownUser, ...]:
    return shown_users(evaluations[0], data.split, data.history_length) if evaluations and data.split else ()


def _visible(value: Any) -> Any:
    """What a template shows of a value. Jinja then escapes what is no `Markup`."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def templates() -> Environment:
    """The page templates: Jinja's environment, one for the process, because it keeps what it has compiled."""
    return Environment(
        loader=PackageLoader("rosepo_core", "report"),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _page(
    title: str,
    protocols: Sequence[_Protocol],
    first: ReportData,
    runs: Sequence[_Run],
    *,
    growth: Chart | None = None,
    users: Sequence[ShownUser] = (),
) -> str:
    return (
        templates()
        .get_template("report.html.jinja")
        .render(
            title=title,
            summary={
                label: value
                for label, value in first.summary.items()
                if all(run.data.summary.get(label) == value for run in runs)
            },
            protocols=protocols,
            growth=growth,
            users=users,
            shown_items=SHOWN_ITEMS,
            runs=runs,
        )
    )


def shown_users(evaluation: Evaluation, split: Split, history_length: int) -> tuple[ShownUser, ...]:
    """`SHOWN_USERS` test users, evenly spaced over all of them, so that they are not hand-picked."""
    catalogue = split.catalogue
    head = head_items(catalogue.popularity)
    count = len(evaluation.examples)
    rows = np.unique(np.linspace(0, count - 1, min(SHOWN_USERS, count)).round().astype(int))
    examples = evaluation.examples.take(rows)
    styles = model_styles(evaluation.models)
    shown = {name: evaluation.models[name] for name in few_rows(evaluation.models)}
    histories = examples.histories(history_length)

    def items(row: Iterable[int], target: int) -> tuple[ShownItem, ...]:
        return tuple(ShownItem(catalogue.titles[item], bool(head[item]), item == target) for item in row if item >= 0)

    return tuple(
        ShownUser(
            user=split.users[examples.user[place]],
            earlier=max(0, int(examples.position[place]) - history_length),
            history=items(histories[place].tolist(), -1),
            target=items([target], target)[0],
            models=tuple(
                (
                    model_title(name),
                    styles[name],
                    _rank(float(result.ranks.expected[row])),
                    items(result.top[row, :SHOWN_ITEMS].tolist(), target),
                )
                for name, result in shown.items()
            ),
        )
        for place, (row, target) in enumerate(zip(rows.tolist(), examples.target.tolist(), strict=True))
    )


def _rank(rank: float) -> str:
    return f"target at {rank:g}" if math.isfinite(rank) else "target not listed"


def _protocol(evaluation: Evaluation, split: Split | None, same_weights: str) -> _Protocol:
    columns = evaluation.columns
    y_name, x_name = headline(columns), widest(columns, "arp")
    popularity = split.catalogue.popularity if split else None
    shown = (
        figures.popularity_of_targets(evaluation, popularity, y_name) if y_name and popularity is not None else None,
        figures.popularity_bias(evaluation, x_name, y_name) if x_name and y_name else None,
        *figures.confidence(evaluation, confidences(evaluation)),
    )
    found = {name: numbers_of(evaluation, name) for name in columns}
    return _Protocol(
        name=evaluation.protocol,
        users=number(len(evaluation.examples), 0),
        part=evaluation.part,
        asked=evaluation.asked,
        recall=_recall(evaluation.pool_recall),
        offered=f"{evaluation.offered:.1%}",
        note=INTERVALS_OVER_USERS,
        results=results_tables(columns, found, y_name),
        weights=_weights(evaluation, same_weights),
        terms=_terms(evaluation, columns),
        verdicts=_verdicts(side_by_side.compared(evaluation, y_name)) if y_name else (),
        figures=tuple(chart for chart in shown if chart is not None),
    )


def _weights(evaluation: Evaluation, same: str) -> Weights | None:
    """The weights of a protocol's fusions, or where they are shown; `None` if there are none."""
    if not evaluation.fusions:
        return None
    return Weights(same=same) if same else weights_table(evaluation.fusions, list(evaluation.models))


def _seed_weights(evaluations: Sequence[Evaluation], names: Sequence[str]) -> Weights | None:
    """The mean weights of the fusions that all seeds have; `None` if there are none."""
    shared = [name for name in names if all(name in each.fusions for each in evaluations)]
    fusions = {name: mean_fusion([each.fusions[name] for each in evaluations]) for name in shared}
    return weights_table(fusions, names, "seeds") if fusions else None


def _recall(recall: Mapping[str, float]) -> str:
    """A sentence about the pools of a catalogue; empty if there are none."""
    if not recall:
        return ""
    # All scores of a model rank the same pool.
    own = {RowName.of(name).own: share for name, share in recall.items()}
    listed = ", ".join(f"{model_title(name)} {share:.1%}" for name, share in own.items())
    return (
        "By other scores than likelihood, a language model ranks a pool of titles for each user. The share of users "
        f"whose target is in the pool (pool recall) is a limit to HR: {listed}."
    )


def _seed_protocol(by_seed: Mapping[int, Evaluation]) -> _Protocol:
    """One protocol over seeds: means with Student's intervals, and the differences that are clear over seeds and
    users."""
    evaluations = [by_seed[seed] for seed in sorted(by_seed)]
    first = evaluations[0]
    names = [name for name in first.models if all(name in each.models for each in evaluations)]
    columns = {
        name: column for name, column in first.columns.items() if all(name in each.columns for each in evaluations)
    }
    found: dict[str, dict[str, Number]] = {name: {} for name in columns}
    for column in columns:
        for name in names:
            values = [each.models[name].metrics[column] for each in evaluations]
            known = [value for value in values if math.isfinite(value)]
            over = over_seeds(known) if known else OverSeeds(*[math.nan] * 4)
            fewer = f"{len(known)} seeds" if 0 < len(known) < len(values) else ""
            found[column][name] = Number(over.mean, (over.low, over.high), fewer)
    y_name = headline(columns)
    users = number(len(first.examples), 0)
    return _Protocol(
        name=first.protocol,
        users=f"Seeds {', '.join(map(str, sorted(by_seed)))}; under each {users}",
        part=first.part,
        asked=first.asked,
        recall="",
        offered=f"{min(each.offered for each in evaluations):.1%} or more",
        note=INTERVALS_OVER_SEEDS,
        results=results_tables(columns, found, y_name),
        weights=_seed_weights(evaluations, names),
        terms=_terms(first, columns),
        verdicts=_verdicts(compare_over_seeds(by_seed, y_name)) if y_name else (),
        figures=(),
    )


def _terms(evaluation: Evaluation, columns: Iterable[str]) -> Mapping[str, str]:
    """What each metric is."""
    shown = [evaluation.columns[name] for name in columns]
    return {column.about.title + ("@k" if column.cut_off else ""): column.summary for column in shown}


def _verdicts(compared: ComparedModels) -> tuple[str, ...]:
    """A sentence for each comparison. That one model is above another is said if it holds for that many sentences."""
    shown = _main_comparisons(compared)
    p = holm(np.array([each.p_bootstrap for each in shown], dtype=np.float64))
    return tuple(_verdict(compared, each, bool(value < 0.05)) for each, value in zip(shown, p, strict=True))


def _main_comparisons(compared: ComparedModels) -> list[Comparison]:
    """The comparisons for readers. If models rank by several scores: each trained model with the one before, by the
    score in use, and the last with itself by likelihood and with the best without a language model. All are in
    metrics.json."""
    score, last = score_in_use(compared.models), last_language_model(compared.models)
    found = []
    for each in compared.comparisons:
        model, baseline = RowName.of(each.model), RowName.of(each.baseline)
        trained = baseline.writes and model.model != baseline.model
        of_runs = bool(model.label)
        if of_runs or (model.score == score and (trained or model.model == last)):
            found.append(each)
    return found


def _verdict(compared: ComparedModels, comparison: Comparison, holds: bool) -> str:
    apart = comparison.low > 0 or comparison.high < 0
    judged = "is above" if comparison.low > 0 else "is below"
    if not (holds and apart):
        judged = "does not clearly differ from"
    after, before = (compared.models[name][0] for name in (comparison.model, comparison.baseline))
    mean, low, high = (signed(value) for value in (after - before, comparison.low, comparison.high))
    over = " over seeds and users" if compared.seeds else ""
    interval = "" if math.isnan(comparison.low) else f"; paired 95\N{NO-BREAK SPACE}% interval{over} {low} to {high}"
    if apart and not holds:
        interval += ", which does not hold after Holm's correction"
    return (
        f"{model_title(comparison.model)} {judged} {model_title(comparison.baseline)} in {compared.column.title}: "
        f"{after:.3f} against {before:.3f} ({mean}{interval})."
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{seconds / 60:.1f} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
