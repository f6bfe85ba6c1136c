"""The targets of other examples as rejected items."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from rosepo_core.api import Examples, Ints, RejectedSampler, SamplerContext, SamplerOptions
from rosepo_samplers.drawing import Eligibility, first_kept, first_occurrence


class InBatchOptions(SamplerOptions):
    """Options of `in-batch`."""

    batch_size: int = Field(64, ge=2, le=4096, description="Examples of a batch, which share their targets.")


class InBatch(RejectedSampler):
    """Eligible targets of other examples of the same batch, in random order.

    So an item is drawn about in proportion to how often it is a target, as in training with in-batch negatives
    (Hidasi et al., "Session-based recommendations with recurrent neural networks", ICLR 2016, section 3.2.2). NAPO
    (arXiv 2508.09653) shares negatives within a batch of preference pairs.

    The batches are rosepo's own: examples in random order, `batch_size` at a time, because pairs are made before
    training. They are not the batches of the optimizer. A batch whose targets are few leaves rows with fewer items.
    """

    Options = InBatchOptions

    def sample(self, examples: Examples, k: int, context: SamplerContext) -> Ints:
        """Rejected items: int32 [n, k]; -1 fills rows with fewer."""
        eligibility = Eligibility(context, self.options.allow_seen)
        size: int = self.options.batch_size
        order = context.rng.permutation(len(examples))
        rejected = np.full((len(examples), k), -1, dtype=np.int32)
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            batch = examples.take(rows)
            others = context.rng.permuted(np.tile(batch.target, (len(rows), 1)), axis=1)
            kept = eligibility.mask(batch, others) & first_occurrence(others)
            rejected[rows] = first_kept(others, kept, k)
        return rejected
