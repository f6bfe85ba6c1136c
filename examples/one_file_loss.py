"""A loss in one file, for an idea that is not packaged yet:

rosepo train --config examples/quickstart.toml --loss examples/one_file_loss.py:Margin --loss.margin 2
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from rosepo_core.api import LogProbs, Options, PreferenceLoss


class MarginOptions(Options):
    beta: float = Field(0.1, gt=0, description="Scale of the implicit rewards.")
    margin: float = Field(1.0, gt=0, description="How much better the chosen response should be.")


class Margin(PreferenceLoss):
    """max(0, margin - (r_w - r_l)), summed over the rejected responses; r = beta (log pi - log ref)."""

    Options = MarginOptions

    def __call__(self, log_probs: LogProbs) -> Tensor:
        chosen, rejected = self.rewards(log_probs)
        # An empty slot is no rejected response: it is as far away as can be.
        better_by = (chosen[:, None] - rejected).masked_fill(~log_probs.valid, float("inf"))
        return (self.options.margin - better_by).clamp(min=0).sum(1)
