"""The results of the stages before evaluation, for evaluation and report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rosepo_core.contracts.components import SmoothingOracle
from rosepo_core.contracts.records import Candidates, Pairs, Split
from rosepo_core.contracts.sections import HeldOut, Negatives
from rosepo_core.engine.training import LogHistory
from rosepo_core.stages.session import Handle

DrawnCandidates = Mapping[tuple[HeldOut, Negatives], Handle[Candidates]]
"""The candidates to rank, by held-out part and kind of negatives."""


@dataclass(frozen=True)
class Trained:
    """Handles of a run that has trained.

    Attributes:
        split: RUN/split.
        candidates: RUN/candidates, by part and kind of negatives; empty if no protocol ranks candidates.
        sft: RUN/sft.
        oracle: RUN/oracle; `None` if nothing in the run asks it.
        pairs: RUN/preferences.
        aligned: RUN/aligned.
    """

    split: Handle[Split]
    candidates: DrawnCandidates
    sft: Handle[LogHistory]
    oracle: Handle[SmoothingOracle] | None
    pairs: Handle[Pairs]
    aligned: Handle[LogHistory]
