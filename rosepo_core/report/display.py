"""How models are called and coloured, and numbers written, wherever they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rosepo_core.evaluation.run_models import RUN_MODELS

ARROWS: Mapping[str, str] = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}", "neither": ""}
MORE_STYLES = ("violet", "cyan", "brown", "orange", "green")
"""Of models beyond those of one run, in turn."""


def model_styles(models: Iterable[str]) -> Mapping[str, str]:
    """The CSS class of each model: those of a run have their own, and the first of several aligned ones has that of
    the aligned one."""
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
    """What a reader sees: ``aligned (run)`` is Aligned (run)."""
    name, space, label = model.partition(" ")
    return (RUN_MODELS[name].title if name in RUN_MODELS else name) + space + label


def signed(value: float, decimals: int = 3) -> str:
    """With its sign, a true minus."""
    return f"{value:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")
