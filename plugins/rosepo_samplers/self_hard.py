"""The SFT model's own wrong answers as rejected items."""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator

from rosepo_core.api import Examples, Ints, Longs, RejectedSampler, SamplerContext, SamplerOptions
from rosepo_samplers.drawing import Eligibility, draw, first_kept, largest, popularity_log_weights


class SelfHardOptions(SamplerOptions):
    """Options of `self-hard`."""

    mode: Literal["generate", "pool"] = Field(
        "generate",
        description="`generate` searches the whole catalogue; `pool` scores a few random items, which is cheaper.",
    )
    exclude: Literal["target", "resample"] = Field(
        "target",
        description="`target` excludes the target before the search. `resample` lets the model answer with the "
        "target, and asks again for as many answers as it takes away.",
    )
    attempts: int = Field(3, ge=1, description="How often `resample` asks in all; once at temperature 0.")
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

    @field_validator("exclude")
    @classmethod
    def _fits_mode(cls, value: str, info: ValidationInfo) -> str:
        if value == "resample" and info.data.get("mode") == "pool":
            raise ValueError("mode 'pool' never holds the target: leave it at 'target', or set mode='generate'")
        return value


class SelfHard(RejectedSampler):
    """Items that the SFT model would recommend instead of the target.

    RosePO (arXiv 2410.12519), self-hard rejected sampling: the model's answer is the rejected response if it is not
    the target. rosepo's own choice: the target is excluded before generation and not afterwards, so every example
    gets its hardest wrong answers, and no example is lost.

    ``exclude = "resample"`` is the other reading: the model answers freely, and an answer that is the target (or has
    its title) is thrown away. Above temperature 0 the model is then asked again, up to `attempts` times. At
    temperature 0 it would answer the same, so it is asked once: an example whose answers are all right has no
    rejected item, and other samplers of the mixture take its place, or it is left out. So only what the model gets
    wrong makes pairs.
    """

    Options = SelfHardOptions
    needs = frozenset({"language-model"})

    def sample(self, examples: Examples, k: int, context: SamplerContext) -> Ints:
        """Rejected items: int32 [n, k]; -1 fills rows with fewer. At temperature 0 the most probable come first."""
        assert context.language_model is not None  # granted by `needs`
        options: SelfHardOptions = self.options
        eligibility = Eligibility(context, options.allow_seen)
        if options.exclude == "resample":
            return self._resampled(examples, k, context, eligibility)
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

    def _resampled(self, examples: Examples, k: int, context: SamplerContext, eligibility: Eligibility) -> Ints:
        """The model's answers without the targets; rows that are not full are asked again."""
        assert context.language_model is not None
        options: SelfHardOptions = self.options
        rejected = np.full((len(examples), k), -1, dtype=np.int32)
        rows = np.arange(len(examples))
        for _ in range(options.attempts if options.temperature > 0 else 1):
            asked = examples.take(rows)
            answers = context.language_model.generate(
                asked,
                k,
                exclude=partial(_seen_and_held, eligibility, asked, rejected[rows]),
                beams=max(options.beams, k),
                temperature=options.temperature,
            )
            together = np.concatenate([rejected[rows], answers], axis=1)
            kept = eligibility.mask(asked, together)
            rejected[rows] = first_kept(together, kept, k)
            rows = rows[rejected[rows, -1] < 0]
            if not len(rows):
                break
        return rejected


def _seen_and_held(
    eligibility: Eligibility, examples: Examples, held: Ints, rows: Longs
) -> list[NDArray[np.integer]]:
    """What the model must not answer: what the user has seen, except the target, and its earlier answers."""
    seen = eligibility.seen_but_target(examples.take(rows))
    return [np.concatenate([items, have[have >= 0]]) for items, have in zip(seen, held[rows], strict=True)]
