"""Metrics of ranked candidates and of what is recommended. NumPy alone; the stages decide what is measured.

Each test example has one relevant item, its target, so HR@k equals Recall@k and Success@k, and the ideal DCG is 1.
Names are lower case with the cut-off after an ``@``: ``hr@10``, ``ndcg@10``, ``mrr``, ``arp@10``, ``aplt@10``,
``coverage@10``, ``gini@10``.

Tied scores get the expectation over all orders in which the tied items could stand (McSherry and Najork, "Computing
information retrieval performance measures efficiently in the presence of tied scores", ECIR 2008). A model that
gives every item the same score therefore gets exactly what random order would, wherever the target stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rosepo_core.records import Bools, Ints, Longs

Doubles = NDArray[np.float64]
Scores = NDArray[np.floating]
Metrics = Mapping[str, float]

HEAD_SHARE = 0.2
"""Share of the catalogue that counts as popular (the head); the rest is the long tail."""

DIRECTIONS: Mapping[str, Literal["higher", "lower"]] = {
    "hr": "higher",
    "ndcg": "higher",
    "mrr": "higher",
    "arp": "lower",
    "aplt": "higher",
    "coverage": "higher",
    "gini": "lower",
}
"""Which way is better, by the name before the ``@``. For `arp`, `aplt`, `coverage` and `gini`, "better" means further
from recommending only what is popular, at equal accuracy."""


@dataclass(frozen=True)
class Ranks:
    """Where the targets stand among what was offered.

    Attributes:
        above: items with a higher score than the target, int64 [n].
        tied: other items with the target's very score, int64 [n].
    """

    above: Longs
    tied: Longs

    @property
    def expected(self) -> Doubles:
        """The target's mean rank over the orders of the tied items: above + 1 + tied / 2; 1 is best; float64 [n]."""
        return self.above + 1 + self.tied / 2

    def _mean_over_ties(self, values: Doubles) -> Doubles:
        """Mean of ``values[rank - 1]`` over the ranks above + 1 .. above + tied + 1, all equally likely."""
        sums = np.concatenate([[0.0], np.cumsum(values)])
        mean: Doubles = (sums[self.above + self.tied + 1] - sums[self.above]) / (self.tied + 1)
        return mean

    def _ranks(self) -> Doubles:
        return np.arange(1.0, int((self.above + self.tied).max(initial=0)) + 2)


def rank_targets(scores: Scores, target_column: NDArray[np.integer], offered: Bools | None = None) -> Ranks:
    """Rank each row's target by its score, the highest first.

    Args:
        scores: float [n, c], higher is better. Minus infinity is allowed and ranks last, tied with the row's other
            minus infinities.
        target_column: int [n], the column of the target.
        offered: bool [n, c], false for columns that hold no item; they neither rank above the target nor tie.

    Raises:
        ValueError: NaN among the offered scores, or a target that was not offered.
    """
    rows = np.arange(len(scores))
    if offered is None:
        offered = np.ones(scores.shape, dtype=np.bool_)
    if bool((np.isnan(scores) & offered).any()):
        row = int((np.isnan(scores) & offered).any(axis=1).argmax())
        raise ValueError(f"the scores of row {row} hold NaN, which has no rank")
    if not bool(offered[rows, target_column].all()):
        raise ValueError("a target stands in a column that holds no item")
    target = scores[rows, target_column][:, None]
    above = ((scores > target) & offered).sum(axis=1)
    tied = ((scores == target) & offered).sum(axis=1) - 1
    return Ranks(above.astype(np.int64), tied.astype(np.int64))


def hit_rate(ranks: Ranks, k: int) -> Doubles:
    """HR@k of each example: 1 if rank <= k, else 0, in expectation over ties; float64 [n].

    Range 0 to 1, higher is better. With one relevant item it is Recall@k (Deshpande and Karypis, "Item-based top-N
    recommendation algorithms", ACM TOIS 2004). It is 1 for all where k reaches the number of candidates.
    """
    return ranks._mean_over_ties((ranks._ranks() <= k).astype(np.float64))


def ndcg(ranks: Ranks, k: int) -> Doubles:
    """NDCG@k of each example: 1 / log2(rank + 1) if rank <= k, else 0, in expectation over ties; float64 [n].

    Range 0 to 1, higher is better. Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", ACM
    TOIS 2002, with the logarithmic discount from rank 1 on; the ideal DCG of one relevant item is 1.
    """
    places = ranks._ranks()
    return ranks._mean_over_ties(np.where(places <= k, 1 / np.log2(places + 1), 0.0))


def reciprocal_rank(ranks: Ranks) -> Doubles:
    """1 / rank of each example's target, in expectation over ties; its mean is MRR; float64 [n].

    Range 0 (exclusive) to 1, higher is better. No cut-off. Voorhees, "The TREC-8 question answering track report",
    1999.
    """
    return ranks._mean_over_ties(1 / ranks._ranks())


def accuracy(ranks: Ranks, ks: Sequence[int]) -> dict[str, Doubles]:
    """HR@k and NDCG@k for each k, and MRR, of each example.

    NDCG@1 is left out: it is HR@1.

    Returns:
        metric name to float64 [n], keyed ``mrr`` for the reciprocal rank.
    """
    hits = {f"hr@{k}": hit_rate(ranks, k) for k in ks}
    gains = {f"ndcg@{k}": ndcg(ranks, k) for k in ks if k > 1}
    return {**hits, **gains, "mrr": reciprocal_rank(ranks)}


