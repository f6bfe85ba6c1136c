"""Rejected items from the top of the preference oracle's ranking."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from rosepo_core.api import Examples, Ints, RejectedSampler, SamplerContext, SamplerOptions
from rosepo_samplers.drawing import Eligibility, blocks, largest, uniformly


class OracleHardOptions(SamplerOptions):
    """Options of `oracle-hard`."""

    pool: int = Field(
        10, ge=1, description="Draw uniformly from this many items with the highest oracle scores; 1 takes the best."
    )


class OracleHard(RejectedSampler):
    """Items drawn uniformly, without replacement, from the `pool` eligible items with the highest oracle scores.

    Dynamic negative sampling takes such items as hard negatives (Zhang et al., "Optimizing top-N collaborative
    filtering via dynamic negative item sampling", SIGIR 2013); here another model than the trained one ranks them.
    The user may well like such an item. The oracle's flip probability, which the loss `rosepo` uses, takes this into
    account. If more than `pool` items are needed, the pool grows to that number. Cost: a score of every item for
    every example.

    This sampler is rosepo's own addition to RosePO.
    """

    Options = OracleHardOptions
    needs = frozenset({"oracle"})

    def sample(self, examples: Examples, k: int, context: SamplerContext) -> Ints:
        """Rejected items: int32 [n, k]; -1 fills rows with fewer."""
        assert context.oracle_scores is not None  # granted by `needs`
        eligibility = Eligibility(context, self.options.allow_seen)
        every = np.arange(eligibility.items, dtype=np.int32)
        rejected = np.empty((len(examples), k), dtype=np.int32)
        for block in blocks(len(examples), eligibility.items):
            part = examples.take(np.arange(block.start, block.stop))
            scores = context.oracle_scores(part, np.tile(every, (len(part), 1))).astype(np.float32)
            eligibility.blank(scores, part)
            rejected[block] = uniformly(largest(scores, max(self.options.pool, k)), k, context.rng)
            context.reporter.progress(block.stop, len(examples), "examples")
        return rejected
