"""Names and colours of models, and the format of numbers, for all outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rosepo_core.contracts.sections import Score
from rosepo_core.evaluation.run_models import ROUND_STYLES, RUN_MODELS, RowName, run_model

ARROWS: Mapping[str, str] = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}", "neither": ""}


SCORE_TITLES: Mapping[Score, str] = {
    "likelihood": "Likelihood",
    "mean": "Mean",
    "prior-corrected": "Prior-corrected",
    "fusion": "Fusion",
}
"""The titles of the scores by which models rank."""

SCORE_NOTES: Mapping[Score, str] = {
    "likelihood": "Likelihood: log p(title | history); for popularity and the oracle, their own score.",
    "mean": "Mean: the likelihood divided by the tokens of the title.",
    "prior-corrected": "Prior-corrected: log p(title | history) \N{MINUS SIGN} log p(title).",
    "fusion": "Fusion: a weighted sum with fitted weights.",
}
"""What the scores are."""

FEATURE_TITLES: Mapping[str, str] = {
    "likelihood": "log p(title | history)",
    "prior": "log p(title)",
    "popularity": "log(1 + interactions)",
    "oracle": "score of the oracle",
}
"""The titles of the usual features of ``fusion``."""


def model_styles(models: Iterable[str]) -> Mapping[str, str]:
    """The CSS classes of each row of a table. The models of a run have colours of their own. Of several aligned
    models, the first has the colour of the aligned model. A model has the same colour by all its scores; by another
    score than likelihood, its points are open."""
    aligned = RUN_MODELS["aligned"].style
    colours: dict[str, str] = {}
    found: dict[str, str] = {}
    for name in models:
        row = RowName.of(name)
        if row.own not in colours:
            known = run_model(row.own)
            colour = known.style if known else None
            if colour is None and row.model == "aligned" and aligned not in colours.values():
                colour = aligned
            others = sum(each in ROUND_STYLES for each in colours.values())
            colours[row.own] = colour or ROUND_STYLES[others % len(ROUND_STYLES)]
        found[name] = colours[row.own] + ("" if row.score == "likelihood" else " open")
    return found


def colour_of(style: str) -> str:
    """The class of the colour alone."""
    return style.partition(" ")[0]


def feature_title(feature: str) -> str:
    """The title of a feature of ``fusion``."""
    return FEATURE_TITLES.get(feature, f"score of {model_title(feature)}")


def model_title(model: str) -> str:
    """The title of a row for readers: ``aligned fusion (run)`` becomes Aligned fusion (run)."""
    name, space, label = model.partition(" ")
    known = run_model(name)
    return (known.title if known else name) + space + label


def signed(value: float, decimals: int = 3) -> str:
    """A number with its sign; minus is the typographic minus sign."""
    return f"{value:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")
