"""Rejected items whose titles mean nearly the same as others, against semantic hallucination."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from rosepo_core.api import Examples, Floats, Ints, RejectedSampler, SamplerContext, SamplerOptions
from rosepo_samplers.drawing import Eligibility, blocks, first_kept, largest, uniformly

# Extra neighbours per target, to replace those that a user has seen. If they are still too few for a row, the row is
# ranked over the whole catalogue.
SPARE_NEIGHBOURS = 50


class SemanticSimilarOptions(SamplerOptions):
    """Options of `semantic-similar`."""

    pool: int = Field(
        10, ge=1, description="Draw uniformly from this many nearest eligible titles; 1 takes the nearest."
    )
    to: Literal["target", "history"] = Field(
        "target", description="Near to what: the target, or the mean of the latest items of the history."
    )
    recent: int = Field(10, ge=1, description="How many of the latest items make the mean, with to = `history`.")


class SemanticSimilar(RejectedSampler):
    """Items drawn uniformly, without replacement, from the `pool` eligible items nearest by cosine to the target.

    RosePO (arXiv 2410.12519), semantic-similar rejected sampling: the model should not recommend an item only because
    its title is similar. If more than `pool` items are needed, the pool grows to that number. An item with the
    target's own title is never drawn (equal up to case, white space and Unicode form). A remake may be drawn, because
    its title has another year: these pairs teach the model to tell such items apart.
    """

    Options = SemanticSimilarOptions
    needs = frozenset({"title-embeddings"})

    def sample(self, examples: Examples, k: int, context: SamplerContext) -> Ints:
        """Rejected items: int32 [n, k]; -1 fills rows with fewer."""
        assert context.title_embeddings is not None  # granted by `needs`
        embeddings = context.title_embeddings()
        eligibility = Eligibility(context, self.options.allow_seen)
        pool = max(self.options.pool, k)
        if self.options.to == "history":
            return self._like_history(examples, k, context, embeddings, eligibility)
        width = min(pool + SPARE_NEIGHBOURS, eligibility.items)

        targets, target_row = np.unique(examples.target, return_inverse=True)
        neighbours = np.empty((len(targets), width), dtype=np.int32)
        for block in blocks(len(targets), eligibility.items):
            neighbours[block] = largest(_similarities(embeddings, embeddings[targets[block]]), width)
            context.reporter.progress(block.stop, len(targets), "targets")

        rejected = np.empty((len(examples), k), dtype=np.int32)
        for block in blocks(len(examples), width):
            part = examples.take(np.arange(block.start, block.stop))
            near = neighbours[target_row[block]]
            nearest = first_kept(near, eligibility.mask(part, near), pool)
            if width < eligibility.items:
                short = np.flatnonzero(nearest[:, -1] < 0)
                rest = part.take(short)
                nearest[short] = _nearest_in_catalogue(rest, embeddings[rest.target], pool, embeddings, eligibility)
            rejected[block] = uniformly(nearest, k, context.rng)
        return rejected

    def _like_history(
        self, examples: Examples, k: int, context: SamplerContext, embeddings: Floats, eligibility: Eligibility
    ) -> Ints:
        rejected = np.empty((len(examples), k), dtype=np.int32)
        width = max(eligibility.items, self.options.recent * embeddings.shape[1])
        for block in blocks(len(examples), width):
            part = examples.take(np.arange(block.start, block.stop))
            history = part.histories(self.options.recent)
            # The sum points where the mean does; a history without items has no direction.
            wanted = np.where(history[:, :, None] >= 0, embeddings[np.maximum(history, 0)], 0).sum(axis=1)
            nearest = _nearest_in_catalogue(part, wanted, max(self.options.pool, k), embeddings, eligibility)
            rejected[block] = uniformly(nearest, k, context.rng)
            context.reporter.progress(block.stop, len(examples), "examples")
        return rejected


def _similarities(embeddings: Floats, wanted: Floats) -> Floats:
    """Products of `wanted`, float32 [m, d], with the embeddings of all items: float32 [m, items]."""
    similarities: Floats = wanted @ embeddings.T
    return similarities


def _nearest_in_catalogue(
    examples: Examples, wanted: Floats, pool: int, embeddings: Floats, eligibility: Eligibility
) -> Ints:
    """The eligible items of each example nearest to `wanted`, float32 [n, d], nearest first: int32 [n, pool], -1
    where fewer are eligible."""
    nearest = np.empty((len(examples), pool), dtype=np.int32)
    for block in blocks(len(examples), eligibility.items):
        part = examples.take(np.arange(block.start, block.stop))
        similarities = _similarities(embeddings, wanted[block])
        eligibility.blank(similarities, part)
        nearest[block] = largest(similarities, pool)
    return nearest
