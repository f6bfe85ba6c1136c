"""A preference loss: a function of the log-probabilities of n pairs, written for all of them at once."""

from pydantic import Field

from rosepo_core.api import LogProbs, Options, PreferenceLoss


class SquaredHingeOptions(Options):
    beta: float = Field(0.1, gt=0, description="Scale of the implicit rewards.")
    margin: float = Field(1.0, gt=0, description="Difference of the rewards at which a pair is learnt.")


class SquaredHinge(PreferenceLoss):
    """max(0, margin - Delta)^2, with Delta as in DPO; the mean over a pair's rejected responses."""

    Options = SquaredHingeOptions

    def __call__(self, log_probs: LogProbs):
        chosen = log_probs.chosen - log_probs.reference_chosen
        rejected = log_probs.rejected - log_probs.reference_rejected
        delta = self.options.beta * (chosen[:, None] - rejected)
        losses = (self.options.margin - delta).clamp(min=0).square()
        return losses.masked_fill(~log_probs.valid, 0).sum(dim=1) / log_probs.valid.sum(dim=1)
