"""Row memory-k1: peak memory of optimizer steps of 8 pairs with K = 1, each way in a process of its own.

    python -m benchmarks.rows.memory [--quick]

Memory is the process's peak resident set, the libraries and the model included, under the same environment. Both
make two steps, so that the optimizer's state is there; the peer's reference pass runs one pair at a time, so that it
is not what peaks.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PAIRS = 8
STEPS = 2
ROUNDS = 3


def _rosepo() -> None:
    from benchmarks import material
    from rosepo_core.engine.training import TrainingSettings, align_preferences
    from rosepo_core.testing.toys import SilentReporter

    chat, model = material.template("chat", candidates=20), material.adapted_model()
    pairs = material.examples(PAIRS, 1)
    grown = material.trees(model, chat, pairs, material.rejected(pairs, 1))
    settings = TrainingSettings(1e-5, PAIRS, "auto", steps=STEPS)
    align_preferences(model, material.dpo(), grown, settings, SilentReporter())


def _trl() -> None:
    from benchmarks import material
    from benchmarks.rows.training import dpo_peer

    pairs = material.examples(PAIRS, 1)
    with tempfile.TemporaryDirectory() as folder:
        chat, negatives = material.template("chat", candidates=20), material.rejected(pairs, 1)
        trainer = dpo_peer(chat, pairs, negatives, folder, PAIRS, precompute_ref_batch_size=1)
        trainer.args.max_steps = STEPS
        trainer.train()


def _libraries() -> None:
    from benchmarks import material

    material.adapted_model()


WAYS = {"rosepo": _rosepo, "trl": _trl, "libraries": _libraries}


def high_water() -> float:
    """MiB that this process has had in memory at most; `getrusage` would count what started it, too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found, "the kernel tells no peak"
    return int(found[1]) / 1024


def peak(way: str) -> float:
    """MiB."""
    command = [sys.executable, "-m", "benchmarks.rows.memory", "--way", way]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def run(quick: bool) -> dict[str, Any]:
    rounds = 1 if quick else ROUNDS
    start = peak("libraries")
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(peak("rosepo"))
        theirs.append(peak("trl"))
    mine = statistics.median(ours)
    return {
        "name": "memory-k1",
        "work": f"peak memory of a step of {PAIRS} pairs, chat prompts with 20 candidates, K = 1",
        "unit": "MiB",
        "rosepo": mine,
        "peer": statistics.median(theirs),
        "peer_name": f"TRL DPOTrainer, batch {PAIRS}",
        "ratio": statistics.median(one / other for one, other in zip(ours, theirs, strict=True)),
        "target": 0.4,
        "floor_ratio": mine / start,
        "measurements": rounds,
        "note": f"{start:.0f} MiB of each are the libraries and the model, the floor",
    }


if __name__ == "__main__":
    if "--way" in sys.argv:
        WAYS[sys.argv[-1]]()
        print(high_water())
    else:
        print(json.dumps(run("--quick" in sys.argv)))
