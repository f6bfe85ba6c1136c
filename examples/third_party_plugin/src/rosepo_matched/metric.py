"""A metric: one value for each user at a cut-off; intervals and paired tests come from the values."""

import numpy as np

from rosepo_core.api import CutOffMetric, Doubles, Measure, Outcome


class SelfInformation(CutOffMetric):
    """-1/|L| sum_{i in L} log2 p(i), p(i) = (phi(i) + 1) / sum_j (phi(j) + 1), L the user's first k items and phi
    training interactions; the mean over users, in bits.

    Range 0 upwards; higher is more novel. Zhou et al., "Solving the apparent diversity-accuracy dilemma of
    recommender systems", PNAS 2010, with one added so that items without interactions count.
    """

    about = Measure("Self-information", "higher", "Novelty", high=np.inf, decimals=2)

    def at(self, outcome: Outcome, k: int) -> Doubles:
        counts = outcome.catalogue.popularity + 1
        return outcome.list_means(-np.log2(counts / counts.sum()), k)
