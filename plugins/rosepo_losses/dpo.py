"""Direct Preference Optimization."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rosepo_core.api import LogProbs, Options, PreferenceLoss
from rosepo_losses.pairwise import log_ratios, mean_over_valid


class DPOOptions(Options):
    """Options of `dpo`."""

    beta: float = Field(0.1, gt=0, description="Higher values keep the policy closer to the reference.")


class DPO(PreferenceLoss):
    """-log sigmoid(Delta), Delta = beta [(log pi(y_w) - log ref(y_w)) - (log pi(y_l) - log ref(y_l))].

    Rafailov et al., Direct Preference Optimization (arXiv 2305.18290), equation 7; with one rejected response it is
    TRL's ``loss_type="sigmoid"``. Each rejected response makes a pair with the chosen one; the loss of a row is the
    mean over its valid pairs. For conservative DPO, use the loss `rosepo` with the oracle `constant`.
    """

    Options = DPOOptions

    def __call__(self, log_probs: LogProbs) -> Tensor:
        """Loss of each row: float [n]."""
        chosen, rejected = log_ratios(log_probs)
        return mean_over_valid(-logsigmoid(self.beta * (chosen - rejected)), log_probs.valid)
