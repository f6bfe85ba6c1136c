"""The report: one HTML file that shows runs to a reader, runs no script and asks the network for nothing.

`ReportData` is plain data and every part of it is optional; a section whose data is missing is left out. Charts are
static SVG: they print, open anywhere, follow the reader's light or dark, and leave a hostile title nothing to run in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from rosepo_core.ranking import head_items
from rosepo_core.records import Floats, Pairs, Split
from rosepo_core.stages import charts
from rosepo_core.stages.buckets import BUCKETS, FEWEST_USERS, by_popularity
from rosepo_core.stages.charts import Chart, number
from rosepo_core.stages.evaluation import Evaluation, first_oracle_quality
from rosepo_core.stages.measurement import Column, Comparison

STYLES: Mapping[str, str] = {
    "popularity": "grey",
    "oracle": "gold",
    "base": "blue",
    "sft": "teal",
    "aligned": "rose",
}
MODEL_TITLES: Mapping[str, str] = {
    "popularity": "Popularity",
    "oracle": "Oracle",
    "base": "Base",
    "sft": "SFT",
    "aligned": "Aligned",
}
ARROWS: Mapping[str, str] = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}", "neither": ""}
MORE_STYLES = ("violet", "cyan", "brown", "orange", "green")
"""Of models beyond the usual ones, in turn."""

SHOWN_USERS = 12
SHOWN_ITEMS = 5


@dataclass(frozen=True)
class ReportData:
    """What a report shows.

    Attributes:
        title: the headline, e.g. ``"movielens-100k, smollm2-135m, rosepo"``.
        command: the command line that made the run.
        summary: what was run in a few words each, label -> value.
        config: the resolved configuration as TOML.
        evaluations: one a protocol.
        split: needed for the users' lists and for the pairs' popularity.
        sft_log: the SFT trainer's log, one mapping an entry, as the Hugging Face Trainer keeps it.
        alignment_log: likewise, of alignment.
        pairs: the preference pairs.
        similarity: cosine of the titles' embeddings, of each target and its rejected item, and of as many targets
            and items drawn at random; float32 [m] each.
        history_length: how many items of a user's history are shown.
        seconds: what each stage took, by stage in order.
        environment: versions, by name.
        notes: what a reader should know, a sentence each.
    """

    title: str
    command: str = ""
    summary: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    evaluations: Sequence[Evaluation] = ()
    split: Split | None = None
    sft_log: Sequence[Mapping[str, float]] = ()
    alignment_log: Sequence[Mapping[str, float]] = ()
    pairs: Pairs | None = None
    similarity: tuple[Floats, Floats] | None = None
    history_length: int = 8
    seconds: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class ShownItem:
    """A title, whether the item is popular (`rosepo_core.ranking.head_items`), and whether it is the target."""

    title: str
    popular: bool
    target: bool


@dataclass(frozen=True)
class ShownUser:
    """One user's test example: the end of the history, the target, and what each model would recommend.

    Attributes:
        user: the source's id.
        earlier: items of the history before those shown.
        history: oldest first.
        target: the held-out item.
        models: display title, CSS class, where the target stands in words, top items; one a model.
    """

    user: str
    earlier: int
    history: tuple[ShownItem, ...]
    target: ShownItem
    models: tuple[tuple[str, str, str, tuple[ShownItem, ...]], ...]


@dataclass(frozen=True)
class _Cell:
    value: str
    interval: str
    best: bool


@dataclass(frozen=True)
class _Row:
    name: str
    title: str
    arrow: str
    cells: tuple[_Cell, ...]


@dataclass(frozen=True)
class _Protocol:
    name: str
    users: str
    part: str
    asked: str
    offered: str
    models: tuple[tuple[str, str], ...]
    groups: tuple[tuple[str, tuple[_Row, ...]], ...]
    terms: Mapping[str, str]
    verdicts: tuple[str, ...]
    figures: tuple[Chart, ...]


@dataclass(frozen=True)
class _Stage:
    name: str
    time: str
    share: float


@dataclass(frozen=True)
class _Run:
    """What belongs to one run alone; its label and the suffix of its ids are empty where there is no other."""

    label: str
    suffix: str
    data: ReportData
    training: list[Chart]
    preferences: list[Chart]
    stages: list[_Stage]
    total: str


def render(data: ReportData) -> str:
    """The report of a run as HTML. Every text in `data` is shown as text, whatever it holds."""
    return _page(data.title, data.evaluations, data, [_run("", "", data, STYLES["aligned"])])


def render_several(title: str, evaluations: Sequence[Evaluation], runs: Mapping[str, ReportData]) -> str:
    """The report of several runs as HTML: one table of all their models, then what belongs to each.

    Args:
        title: the headline.
        evaluations: of all runs together, one a protocol (`rosepo_core.stages.several.merged`).
        runs: by label, at least one.
    """
    first = next(iter(runs.values()))
    styles = _styles(evaluations[0].models) if evaluations else {}
    parts = [
        _run(label, f"-{place}", data, styles.get(f"aligned ({label})", STYLES["aligned"]))
        for place, (label, data) in enumerate(runs.items(), 1)
    ]
    return _page(title, evaluations, first, parts, growth=_growth(evaluations[0], runs) if evaluations else None)


def _growth(evaluation: Evaluation, runs: Mapping[str, ReportData]) -> Chart | None:
    """Accuracy against the tokens trained on, where the runs trained on different numbers of them."""
    column = headline(evaluation.columns)
    if column is None:
        return None
    points: dict[tuple[str, float], charts.Point] = {}
    for label, data in runs.items():
        sft, aligned = (
            float(log[-1].get("num_tokens", 0)) if log else 0.0 for log in (data.sft_log, data.alignment_log)
        )
        for model, tokens in (("sft", sft), ("aligned", sft + aligned)):
            name = next((each for each in (model, f"{model} ({label})") if each in evaluation.models), None)
            if name is not None and tokens > 0:
                result = evaluation.models[name]
                ends = result.intervals[column]
                points[name, tokens] = charts.Point(
                    _title(name), tokens, result.metrics[column], *ends, STYLES[model]
                )
    if len({tokens for _, tokens in points}) < 3:
        return None
    levels = {
        _title(name): (evaluation.models[name].metrics[column], STYLES[name])
        for name in ("popularity", "oracle", "base")
        if name in evaluation.models
    }
    styles = {point.style for point in points.values()}
    legend = {MODEL_TITLES[name]: style for name, style in STYLES.items() if style in styles}
    title = f"{evaluation.columns[column].title} against training"
    return replace(
        charts.growth(title, list(points.values()), levels, "tokens trained on, SFT and alignment", legend),
        caption="95\N{NO-BREAK SPACE}% intervals over users, each model by itself.",
    )


def _run(label: str, suffix: str, data: ReportData, style: str) -> _Run:
    """`style` is the colour of the run's aligned model, in its curves as in the table."""
    longest = max(data.seconds.values(), default=0.0) or 1.0
    return _Run(
        label=label,
        suffix=suffix,
        data=data,
        training=_training(data, style),
        preferences=_preferences(data),
        stages=[
            _Stage(name, _duration(seconds), round(100 * seconds / longest, 2))
            for name, seconds in data.seconds.items()
        ],
        total=_duration(sum(data.seconds.values())),
    )


