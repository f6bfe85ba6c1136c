"""What each of two processes does for the test: `python -m work FOLDER COMMAND`, started by `rosepo_core.processes`.
Rank 0 saves the results in FOLDER."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import trainings
from safetensors.torch import save_file

from rosepo_cli.app import run
from rosepo_core import ranks
from rosepo_core.contracts.errors import RosepoError
from rosepo_core.stages import sampling


def main(folder: Path, command: list[str]) -> None:
    torch.set_num_threads(1)
    assert run([*command, "--run", str(folder / "two" / "run")]) == 0
    for name, train in trainings.TRAININGS.items():
        _save(folder / f"ddp, {name}", train())
    with trainings.fully_sharded():
        for name in trainings.SHARDED:
            _save(folder / f"fsdp, {name}", trainings.TRAININGS[name]())
        assert run([*command, "--run", str(folder / "sharded" / "run"), *trainings.WHOLE_MODEL]) == 0
    (folder / f"errors-{ranks.rank()}.json").write_text(json.dumps(_errors()), encoding="utf-8")
    # At the end, rank 1 dies in the middle of a run.
    fill_slots = sampling.fill_slots

    def fill_and_die(*arguments: Any) -> Any:
        found = fill_slots(*arguments)
        if ranks.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    sampling.fill_slots = fill_and_die
    sys.exit(run([*command, "--run", str(folder / "dead" / "run")]))


def _save(path: Path, result: trainings.Result) -> None:
    log, weights = result
    if ranks.is_first():
        path.with_suffix(".json").write_text(json.dumps(log), encoding="utf-8")
        save_file(weights, path.with_suffix(".safetensors"))


def _errors() -> list[str]:
    """What this rank says if rank 0 fails alone, and if the ranks do different things."""

    def fail() -> None:
        raise RosepoError("rank 0 failed alone")

    messages = []
    for failing in (lambda: ranks.told_by_first("failing", fail), lambda: ranks.meet(f"place {ranks.rank()}")):
        try:
            failing()
        except RosepoError as error:
            messages.append(str(error))
    return messages


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
