"""Recommended titles, with their confidence and what explains them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rosepo_cli.tables.cells import plain_table
from rosepo_core.console import Text, complain, open_console
from rosepo_core.contracts.untrusted_text import visible_line

if TYPE_CHECKING:
    from rosepo_core.serving.explanations import Explanation
    from rosepo_core.serving.recommender import Recommendation, Recommended

SHOWN_INFLUENCES = 3
"""Items of a history that are shown with each explained recommendation."""


SCORE_TITLES: Mapping[str, str] = {
    "likelihood": "log-probability",
    "mean": "log-probability a token",
    "prior-corrected": "log-probability gained",
    "fusion": "probability",
    "popularity": "training interactions",
    "oracle": "score of the oracle",
}


def show_recommendations(found: Recommended, score: str) -> None:
    """Titles and their scores, best first. Probabilities of ``fusion`` are shown as such."""
    by = score if found.answered_by == "model" else found.answered_by
    table = plain_table("", "title", SCORE_TITLES[by])
    table.columns[1].justify = "left"
    for rank, each in enumerate(found, 1):
        table.add_row(f"{rank}", _marked(each), _score_text(each.score, by))
    open_console().print(table)


def show_confidence(found: Recommended, threshold: float | None, why_none: str | None) -> None:
    """A line about the confidence of a list, and who answered; why there is none, on stderr.

    Args:
        found: the list.
        threshold: the confidence below which the fallback answers, if there is one.
        why_none: why it has no confidence, if it has none.
    """
    if found.confidence is None or found.interval is None:
        complain("no confidence", str(why_none))
        return
    low, high = found.interval
    line = f"confidence {found.confidence:.0%} ({low:.0%} to {high:.0%}): the next title is in the list"
    if found.answered_by != "model":
        by = "the most popular titles" if found.answered_by == "popularity" else "the oracle"
        line += f" of the model; below {threshold:.0%}, so {by} answered"
    open_console().print(f"\n{line}")


def _marked(found: Recommendation) -> Text:
    """The title, and whether nobody has chosen the item yet."""
    return Text.assemble(visible_line(found.title), ("  new", "cyan") if found.new else "")


def show_explanations(found: Sequence[Explanation], score: str, items: int) -> None:
    """Recommendations as `show_recommendations` shows them, each with its popularity and the items of the history
    that change its score most.

    Args:
        found: the explanations, best first.
        score: the score of the recommendations.
        items: the number of items in the catalogue.
    """
    console = open_console()
    for rank, each in enumerate(found, 1):
        value = _score_text(each.recommendation.score, score)
        popularity = f"popularity {each.popularity_rank:,} of {items:,}"
        console.print(Text.assemble(f"{rank:>2}  ", _marked(each.recommendation), f"  {value}, {popularity}"))
        for influence in each.influences[:SHOWN_INFLUENCES]:
            console.print(Text(f"      {influence.change:+.2f}  {visible_line(influence.title)}"))
    if any(each.influences for each in found):
        console.print(
            "\n+ and -: the change of the score (a logarithm) by an item of the history; it speaks for or against",
        )


def _score_text(value: float, score: str) -> str:
    if score == "popularity":
        return f"{value:,.0f}"
    return f"{math.exp(value):.3f}" if score == "fusion" else f"{value:.2f}"
