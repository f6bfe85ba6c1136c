"""The loss of RosePO: DPO with personalized smoothing."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rosepo_core.api import LogProbs, Options, PreferenceLoss
from rosepo_losses.pairwise import log_ratios, mean_over_valid


class RosePOOptions(Options):
    """Options of `rosepo`."""

    beta: float = Field(0.1, gt=0, description="How strongly the policy is held to the reference.")


class RosePO(PreferenceLoss):
    """-(1 - eps) log sigmoid(Delta) - eps log sigmoid(-Delta), with Delta as in DPO and eps the pair's own.

    RosePO (arXiv 2410.12519): eps is the probability that this user likes the rejected item better after all. The
    derivative in Delta is eps - sigmoid(-Delta), so each pair comes to rest at Delta = log((1 - eps) / eps). With
    eps = 0 throughout it is `dpo`, value for value; with one eps for all pairs it is conservative DPO. Several
    rejected responses make as many pairs with the same chosen one; the loss of a row is the mean over its valid
    pairs.
    """

    Options = RosePOOptions
    needs_smoothing = True

    def __call__(self, log_probs: LogProbs) -> Tensor:
        """Loss of each row: float [n]."""
        chosen, rejected = log_ratios(log_probs)
        delta = self.beta * (chosen - rejected)
        eps = torch.where(log_probs.valid, log_probs.eps, 0.0)
        # log sigmoid(-Delta) = log sigmoid(Delta) - Delta turns the two terms into one that cannot overflow.
        return mean_over_valid(eps * delta - logsigmoid(delta), log_probs.valid)