def _page(
    title: str,
    evaluations: Sequence[Evaluation],
    first: ReportData,
    runs: Sequence[_Run],
    growth: Chart | None = None,
) -> str:
    environment = Environment(
        loader=PackageLoader("rosepo_core", "stages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        title=title,
        protocols=[_protocol(evaluation, first.split) for evaluation in evaluations if evaluation.models],
        growth=growth,
        users=shown_users(evaluations[0], first.split, first.history_length) if evaluations and first.split else (),
        shown_items=SHOWN_ITEMS,
        runs=runs,
    )


def _styles(models: Iterable[str]) -> Mapping[str, str]:
    """The CSS class of each model: the usual ones have theirs, and the first of several aligned ones is rose."""
    found: dict[str, str] = {}
    for name in models:
        style = STYLES.get(name)
        if style is None and name.startswith("aligned") and STYLES["aligned"] not in found.values():
            style = STYLES["aligned"]
        others = sum(each in MORE_STYLES for each in found.values())
        found[name] = style or MORE_STYLES[others % len(MORE_STYLES)]
    return found


def shown_users(evaluation: Evaluation, split: Split, history_length: int) -> tuple[ShownUser, ...]:
    """`SHOWN_USERS` test users, evenly spaced over all of them, so that nobody picked them."""
    catalogue = split.catalogue
    head = head_items(catalogue.popularity)
    count = len(evaluation.examples)
    rows = np.unique(np.linspace(0, count - 1, min(SHOWN_USERS, count)).round().astype(int))
    examples = evaluation.examples.take(rows)
    styles = _styles(evaluation.models)
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
                    _title(name),
                    styles[name],
                    _rank(float(result.ranks.expected[row])),
                    items(result.top[row, :SHOWN_ITEMS].tolist(), target),
                )
                for name, result in evaluation.models.items()
            ),
        )
        for place, (row, target) in enumerate(zip(rows.tolist(), examples.target.tolist(), strict=True))
    )


def _rank(rank: float) -> str:
    return f"target at {rank:g}" if math.isfinite(rank) else "target not listed"