def top_items(scores: Scores, items: NDArray[np.integer], k: int) -> Ints:
    """The k items of each row with the highest scores, best first: int32 [n, k].

    Tied items stand in the order of their columns, which for candidates is random. -1 (no item) fills rows of fewer
    than k items. Minus infinity ranks last but is still recommended where nothing better is left.
    """
    order = np.lexsort((-np.asarray(scores, dtype=np.float64), items < 0), axis=1)[:, :k]
    best = np.take_along_axis(items, order, axis=1)
    return np.pad(best, ((0, 0), (0, k - best.shape[1])), constant_values=-1).astype(np.int32)


def head_items(popularity: Longs) -> Bools:
    """Which items are popular: the `HEAD_SHARE` (20 %, rounded up) of the catalogue with the most training
    interactions: bool [items]. At the border the earlier of two equally popular items is in.

    Abdollahpouri et al., "The unfairness of popularity bias in recommendation", RMSE workshop at RecSys 2019. Others
    let the head be the items that collect 80 % of the interactions; that head grows with how even the log is.
    """
    count = int(np.ceil(round(HEAD_SHARE * len(popularity), 9)))
    head = np.zeros(len(popularity), dtype=np.bool_)
    head[np.argsort(-popularity, kind="stable")[:count]] = True
    return head


def average_popularity(top: Ints, popularity: Longs) -> Doubles:
    """Mean training interactions of the items recommended to each user: float64 [n]; its mean over users is ARP@k.

    ARP = 1/|U| sum_u 1/|L_u| sum_{i in L_u} phi(i), phi(i) the item's training interactions. Range 0 to the largest
    popularity; lower is less popular. Yin et al., "Challenging the long tail recommendation", VLDB 2012; named so by
    Abdollahpouri et al., arXiv 1901.07555.
    """
    return _mean_of_items(top, popularity.astype(np.float64))


def tail_share(top: Ints, popularity: Longs) -> Doubles:
    """Share of long-tail items among those recommended to each user: float64 [n]; its mean over users is APLT@k.

    APLT = 1/|U| sum_u |L_u without head| / |L_u|, the head as in `head_items`. Range 0 to 1; higher is less popular.
    Abdollahpouri et al., "Managing popularity bias in recommender systems with personalized re-ranking", FLAIRS 2019
    (arXiv 1901.07555).
    """
    return _mean_of_items(top, (~head_items(popularity)).astype(np.float64))


def coverage(top: Ints, items: int) -> float:
    """Share of the catalogue that is recommended to anyone: |union of L_u| / items.

    Range 0 to 1, higher is better. Catalogue coverage of Ge et al., "Beyond accuracy: evaluating recommender systems
    by coverage and serendipity", RecSys 2010. No model can exceed the share of the catalogue that is offered among
    all candidates, nor n k / items; with drawn candidates compare models under one protocol only.
    """
    return len(np.unique(top[top >= 0])) / items


def gini(top: Ints, items: int) -> float:
    """Gini coefficient of how often each item of the catalogue is recommended, never-recommended items included.

    G = sum_{j=1..m} (2j - m - 1) x_j / (m sum_j x_j), with x_j the ascending counts of the m items. Range 0 (all
    equally often) to 1 - 1/m (always the same one); lower is more even. Fleder and Hosanagar, "Blockbuster culture's
    next rise or fall", Management Science 2009. NaN where nothing is recommended.
    """
    counts = np.sort(np.bincount(top[top >= 0], minlength=items)).astype(np.float64)
    weights = 2 * np.arange(1, items + 1) - items - 1
    return float(weights @ counts / (items * counts.sum())) if counts.sum() else float("nan")


def recommended(top: Ints, popularity: Longs, ks: Sequence[int]) -> dict[str, float]:
    """ARP@k, APLT@k, coverage@k and Gini@k of the recommended lists, for each k.

    Args:
        top: int32 [n, at least max(ks)], best first, -1 where a list is shorter.
        popularity: training interactions of each item of the catalogue, int64 [items].
        ks: cut-offs.
    """
    if not len(top):
        raise ValueError("nobody was recommended anything: there are no test examples")
    lists = {k: top[:, :k] for k in ks}
    return {
        **{f"arp@{k}": float(average_popularity(cut, popularity).mean()) for k, cut in lists.items()},
        **{f"aplt@{k}": float(tail_share(cut, popularity).mean()) for k, cut in lists.items()},
        **{f"coverage@{k}": coverage(cut, len(popularity)) for k, cut in lists.items()},
        **{f"gini@{k}": gini(cut, len(popularity)) for k, cut in lists.items()},
    }


def mean(per_user: Mapping[str, Doubles]) -> Metrics:
    """Mean over users of each metric."""
    return {name: float(values.mean()) for name, values in per_user.items()}


def mean_interval(values: Doubles) -> tuple[float, float]:
    """95 % interval of the mean of per-user values by the normal approximation: mean -+ 1.96 s / sqrt(n).

    For values of any range, differences between two models on the same users among them. Both ends are NaN where
    n < 2.
    """
    if len(values) < 2:
        return float("nan"), float("nan")
    half = 1.959964 * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def rate_interval(values: Doubles) -> tuple[float, float]:
    """95 % interval of the mean of per-user values between 0 and 1, such as hits: Wilson's score interval.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927. It stays within 0 and 1
    and is honest at few users; for values strictly between 0 and 1 (NDCG) it is somewhat too wide.
    """
    n, p, z = len(values), float(values.mean()), 1.959964
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _mean_of_items(top: Ints, value: Doubles) -> Doubles:
    """Mean of value[item] over each row's items; 0 for a row without any."""
    held = top >= 0
    total = np.where(held, value[top], 0.0).sum(axis=1)
    mean_value: Doubles = total / np.maximum(held.sum(axis=1), 1)
    return mean_value
