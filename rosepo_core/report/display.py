"""How models are called and coloured, and numbers written, wherever they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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


def model_styles(models: Iterable[str]) -> Mapping[str, str]:
    """The CSS class of each model: the usual ones have theirs, and the first of several aligned ones is rose."""
    found: dict[str, str] = {}
    for name in models:
        style = STYLES.get(name)
        if style is None and name.startswith("aligned") and STYLES["aligned"] not in found.values():
            style = STYLES["aligned"]
        others = sum(each in MORE_STYLES for each in found.values())
        found[name] = style or MORE_STYLES[others % len(MORE_STYLES)]
    return found


def model_title(model: str) -> str:
    """What a reader sees: ``aligned (run)`` is Aligned (run)."""
    name, space, label = model.partition(" ")
    return MODEL_TITLES.get(name, name) + space + label


def signed(value: float, decimals: int = 3) -> str:
    """With its sign, a true minus."""
    return f"{value:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")
