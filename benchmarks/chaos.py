"""Kills real runs of a tiny model, lets the same command go on, and compares the end with that of a run that nobody
killed: adapters, tables and lines of training bit for bit, with dropout.

    python -m benchmarks.chaos [--moments 50] [--signals 20] [--operations 0] [--processes 2] [--seed 0]

A trial is one of these:

- SIGKILL, SIGTERM or Ctrl-C at a random moment of a run;
- SIGKILL at one file operation, counted while stages of the run are made: each time that a file is opened to be
  written, renamed or removed, and a folder made or removed. ``--operations 0`` tries every one of SFT, with its
  checkpoints, and of the evaluation;
- SIGKILL of one of two processes that train together, at a random moment.

A run survives if the same command ends with exit code 0, what it leaves is equal, and nothing else lies in its
folder.
Writes benchmarks/results/chaos.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tiny_model import tiny_model

RESULTS = Path(__file__).parent / "results"
START = multiprocessing.get_context("forkserver")
PRELOAD = ["rosepo_cli.app", "rosepo_core.pipeline", "rosepo_core.report.page", "trl", "peft", "polars"]
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate")
"""Audit events of Python that change a file system, besides opening a file to write it."""

STAGES = {"sft": "SFT and its checkpoints", "evaluation": "the evaluation"}
"""The stages that are killed at file operations, and what they are called in the table."""

USERS, ITEMS = 24, 40


@dataclass(frozen=True)
class Work:
    """What is run: the command of one run, without its folder."""

    arguments: tuple[str, ...]
    scratch: Path

    def command(self, run: Path, *more: str) -> list[str]:
        """The command line of a run."""
        return ["train", *self.arguments, "--run", str(run), *more]


@dataclass
class Row:
    """The trials of one kind."""

    kind: str
    tried: int = 0
    killed: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, killed: bool, failure: str | None) -> None:
        """Count one trial; `killed` tells that the run was not over before."""
        self.tried += 1
        self.killed += killed
        if failure is not None:
            self.failures.append(failure)

    @property
    def survived(self) -> int:
        """Trials without a failure."""
        return self.tried - len(self.failures)


def tiny_work(scratch: Path) -> Work:
    """A log of 24 users, a model of two layers, and a run of all stages that saves after each step."""
    model, log = scratch / "model", scratch / "log.csv"
    titles = [
        f"{name} {number} (19{number + 40})" for number, name in enumerate(["Night", "River", "Gold", "Tin"] * 10)
    ]
    write_log(log, titles)
    tiny_model(model)
    small = {
        "dataset.path": log,
        "model.dtype": "float32",
        "dataset.history_length": 8,
        "sft.steps": 6,
        "sft.batch_size": 4,
        "sft.lora_dropout": 0.2,
        "sft.learning_rate": 0.01,
        "preferences.max_per_user": 3,
        "alignment.steps": 6,
        "alignment.learning_rate": 0.01,
        "checkpoint.minutes": 0,
        "evaluation.candidates": 5,
        "evaluation.resamples": 100,
        "ranking.score": "prior-corrected",
        "seed": 3,
    }
    parts = ("--dataset=table", f"--model={model}", "--oracle=constant", "--sampler=self-hard")
    return Work((*parts, *(f"--{key}={value}" for key, value in small.items())), scratch)


def write_log(file: Path, titles: Sequence[str]) -> None:
    """24 users with 8 to 12 of the titles each."""
    rng = np.random.default_rng(0)
    lines = ["user,item,timestamp,title"]
    for user in range(USERS):
        items = rng.choice(ITEMS, rng.integers(8, 13), replace=False)
        lines += [
            f"u{user},i{item},{1000 * user + place},{titles[item]}" for place, item in enumerate(items.tolist())
        ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def contents(run: Path) -> dict[str, Any]:
    """What stages wrote into a run folder, by path; the times that they took aside."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    del metrics["seconds"]
    files = {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name != "manifest.json" and (path.parent != run or path.suffix == ".jsonl")
    }
    return {**files, "metrics.json": metrics}


def leftovers(run: Path) -> list[str]:
    """What a finished run must not leave in its folder."""
    return sorted(
        path.name
        for path in run.iterdir()
        if path.name.endswith(".partial") or (path.name.startswith(".") and path.name != ".lock")
    )


