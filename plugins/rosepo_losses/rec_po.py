"""RecPO: S-DPO with margins from ratings and time."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rosepo_core.api import LogProbs, Options, PreferenceLoss
from rosepo_losses.pairwise import log_ratios


class RecPOOptions(Options):
    """Options of `rec-po`."""

    beta: float = Field(1.0, gt=0, description="Higher values keep the policy closer to the reference.")
    margin: float = Field(1.0, ge=0, description="The paper's lambda: weight of the margin; 0 is S-DPO.")
    decay: float = Field(0.5, ge=0, description="Power with which a rating fades with the delay.")
    unrated_rating: float = Field(3.0, gt=0, description="Rating of an item that the user has not rated.")
    unrated_delay: float = Field(10.0, ge=0, description="Delay of an item that the user has not taken later.")


class RecPO(PreferenceLoss):
    """-log sigmoid(-log sum_l exp(beta (r_l - r_w) + margin s_w / s_l)), with r = log pi - log ref and
    s = rating / (1 + delay)^decay.

    Ouyang et al., RecPO (arXiv 2506.02261): the chosen response must win by more where the user likes it better than
    the rejected one, and sooner. The paper's text could be read in part only, so this is the published code
    (``rec_dpo_trainer.py`` with ``ratio``, and the scores of its data sets): the delay counts the user's interactions
    from the chosen item on, so that it is 0 for the chosen item and j for the j-th item after it; items that the user
    has not rated count as 3 stars at a delay of 10. A rejected item that stands before the chosen one in the user's
    log has its rating, and the delay of an unrated item; this is rosepo's own reading.

    All K rejected responses are in one softmax, and with K = 1 it is DPO with a margin. The log needs positive
    ratings. Items that a user has rated are rejected only by samplers that reject seen items, such as with
    ``sampler.allow_seen``; all others have the same s, and then the margin depends on the chosen item's rating alone.
    Without a reference it compares log pi alone.
    """

    Options = RecPOOptions
    needs_ratings = True

    def __call__(self, log_probs: LogProbs) -> Tensor:
        """Loss of each row: float [n]."""
        chosen, rejected = log_ratios(log_probs)
        strength = self._strength(log_probs)
        lead = self.beta * (rejected - chosen) + self.options.margin * strength[:, :1] / strength[:, 1:]
        # -log sigmoid(-log sum exp) is log(1 + sum exp), and exp(0) = 1.
        filled = lead.masked_fill(~log_probs.valid, -1e30)
        return torch.logsumexp(torch.cat([torch.zeros_like(chosen), filled], dim=1), dim=1)

    def _strength(self, log_probs: LogProbs) -> Tensor:
        """s of the chosen and the rejected responses, [n, 1 + K]."""
        assert log_probs.ratings is not None
        assert log_probs.delays is not None
        options = self.options
        ratings = log_probs.ratings.nan_to_num(nan=options.unrated_rating)
        return ratings / (1 + log_probs.delays.nan_to_num(nan=options.unrated_delay)) ** options.decay
