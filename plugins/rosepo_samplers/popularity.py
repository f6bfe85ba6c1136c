"""Popular rejected items, against popularity bias."""

from __future__ import annotations

from pydantic import Field

from rosepo_core.api import Examples, Ints, RejectedSampler, SamplerContext, SamplerOptions
from rosepo_samplers.drawing import Eligibility, draw, popularity_log_weights


class PopularityAwareOptions(SamplerOptions):
    """Options of `popularity-aware`."""

    power: float = Field(
        1.0, ge=0, description="Probability is proportional to popularity to this power; 0 makes it uniform."
    )


class PopularityAware(RejectedSampler):
    """Eligible items drawn in proportion to popularity ** power, one after another without replacement.

    RosePO (arXiv 2410.12519), popularity-aware rejected sampling: items that many people choose are pushed down as
    often as they would otherwise be pushed up. Popularity counts training interactions. An item without any is drawn
    only if `power` is 0 or no other eligible item is left.
    """

    Options = PopularityAwareOptions

    def sample(self, examples: Examples, k: int, context: SamplerContext) -> Ints:
        """Rejected items: int32 [n, k], -1 where fewer are eligible."""
        eligibility = Eligibility(context, self.options.allow_seen)
        log_weights = popularity_log_weights(context.catalogue, self.options.power)
        return draw(examples, k, log_weights, eligibility, context.rng)
