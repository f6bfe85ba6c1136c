"""The SFT model's own wrong answers as rejected items."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from rosepo_core.api import Examples, Ints, RejectedSampler, SamplerContext, SamplerOptions
from rosepo_samplers.drawing import Eligibility, draw, largest, popularity_log_weights


class SelfHardOptions(SamplerOptions):
    """Options of `self-hard`."""

    mode: Literal["generate", "pool"] = Field(
        "generate",
        description="`generate` searches the whole catalogue; `pool` scores a few random items, which is cheaper.",
    )
    temperature: float = Field(
        0.0, ge=0, description="0 takes the most probable titles; above 0 draws them from the model's distribution."
    )
    beams: int = Field(
        8, ge=1, description="Number of beams in mode `generate`; at least the number of items wanted is used."
    )
    pool: int = Field(30, ge=1, description="Random items per example that are scored in mode `pool`.")
    power: float = Field(
        0.5, ge=0, description="The pool is drawn in proportion to popularity ** power; 0 draws it uniformly."
    )


class SelfHard(RejectedSampler):
    """Items that the SFT model would recommend instead of the target.

    RosePO (arXiv 2410.12519), self-hard rejected sampling: the model's answer is the rejected response if it is not
    the target. rosepo's own choice: the target is excluded before generation and not afterwards, so every example
    gets its hardest wrong answers, and no example is lost.
    """

    Options = SelfHardOptions
    needs = frozenset({"language-model"})

    def sample(self, examples: Examples, k: int, context: SamplerContext) -> Ints:
        """Rejected items: int32 [n, k]; -1 fills rows with fewer. At temperature 0 the most probable come first."""
        assert context.language_model is not None  # granted by `needs`
        options: SelfHardOptions = self.options
        eligibility = Eligibility(context, options.allow_seen)
        if options.mode == "generate":
            return context.language_model.generate(
                examples,
                k,
                exclude=lambda rows: eligibility.excluded(examples.take(rows)),
                beams=max(options.beams, k),
                temperature=options.temperature,
            )
        log_weights = popularity_log_weights(context.catalogue, options.power)
        pool = draw(examples, max(options.pool, k), log_weights, eligibility, context.rng)
        keys = context.language_model.score(examples, pool).astype(np.float64)
        if options.temperature > 0:
            keys = keys / options.temperature + context.rng.gumbel(size=keys.shape)
        columns = largest(np.where(pool >= 0, keys, -np.inf), k)
        return np.where(columns >= 0, np.take_along_axis(pool, np.maximum(columns, 0), 1), -1).astype(np.int32)
