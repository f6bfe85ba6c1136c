"""Makes the cells of the study in one process, as many as fit into the time."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from benchmarks.study.arms import Cell
from benchmarks.study.full import budget
from benchmarks.study.full.budget import Budget, Forecast, OutOfTime
from benchmarks.study.full.kept import Kept
from rosepo_core import __version__, pipeline
from rosepo_core.config import RunConfig
from rosepo_core.engine.policy import PolicySlot
from rosepo_core.planning import plan
from rosepo_core.stages.session import QuietReporter
from rosepo_core.store.artifacts import Artifact

SHARED_STAGES = ("dataset", "split", "sft", "oracle", "prior-base", "prior-sft", "fusion-base", "fusion-sft")
"""Stages that all arms of a seed share, beside candidates and scores."""


class Stages(QuietReporter):
    """Notes the seconds of each stage that was made."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []

    def stage_finished(self, artifact: Artifact) -> None:
        """Note it."""
        if artifact.reused is None:
            self.seconds[artifact.stage] = artifact.seconds

    def note(self, message: str) -> None:
        """Keep it with the cell."""
        self.notes.append(message)


def card() -> str:
    """The name of the GPU, or ``cpu``."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def work(wanted: Sequence[Cell], configs: Mapping[Cell, RunConfig], kept: Kept, time_given: Budget) -> None:
    """Make the cells that are not finished, in their order, until the next is not expected to fit.

    Args:
        wanted: all cells of the study.
        configs: the configuration of each.
        kept: the folder.
        time_given: the time of this call.
    """
    left = [cell for cell in wanted if not kept.is_finished(cell)]
    if not left:
        print("every cell is finished", flush=True)
        return
    model = configs[left[0]].model
    policy = PolicySlot(model.name, model.dtype, QuietReporter(), model.quantization)
    kept.tidy(wanted)
    try:
        with time_given.limited():
            forecasts = _forecasts(wanted, left, configs, kept, policy)
            _make(wanted, left, configs, kept, time_given, policy, forecasts)
    except OutOfTime:
        print("the time is over", flush=True)
    left = [cell for cell in wanted if not kept.is_finished(cell)]
    kept.tidy(wanted)
    names = ", ".join(cell.name for cell in left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
    print(f"{len(wanted) - len(left)} of {len(wanted)} cells are finished; left: {names or 'none'}", flush=True)


def _forecasts(
    wanted: Sequence[Cell],
    left: Sequence[Cell],
    configs: Mapping[Cell, RunConfig],
    kept: Kept,
    policy: PolicySlot,
) -> dict[str, Forecast]:
    """A forecast for each dataset, from some passes of the model on this device and from cells that were finished on
    such a card."""
    found: dict[str, Forecast] = {}
    for dataset in dict.fromkeys(cell.dataset for cell in left):
        first = next(cell for cell in wanted if cell.dataset == dataset)
        # In a folder of its own, so that all stages are planned.
        planned = plan(configs[first], kept.folder / "plan", QuietReporter(), policy=policy)
        found[dataset] = budget.expected(planned)
        rates = (f"{rate:,.0f}" if rate else "unknown" for rate in (planned.train_rate, planned.score_rate))
        print("{}: {} tokens a second in training, {} in scoring, on {}".format(dataset, *rates, card()), flush=True)
        for cell in wanted:
            if cell.dataset == dataset and kept.is_finished(cell) and (about := kept.about(cell))["card"] == card():
                found[dataset].learn(cell, about["own"], about["shared"])
    return found


def _make(
    wanted: Sequence[Cell],
    left: Sequence[Cell],
    configs: Mapping[Cell, RunConfig],
    kept: Kept,
    time_given: Budget,
    policy: PolicySlot,
    forecasts: Mapping[str, Forecast],
) -> None:
    begun = {(cell.dataset, cell.seed) for cell in wanted if kept.is_finished(cell)}
    fits = budget.fitting(left, forecasts, begun, time_given.left)
    for dataset, each in forecasts.items():
        print(f"{dataset}: {each.shared:.0f} s for what the arms of a seed share, {each.own:.0f} s an arm, expected")
    seconds = time_given.left
    limit = "" if seconds == float("inf") else f" into the {seconds:.0f} s that are left"
    print(
        f"{fits} of {len(left)} cells are expected to fit{limit}; all take "
        f"about {budget.total(left, forecasts, begun) / 60:.0f} minutes",
        flush=True,
    )
    for place, cell in enumerate(left):
        first = (cell.dataset, cell.seed) not in begun
        expected = forecasts[cell.dataset].of(cell, first=first)
        # The first is always tried: a forecast may be wrong.
        if place and expected > time_given.left:
            print(f"stopping before {cell.name}: it takes about {expected:.0f} s", flush=True)
            return
        start, stages = time.monotonic(), Stages()
        try:
            pipeline.run(configs[cell], kept.run(cell), stages, policy=policy)
        except OutOfTime:
            kept.drop_partial(cell)
            print(f"{cell.name} was cut off, and starts again in the next call", flush=True)
            raise
        seconds = time.monotonic() - start
        shared = sum(each for stage, each in stages.seconds.items() if _is_shared(stage))
        about: dict[str, Any] = {
            "card": card(),
            "rosepo": __version__,
            "own": round(seconds - shared, 3),
            "shared": round(shared, 3) if "sft" in stages.seconds else None,
            "stages": stages.seconds,
            "notes": stages.notes,
        }
        kept.keep(cell, about, wanted)
        forecasts[cell.dataset].learn(cell, about["own"], about["shared"])
        begun.add((cell.dataset, cell.seed))
        print(f"{cell.name}: {seconds:.0f} s, {expected:.0f} s expected", flush=True)
        # A trainer refers to itself, and holds the memory of its optimizer until it is collected.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_shared(stage: str) -> bool:
    return stage in SHARED_STAGES or (stage.startswith(("candidates", "scores-")) and "aligned" not in stage)
