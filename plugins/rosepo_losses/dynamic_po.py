"""DynamicPO: the rejected responses near the boundary, each with its own beta."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rosepo_core.api import LogProbs, Options, PreferenceLoss
from rosepo_losses.pairwise import log_ratios, mean_over_valid

CLUSTERS = 3


class DynamicPOOptions(Options):
    """Options of `dynamic-po`."""

    beta: float = Field(1.0, gt=0, description="Higher values keep the policy closer to the reference.")
    margin: float = Field(
        2.0,
        ge=0,
        description="How much farther the chosen response should be from the boundary than the boundary "
        "from the other rejected ones, in nats, where beta stays as it is.",
    )


class DynamicPO(PreferenceLoss):
    """-log sigmoid(mean_l beta_l (r_w - r_l)) over the boundary responses l of each row, with r = log pi - log ref.

    Hu et al., DynamicPO (arXiv 2605.00327), on the objective of `dmpo`:

    - Boundary responses are the rejected ones that the policy finds at least as probable as the chosen one. If there
      is none, they are the top one of three clusters of log pi: the exact optimum of k-means in one dimension, where
      the published code takes what scikit-learn's k-means finds. With fewer than three, each is a cluster.
    - beta_l = beta (1 + tanh((d1 - d2 - margin) / (|d1| + |d2|)) / 2), with d1 = log pi(w) - log pi(l), and d2 =
      log pi(l) less the mean log pi of the rejected responses that are not at the boundary (of all, if all are).

    beta_l is a constant for the gradient, as in the published code. The margin is 2, as in the paper; the published
    code has 6. With K = 1 it is DPO with a beta of its own for each pair. Responses off the boundary get no gradient.
    Without a reference, r is log pi.
    """

    Options = DynamicPOOptions

    def __call__(self, log_probs: LogProbs) -> Tensor:
        """Loss of each row: float [n]."""
        chosen, rejected = log_ratios(log_probs)
        at_boundary, beta = self._of_the_boundary(log_probs)
        return -logsigmoid(mean_over_valid(beta * (chosen - rejected), at_boundary))

    @torch.no_grad()
    def _of_the_boundary(self, log_probs: LogProbs) -> tuple[Tensor, Tensor]:
        """Which slots are boundary responses, bool [n, K], and beta of each slot, finite everywhere."""
        valid, chosen = log_probs.valid, log_probs.chosen[:, None]
        rejected = torch.where(valid, log_probs.rejected, 0.0)
        at_boundary = valid & (rejected >= chosen)
        at_boundary = torch.where(at_boundary.any(1, keepdim=True), at_boundary, top_cluster(rejected, valid))
        others = valid & ~at_boundary
        others = torch.where(others.any(1, keepdim=True), others, valid)
        ahead, above = chosen - rejected, rejected - mean_over_valid(rejected, others)[:, None]
        apart = (ahead.abs() + above.abs()).clamp(min=1e-12)
        return at_boundary, self.beta * (1 + torch.tanh((ahead - above - self.options.margin) / apart) / 2)


def top_cluster(values: Tensor, valid: Tensor) -> Tensor:
    """Which values are in the highest cluster of their row, if the valid ones are divided into at most three clusters
    with the least sum of squared distances from the clusters' means: bool [n, K].

    In one dimension, the best clusters are intervals of the sorted values, so all pairs of cuts are tried.
    """
    count = valid.sum(1)
    ordered, order = values.double().masked_fill(~valid, -torch.inf).sort(dim=1, descending=True)
    ordered = torch.where(ordered.isfinite(), ordered - ordered[:, :1], 0.0)
    sums = torch.nn.functional.pad(torch.stack([ordered, ordered**2]).cumsum(2), (1, 0))

    def spread(start: Tensor, end: Tensor) -> Tensor:
        """Sum of squared distances within the sorted values from `start` to `end`, [n, a, b]."""
        total, squares = (
            each.gather(1, end.flatten(1)).view_as(end) - each.gather(1, start.flatten(1)).view_as(start)
            for each in sums
        )
        return squares - total**2 / (end - start).clamp(min=1)

    # The first cluster is [0, first), the second [first, second) and the third [second, count).
    cuts = torch.arange(1, values.shape[1] + 1, device=values.device)
    first, second = cuts[None, :, None].expand(len(values), -1, len(cuts)), cuts.expand(len(values), len(cuts), -1)
    last = count[:, None, None].expand_as(first)
    clusters = 1 + (second > first).long() + (last > second).long()
    allowed = (first <= second) & (second <= last) & (clusters == count.clamp(max=CLUSTERS)[:, None, None])
    first, second = first.clamp(max=last), second.clamp(max=last)
    within = spread(torch.zeros_like(first), first) + spread(first, second) + spread(second, last)
    best = within.masked_fill(~allowed, torch.inf).flatten(1).argmin(1)
    size = cuts[best // len(cuts)]
    rank = order.argsort(dim=1)
    return valid & (rank < size[:, None])
