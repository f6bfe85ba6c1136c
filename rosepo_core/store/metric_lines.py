"""RUN/metrics.jsonl: the numbers of each logged step, written while a training goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from rosepo_core.contracts.errors import RequestError
from rosepo_core.store.files import write_text

METRIC_LINES = "metrics.jsonl"


class MetricLines:
    """The lines of one stage. Each line is a JSON object with ``stage``, ``step`` and the numbers of the step.

    A reader sees whole lines only, up to the last line break. What a killed process left of a line is removed when
    the next training begins.
    """

    def __init__(self, file: Path, stage: str) -> None:
        self._file = file
        self._stage = stage

    def begin(self, step: int) -> None:
        """Remove the lines of this stage after `step`, because a training that begins there will write them.

        Raises:
            RequestError: a line is damaged.
        """
        try:
            text = self._file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        lines = text[: text.rfind("\n") + 1].splitlines(keepends=True)
        kept = "".join(line for number, line in enumerate(lines, 1) if not self._comes_after(number, line, step))
        if kept != text:
            write_text(self._file, kept)

    def _comes_after(self, number: int, line: str, step: int) -> bool:
        try:
            found = json.loads(line)
            return bool(found["stage"] == self._stage and found["step"] > step)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RequestError(
                f"{self._file}, line {number}, is damaged: remove the line, and run the same command again"
            ) from None

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line. A value that is no finite number becomes null, because JSON has no others."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps({"stage": self._stage, "step": step, **finite})
        with self._file.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
