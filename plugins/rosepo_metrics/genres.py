"""Fairness and diversity in genres. The catalogue needs a column ``genres``: lists of text, or text separated by
``|``.
"""

from __future__ import annotations

import numpy as np

from rosepo_core.api import CutOffMetric, Doubles, Longs, Measure, Outcome


def unfairness(outcome: Outcome, k: int) -> Doubles:
    """GU(g) = GP(g) - GH(g) of each genre: float64 [genres]; NaN if the lists or the histories have no genre at all.

    GP(g) is the share of genre g in the first k items of all lists, and GH(g) its share in all histories. An item
    with m genres counts 1/m for each of them.
    """
    with_genres = _shares(outcome, outcome.list_counts(k))
    had = _shares(outcome, np.bincount(outcome.histories[1], minlength=len(outcome.catalogue)))
    return with_genres - had


def _shares(outcome: Outcome, counts: Longs) -> Doubles:
    assert outcome.genres is not None  # granted by `needs`
    weights = outcome.genres / np.maximum(outcome.genres.sum(axis=1, keepdims=True), 1)
    amounts = counts @ weights
    with np.errstate(invalid="ignore"):
        shares: Doubles = amounts / amounts.sum()
    return shares


class MGU(CutOffMetric):
    """MGU@k = 1/|G| sum_{g in G} |GU(g)|, with GU(g) = GP(g) - GH(g): the share of genre g among the first k items of
    all lists, minus its share in all histories. An item with m genres counts 1/m for each of them.

    Range 0 to 2/|G|, lower is fairer. Jiang et al., "Item-side fairness of large language model-based recommendation
    system", WWW 2024 (arXiv 2402.15215). The weight 1/m is that of SPRec's evaluation script (Gao et al., arXiv
    2412.09243). G is the set of genres of the catalogue. One number for all users.
    """

    about = Measure("MGU", "lower", "Genres")
    needs = frozenset({"genres"})

    def at(self, outcome: Outcome, k: int) -> float:
        """Of all lists."""
        return float(np.abs(unfairness(outcome, k)).mean())


class DGU(CutOffMetric):
    """DGU@k = max_{g in G} GU(g) - min_{g in G} GU(g), with GU as in `mgu`.

    Range 0 to 2, lower is fairer: the distance between the most over-recommended and the most under-recommended
    genre. Sources are those of `mgu`. One number for all users.
    """

    about = Measure("DGU", "lower", "Genres", high=2.0)
    needs = frozenset({"genres"})

    def at(self, outcome: Outcome, k: int) -> float:
        """Of all lists."""
        return float(np.ptp(unfairness(outcome, k)))


class IntraListDistance(CutOffMetric):
    """ILD@k = mean of 1 - |G_i and G_j| / |G_i or G_j| over all pairs {i, j} of the user's first k items, where G_i
    are the genres of item i (Jaccard distance); the mean over users.

    Range 0 to 1, higher is more diverse. Zhang and Hurley, "Avoiding monotony: improving the diversity of
    recommendation lists", RecSys 2008, after the intra-list similarity of Ziegler et al., WWW 2005. Items without a
    genre are left out. It does not apply to a list with fewer than two items that have genres.
    """

    about = Measure("Intra-list distance", "higher", "Genres")
    needs = frozenset({"genres"})
    smallest_k = 2

    def at(self, outcome: Outcome, k: int) -> Doubles:
        """Of each user: float64 [n]."""
        assert outcome.genres is not None  # granted by `needs`
        top = outcome.top[:, :k]
        genres = outcome.genres[top] & (top >= 0)[:, :, None]
        held = genres.any(axis=2)
        sizes = genres.sum(axis=2)
        shared = np.einsum("nig,njg->nij", genres.astype(np.float32), genres.astype(np.float32))
        either = sizes[:, :, None] + sizes[:, None, :] - shared
        pair = np.triu(np.ones((top.shape[1], top.shape[1]), dtype=np.bool_), 1) & held[:, :, None] & held[:, None, :]
        distance = np.where(pair, 1 - shared / np.maximum(either, 1), 0.0).sum(axis=(1, 2))
        with np.errstate(invalid="ignore"):
            mean: Doubles = distance / pair.sum(axis=(1, 2))
        return mean
