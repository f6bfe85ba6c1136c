"""Metrics of hallucination: items with similar titles, titles that do not exist, repeated and known items."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from rosepo_core.api import Bools, CutOffMetric, Doubles, Longs, Measure, Metric, Options, Outcome, SeenItems

# Cells of the largest temporary array.
BLOCK_CELLS = 1 << 22
# A cosine above this is 1, apart from rounding in float32.
SAME = 1 - 1e-5


class SemanticHallucinationOptions(Options):
    """Options of `semantic-hallucination`."""

    neighbours: int = Field(
        10, ge=1, description="Number of items with the nearest titles that count as neighbours of the target."
    )


class SemanticHallucination(Metric):
    """1 if a semantic neighbour of the target outranks it, else 0; the mean over users, which is a share of users.

    The neighbours are the `neighbours` items nearest to the target by the cosine of title embeddings, among the items
    that the user never interacts with (not even in held-out parts). An item with exactly the same embedding has the
    same title, and is no neighbour. If t neighbours tie with the target and none is above it, one of them outranks it
    with probability t / (t + 1). In a list without scores, a neighbour outranks the target if it comes before the
    target, or if the target is not in the list. A list without neighbours counts 0. A list without any item counts 1,
    the worst value.

    Range 0 to 1, lower is better. It does not apply to a user if none of the neighbours was scored. With few random
    candidates this holds for nearly all users, so use many candidates or the whole catalogue. The metric is rosepo's
    own, for the semantic hallucination that RosePO (arXiv 2410.12519) trains against.
    """

    Options = SemanticHallucinationOptions
    about = Measure("Semantic hallucination", "lower", "Hallucination")
    needs = frozenset({"title-embeddings"})

    def measure(self, outcome: Outcome) -> dict[str, Doubles]:
        """Of each user: float64 [n]."""
        near, silent = self._neighbours(outcome), outcome.without_items()
        if outcome.items is None or outcome.scores is None:
            items = outcome.top
            scores = np.broadcast_to(-np.arange(items.shape[1], dtype=np.float64), items.shape)
        else:
            items, scores = outcome.items, outcome.scores
        value = np.full(len(outcome), np.nan)
        for row, rivals in enumerate(near):
            if not len(rivals):
                continue
            rival = scores[row][np.isin(items[row], rivals)]
            own = scores[row][items[row] == outcome.targets[row, 0]].max(initial=-np.inf)
            if len(rival):
                tied = (rival == own).sum()
                value[row] = 1.0 if (rival > own).any() else tied / (tied + 1)
            elif outcome.items is None:
                value[row] = float(silent[row])
        return {"": value}

    def _neighbours(self, outcome: Outcome) -> list[Longs]:
        """The neighbours of each example's target, in no special order; one array for each example."""
        assert outcome.title_embeddings is not None  # granted by `needs`
        embeddings = outcome.title_embeddings()
        count = min(self.options.neighbours, len(embeddings))
        near = []
        step = max(1, BLOCK_CELLS // len(embeddings))
        for start in range(0, len(outcome), step):
            block = slice(start, start + step)
            cosines = embeddings[outcome.targets[block, 0]] @ embeddings.T
            for user, cosine in zip(outcome.examples.user[block].tolist(), cosines, strict=True):
                cosine[cosine > SAME] = -np.inf
                cosine[outcome.seen.of_user(user)] = -np.inf
                best = np.argpartition(-cosine, count - 1)[:count]
                near.append(best[cosine[best] > -np.inf])
        return near


class OutOfCatalogue(CutOffMetric):
    """Answers among the first k that are no item of the catalogue / answers among the first k; the mean over users.

    Range 0 to 1, lower is better. It is one minus the valid ratio of generative recommenders (e.g. Liao et al.,
    "LLaRA", SIGIR 2024). It applies to models that write freely; with generation constrained to the catalogue it
    would be 0. A user without an answer counts 1, the worst value.
    """

    about = Measure("Out of catalogue", "lower", "Hallucination")
    needs = frozenset({"answers"})

    def at(self, outcome: Outcome, k: int) -> Doubles:
        """Of each user: float64 [n]."""
        assert outcome.answered is not None  # granted by `needs`
        answered = outcome.answered[:, :k]
        return _share((outcome.top[:, :k] < 0) & answered, answered, otherwise=1.0)


class ValidRatio(CutOffMetric):
    """Answers among the first k that are items of the catalogue / answers among the first k; the mean over users. A
    user without an answer counts 0.

    Range 0 to 1, higher is better. It applies to models that write freely; with generation constrained to the
    catalogue it would be 1. Liao et al., "LLaRA: Large language-recommendation assistant", SIGIR 2024. There an
    answer is valid if it is in the prompt's list of candidates; here prompts have no list, and every item of the
    catalogue is valid.
    """

    about = Measure("Valid ratio", "higher", "Hallucination")
    needs = frozenset({"answers"})

    def at(self, outcome: Outcome, k: int) -> Doubles:
        """Of each user: float64 [n]."""
        assert outcome.answered is not None  # granted by `needs`
        answered = outcome.answered[:, :k]
        return _share((outcome.top[:, :k] >= 0) & answered, answered, otherwise=0.0)


class Repeated(CutOffMetric):
    """Items among the first k that are already higher in the same list / items among the first k; the mean over
    users.

    Range 0 to (k - 1) / k, lower is better. A list without any item counts 1, the worst value. This is a plain count
    and needs no source.
    """

    about = Measure("Repeated", "lower", "Hallucination")
    smallest_k = 2

    def at(self, outcome: Outcome, k: int) -> Doubles:
        """Of each user: float64 [n]."""
        top = outcome.top[:, :k]
        held = top >= 0
        ordered = np.sort(top, axis=1)
        again = np.zeros_like(held)
        again[:, 1:] = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        return _share(again, held, otherwise=1.0)


class AlreadySeen(CutOffMetric):
    """Items among the first k that the user interacted with before the target / items among the first k; the mean
    over users.

    Range 0 to 1. Lower is better if users do not want the same item again. A list without any item counts 1, the
    worst value. This is a plain count and needs no source.
    """

    about = Measure("Already seen", "lower", "Hallucination")

    def at(self, outcome: Outcome, k: int) -> Doubles:
        """Of each user: float64 [n]."""
        row, item = outcome.histories
        items = len(outcome.catalogue)
        before = SeenItems(np.unique(row.astype(np.int64) * items + item), items)
        top = outcome.top[:, :k]
        return _share(before.contains(np.arange(len(top)), top), top >= 0, otherwise=1.0)


def _share(counted: Bools, held: Bools, otherwise: float) -> Doubles:
    """Row sums of `counted` divided by row sums of `held`: float64 [n], `otherwise` where the divisor is 0."""
    of = held.sum(axis=1)
    return np.where(of > 0, counted.sum(axis=1) / np.maximum(of, 1), otherwise)
