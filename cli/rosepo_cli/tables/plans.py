"""The plan of a run, and how long it will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rosepo_cli.tables.cells import plain_table
from rosepo_core.console import open_console

if TYPE_CHECKING:
    from rosepo_core.planning import Plan


def show_plan(config: str, folder: Path, plan: Plan) -> None:
    """The resolved configuration, then the plan and its cost."""
    console = open_console()
    console.print(config, soft_wrap=True)
    table = plain_table("stage", "examples", "tokens", "longest", "time")
    for row in plan.stages:
        table.add_row(
            row.stage,
            f"{row.examples:,} {row.unit}",
            f"{row.tokens:,}" if row.tokens else "",
            f"{row.longest:,}" if row.longest else "",
            "reused" if row.reused else "unknown" if row.seconds is None else duration(row.seconds),
        )
    console.print(table)
    console.print()
    if plan.train_rate is None or plan.score_rate is None:
        cost = "time    unknown"
    else:
        cost = (
            f"time    about {duration(plan.seconds)}, at {plan.train_rate:,.0f} tokens/s in training and "
            f"{plan.score_rate:,.0f} in scoring, measured here and now{' in one process' * (plan.processes > 1)}"
        )
    memory = [f"memory  about {_by_purpose(plan.memory)}"]
    if plan.processes > 1:
        each = f"in each of {plan.processes} processes"
        memory = [f"{memory[0]}, {each} under DDP"]
        memory += [f"memory  about {_by_purpose(plan.shared_memory)}, {each} under FSDP or ZeRO-3"]
    for line in (
        cost,
        *memory,
        *(f"note: {note}" for note in plan.notes),
    ):
        console.print(line)
    for row in plan.stages:
        if row.reused:
            console.print(f"reused  {row.stage} from {row.reused}", soft_wrap=True)
    console.print(f"run     {folder}", soft_wrap=True)


def in_a_line(plan: Plan, until: str | None, runs: int = 1) -> str | None:
    """How long a run will take, with the stages that take most of the time; `None` if no stage takes any.

    Args:
        plan: the plan of the run.
        until: the last stage of the run, if it does not go on to the end.
        runs: number of runs of this kind, one after the other.
    """
    rows = [row for row in plan.up_to(until).stages if row.reused is None]
    total = sum(row.seconds or 0.0 for row in rows)
    if plan.train_rate is None:
        return "how long this takes is unknown: the model does not fit into this machine"
    longest = sorted(rows, key=lambda row: row.seconds or 0.0, reverse=True)[:3]
    parts = [f"{row.stage} {duration(row.seconds)}" for row in longest if row.seconds and row.seconds > total / 20]
    parts += [f"{row.stage} unknown and not counted" for row in rows if row.seconds is None]
    if not parts:
        return None
    several = f"{runs} runs, each " if runs > 1 else ""
    return f"{several}about {duration(total)} on this machine: {', '.join(parts)} (--dry-run shows the plan)"


def show_plan_of_seeds(seeds: Sequence[int], plan: Plan) -> None:
    """What the plan of the first seed means for all seeds."""
    console = open_console()
    console.print(
        f"seeds   {', '.join(map(str, seeds))}: this plan is seed {seeds[0]}'s; all of it times {len(seeds)} takes "
        f"about {duration(plan.seconds * len(seeds))}",
        markup=False,
    )
    if any(stage.reused for stage in plan.stages):
        console.print(f"note: what seed {seeds[0]} reuses is not counted, and other seeds may have to make it")


def _by_purpose(memory: Mapping[str, int]) -> str:
    parts = ", ".join(f"{what} {_gibibytes(size)}" for what, size in memory.items())
    return f"{_gibibytes(sum(memory.values()))} GiB: {parts}"


def _gibibytes(size: float) -> str:
    return f"{size / 2**30:.2f}"


def duration(seconds: float) -> str:
    """Such as ``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
