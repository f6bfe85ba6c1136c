"""Direct Multi-Preference Optimization."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rosepo_core.api import LogProbs, Options, PreferenceLoss
from rosepo_losses.pairwise import log_ratios, mean_over_valid


class DMPOOptions(Options):
    """Options of `dmpo`."""

    beta: float = Field(0.1, gt=0, description="Higher values keep the policy closer to the reference.")


class DMPO(PreferenceLoss):
    """-log sigmoid(beta r_w - (beta / K) sum_l r_l), with r = log pi - log ref.

    Bai et al., Finetuning Large Language Model for Personalized Ranking (arXiv 2405.16127). The published code gives
    the reference's log-probability of the chosen response for both responses, so that the reference cancels out; this
    is the paper's formula, with each response's own reference. K counts the valid slots of a row. With K = 1 it is
    DPO. Easy rejected responses take part in the mean like hard ones, see `dynamic-po`. Without a reference it
    compares log pi alone, which is what the published code does.
    """

    Options = DMPOOptions

    def __call__(self, log_probs: LogProbs) -> Tensor:
        """Loss of each row: float [n]."""
        chosen, rejected = log_ratios(log_probs)
        return -logsigmoid(self.beta * (chosen[:, 0] - mean_over_valid(rejected, log_probs.valid)))
