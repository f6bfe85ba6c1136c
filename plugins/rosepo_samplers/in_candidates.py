"""Rejected items from a list of candidates."""

from __future__ import annotations

import numpy as np

from rosepo_core.api import Examples, Ints, RejectedSampler, SamplerContext
from rosepo_samplers.drawing import Eligibility, first_occurrence, uniformly


class InCandidates(RejectedSampler):
    """Eligible items drawn uniformly, without replacement, from the candidates that go with the target.

    S-DPO (arXiv 2406.09215) draws its negatives from the candidates in the prompt. If the dataset offers candidates
    with its training examples (`s-dpo`), they are taken; only the last target of an example has any. Otherwise they
    are the titles that the prompt lists (``prompt.candidates``), which rosepo draws uniformly.
    """

    needs = frozenset({"candidates"})

    def sample(self, examples: Examples, k: int, context: SamplerContext) -> Ints:
        """Rejected items: int32 [n, k]; -1 fills rows with fewer."""
        assert context.candidates is not None  # granted by `needs`
        eligibility = Eligibility(context, self.options.allow_seen)
        offered = context.candidates(examples)
        kept = eligibility.mask(examples, offered) & first_occurrence(offered)
        return uniformly(np.where(kept, offered, np.int32(-1)), k, context.rng)
