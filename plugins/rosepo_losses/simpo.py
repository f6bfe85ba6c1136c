"""Simple Preference Optimization."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rosepo_core.api import LogProbs
from rosepo_losses.pairwise import PairwiseLoss, PairwiseOptions, log_policy, per_token


class SimPOOptions(PairwiseOptions):
    """Options of `simpo`."""

    beta: float = Field(2.0, gt=0, description="Scale of the mean log-probability per token.")
    gamma: float = Field(
        1.0, ge=0, description="Margin that the chosen response must win by, in units of the reward."
    )


class SimPO(PairwiseLoss):
    """-log sigmoid(beta log pi(y_w) / |y_w| - beta log pi(y_l) / |y_l| - gamma).

    Meng et al., SimPO (arXiv 2405.14734), equation 6; TRL's CPOTrainer with ``loss_type="simpo"``, whose
    ``simpo_gamma`` is gamma. It has no reference. Each rejected response makes a pair with the chosen one; the loss
    of a row is the mean over its valid pairs. Smoothing swaps the two responses and keeps the margin, where TRL's
    ``label_smoothing`` negates the margin, too.
    """

    Options = SimPOOptions
    needs_reference = False
    needs_tokens = True

    def scores(self, log_probs: LogProbs) -> tuple[Tensor, Tensor]:
        """Mean log pi per token."""
        return per_token(log_policy(log_probs), log_probs)

    def rewards(self, log_probs: LogProbs) -> tuple[Tensor, Tensor]:
        """beta log pi / |y|."""
        chosen, rejected = self.scores(log_probs)
        return self.beta * chosen[:, 0], self.beta * rejected

    def pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """-log sigmoid(beta (s_w - s_l) - gamma)."""
        return -logsigmoid(self.beta * (chosen - rejected) - self.options.gamma)