def at_work(arguments: Sequence[str], said: Path, operation: int | None, changed: Path | None) -> None:
    """One command line, in a process of its own.

    Args:
        arguments: the command line.
        said: receives what it says on stderr.
        operation: the process kills itself before this file operation in the folder of `said`, counted from 0.
        changed: receives the number of file operations.
    """
    import torch

    from rosepo_cli.app import run

    # The terminal's Ctrl-C may be ignored where a script started this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    within = str(said.parent)
    done = 0

    def count(event: str, details: tuple[Any, ...]) -> None:
        nonlocal done
        writes = event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR)
        if not (writes or event in CHANGES) or not str(details[0]).startswith(within) or str(details[0]) == str(said):
            return
        if done == operation:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1

    with said.open("w") as err, redirect_stderr(err), redirect_stdout(err):
        if operation is not None or changed is not None:
            sys.addaudithook(count)
        code = run(arguments)
    if changed is not None:
        number = done
        changed.write_text(str(number))
    os._exit(code)


def start(command: Sequence[str], said: Path, operation: int | None = None, changed: Path | None = None) -> Any:
    """A process that works on a command line."""
    process = START.Process(target=at_work, args=(list(command), said, operation, changed))
    process.start()
    return process


def finish(command: Sequence[str], said: Path, changed: Path | None = None) -> float:
    """Work on a command line to its end; the seconds that it took.

    Raises:
        RuntimeError: it failed.
    """
    before = time.monotonic()
    process = start(command, said, changed=changed)
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"exit code {process.exitcode}: {last_line(said)}")
    return time.monotonic() - before


def last_line(file: Path) -> str:
    """The last line of what a command said."""
    return (file.read_text(encoding="utf-8").splitlines() or [""])[-1]


def judged(work: Work, run: Path, wanted: dict[str, Any], *more: str) -> str | None:
    """Let the command go on to its end; what is wrong then, if something is."""
    try:
        finish(work.command(run, *more), run.parent / "said")
        found = contents(run)
    except (RuntimeError, OSError, ValueError) as error:
        return str(error)
    if found.keys() != wanted.keys():
        return f"files differ: {sorted(found.keys() ^ wanted.keys())}"
    if different := [name for name in wanted if found[name] != wanted[name]]:
        return f"contents differ: {different}"
    return f"left: {left}" if (left := leftovers(run)) else None


def at_moments(
    work: Work, wanted: dict[str, Any], seconds: float, numbers: Sequence[int], rng: np.random.Generator, row: Row
) -> None:
    """A trial for each signal, at a random moment of the run."""
    for number in numbers:
        folder = Path(tempfile.mkdtemp(dir=work.scratch))
        run = folder / "run"
        process = start(work.command(run), folder / "said")
        process.join(rng.uniform(0, seconds))
        killed = process.exitcode is None
        if killed:
            os.kill(process.pid, number)
        process.join()
        ended = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}[signal.Signals(number)]
        failure = None
        # A signal can come before the command listens to it, or when its work is done.
        if process.exitcode not in (0, ended, -number):
            failure = (
                f"exit code {process.exitcode} after {signal.Signals(number).name}: {last_line(folder / 'said')}"
            )
        row.add(killed and process.exitcode != 0, failure or judged(work, run, wanted))
        shutil.rmtree(folder)


def at_operations(work: Work, whole: Path, stage: str, limit: int, rng: np.random.Generator, row: Row) -> None:
    """A trial for each file operation, or for so many of them, while a stage and what depends on it are made."""
    wanted = contents(whole)

    def prepared(name: str) -> Path:
        """A folder in which the run has everything that comes before the stage."""
        run = work.scratch / name / "run"
        shutil.copytree(whole, run)
        for path in run.iterdir():
            if path.is_dir() and not (stage == "evaluation" and not path.name.startswith(("scores", "evaluation"))):
                if path.name in ("dataset", "split") or (stage == "evaluation" and path.name.startswith("prior")):
                    continue
                shutil.rmtree(path)
        return run

    run = prepared(f"{stage}-count")
    more = ("--until=sft",) if stage == "sft" else ()
    finish(work.command(run, *more), run.parent / "said", run.parent.parent / f"{stage}-changes")
    operations = int((run.parent.parent / f"{stage}-changes").read_text())
    shutil.rmtree(run.parent)
    numbers = list(range(operations))
    if 0 < limit < operations:
        numbers = sorted(rng.choice(operations, limit, replace=False).tolist())
    for number in numbers:
        run = prepared(f"{stage}-{number}")
        process = start(work.command(run, *more), run.parent / "said", number)
        process.join()
        failure = None if process.exitcode in (0, -signal.SIGKILL) else last_line(run.parent / "said")
        row.add(process.exitcode != 0, failure or judged(work, run, wanted))
        shutil.rmtree(run.parent)


