"""Names and colours of models, and the format of numbers, for all outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rosepo_core.evaluation.run_models import RUN_MODELS

ARROWS: Mapping[str, str] = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}", "neither": ""}
MORE_STYLES = ("violet", "cyan", "brown", "orange", "green")
"""Colours of models beyond those of one run, used in turn."""


def model_styles(models: Iterable[str]) -> Mapping[str, str]:
    """The CSS class of each model. The models of a run have their own classes. Of several aligned models, the first
    has the class of the aligned model."""
    aligned = RUN_MODELS["aligned"].style
    found: dict[str, str] = {}
    for name in models:
        style = RUN_MODELS[name].style if name in RUN_MODELS else None
        if style is None and name.startswith("aligned") and aligned not in found.values():
            style = aligned
        others = sum(each in MORE_STYLES for each in found.values())
        found[name] = style or MORE_STYLES[others % len(MORE_STYLES)]
    return found


def model_title(model: str) -> str:
    """The title of a model for readers: ``aligned (run)`` becomes Aligned (run)."""
    name, space, label = model.partition(" ")
    return (RUN_MODELS[name].title if name in RUN_MODELS else name) + space + label


def signed(value: float, decimals: int = 3) -> str:
    """A number with its sign; minus is the typographic minus sign."""
    return f"{value:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")
