"""The table to show first: one column of a protocol's metrics, by model and score, with intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.sections import SCORES, Score
from rosepo_core.evaluation.run_models import RowName, preferred_column
from rosepo_core.store.marker import read_listed


@dataclass(frozen=True)
class Estimate:
    """A mean over users, and the ends of its 95 % interval if it has one."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class MainTable:
    """One metric of all models.

    Attributes:
        protocol: the protocol.
        column: the column, such as ``ndcg@10``.
        scores: the scores that some model ranks by.
        rows: by model and score.
    """

    protocol: str
    column: str
    scores: tuple[Score, ...]
    rows: Mapping[str, Mapping[Score, Estimate]]


def main_table(
    protocol: str,
    metrics: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]],
) -> MainTable:
    """The table of a protocol.

    Args:
        protocol: its name.
        metrics: by row, such as ``aligned fusion``, and column.
        intervals: the same.
    """
    column = preferred_column(next(iter(metrics.values())))
    rows: dict[str, dict[Score, Estimate]] = {}
    for name, values in metrics.items():
        low_high = intervals.get(name, {}).get(column)
        row = RowName.of(name)
        estimate = Estimate(values[column], None if low_high is None else (low_high[0], low_high[1]))
        rows.setdefault(row.own, {})[row.score] = estimate
    used = {score for scores in rows.values() for score in scores}
    return MainTable(protocol, column, tuple(score for score in SCORES if score in used), rows)


def read_main_tables(run: Path) -> list[MainTable]:
    """The table of each protocol of an evaluated run, from its metrics.json. Nothing heavy is imported.

    Raises:
        RequestError: the run is not evaluated, or the file is damaged.
    """
    text = read_listed(run, "metrics.json")
    if text is None:
        raise RequestError(f"{run} has no tables yet: it is not evaluated")
    try:
        content = json.loads(text)
        return [
            main_table(protocol, metrics, content["intervals"].get(protocol, {}))
            for protocol, metrics in content["protocols"].items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"{run / 'metrics.json'} cannot be read ({type(error).__name__}); `rosepo evaluate {run}` writes it again"
        ) from error
