"""How many items all lists together share. Each is one number for all users, so none has an interval or a paired
test: resampled users repeat, and would make any list look more concentrated than it is.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from rosepo_core.api import CutOffMetric, CutOffOptions, Measure, Outcome


class Coverage(CutOffMetric):
    """Coverage@k = |union over users of the first k items| / items of the catalogue.

    Range 0 to 1, higher is better. Catalogue coverage of Ge et al., "Beyond accuracy: evaluating recommender systems
    by coverage and serendipity", RecSys 2010. No model can exceed the share of the catalogue that is offered among
    all candidates, nor n k / items; with drawn candidates compare models under one protocol only.
    """

    about = Measure("Coverage", "higher", "Concentration")

    def at(self, outcome: Outcome, k: int) -> float:
        """Of all lists."""
        return float((outcome.list_counts(k) > 0).mean())


class Gini(CutOffMetric):
    """G@k = sum_{j=1..m} (2j - m - 1) x_j / (m sum_j x_j), with x_j the ascending counts of how often each of the m
    items of the catalogue stands among the first k of a list, never-recommended items included.

    Range 0 (all equally often) to 1 - 1/m (always the same one); lower is more even. Fleder and Hosanagar,
    "Blockbuster culture's next rise or fall", Management Science 2009. NaN where nothing is recommended.
    """

    about = Measure("Gini", "lower", "Concentration")

    def at(self, outcome: Outcome, k: int) -> float:
        """Of all lists."""
        counts = np.sort(outcome.list_counts(k)).astype(np.float64)
        items = len(counts)
        weights = 2 * np.arange(1, items + 1) - items - 1
        return float(weights @ counts / (items * counts.sum())) if counts.sum() else float("nan")


class ORRatioOptions(CutOffOptions):
    """Options of `or-ratio`."""

    items: int = Field(3, ge=1, description="How many of the most recommended items count as over-recommended.")


class ORRatio(CutOffMetric):
    """ORRatio@k = how often the three most recommended items stand among the first k of a list / all places that hold
    an item among the first k.

    Range above 0 to 1, lower is better. Over-recommendation ratio of Gao et al., "SPRec: Self-Play to Debias
    LLM-based Recommendation", WWW 2025 (arXiv 2412.09243), as its evaluation script computes it (top three of the
    counts over k times the number of users); `items` replaces the three. NaN where nothing is recommended.
    """

    Options = ORRatioOptions
    about = Measure("ORRatio", "lower", "Concentration")

    def at(self, outcome: Outcome, k: int) -> float:
        """Of all lists."""
        counts = np.sort(outcome.list_counts(k))[::-1]
        return float(counts[: self.options.items].sum() / counts.sum()) if counts.sum() else float("nan")


class DivRatio(CutOffMetric):
    """DivRatio@k = different items among the first k of all lists / all places that hold an item among the first k.

    Range above 0 to 1, higher is better. Diversity ratio of SPRec (arXiv 2412.09243), as its evaluation script
    computes it (size of the union over k times the number of users). It falls as users are added, so compare over
    equally many. NaN where nothing is recommended.
    """

    about = Measure("DivRatio", "higher", "Concentration")

    def at(self, outcome: Outcome, k: int) -> float:
        """Of all lists."""
        counts = outcome.list_counts(k)
        return float((counts > 0).sum() / counts.sum()) if counts.sum() else float("nan")