def of_two_processes(work: Work, trials: int, rng: np.random.Generator, row: Row) -> None:
    """One of two processes is killed at a random moment; the same command then ends as a run that nobody killed."""
    command = [sys.executable, "-m", "rosepo_cli"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def begun(run: Path) -> subprocess.Popen[bytes]:
        full = [*command, *work.command(run, "--processes", "2")]
        return subprocess.Popen(full, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    if not trials:
        return
    whole = work.scratch / "of-two" / "run"
    if begun(whole).wait():
        row.add(False, "two processes cannot train here")
        return
    wanted = contents(whole)
    for trial in range(trials):
        run = work.scratch / f"of-two-{trial}" / "run"
        first = begun(run)
        while not (run / "sft.partial").exists() and first.poll() is None:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 2))
        workers = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True, check=False)
        killed = [int(line) for line in workers.stdout.split()]
        for each in killed[-1:]:
            os.kill(each, signal.SIGKILL)
        first.wait()
        failure = None
        if begun(run).wait():
            failure = "the same command failed"
        elif contents(run) != wanted:
            failure = "contents differ"
        row.add(bool(killed), failure)
        shutil.rmtree(run.parent)


def trials(
    scratch: Path,
    moments: int,
    signals: int,
    operations: int,
    processes: int,
    seed: int,
    stages: Sequence[str] = tuple(STAGES),
) -> Iterator[Row]:
    """The rows of the table, as they are finished.

    Args:
        scratch: an empty folder.
        moments: number of SIGKILLs at random moments.
        signals: number of SIGTERMs and Ctrl-Cs, half of each.
        operations: file operations that are tried in each stage of `stages`; 0 for all of them.
        processes: trials with two processes.
        seed: of the moments.
        stages: keys of `STAGES`.
    """
    START.set_forkserver_preload(PRELOAD)
    rng = np.random.default_rng(seed)
    work = tiny_work(scratch)
    whole = scratch / "whole" / "run"
    whole.parent.mkdir()
    # The first run waits for the libraries; the second one has the time that the others take.
    finish(work.command(scratch / "whole" / "first"), scratch / "whole" / "said")
    shutil.rmtree(scratch / "whole" / "first")
    seconds = finish(work.command(whole), scratch / "whole" / "said")
    wanted = contents(whole)
    kinds: list[tuple[str, Callable[[Row], None]]] = [
        (
            "SIGKILL at a random moment",
            lambda row: at_moments(work, wanted, seconds, [signal.SIGKILL] * moments, rng, row),
        ),
        (
            "SIGTERM at a random moment",
            lambda row: at_moments(work, wanted, seconds, [signal.SIGTERM] * (signals - signals // 2), rng, row),
        ),
        (
            "Ctrl-C at a random moment",
            lambda row: at_moments(work, wanted, seconds, [signal.SIGINT] * (signals // 2), rng, row),
        ),
    ]
    kinds += [
        (
            f"SIGKILL at a file operation of {STAGES[stage]}",
            lambda row, stage=stage: at_operations(work, whole, stage, operations, rng, row),
        )
        for stage in stages
    ]
    kinds.append(("SIGKILL of one of two processes", lambda row: of_two_processes(work, processes, rng, row)))
    for kind, try_all in kinds:
        row = Row(kind)
        try_all(row)
        yield row


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| what | tried | killed before its end | survived |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {row.kind} | {row.tried} | {row.killed} | {row.survived} |" for row in rows if row.tried]
    failures = [f"- {row.kind}: {failure}" for row in rows for failure in row.failures]
    return "\n".join([*lines, *(["", *failures] if failures else [])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=50, help="SIGKILLs at random moments")
    parser.add_argument("--signals", type=int, default=20, help="SIGTERMs and Ctrl-Cs, half of each")
    parser.add_argument("--operations", type=int, default=0, help="file operations in each of two stages; 0: all")
    parser.add_argument("--processes", type=int, default=2, help="trials with two processes")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rosepo-chaos-") as scratch:
        rows = []
        numbers = (asked.moments, asked.signals, asked.operations, asked.processes, asked.seed)
        for row in trials(Path(scratch), *numbers):
            print(f"{row.kind}: {row.survived} of {row.tried} survived", flush=True)
            rows.append(row)
    text = table(rows)
    print(f"\n{text}")
    command = f"    python -m benchmarks.chaos {' '.join(sys.argv[1:])}".rstrip()
    (RESULTS / "chaos.md").write_text(
        f"# Runs that were killed, {date.today()}\n\n{command}\n\n{text}\n", encoding="utf-8"
    )
    sys.exit(any(row.failures for row in rows))


if __name__ == "__main__":
    main()
