"""Contrastive Preference Optimization."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rosepo_core.api import LogProbs
from rosepo_losses.pairwise import PairwiseLoss, PairwiseOptions, log_policy, negative_log_likelihood


class CPOOptions(PairwiseOptions):
    """Options of `cpo`."""

    beta: float = Field(0.1, gt=0, description="Scale of the log-probabilities.")
    alpha: float = Field(1.0, ge=0, description="Weight of the negative log-likelihood of the chosen response.")


class CPO(PairwiseLoss):
    """-log sigmoid(beta (log pi(y_w) - log pi(y_l))) - alpha log pi(y_w) / |y_w|.

    Xu et al., Contrastive Preference Optimization (arXiv 2401.08417): DPO with a uniform reference, and a term of
    behaviour cloning. The paper writes log pi(y_w) as a sum over tokens; this is the mean over tokens, as in the
    authors' code and TRL's CPOTrainer (``cpo_alpha``), where the mean is over all tokens of the batch and here over
    those of each title. There is no reference. Each rejected response makes a pair with the chosen one; the loss of
    a row is the mean over its valid pairs. Smoothing acts on the first term alone.
    """

    Options = CPOOptions
    needs_reference = False
    needs_tokens = True

    def scores(self, log_probs: LogProbs) -> tuple[Tensor, Tensor]:
        """log pi."""
        return log_policy(log_probs)

    def pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """-log sigmoid(beta (log pi(y_w) - log pi(y_l)))."""
        return -logsigmoid(self.beta * (chosen - rejected))

    def __call__(self, log_probs: LogProbs) -> Tensor:
        """Loss of each row: float [n]."""
        return super().__call__(log_probs) + self.options.alpha * negative_log_likelihood(log_probs)
