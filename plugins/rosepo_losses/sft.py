"""The likelihood of the chosen response, as a term of a mixture."""

from __future__ import annotations

from torch import Tensor

from rosepo_core.api import LogProbs, PreferenceLoss
from rosepo_losses.pairwise import negative_log_likelihood


class SFT(PreferenceLoss):
    """-log pi(y_w) / |y_w|: the mean negative log-likelihood of the chosen response per token.

    A term for mixtures, such as ``--loss rosepo=1.0 --loss sft=0.1``, against the fall of the chosen response's own
    likelihood. It is the additional term of RPO (Pang et al., Iterative Reasoning Preference Optimization, arXiv
    2404.19733, equation 1) and TRL's ``loss_type="sft"``, in which the mean is over all tokens of the batch and here
    over those of each title, so that a title's weight does not depend on the other titles of the step. The rejected
    responses and the reference are not used, so K does not matter.
    """

    needs_reference = False
    needs_tokens = True

    def __call__(self, log_probs: LogProbs) -> Tensor:
        """Loss of each row: float [n]."""
        return negative_log_likelihood(log_probs)
