"""Metrics of accuracy: whether the held-out items are found.

Ties count as the expectation over their orders, as in `rosepo_core.contracts.ranking`. A held-out item without a rank
counts 0.
"""

from __future__ import annotations

import numpy as np

from rosepo_core.api import CutOffMetric, Doubles, Measure, Metric, Outcome, Ranks


def hit_rate(ranks: Ranks, k: int) -> Doubles:
    """`HitRate` of each row at one cut-off: float64 [n]."""
    return ranks.first_expectation(np.ones(k))


def ndcg(ranks: Ranks, k: int) -> Doubles:
    """`NDCG` of rows with one target at one cut-off: float64 of the shape of the ranks."""
    return ranks.expectation(discounts(k))


def discounts(k: int) -> Doubles:
    """1 / log2(rank + 1) of the ranks 1 to k: float64 [k]."""
    return 1 / np.log2(np.arange(2.0, k + 2))


class HitRate(CutOffMetric):
    """HR@k = 1 if any held-out item has rank <= k, else 0; the mean over users.

    Range 0 to 1, higher is better. It is the same as Success@k and, with one held-out item, as Recall@k. Deshpande
    and Karypis, "Item-based top-N recommendation algorithms", ACM TOIS 2004. If k is at least the number of
    candidates, it is 1 for all models.
    """

    about = Measure("HR", "higher", "Accuracy")

    def at(self, outcome: Outcome, k: int) -> Doubles:
        """Of each user: float64 [n]."""
        return hit_rate(outcome.ranks, k)


class NDCG(CutOffMetric):
    """NDCG@k = DCG / IDCG; the mean over users. DCG is the sum of 1 / log2(rank + 1) over the held-out items with
    rank <= k. IDCG is the highest possible DCG, with the held-out items on the first ranks.

    Range 0 to 1, higher is better. With one held-out item IDCG is 1. NDCG@1 is left out, because it only repeats
    HR@1. Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", ACM TOIS 2002, with the
    discount from rank 1 on and gains of 0 and 1.
    """

    about = Measure("NDCG", "higher", "Accuracy")
    smallest_k = 2

    def at(self, outcome: Outcome, k: int) -> Doubles:
        """Of each user: float64 [n]."""
        ideal = np.concatenate([[0.0], np.cumsum(discounts(k))])
        held_out = (outcome.targets >= 0).sum(axis=1)
        gained: Doubles = ndcg(outcome.ranks, k).sum(axis=1) / ideal[np.minimum(held_out, k)]
        return gained


class HitRateOfValid(CutOffMetric):
    """HR@k over valid answers: the mean of `hr` over the users with an item of the catalogue among their first k
    answers.

    Range 0 to 1, higher is better. It applies to models that write freely, and only to users with a valid answer. A
    model that rarely writes a title can have a high value here. So read it together with `valid-ratio`, and compare
    models by `hr`, which counts every user. The name is rosepo's own, so that this number is not confused with HR.
    The valid ratio is from Liao et al., "LLaRA", SIGIR 2024.
    """

    about = Measure("HR of valid", "higher", "Accuracy")
    needs = frozenset({"answers"})

    def at(self, outcome: Outcome, k: int) -> Doubles:
        """Of each user: float64 [n], NaN without a valid answer."""
        return np.where((outcome.top[:, :k] >= 0).any(axis=1), hit_rate(outcome.ranks, k), np.nan)


class MRR(Metric):
    """MRR = 1 / rank of the first held-out item, without a cut-off; the mean over users.

    For lists without scores, ranks after the end of the list are unknown. There 1 / rank counts as 0, and the column
    is called MRR@L, where L is the length of the lists. For lists of one item it is left out, because it only repeats
    HR@1.

    Range 0 to 1, higher is better; above 0 if all items are ranked. Voorhees, "The TREC-8 question answering track
    report", 1999.
    """

    about = Measure("MRR", "higher", "Accuracy")

    def measure(self, outcome: Outcome) -> dict[str, Doubles]:
        """Of each user: float64 [n]."""
        reciprocal = outcome.ranks.first_expectation(1 / np.arange(1.0, outcome.ranks.limit() + 1))
        if outcome.scores is not None:
            return {"": reciprocal}
        length = outcome.top.shape[1]
        return {f"@{length}": reciprocal} if length > 1 else {}


class Recall(CutOffMetric):
    """Recall@k = held-out items with rank <= k / all held-out items; the mean over users.

    Range 0 to 1, higher is better. With one held-out item it is the same as HR@k.
    Herlocker et al., "Evaluating collaborative filtering recommender systems", ACM TOIS 2004.
    """

    about = Measure("Recall", "higher", "Accuracy")

    def at(self, outcome: Outcome, k: int) -> Doubles:
        """Of each user: float64 [n]."""
        found: Doubles = outcome.ranks.expectation(np.ones(k)).sum(axis=1) / (outcome.targets >= 0).sum(axis=1)
        return found


class AUC(Metric):
    """AUC: of all pairs of a held-out item and another ranked item of the user, the share in which the held-out item
    has the higher score; ties count half. The mean over users.

    Range 0 to 1, higher is better; 1/2 is chance. With one held-out item and random candidates it is the accuracy on
    held-out preference pairs (target preferred over candidate). Rendle et al., "BPR: Bayesian personalized ranking
    from implicit feedback", UAI 2009, section 4.1.1. It does not apply to a user without other ranked items.
    """

    about = Measure("AUC", "higher", "Accuracy")
    needs = frozenset({"scores"})

    def measure(self, outcome: Outcome) -> dict[str, Doubles]:
        """Of each user: float64 [n]."""
        assert outcome.items is not None  # granted by `needs`
        ranks = outcome.ranks
        # Two targets make no pair: other targets are not counted above a target or tied with it.
        order = ranks.above[:, :, None] - ranks.above[:, None, :]
        held = np.isfinite(ranks.expected)
        both = held[:, :, None] & held[:, None, :]
        above = ranks.above - ((order > 0) & both).sum(axis=2)
        tied = ranks.tied - (((order == 0) & both).sum(axis=2) - 1)
        targets = held.sum(axis=1)
        others = (outcome.items >= 0).sum(axis=1) - targets
        wrong = np.where(held, above + tied / 2, 0.0).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"": np.where((targets > 0) & (others > 0), 1 - wrong / (targets * others), np.nan)}
