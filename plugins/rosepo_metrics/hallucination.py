"""What only sounds right, what does not exist, and what nobody wants twice."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from rosepo_core.api import Bools, CutOffMetric, Doubles, Longs, Measure, Metric, Options, Outcome, SeenItems

# Cells of the largest temporary array.
BLOCK_CELLS = 1 << 22
# A cosine above this is one but for rounding in float32.
SAME = 1 - 1e-5


class SemanticHallucinationOptions(Options):
    """Options of `semantic-hallucination`."""

    neighbours: int = Field(
        10, ge=1, description="How many items nearest to the target by title count as neighbours."
    )


class SemanticHallucination(Metric):
    """1 if a semantic neighbour of the target outranks it, else 0; the mean over users, a share.

    Neighbours are the items nearest to the target by the cosine of title embeddings, as many as `neighbours`, that
    the user never interacts with (held-out items included); an item of the very same embedding is the same title and
    no neighbour. Of t neighbours that tie with the target and none above it, one outranks it with probability
    t / (t + 1). In a list without scores, a neighbour outranks the target if it comes first or the target does not
    come, and a list without a neighbour counts 0. A list that holds no item at all counts 1, the worst value.

    Range 0 to 1, lower is better. It does not apply to a user of whose neighbours none was scored; among few drawn
    candidates that is nearly everyone, so take many candidates or the whole catalogue. The measure is rosepo's own,
    for the semantic hallucination that RosePO (arXiv 2410.12519) trains against.
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
        """Of each example's target, in no order; one array an example."""
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

    Range 0 to 1, lower is better. One minus the valid ratio of generative recommenders (e.g. Liao et al., "LLaRA",
    SIGIR 2024). It applies to models that write freely; constrained to the catalogue it is 0. A user without an
    answer counts 1, the worst value.
    """

    about = Measure("Out of catalogue", "lower", "Hallucination")
    needs = frozenset({"answers"})

    def at(self, outcome: Outcome, k: int) -> Doubles:
        """Of each user: float64 [n]."""
        assert outcome.answered is not None  # granted by `needs`
        answered = outcome.answered[:, :k]
        return _share((outcome.top[:, :k] < 0) & answered, answered, otherwise=1.0)


class ValidRatio(CutOffMetric):
    """Answers among the first k that are items of the catalogue / answers among the first k; the mean over users, a
    user without an answer counting 0.

    Range 0 to 1, higher is better. It applies to models that write freely; constrained to the catalogue it is 1. Liao
    et al., "LLaRA: Large language-recommendation assistant", SIGIR 2024, where valid is what stands in the prompt's
    list of candidates; here, as nothing is listed, any item of the catalogue is.
    """

    about = Measure("Valid ratio", "higher", "Hallucination")
    needs = frozenset({"answers"})

    def at(self, outcome: Outcome, k: int) -> Doubles:
        """Of each user: float64 [n]."""
        assert outcome.answered is not None  # granted by `needs`
        answered = outcome.answered[:, :k]
        return _share((outcome.top[:, :k] >= 0) & answered, answered, otherwise=0.0)


class Repeated(CutOffMetric):
    """Items among the first k that stand further up in the same list already / items among the first k; the mean over
    users.

    Range 0 to (k - 1) / k, lower is better, and 1, the worst value, for a list that holds no item. A plain count,
    without a source.
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

    Range 0 to 1, lower is better where nobody wants the same thing twice. A list that holds no item counts 1, the
    worst value. A plain count, without a source.
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
    """Row sums of one over the other: float64 [n], `otherwise` where there is nothing to count."""
    of = held.sum(axis=1)
    return np.where(of > 0, counted.sum(axis=1) / np.maximum(of, 1), otherwise)
