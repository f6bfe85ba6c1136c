"""The tables of the report: headings, cells, and which models have a column."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rosepo_core.contracts.sections import SCORES, Score
from rosepo_core.evaluation.conditional_logit import ConditionalLogit
from rosepo_core.evaluation.measurement import Column
from rosepo_core.evaluation.results import Evaluation
from rosepo_core.evaluation.run_models import RowName, main_rows, score_in_use
from rosepo_core.evaluation.statistics import OverSeeds, over_seeds
from rosepo_core.report.charts import number
from rosepo_core.report.display import (
    ARROWS,
    SCORE_NOTES,
    SCORE_TITLES,
    colour_of,
    feature_title,
    model_styles,
    model_title,
    signed,
)


@dataclass(frozen=True)
class Cell:
    """A number, its interval, the number of users if it is not a mean over all users, and whether it is the best. The
    interval and the number of users may be empty."""

    value: str
    interval: str
    users: str
    best: bool


@dataclass(frozen=True)
class Row:
    """One column of metrics: its name and title, an arrow that says which way is better, and the numbers of the
    models."""

    name: str
    title: str
    arrow: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Heading:
    """A model at the head of a table, with the scores of its columns. `scores` is empty if the model has one column,
    by likelihood or a score of its own."""

    title: str
    style: str
    scores: tuple[str, ...]

    @property
    def columns(self) -> int:
        """The number of its columns."""
        return len(self.scores) or 1


@dataclass(frozen=True)
class Results:
    """The tables of one protocol.

    Attributes:
        headings: the models of the large table.
        groups: its rows, by group of metrics.
        by_score: the table of the main metric by model and score, with its title; empty if there is one score.
    """

    headings: tuple[Heading, ...]
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    by_score: tuple[ByScore, ...] = ()

    @property
    def scored(self) -> bool:
        """Whether a model has several columns."""
        return any(heading.scores for heading in self.headings)

    @property
    def columns(self) -> int:
        """The number of columns with numbers."""
        return sum(heading.columns for heading in self.headings)


@dataclass(frozen=True)
class ByScore:
    """One metric: a row for each model, a column for each score; `None` if the model does not rank by the score. The
    note says what the scores are."""

    title: str
    note: str
    scores: tuple[str, ...]
    rows: tuple[tuple[Heading, tuple[Cell | None, ...]], ...]


@dataclass(frozen=True)
class Weights:
    """The fitted weights of fusions.

    Attributes:
        same: the protocol that shows the same weights; empty if this one shows them.
        over: what the intervals are over: ``"users"`` or ``"seeds"``.
        models: title and CSS class of each fusion.
        rows: title of each feature, and its weight in each fusion.
        users: number of users that each was fitted on.
        left_out: sentences about features that were left out.
    """

    same: str = ""
    over: str = "users"
    models: tuple[tuple[str, str], ...] = ()
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...] = ()
    users: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Number:
    """A value, the ends of its interval if it has one, and over how many it is if not over all."""

    value: float
    ends: tuple[float, ...]
    fewer: str


def numbers_of(evaluation: Evaluation, column: str) -> dict[str, Number]:
    """The numbers of a column, by model."""
    found = {}
    for name, result in evaluation.models.items():
        measured = result.users(column) or 0
        users = f"{number(measured, 0)} users" if 0 < measured < len(evaluation.examples) else ""
        found[name] = Number(result.metrics[column], tuple(result.intervals.get(column, ())), users)
    return found


def results_tables(
    columns: Mapping[str, Column], found: Mapping[str, Mapping[str, Number]], y_name: str | None
) -> Results:
    """The tables of one protocol.

    Args:
        columns: the metrics.
        found: by column and model.
        y_name: the main column.
    """
    names = list(next(iter(found.values()), {}))
    styles = model_styles(names)
    models: dict[str, list[str]] = {}
    for name in main_rows(names):
        models.setdefault(RowName.of(name).own, []).append(name)
    groups: dict[str, list[Row]] = {}
    for name, column in columns.items():
        cells = _cells(column, {row: found[name][row] for own in models.values() for row in own})
        row = Row(name, column.title, ARROWS[column.about.direction], tuple(cells.values()))
        groups.setdefault(column.about.group, []).append(row)
    scores = SCORES[: SCORES.index(score_in_use(names)) + 1]
    return Results(
        headings=tuple(_heading(own, rows, styles) for own, rows in models.items()),
        groups=tuple((heading, tuple(rows)) for heading, rows in groups.items()),
        by_score=(_by_score(columns[y_name], found[y_name], scores, styles),) if len(scores) > 1 and y_name else (),
    )


def _heading(own: str, rows: Sequence[str], styles: Mapping[str, str]) -> Heading:
    scores = tuple(RowName.of(name).score for name in rows)
    titles = () if scores == ("likelihood",) else tuple(SCORE_TITLES[score] for score in scores)
    return Heading(model_title(own), colour_of(styles[rows[0]]), titles)


def _by_score(
    column: Column, found: Mapping[str, Number], scores: Sequence[Score], styles: Mapping[str, str]
) -> ByScore:
    cells = _cells(column, found)
    models: dict[str, dict[Score, str]] = {}
    for name in found:
        row = RowName.of(name)
        models.setdefault(row.own, {})[row.score] = name
    return ByScore(
        title=f"{column.title} {ARROWS[column.about.direction]}",
        note=" ".join(SCORE_NOTES[score] for score in scores)
        + f" The table of all metrics has {scores[0]} and {scores[-1]} only.",
        scores=tuple(SCORE_TITLES[score] for score in scores),
        rows=tuple(
            (
                _heading(own, list(by_score.values()), styles),
                tuple(cells[by_score[score]] if score in by_score else None for score in scores),
            )
            for own, by_score in models.items()
        ),
    )


def _cells(column: Column, found: Mapping[str, Number]) -> dict[str, Cell]:
    """The cells of one column of metrics, by model; the best is marked."""
    decimals, direction = column.about.decimals, column.about.direction
    shown = [round(each.value, decimals) for each in found.values() if math.isfinite(each.value)]
    # There is no best value if all models have the same, or if neither direction is better.
    told = direction != "neither" and len(set(shown)) > 1
    best = (max(shown) if direction == "higher" else min(shown)) if told else math.nan
    cells = {}
    for name, each in found.items():
        interval = "\N{EN DASH}".join(_short(end, decimals) for end in each.ends if math.isfinite(end))
        text = number(each.value, decimals) if math.isfinite(each.value) else "\N{EN DASH}"
        cells[name] = Cell(text, interval, each.fewer, round(each.value, decimals) == best)
    return cells


def weights_table(fusions: Mapping[str, ConditionalLogit], names: Sequence[str], over: str = "users") -> Weights:
    """The weights of the fusions of a protocol.

    Args:
        fusions: the fusions by name of the row.
        names: the names of all rows of the protocol.
        over: what the intervals of the weights are over: ``"users"`` or ``"seeds"``.
    """
    styles = model_styles(names)
    # In the order of the fusion that has the most.
    most = sorted(fusions.values(), key=lambda logit: -len(logit.features))
    features = dict.fromkeys(feature for logit in most for feature in logit.features)
    left_out: dict[tuple[str, str], list[str]] = {}
    for name, logit in fusions.items():
        for each in logit.left_out:
            left_out.setdefault(each, []).append(model_title(name))
    return Weights(
        over=over,
        models=tuple((model_title(name), colour_of(styles[name])) for name in fusions),
        rows=tuple(
            (feature_title(feature), tuple(_weight(logit, feature) for logit in fusions.values()))
            for feature in features
        ),
        users=tuple(number(logit.users, 0) for logit in fusions.values()),
        left_out=tuple(
            f"Left out of {' and '.join(names)}: {feature_title(feature)}, because {why}."
            for (feature, why), names in left_out.items()
        ),
    )


def mean_fusion(logits: Sequence[ConditionalLogit]) -> ConditionalLogit:
    """The fusions of several seeds as one: the features that all have, mean weights with Student's intervals over
    seeds, and the smallest number of users."""
    features = [name for name in logits[0].features if all(name in each.features for each in logits)]

    def mean(values: Callable[[ConditionalLogit], Sequence[float]]) -> list[OverSeeds]:
        return [over_seeds([values(each)[each.features.index(name)] for each in logits]) for name in features]

    weights = mean(lambda logit: logit.weights)
    return ConditionalLogit(
        features=tuple(features),
        scales=tuple(each.mean for each in mean(lambda logit: logit.scales)),
        weights=tuple(each.mean for each in weights),
        low=tuple(each.low for each in weights),
        high=tuple(each.high for each in weights),
        users=min(each.users for each in logits),
        left_out=tuple(dict.fromkeys(pair for each in logits for pair in each.left_out)),
    )


def _weight(logit: ConditionalLogit, feature: str) -> Cell | None:
    if feature not in logit.features:
        return None
    place = logit.features.index(feature)
    low, high = _short(logit.low[place], 2), _short(logit.high[place], 2)
    return Cell(signed(logit.weights[place], 2), f"{low} to {high}", "", False)


def _short(value: float, decimals: int) -> str:
    """Without the zero before the point."""
    sign = "\N{MINUS SIGN}" if value < 0 else ""
    return sign + f"{abs(value):.{decimals}f}".removeprefix("0")
