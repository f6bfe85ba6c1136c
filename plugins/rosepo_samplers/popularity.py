"""Popular rejected items, against popularity bias."""

from __future__ import annotations

from pydantic import Field

from rosepo_core.api import Examples, Ints, RejectedSampler, SamplerContext, SamplerOptions
from rosepo_samplers.drawing import Eligibility, draw, popularity_log_weights


class PopularityAwareOptions(SamplerOptions):
    """Options of `popularity-aware`."""

    power: float = Field(
        1.0, ge=0, description="The probability of an item is proportional to popularity ** power; 0 is uniform."
    )


class PopularityAware(RejectedSampler):
    """Eligible items drawn in proportion to popularity ** power, one after another without replacement.

    RosePO (arXiv 2410.12519), popularity-aware rejected sampling. Popular items are often targets, so training raises
    their probability; as rejected items they are lowered as often. Popularity counts training interactions. An item
    without any is drawn only if `power` is 0 or no other eligible item is left.
    """

    Options = PopularityAwareOptions

    def sample(self, examples: Examples, k: int, context: SamplerContext) -> Ints:
        """Rejected items: int32 [n, k]; -1 fills rows with fewer."""
        eligibility = Eligibility(context, self.options.allow_seen)
        log_weights = popularity_log_weights(context.catalogue, self.options.power)
        return draw(examples, k, log_weights, eligibility, context.rng)
