"""Whether the held-out items are found. Ties count as the expectation over their orders, as in
`rosepo_core.contracts.ranking`; a held-out item without a rank gains nothing.
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

    Range 0 to 1, higher is better. With one held-out item it is Recall@k, and Success@k in any case. Deshpande and
    Karypis, "Item-based top-N recommendation algorithms", ACM TOIS 2004. It is 1 for all where k reaches the number
    of candidates.
    """

    about = Measure("HR", "higher", "Accuracy")

    def at(self, outcome: Outcome, k: int) -> Doubles:
        """Of each user: float64 [n]."""
        return hit_rate(outcome.ranks, k)


class NDCG(CutOffMetric):
    """NDCG@k = DCG / IDCG: DCG sums 1 / log2(rank + 1) over the held-out items with rank <= k, and IDCG is the DCG of
    as many of them as fit on the first k ranks; the mean over users.

    Range 0 to 1, higher is better. With one held-out item IDCG is 1. NDCG@1 is left out where it could only repeat
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
    """HR@k over valid answers: `hr` of the users with an item of the catalogue among their first k answers; the mean
    over them alone.

    Range 0 to 1, higher is better. It applies to models that write freely, and not to a user without a valid answer.
    A model that seldom writes a title can score high here: read it beside `valid-ratio`, and compare models by `hr`,
    which counts every user. The name is rosepo's own, so that this number is not taken for HR; the valid ratio is of
    Liao et al., "LLaRA", SIGIR 2024.
    """

    about = Measure("HR of valid", "higher", "Accuracy")
    needs = frozenset({"answers"})

    def at(self, outcome: Outcome, k: int) -> Doubles:
        """Of each user: float64 [n], NaN without a valid answer."""
        return np.where((outcome.top[:, :k] >= 0).any(axis=1), hit_rate(outcome.ranks, k), np.nan)


class MRR(Metric):
    """MRR = 1 / rank of the first held-out item, no cut-off; the mean over users.

    In lists without scores nothing is known behind the end, so that 1 / rank is 0 there and the column is called
    MRR@L after the length L of the lists. Of lists of one it is left out, where it could only repeat HR@1.

    Range 0 (exclusive where all is ranked) to 1, higher is better. Voorhees, "The TREC-8 question answering track
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
    """Recall@k = the held-out items with rank <= k / the held-out items; the mean over users.

    Range 0 to 1, higher is better. With one held-out item it is HR@k; it tells more where several are held out.
    Herlocker et al., "Evaluating collaborative filtering recommender systems", ACM TOIS 2004.
    """

    about = Measure("Recall", "higher", "Accuracy")

    def at(self, outcome: Outcome, k: int) -> Doubles:
        """Of each user: float64 [n]."""
        found: Doubles = outcome.ranks.expectation(np.ones(k)).sum(axis=1) / (outcome.targets >= 0).sum(axis=1)
        return found


class AUC(Metric):
    """AUC = the pairs of a held-out and another ranked item in which the held-out one has the higher score, ties
    counting half, / all such pairs of the user; the mean over users.

    Range 0 to 1, 1/2 is chance, higher is better. With one held-out item and drawn candidates it is the accuracy on
    held-out preference pairs (target preferred over candidate). Rendle et al., "BPR: Bayesian personalized ranking
    from implicit feedback", UAI 2009, section 4.1.1. It does not apply to a user with nothing else to rank.
    """

    about = Measure("AUC", "higher", "Accuracy")
    needs = frozenset({"scores"})

    def measure(self, outcome: Outcome) -> dict[str, Doubles]:
        """Of each user: float64 [n]."""
        assert outcome.items is not None  # granted by `needs`
        ranks = outcome.ranks
        # A target's rivals of its own kind make no pairs: they are taken out of what stands above or beside it.
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
