"""The models of a run: their names, their order, and the baselines of each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from rosepo_core.contracts.sections import SCORES, Score
from rosepo_core.evaluation.decision_rules import ranked_name
from rosepo_core.stages.rounds import rounds_of


@dataclass(frozen=True)
class RunModel:
    """One model of a run.

    Attributes:
        name: its name in tables and files.
        title: its name in the report and the model card.
        style: its colour in the report, a CSS class.
        writes: whether it is a language model, which can write and recommend.
        baseline: the model that it is compared with, user by user; `None` if there is no comparison. The model of the
            last round is also compared with that of the round before.
    """

    name: str
    title: str
    style: str
    writes: bool = False
    baseline: str | None = None


RUN_MODELS: Mapping[str, RunModel] = {
    model.name: model
    for model in (
        RunModel("popularity", "Popularity", "grey"),
        RunModel("oracle", "Oracle", "gold"),
        RunModel("base", "Base", "blue", writes=True),
        RunModel("sft", "SFT", "teal", writes=True, baseline="base"),
        RunModel("aligned", "Aligned", "rose", writes=True, baseline="sft"),
    )
}
"""The models that every run has, by name, in the order of every table."""

ROUND = re.compile(r"round-([1-9]\d*)-aligned")
"""The name of the model that a round before the last left."""

ROUND_STYLES = ("violet", "cyan", "brown", "orange", "green")
"""Colours of the models of rounds, used in turn."""


def run_model(name: str) -> RunModel | None:
    """The model of a run with this name; `None` if there is none. Any number of rounds is possible."""
    if (found := ROUND.fullmatch(name)) is None:
        return RUN_MODELS.get(name)
    number = int(found[1])
    style = ROUND_STYLES[(number - 1) % len(ROUND_STYLES)]
    baseline = "sft" if number == 1 else f"round-{number - 1}-aligned"
    return RunModel(name, f"Round {number}", style, writes=True, baseline=baseline)


def round_of(name: str, rounds: int) -> int:
    """The round, in a run with so many, that left the model `name`: a model of a round, or the aligned one."""
    found = ROUND.fullmatch(name)
    return int(found[1]) if found else rounds


def models_of(rounds: int) -> tuple[str, ...]:
    """The models of a run with so many rounds, in the order of every table."""
    *others, _ = RUN_MODELS
    return (*others, *(each.stage("aligned") for each in rounds_of(rounds)))


def language_models(rounds: int) -> tuple[str, ...]:
    """The language models of a run with so many rounds, the last trained first."""
    return tuple(name for name in models_of(rounds) if RowName.of(name).writes)[::-1]


def _known(names: Iterable[str]) -> list[RunModel]:
    """The models of a run with the rounds of the models in these names, in the order of every table."""
    numbers = [int(found[1]) for name in names if (found := ROUND.fullmatch(RowName.of(name).model))]
    return [model for name in models_of(1 + max(numbers, default=0)) if (model := run_model(name)) is not None]


ROW_NAME = re.compile(rf"(.+?)(?: ({'|'.join(SCORES[1:])}))?( \(.+\))?", re.DOTALL)


@dataclass(frozen=True)
class RowName:
    """The parts of a name in tables, such as ``aligned fusion (runs/a)``.

    Attributes:
        model: name of the model: ``aligned``.
        score: the score by which it ranks: ``fusion``.
        label: the run that it belongs to, with its brackets and a blank before them: `` (runs/a)``; empty if the
            table is of one run, or the model is the same in all runs.
    """

    model: str
    score: Score
    label: str = ""

    @staticmethod
    def of(name: str) -> RowName:
        """The parts of a name."""
        found = ROW_NAME.fullmatch(name)
        assert found is not None
        return RowName(found[1], cast(Score, found[2] or "likelihood"), found[3] or "")

    @property
    def writes(self) -> bool:
        """Whether it is a language model. So is a model that is not of a run."""
        return self.model not in RUN_MODELS or RUN_MODELS[self.model].writes

    @property
    def own(self) -> str:
        """The name without the score."""
        return self.model + self.label


def score_in_use(names: Iterable[str]) -> Score:
    """The score that a table is about. Tables show it beside all scores that come before it."""
    return max((RowName.of(name).score for name in names), key=SCORES.index, default="likelihood")


def by_score_in_use(names: Iterable[str]) -> list[str]:
    """One row for each model: by the score that the table is about, or by the only score that the model has."""
    names = list(names)
    best: dict[str, str] = {}
    for name in sorted(names, key=lambda name: SCORES.index(RowName.of(name).score)):
        best[RowName.of(name).own] = name
    return [name for name in names if name in best.values()]


def main_rows(names: Iterable[str]) -> list[str]:
    """The rows of a table without the scores that nobody ranks by: those of `by_score_in_use`, and likelihood, so
    that papers can be compared."""
    names = list(names)
    used = by_score_in_use(names)
    return [name for name in names if name in used or RowName.of(name).score == "likelihood"]


def last_language_model(names: Iterable[str]) -> str | None:
    """The last trained language model of a run among the models of these rows."""
    names = list(names)
    models = {RowName.of(name).model for name in names}
    return next((each.name for each in reversed(_known(names)) if each.writes and each.name in models), None)


def few_rows(names: Iterable[str]) -> list[str]:
    """Rows for a chart, which cannot show many models. If there is one score, all of them. Otherwise the parts of the
    last trained model's ranking beside the whole: popularity, the oracle, and the model by likelihood and by the
    score that the table is about. Of several runs, only the latter."""
    names = list(names)
    if score_in_use(names) == "likelihood":
        return names
    rows = {name: RowName.of(name) for name in names}
    last = last_language_model(names)
    shown = [name for name, row in rows.items() if row.writes and row.model == (last or row.model)]
    used = [name for name in by_score_in_use(names) if name in shown]
    scored = [name for name in shown if rows[name].score == "likelihood"] if len(used) == 1 else []
    other = [name for name, row in rows.items() if not row.writes and row.score == "likelihood"]
    return [name for name in names if name in (*other, *scored, *used)]


def in_order(names: Iterable[str]) -> list[str]:
    """The names in order: first the models of a run, each by all its scores, then the others, in their given
    order."""
    names = list(names)
    every = [ranked_name(model.name, score) for model in _known(names) for score in SCORES]
    places = {name: place for place, name in enumerate(every)}
    return sorted(names, key=lambda name: places.get(name, len(places)))


def compared_models(names: Iterable[str]) -> list[tuple[str, str]]:
    """The models of a table that are compared user by user, each with its baseline: (model, baseline).

    Each trained model is compared with its baseline under the same score, the model of the last round also with that
    of the round before, and each model under another score with itself under likelihood. The fusion of a language
    model is also compared with the best that the run has without the language model: the fusion of the oracle, or
    else the oracle.
    """
    names = list(names)
    known = _known(names)
    pairs = [(model.name, model.baseline) for model in known if model.baseline]
    if ROUND.fullmatch(known[-2].name):
        pairs.append((known[-1].name, known[-2].name))
    found = [
        (ranked_name(model, score), ranked_name(baseline, score)) for model, baseline in pairs for score in SCORES
    ]
    for name in names:
        model, _, score = name.rpartition(" ")
        if model in names and score in SCORES:
            found.append((name, model))
            if score == "fusion" and model != "oracle":
                found.append((name, "oracle fusion" if "oracle fusion" in names else "oracle"))
    return [pair for pair in found if set(pair) <= set(names)]


def preferred_column(columns: Iterable[str]) -> str:
    """The column to show where there is room for one: NDCG@10 if it is there, otherwise the first."""
    names = list(columns)
    return "ndcg@10" if "ndcg@10" in names else names[0]
