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

    beta: float = Field(0.1, gt=0, description="Higher values keep the policy closer to the reference.")


class RosePO(PreferenceLoss):
    """-(1 - eps) log sigmoid(Delta) - eps log sigmoid(-Delta), with Delta as in DPO and a different eps for each
    pair.

    RosePO (arXiv 2410.12519), as far as its abstract tells: eps is the probability that this user prefers the
    rejected item to the chosen one. The derivative with respect to Delta is eps - sigmoid(-Delta), so each pair
    settles at Delta = log((1 - eps) / eps). If eps is 0 for all pairs, the values are exactly those of `dpo`; with
    the same eps for all pairs it is conservative DPO. Each rejected response makes a pair with the chosen one; the
    loss of a row is the mean over its valid pairs.
    """

    Options = RosePOOptions
    needs_smoothing = True

    def __call__(self, log_probs: LogProbs) -> Tensor:
        """Loss of each row: float [n]."""
        chosen, rejected = log_ratios(log_probs)
        delta = self.beta * (chosen - rejected)
        eps = torch.where(log_probs.valid, log_probs.eps, 0.0)
        # With log sigmoid(-Delta) = log sigmoid(Delta) - Delta, the sum becomes a term that cannot overflow.
        return mean_over_valid(eps * delta - logsigmoid(delta), log_probs.valid)
