"""The loss of SFT on choices."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rosepo_core.contracts.components import PreferenceLoss
from rosepo_core.contracts.options import Options
from rosepo_core.contracts.records import LogProbs


class ChoiceOptions(Options):
    """Options of `ChoiceLoss`."""

    beta: float = Field(gt=0, description="Scale of the scores.")


class ChoiceLoss(PreferenceLoss):
    """-log softmax of the target's score among the scores of the target and of sampled titles. The score of a title
    is beta (log pi(title | history) - log ref(title)), where the reference is the prior of titles.

    This is the sampled softmax loss (Bengio and Senecal, "Adaptive importance sampling to accelerate training of a
    neural probabilistic language model", 2008; for recommendation: Wu et al., "On the effectiveness of sampled
    softmax loss for item recommendation", TOIS 2024). Uniform samples need no correction, because it would be the
    same for all titles. S-DPO has the same softmax (Chen et al., "On softmax direct preference optimization for
    recommendation", NeurIPS 2024), with the SFT model after the history as reference: -log softmax = log(1 + sum of
    exp(score of a sample - score of the target)).
    """

    Options = ChoiceOptions

    def __call__(self, log_probs: LogProbs) -> Tensor:
        """Loss of each row: float [n]."""
        target = log_probs.chosen - log_probs.reference_chosen
        # An empty slot may hold any reference, also -inf.
        reference = torch.where(log_probs.valid, log_probs.reference_rejected, 0.0)
        sampled = torch.where(log_probs.valid, log_probs.rejected - reference, -torch.inf)
        scores = self.beta * torch.cat([target[:, None], sampled], dim=1)
        return -torch.log_softmax(scores, dim=1)[:, 0]
