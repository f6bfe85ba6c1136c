"""Where the numbers of a training go while it runs: RUN/metrics.jsonl, and trackers by the Trainer's integrations."""

from __future__ import annotations

import importlib
import netrc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rosepo_core.contracts.errors import RequestError
from rosepo_core.store.metric_lines import METRIC_LINES, MetricLines

PROJECT = "rosepo"
"""The project (wandb, trackio) or experiment (mlflow) of all runs, unless the tracker's own variable names one."""


@dataclass(frozen=True)
class Tracking:
    """Where the numbers of one training go.

    Attributes:
        run: the run folder.
        stage: the name of the stage.
        trackers: names of transformers' integrations.
        lines: the file of `store.metric_lines`; by default RUN/metrics.jsonl.
        show: receives the numbers of each logged step, to show them.
    """

    run: Path
    stage: str
    trackers: Sequence[str] = ()
    lines: Path | None = None
    show: Callable[[Mapping[str, float]], None] | None = None

    def arguments(self) -> dict[str, Any]:
        """The arguments of the trainer's configuration."""
        return {
            "report_to": list(self.trackers) or "none",
            "run_name": f"{self.run.resolve().name}-{self.stage}",
            "project": os.environ.get("TRACKIO_PROJECT", PROJECT),
        }

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Inside the context, trackers write into the run folder and ask nothing. At the end, wandb's run is over."""
        with _environment(self._variables()):
            try:
                yield
            finally:
                if "wandb" in self.trackers:
                    importlib.import_module("wandb").finish()

    def _variables(self) -> dict[str, str]:
        """Environment variables of the trackers. Those that the user has set stay."""
        found: dict[str, str] = {}
        if "tensorboard" in self.trackers:
            found["TENSORBOARD_LOGGING_DIR"] = str(self.run / "tensorboard" / self.stage)
        if "mlflow" in self.trackers:
            found["MLFLOW_EXPERIMENT_NAME"] = PROJECT
        if "wandb" in self.trackers:
            found |= {"WANDB_PROJECT": PROJECT, "WANDB_DIR": str(self.run), "WANDB_SILENT": "true"}
            if not _knows_wandb():
                # Without a key, wandb would ask for one. `wandb sync` sends such a run later.
                found["WANDB_MODE"] = "offline"
        return {name: value for name, value in found.items() if name not in os.environ}


class WritesLines(TrainerCallback):  # type: ignore[misc]
    """Writes a line of RUN/metrics.jsonl for each logged step and each result of validation, and shows it."""

    def __init__(self, tracking: Tracking) -> None:
        self._lines = MetricLines(tracking.lines or tracking.run / METRIC_LINES, tracking.stage)
        self._show = tracking.show

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remove the lines of steps that are made again."""
        if state.is_world_process_zero:
            self._lines.begin(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **kwargs: Any) -> None:
        """Write a line. The last log of a training is a summary and no step."""
        if state.is_world_process_zero and "train_loss" not in logs:
            self._lines.add(state.global_step, logs)
            if self._show is not None:
                self._show(logs)


def check_trackers(trackers: Sequence[str]) -> None:
    """Check that each tracker's package, which has its name, is installed.

    Raises:
        RequestError: one is missing.
    """
    for name in trackers:
        if find_spec(name) is None:
            raise RequestError(f"--track {name} needs the package {name}: pip install {name}")


def _knows_wandb() -> bool:
    """Whether wandb has a key, from its variable or from `wandb login`."""
    if "WANDB_API_KEY" in os.environ:
        return True
    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any("wandb" in host for host in hosts)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
