"""What the user is known not to like as rejected items."""

from __future__ import annotations

import numpy as np

from rosepo_core.api import Examples, Ints, RejectedSampler, SamplerContext
from rosepo_samplers.drawing import Eligibility, blocks, uniformly


class Disliked(RejectedSampler):
    """Items that the user rated low or skipped, drawn uniformly without replacement: real negatives, where all other
    samplers guess.

    In a log with ratings these are the interactions that ``dataset.min_rating`` drops. So one rating divides liked
    from disliked: what is liked makes histories and targets, what is disliked is rejected. Only what a user disliked
    before the first held-out interaction counts; at a place in the history, it may be later than the target, as with
    all samplers. RecPO (arXiv 2506.02261) makes pairs from ratings, too.

    Most users dislike few items, so rows often have fewer than wanted: mix it with another sampler, which takes the
    places that are left.
    """

    needs = frozenset({"disliked"})

    def sample(self, examples: Examples, k: int, context: SamplerContext) -> Ints:
        """Rejected items: int32 [n, k]; -1 fills rows with fewer."""
        assert context.disliked is not None  # granted by `needs`
        eligibility = Eligibility(context, self.options.allow_seen)
        users, row = np.unique(examples.user, return_inverse=True)
        lists = [context.disliked.of_user(user) for user in users.tolist()]
        width = max((len(items) for items in lists), default=0)
        of_user = np.full((len(users), width), -1, dtype=np.int32)
        for place, items in enumerate(lists):
            of_user[place, : len(items)] = items
        rejected = np.full((len(examples), k), -1, dtype=np.int32)
        for block in blocks(len(examples), width):
            pool = of_user[row[block]]
            kept = eligibility.mask(examples.take(np.arange(block.start, block.stop)), pool)
            rejected[block] = uniformly(np.where(kept, pool, np.int32(-1)), k, context.rng)
        return rejected
