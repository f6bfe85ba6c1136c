"""Noise Contrastive Alignment."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rosepo_losses.pairwise import PairwiseLoss, PairwiseOptions


class NCAOptions(PairwiseOptions):
    """Options of `nca`."""

    beta: float = Field(0.1, gt=0, description="Higher values keep the policy closer to the reference.")


class NCA(PairwiseLoss):
    """-log sigmoid(beta r_w) - log sigmoid(-beta r_w) / 2 - log sigmoid(-beta r_l) / 2, with r = log pi - log ref.

    Chen et al., Noise Contrastive Alignment (arXiv 2402.05369), for a preference without rewards; TRL's
    ``loss_type="nca_pair"``. It holds the chosen response's own log-ratio up, where DPO may let both fall. Each
    rejected response makes a pair with the chosen one; the loss of a row is the mean over its valid pairs, so the
    chosen response weighs as much as all rejected ones together. Without a reference, beta log pi is compared with 0,
    which is not what the paper means.
    """

    Options = NCAOptions

    def pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """-log sigmoid(beta r_w) - [log sigmoid(-beta r_w) + log sigmoid(-beta r_l)] / 2."""
        won, lost = self.beta * chosen, self.beta * rejected
        return -logsigmoid(won) - 0.5 * logsigmoid(-won) - 0.5 * logsigmoid(-lost)
