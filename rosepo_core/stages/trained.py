"""The results of the stages before evaluation, for evaluation and report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rosepo_core.contracts.components import SmoothingOracle
from rosepo_core.contracts.records import Candidates, Pairs, Split
from rosepo_core.contracts.sections import HeldOut, Negatives
from rosepo_core.engine.training import LogHistory
from rosepo_core.stages.rounds import Round
from rosepo_core.stages.session import Handle

DrawnCandidates = Mapping[tuple[HeldOut, Negatives], Handle[Candidates]]
"""The candidates to rank, by held-out part and kind of negatives."""


@dataclass(frozen=True)
class TrainedRound:
    """Handles of one round.

    Attributes:
        number: which round.
        sft: RUN/sft of this round.
        pairs: RUN/preferences of this round.
        aligned: RUN/aligned of this round.
    """

    number: Round
    sft: Handle[LogHistory]
    pairs: Handle[Pairs]
    aligned: Handle[LogHistory]


@dataclass(frozen=True)
class Trained:
    """Handles of a run that has trained.

    Attributes:
        split: RUN/split.
        candidates: RUN/candidates, by part and kind of negatives; empty if no protocol ranks candidates.
        oracle: RUN/oracle; `None` if nothing in the run asks it.
        rounds: the rounds, at least one.
    """

    split: Handle[Split]
    candidates: DrawnCandidates
    oracle: Handle[SmoothingOracle] | None
    rounds: tuple[TrainedRound, ...]

    @property
    def sft(self) -> Handle[LogHistory]:
        """RUN/sft."""
        return self.rounds[0].sft
