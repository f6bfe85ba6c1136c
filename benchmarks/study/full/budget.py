"""A hard limit of time, and what is expected to fit into it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.study.arms import Cell
from benchmarks.study.full.cells import ARMS, REFERENCE
from rosepo_core.planning import Plan

RESERVE = 10.0
"""Seconds before the limit in which nothing is begun: what is finished is written, and the process ends."""

_AGAIN = 5.0


class OutOfTime(KeyboardInterrupt):
    """The time is over. rosepo then does as after Ctrl-C: what is finished stays, whole."""


class Budget:
    """The time of one call, from the start of the process."""

    def __init__(self, begun: float, minutes: float) -> None:
        """
        Args:
            begun: when the process began, by `time.monotonic`.
            minutes: after how many it must have ended.
        """
        self._end = begun + 60 * minutes - RESERVE

    @property
    def left(self) -> float:
        """Seconds that work may still take."""
        return self._end - time.monotonic()

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Inside the context, `OutOfTime` is raised when the time is over, between two steps of Python."""
        if self.left <= 0:
            raise OutOfTime
        if self.left == float("inf"):
            yield
            return

        def stop(*_: object) -> None:
            raise OutOfTime

        before = signal.signal(signal.SIGALRM, stop)
        # Once more, should a library swallow it.
        signal.setitimer(signal.ITIMER_REAL, self.left, _AGAIN)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


@dataclass
class Forecast:
    """What cells of one dataset take, in seconds: measured where such a cell is finished, and otherwise expected.

    Attributes:
        shared: of what the arms of a seed share, expected.
        own: of the reference alone, expected.
        measured: by arm: what it took for itself, and what it was expected to take.
        measured_shared: of the seeds that were begun, what all their arms share took.
    """

    shared: float
    own: float
    measured: dict[str, list[float]] = field(default_factory=dict)
    measured_shared: list[float] = field(default_factory=list)

    def of(self, cell: Cell, *, first: bool) -> float:
        """What a cell takes; the `first` of a seed also makes what all share."""
        own = _mean(self.measured.get(cell.arm, [])) or self.own * work_of(cell.arm) * self._slower
        return own + ((_mean(self.measured_shared) or self.shared) if first else 0.0)

    def learn(self, cell: Cell, own: float, shared: float | None) -> None:
        """A cell is finished. `shared`: what it took to make what all arms share; `None` if that was there."""
        self.measured.setdefault(cell.arm, []).append(own)
        if shared is not None:
            self.measured_shared.append(shared)

    @property
    def _slower(self) -> float:
        """How many times as long as expected the arms took so far."""
        expected = sum(len(found) * work_of(arm) for arm, found in self.measured.items()) * self.own
        return sum(map(sum, self.measured.values())) / expected if expected else 1.0


def expected(plan: Plan) -> Forecast:
    """The forecast from a plan of the reference. Of the three language models, two are ranked once for all arms."""
    own = {"sampling", "reference", "preferences", "aligned", "prior-aligned"}
    seconds: Mapping[str, float] = {stage.stage: stage.seconds or 0.0 for stage in plan.stages}
    scores = seconds.get("scores", 0.0)
    of_arm = sum(each for stage, each in seconds.items() if stage in own) + scores / 3
    return Forecast(shared=sum(seconds.values()) - of_arm, own=of_arm)


def work_of(arm: str) -> float:
    """How much more an arm does than the reference: about as many titles, K + 1 instead of 2, and rounds."""
    changes = ARMS[arm][1]
    negatives = changes.get("preferences", {}).get("negatives", 1)
    rounds: int = changes.get("rounds", 1)
    return (1 + negatives) / 2 * rounds if arm != REFERENCE else 1.0


def fitting(
    cells: Sequence[Cell], forecasts: Mapping[str, Forecast], begun: set[tuple[str, int]], seconds: float
) -> int:
    """How many of `cells`, from the first on, are expected to fit into `seconds`. `begun`: datasets and seeds whose
    shared stages are there."""
    count, left, there = 0, seconds, set(begun)
    for cell in cells:
        left -= forecasts[cell.dataset].of(cell, first=(cell.dataset, cell.seed) not in there)
        if left < 0:
            break
        there.add((cell.dataset, cell.seed))
        count += 1
    return count


def total(cells: Sequence[Cell], forecasts: Mapping[str, Forecast], begun: set[tuple[str, int]]) -> float:
    """Seconds that all `cells` are expected to take."""
    there, seconds = set(begun), 0.0
    for cell in cells:
        seconds += forecasts[cell.dataset].of(cell, first=(cell.dataset, cell.seed) not in there)
        there.add((cell.dataset, cell.seed))
    return seconds


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
