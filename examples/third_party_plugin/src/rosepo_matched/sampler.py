"""A sampler: popularity cannot tell its items from the target, so the model must learn something else."""

import numpy as np
from pydantic import Field

from rosepo_core.api import Examples, Ints, RejectedSampler, SamplerContext, SamplerOptions


class PopularityMatchedOptions(SamplerOptions):
    width: int = Field(50, ge=1, description="How far from the target, in ranks of popularity, items are drawn.")


class PopularityMatched(RejectedSampler):
    Options = PopularityMatchedOptions

    def sample(self, examples: Examples, k: int, context: SamplerContext) -> Ints:
        by_popularity = np.argsort(context.catalogue.popularity, kind="stable")
        rank = np.argsort(by_popularity)
        steps = np.setdiff1d(np.arange(-self.options.width, self.options.width + 1), [0])
        near = rank[examples.target][:, None] + steps
        items = by_popularity[near.clip(0, len(rank) - 1)]

        # The k lowest of random keys are a uniform draw without replacement; an infinite key is never drawn.
        keys = context.rng.random(items.shape)
        keys[(near < 0) | (near >= len(rank))] = np.inf
        if not self.options.allow_seen:
            keys[context.seen.contains(examples.user, items)] = np.inf
        lowest = np.argsort(keys, axis=1)[:, :k]
        sampled = np.take_along_axis(items, lowest, axis=1)
        sampled[np.isinf(np.take_along_axis(keys, lowest, axis=1))] = -1
        missing = k - sampled.shape[1]
        return np.pad(sampled, ((0, 0), (0, missing)), constant_values=-1).astype(np.int32)
