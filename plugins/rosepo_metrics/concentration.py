"""Metrics of concentration: how evenly all lists together use the catalogue.

Each is one number for all users, without interval or paired test: resampling repeats users, and repeated lists would
look more concentrated than they are.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from rosepo_core.api import CutOffMetric, CutOffOptions, Measure, Outcome


class Coverage(CutOffMetric):
    """Coverage@k = |union over users of the first k items| / items of the catalogue.

    Range 0 to 1, higher is better. Catalogue coverage of Ge et al., "Beyond accuracy: evaluating recommender systems
    by coverage and serendipity", RecSys 2010. No model can exceed n k / items, or the share of the catalogue that is
    among the candidates of any user. So compare models under the same protocol only.
    """

    about = Measure("Coverage", "higher", "Concentration")

    def at(self, outcome: Outcome, k: int) -> float:
        """Of all lists."""
        return float((outcome.list_counts(k) > 0).mean())


class Gini(CutOffMetric):
    """G@k = sum_{j=1..m} (2j - m - 1) x_j / (m sum_j x_j). For each of the m items of the catalogue, count how many
    lists have it among their first k (0 for items that are never recommended); x_j are these counts in ascending
    order.

    Range 0 (all items equally often) to 1 - 1/m (always the same item); lower is more even. Fleder and Hosanagar,
    "Blockbuster culture's next rise or fall", Management Science 2009. NaN if nothing is recommended.
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

    items: int = Field(3, ge=1, description="Number of most recommended items that count as over-recommended.")


class ORRatio(CutOffMetric):
    """ORRatio@k = recommendations of the three most recommended items / all recommendations, counted among the first
    k items of all lists.

    Range above 0 to 1, lower is better. Over-recommendation ratio of Gao et al., "SPRec: Self-Play to Debias
    LLM-based Recommendation", WWW 2025 (arXiv 2412.09243), as its evaluation script computes it (sum of the three
    highest counts over k times the number of users). The option `items` replaces the number three. NaN if nothing is
    recommended.
    """

    Options = ORRatioOptions
    about = Measure("ORRatio", "lower", "Concentration")

    def at(self, outcome: Outcome, k: int) -> float:
        """Of all lists."""
        counts = np.sort(outcome.list_counts(k))[::-1]
        return float(counts[: self.options.items].sum() / counts.sum()) if counts.sum() else float("nan")


class DivRatio(CutOffMetric):
    """DivRatio@k = number of different items / number of all recommendations, counted among the first k items of all
    lists.

    Range above 0 to 1, higher is better. Diversity ratio of SPRec (arXiv 2412.09243), as its evaluation script
    computes it (size of the union over k times the number of users). It falls with more users, so compare models with
    the same number of users. NaN if nothing is recommended.
    """

    about = Measure("DivRatio", "higher", "Concentration")

    def at(self, outcome: Outcome, k: int) -> float:
        """Of all lists."""
        counts = outcome.list_counts(k)
        return float((counts > 0).sum() / counts.sum()) if counts.sum() else float("nan")
