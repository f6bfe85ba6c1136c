"""Uniform rejected items."""

from __future__ import annotations

import numpy as np

from rosepo_core.api import Examples, Ints, RejectedSampler, SamplerContext
from rosepo_samplers.drawing import Eligibility, draw


class Uniform(RejectedSampler):
    """All eligible items have the same probability; they are drawn without replacement within a row."""

    def sample(self, examples: Examples, k: int, context: SamplerContext) -> Ints:
        """Rejected items: int32 [n, k]; -1 fills rows with fewer."""
        eligibility = Eligibility(context, self.options.allow_seen)
        return draw(examples, k, np.zeros(len(context.catalogue)), eligibility, context.rng)
