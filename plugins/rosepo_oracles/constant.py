"""One smoothing factor for all pairs: with the loss `rosepo`, conservative DPO."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from rosepo_core.api import Floats, Ints, Options, Places, SmoothingOracle


class ConstantOptions(Options):
    """Options of `constant`."""

    value: float = Field(
        0.1,
        ge=0,
        lt=0.5,
        description="Probability that a label is wrong, the same for every pair. With 0, the loss 'rosepo' is DPO.",
    )


class Constant(SmoothingOracle):
    """The same flip probability for every pair, as in conservative DPO (Mitchell, "A note on DPO with noisy
    preferences and relationship to IPO", 2023). It does not learn, and cannot rank."""

    Options: ClassVar[type[Options]] = ConstantOptions

    def flip_probability(self, places: Places, chosen: Ints, rejected: Ints) -> Floats:
        """`value` everywhere: float32 of the shape of `rejected`."""
        return np.full(rejected.shape, self.options.value, dtype=np.float32)
