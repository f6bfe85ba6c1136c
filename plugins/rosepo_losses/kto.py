"""Kahneman-Tversky Optimization."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rosepo_core.api import LogProbs, Options, PreferenceLoss
from rosepo_losses.pairwise import log_ratios, mean_over_valid


class KTOOptions(Options):
    """Options of `kto`."""

    beta: float = Field(0.1, gt=0, description="Higher values keep the policy closer to the reference.")
    desirable_weight: float = Field(1.0, gt=0, description="Weight of the chosen responses.")
    undesirable_weight: float = Field(1.0, gt=0, description="Weight of the rejected responses.")


class KTO(PreferenceLoss):
    """Half of desirable_weight (1 - sigmoid(beta (r_w - z))) + undesirable_weight (1 - sigmoid(beta (z - r_l))), with
    r = log pi - log ref and z = max(0, mean of r(y') over the step).

    Ethayarajh et al., KTO (arXiv 2402.01306); TRL's KTOTrainer with ``loss_type="kto"``. Chosen and rejected
    responses are judged each on its own, against the baseline z, an estimate of KL(pi || ref) without gradient. y' is
    a mismatched response: for each prompt, the chosen title of another pair, one branch more of its token tree. TRL
    takes the response of the neighbour in the batch; here it is drawn once from all pairs, so that its reference is
    scored once, too, and z is the mean over all pairs of an optimizer step (``scope = "batch"``).

    With one rejected response, the mean over rows is TRL's mean over examples. With several, the rejected responses
    of a row share the weight of one, so that chosen and rejected ones stay balanced. Without a reference, z is 0 and
    r is log pi, far below it, so that sigmoid is flat: use a loss without a reference instead.
    """

    Options = KTOOptions
    scope = "batch"
    needs_mismatched = True

    def __call__(self, log_probs: LogProbs) -> Tensor:
        """Loss of each row: float [n]."""
        assert log_probs.mismatched is not None
        assert log_probs.reference_mismatched is not None
        baseline = (log_probs.mismatched - log_probs.reference_mismatched).mean().clamp(min=0).detach()
        chosen, rejected = log_ratios(log_probs)
        desirable = torch.sigmoid(self.beta * (baseline - chosen[:, 0]))
        undesirable = mean_over_valid(torch.sigmoid(self.beta * (rejected - baseline)), log_probs.valid)
        return (self.options.desirable_weight * desirable + self.options.undesirable_weight * undesirable) / 2