def _protocol(evaluation: Evaluation, split: Split | None) -> _Protocol:
    models, columns, styles = evaluation.models, evaluation.columns, _styles(evaluation.models)
    y_name, x_name = headline(columns), _widest(columns, "arp")
    groups: dict[str, list[_Row]] = {}
    for name, column in columns.items():
        groups.setdefault(column.about.group, []).append(_row(evaluation, name))
    return _Protocol(
        name=evaluation.protocol,
        users=number(len(evaluation.examples), 0),
        part=evaluation.part,
        asked=evaluation.asked,
        offered=f"{evaluation.offered:.1%}",
        models=tuple((_title(name), styles[name]) for name in models),
        groups=tuple((heading, tuple(rows)) for heading, rows in groups.items()),
        terms={column.about.title + ("@k" if column.cut_off else ""): column.summary for column in columns.values()},
        verdicts=tuple(_verdict(evaluation, each) for each in evaluation.comparisons if each.column == y_name),
        figures=tuple(
            chart
            for chart in (
                _by_popularity(evaluation, split, y_name) if y_name and split else None,
                _scatter(evaluation, x_name, y_name) if x_name and y_name else None,
            )
            if chart is not None
        ),
    )


def _by_popularity(evaluation: Evaluation, split: Split, column: str) -> Chart:
    found = by_popularity(evaluation, split.catalogue.popularity, column)
    styles = {_title(name): style for name, style in _styles(evaluation.models).items()}
    groups = {
        f"{each.name.partition(':')[0]} ({number(each.users, 0)})": {
            _title(name): ends for name, ends in each.means.items()
        }
        for each in found
    }
    title = evaluation.columns[column].title
    meant = "; ".join(name for _, name in BUCKETS)
    return replace(
        charts.intervals(f"{title} by popularity of the target", groups, styles, "targets (users)"),
        caption=f"95\N{NO-BREAK SPACE}% intervals over users. Training interactions of the target: {meant}. Buckets "
        f"of fewer than {FEWEST_USERS} users are left out.",
    )


def headline(columns: Mapping[str, Column]) -> str | None:
    """The column that verdicts speak of: NDCG, else HR, at the largest cut-off."""
    return _widest(columns, "ndcg") or _widest(columns, "hr")


def _widest(columns: Mapping[str, Column], metric: str) -> str | None:
    """The metric's column with the largest cut-off."""
    found = [name for name in columns if name.partition("@")[0] == metric]
    return found[-1] if found else None


def _scatter(evaluation: Evaluation, x_name: str, y_name: str) -> Chart | None:
    """Of the models that both were measured of: one that wrote no title has no popularity."""
    styles = _styles(evaluation.models)
    points = [
        charts.Point(
            _title(name),
            result.metrics[x_name],
            result.metrics[y_name],
            *result.intervals[y_name],
            styles[name],
        )
        for name, result in evaluation.models.items()
        if math.isfinite(result.metrics[x_name]) and math.isfinite(result.metrics[y_name])
    ]
    if not points:
        return None
    x_title, y_title = evaluation.columns[x_name].title, evaluation.columns[y_name].title
    return charts.scatter(f"{y_title} against popularity", points, f"{x_title}: training interactions")


def _row(evaluation: Evaluation, name: str) -> _Row:
    column = evaluation.columns[name]
    decimals, direction = column.about.decimals, column.about.direction
    values = [result.metrics[name] for result in evaluation.models.values()]
    shown = [round(value, decimals) for value in values if math.isfinite(value)]
    # A value that all models have tells nothing, and where neither direction is better none is the best.
    told = direction != "neither" and len(set(shown)) > 1
    best = (max(shown) if direction == "higher" else min(shown)) if told else math.nan
    cells = []
    for value, result in zip(values, evaluation.models.values(), strict=True):
        ends = result.intervals.get(name, ())
        interval = "\N{EN DASH}".join(_short(end, decimals) for end in ends if math.isfinite(end))
        text = number(value, decimals) if math.isfinite(value) else "\N{EN DASH}"
        cells.append(_Cell(text, interval, round(value, decimals) == best))
    return _Row(name, column.title, ARROWS[direction], tuple(cells))


def _short(value: float, decimals: int) -> str:
    """Without the zero before the point."""
    sign = "\N{MINUS SIGN}" if value < 0 else ""
    return sign + f"{abs(value):.{decimals}f}".removeprefix("0")


def _verdict(evaluation: Evaluation, comparison: Comparison) -> str:
    if comparison.low > 0:
        judged = "is above"
    elif comparison.high < 0:
        judged = "is below"
    else:
        judged = "does not clearly differ from"
    after, before = (
        evaluation.models[name].metrics[comparison.column] for name in (comparison.model, comparison.baseline)
    )
    mean, low, high = (_signed(value) for value in (after - before, comparison.low, comparison.high))
    interval = "" if math.isnan(comparison.low) else f"; paired 95\N{NO-BREAK SPACE}% interval {low} to {high}"
    return (
        f"{_title(comparison.model)} {judged} {_title(comparison.baseline)} in "
        f"{evaluation.columns[comparison.column].title}: {after:.3f} against {before:.3f} ({mean}{interval})."
    )


