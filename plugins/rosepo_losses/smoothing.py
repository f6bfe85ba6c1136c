"""Label smoothing, which losses share: with what probability is the rejected response the better one?"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from rosepo_core.api import LogProbs, Options, PreferenceLoss


class SmoothingOptions(Options):
    """Options of every loss that can be smoothed."""

    smoothing: Literal["none", "oracle", "constant"] = Field(
        "none",
        description="Where eps comes from, the probability that the user prefers the rejected item: 'oracle' asks "
        "the oracle for each pair, 'constant' takes 'epsilon' for all, 'none' is 0.",
    )
    epsilon: float = Field(0.1, ge=0, le=0.45, description="eps of all pairs (smoothing = 'constant' only).")

    @field_validator("epsilon")
    @classmethod
    def _of_constant_alone(cls, value: float, info: ValidationInfo) -> float:
        if info.data.get("smoothing") != "constant" and value != cls.model_fields["epsilon"].default:
            raise ValueError("it is read with smoothing = 'constant' alone; set that, or leave it out")
        return value


class SmoothedLoss(PreferenceLoss):
    """A loss with the options of smoothing. It needs the oracle only if ``smoothing = "oracle"``."""

    Options = SmoothingOptions

    def __init__(self, options: Any = None) -> None:
        """As `Component`."""
        super().__init__(options)
        self.needs_smoothing = self.options.smoothing == "oracle"

    def eps(self, log_probs: LogProbs) -> Tensor | float:
        """The smoothing factor of each pair: float [n, K], 0 in empty slots, or one number for all."""
        if self.options.smoothing == "oracle":
            return torch.where(log_probs.valid, log_probs.eps, 0.0)
        return float(self.options.epsilon) if self.options.smoothing == "constant" else 0.0
