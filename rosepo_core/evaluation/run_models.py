"""The models that every run has: their names, their order, and the baseline of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rosepo_core.contracts.sections import SCORES
from rosepo_core.evaluation.decision_rules import ranked_name


@dataclass(frozen=True)
class RunModel:
    """One model that every run has.

    Attributes:
        name: its name in tables and files.
        title: its name in the report and the model card.
        style: its colour in the report, a CSS class.
        writes: whether it is a language model, which can write and recommend.
        baseline: the model that it is compared with, user by user; `None` if there is no comparison.
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
"""The models by name, in the order of every table."""

LANGUAGE_MODELS = tuple(name for name, model in RUN_MODELS.items() if model.writes)[::-1]
"""The language models of a run, the last trained first."""


def in_order(names: Iterable[str]) -> list[str]:
    """The names in order: first the models of a run, each by all its scores, then the others, in their given
    order."""
    every = [ranked_name(name, score) for name in RUN_MODELS for score in SCORES]
    places = {name: place for place, name in enumerate(every)}
    return sorted(names, key=lambda name: places.get(name, len(places)))


def compared_models(names: Iterable[str]) -> list[tuple[str, str]]:
    """The models of a table that are compared user by user, each with its baseline: (model, baseline).

    Each trained model is compared with its baseline under the same score, and each model under another score with
    itself under likelihood. The fusion of a language model is also compared with the best that the run has without
    the language model: the fusion of the oracle, or else the oracle.
    """
    names = list(names)
    found = [
        (ranked_name(model.name, score), ranked_name(model.baseline, score))
        for model in RUN_MODELS.values()
        if model.baseline
        for score in SCORES
    ]
    for name in names:
        model, _, score = name.rpartition(" ")
        if model in names and score in SCORES:
            found.append((name, model))
            if score == "fusion" and model != "oracle":
                found.append((name, "oracle fusion" if "oracle fusion" in names else "oracle"))
    return [pair for pair in found if set(pair) <= set(names)]
