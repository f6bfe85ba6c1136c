"""What a sweep will cost, from the plan of its first trial."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosepo_core.planning import plan
from rosepo_core.plugins.registry import Registry
from rosepo_core.stages.session import RunReporter
from rosepo_core.sweep.judging import Judged, on_validation
from rosepo_core.sweep.running import pruning, trial_folder
from rosepo_core.sweep.space import Load, Space, combinations

FIRST_STAGE = {
    **dict.fromkeys(("oracle",), "oracle"),
    **dict.fromkeys(("sampler", "preferences"), "sampling"),
    **dict.fromkeys(("loss", "alignment"), "aligned"),
    "ranking": "scores",
}
"""The first stage that a key of a section changes. Keys of other sections may change all stages."""


@dataclass(frozen=True)
class Forecast:
    """What a sweep will do and about how long it takes.

    Attributes:
        space: the values of each key, as written.
        judged: what trials are judged by.
        pruning: in one sentence, whether trials are ended early.
        trials: how many there will be.
        first: seconds of the first trial, as far as they are known.
        later: most seconds of each later trial: of the stages that the searched keys can change.
        unknown: stages whose time is unknown.
    """

    space: dict[str, str]
    judged: Judged
    pruning: str
    trials: int
    first: float
    later: float
    unknown: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of all trials, if none is ended early."""
        return self.first + (self.trials - 1) * self.later

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "space": self.space,
            "judged": str(self.judged),
            "pruning": self.pruning,
            "trials": self.trials,
            "first_seconds": self.first,
            "later_seconds": self.later,
            "seconds": self.seconds,
            "unknown": list(self.unknown),
        }

    def lines(self) -> Iterator[str]:
        """As lines of text."""
        yield f"{self.trials} trials, judged by {self.judged}"
        yield from (f"  {key} = {values}" for key, values in self.space.items())
        yield self.pruning
        yield (
            f"about {_time(self.seconds)} at most: {_time(self.first)} for the first trial, "
            f"{_time(self.later)} for each later one"
        )
        if self.unknown:
            yield f"without {', '.join(self.unknown)}, whose time is unknown"


def forecast(
    load: Load,
    space: Space,
    judged: Judged,
    folder: Path,
    trials: int,
    reporter: RunReporter,
    *,
    registry: Registry | None = None,
) -> Forecast:
    """The forecast of `run_sweep` with the same arguments. Nothing is written.

    Raises:
        RequestError: the first trial would end with this error before anything is trained.
    """
    base = load([])
    config = on_validation(load([(key, values.samples[0]) for key, values in space.items()]))
    stages = plan(config, trial_folder(config, folder), reporter, registry=registry).stages
    names = [stage.stage for stage in stages]
    changed = [FIRST_STAGE.get(key.partition(".")[0], names[0]) for key in space]
    start = min(names.index(name) if name in names else 0 for name in changed)
    new = [(place, stage) for place, stage in enumerate(stages) if stage.reused is None]
    every = combinations(space)
    return Forecast(
        space={key: str(values) for key, values in space.items()},
        judged=judged,
        pruning=pruning(base, space),
        trials=trials if every is None else min(trials, len(every)),
        first=sum(stage.seconds or 0.0 for _, stage in new),
        later=sum(stage.seconds or 0.0 for place, stage in new if place >= start),
        unknown=tuple(stage.stage for _, stage in new if stage.seconds is None),
    )


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
