"""Identity Preference Optimization."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from rosepo_core.api import LogProbs
from rosepo_losses.pairwise import PairwiseLoss, PairwiseOptions, log_ratios, per_token


class IPOOptions(PairwiseOptions):
    """Options of `ipo`."""

    beta: float = Field(0.1, gt=0, description="The paper's tau: the target margin is 1 / (2 beta) nats per token.")


class IPO(PairwiseLoss):
    """(h - 1 / (2 beta))^2, where h is the difference of the two log-ratios, each averaged over its response's
    tokens.

    Azar et al., A General Theoretical Paradigm to Understand Learning from Human Preferences (arXiv 2310.12036),
    equation 17; beta is the paper's tau. The paper's h sums over tokens. As in TRL's ``loss_type="ipo"``, each
    log-ratio is divided by the number of tokens of its response, so that beta has the same meaning for short and long
    titles. Each rejected response makes a pair with the chosen one; the loss of a row is the mean over its valid
    pairs. Without a reference, h compares mean log pi alone.
    """

    Options = IPOOptions
    needs_tokens = True

    def scores(self, log_probs: LogProbs) -> tuple[Tensor, Tensor]:
        """Log-ratios per token."""
        return per_token(log_ratios(log_probs), log_probs)

    def pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """(h - 1 / (2 beta))^2."""
        return (chosen - rejected - 1 / (2 * self.beta)) ** 2