def _title(model: str) -> str:
    name, space, label = model.partition(" ")
    return MODEL_TITLES.get(name, name) + space + label


def _training(data: ReportData, style: str) -> list[Chart]:
    log = data.alignment_log
    wanted = [
        charts.curves("SFT: loss", data.sft_log, {"loss": ("loss", "teal")}),
        charts.curves("Alignment: loss", log, {"loss": ("loss", style)}),
        charts.curves("Alignment: reward margin", log, {"rewards/margins": ("rewards/margins", style)}),
        charts.curves("Alignment: reward accuracy", log, {"rewards/accuracies": ("rewards/accuracies", style)}),
        charts.curves(
            "Alignment: log-probabilities",
            log,
            {"logps/chosen": ("chosen", "green"), "logps/rejected": ("rejected", "orange dashed")},
        ),
    ]
    captions = ("", "", "", "", _log_prob_caption(log))
    return [
        replace(chart, caption=caption) for chart, caption in zip(wanted, captions, strict=True) if chart is not None
    ]


def _log_prob_caption(log: Sequence[Mapping[str, float]]) -> str:
    """How far the log-probabilities moved, and what it means when both fell."""
    moved = {}
    for key in ("logps/chosen", "logps/rejected"):
        values = [entry[key] for entry in log if key in entry]
        tenth = max(1, len(values) // 10)
        if len(values) < 2:
            return ""
        moved[key] = float(np.mean(values[-tenth:]) - np.mean(values[:tenth]))
    chosen, rejected = moved["logps/chosen"], moved["logps/rejected"]
    text = (
        f"From the first to the last tenth, chosen moved by {_signed(chosen, 2)}, rejected by {_signed(rejected, 2)}."
    )
    if chosen < 0 and rejected < 0:
        text += " Both fell: the margin can widen while the chosen titles become less likely, too."
    return text


def _preferences(data: ReportData) -> list[Chart]:
    if data.pairs is None:
        return []
    pairs = data.pairs
    held = pairs.rejected >= 0
    eps = pairs.eps[held]
    if not len(eps):
        return []
    shown = [
        replace(
            charts.histogram(
                "Smoothing factor",
                {"eps": (eps, "gold")},
                0.0,
                max(0.5, float(eps.max())),
                "eps: P(rejected is preferred)",
            ),
            caption=f"Share of {number(len(eps), 0)} pairs; mean {eps.mean():.3f}, median {np.median(eps):.3f}.",
        )
    ]
    shown += _calibration(data)
    if data.split is not None:
        popularity = data.split.catalogue.popularity
        row, slot = np.nonzero(held)
        chosen, rejected = popularity[pairs.examples.target[row]], popularity[pairs.rejected[row, slot]]
        shown.append(
            replace(
                charts.popularity_bars(
                    "Popularity of chosen and rejected",
                    {"chosen": (chosen, "green"), "rejected": (rejected, "orange")},
                ),
                caption=f"Share of pairs; mean interactions: chosen {number(chosen.mean(), 1)}, "
                f"rejected {number(rejected.mean(), 1)}.",
            )
        )
    if data.similarity is not None and len(data.similarity[0]):
        alike, drawn = data.similarity
        low = min(0.0, float(min(alike.min(), drawn.min())))
        groups: Mapping[str, tuple[Floats, str]] = {"rejected": (alike, "orange"), "any item": (drawn, "grey")}
        shown.append(
            replace(
                charts.histogram("Similarity to the target", groups, low, 1.0, "cosine of title embeddings"),
                caption=f"Share of pairs; mean: rejected {alike.mean():.3f}, an item drawn uniformly "
                f"{drawn.mean():.3f}.",
            )
        )
    return shown


def _calibration(data: ReportData) -> list[Chart]:
    quality = first_oracle_quality(data.evaluations)
    if quality is None or not quality.reliability:
        return []
    bins = [
        (each.flip, each.observed, f"{each.flip:.3f} predicted, {each.observed:.3f} observed ({each.pairs:,})")
        for each in quality.reliability
    ]
    chart = charts.reliability(
        "Oracle calibration", bins, "flip probability, mean of a bin; upwards: observed", "gold"
    )
    caption = (
        f"On {number(quality.pairs, 0)} held-out questions, each pair asked in both orders: AUC {quality.auc:.3f}, "
        f"expected calibration error {quality.ece:.3f}."
    )
    return [replace(chart, caption=caption)]


def _signed(value: float, decimals: int = 3) -> str:
    return f"{value:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{seconds / 60:.1f} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
