"""The models that every run has: their names, their order, and the baseline of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


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
    """The names in order: first the models of a run, then the others, in their given order."""
    places = {name: place for place, name in enumerate(RUN_MODELS)}
    return sorted(names, key=lambda name: places.get(name, len(places)))
