"""Row memory-k1: peak memory of one optimizer step of 8 pairs with K = 1, each way in a process of its own.

    python -m benchmarks.rows.memory

Memory is the process's peak resident set, the libraries and the model included.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from typing import Any

PAIRS = 8


def _rosepo() -> None:
    from benchmarks import material
    from rosepo_core.engine.training import align_preferences
    from rosepo_core.sections import AlignmentOptions
    from rosepo_core.testing.toys import SilentReporter

    chat, model = material.template("chat", candidates=20), material.adapted_model()
    pairs = material.examples(PAIRS, 1)
    grown = material.trees(model, chat, pairs, material.rejected(pairs, 1))
    align_preferences(
        model,
        material.dpo(),
        grown,
        0,
        batch_size=PAIRS,
        token_budget=AlignmentOptions().token_budget,
        gradient_checkpointing=False,
        learning_rate=1e-5,
        steps=2,
        epochs=1.0,
        warmup_ratio=0.0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=0,
        reporter=SilentReporter(),
    )


def _trl() -> None:
    from benchmarks import material
    from benchmarks.rows.training import dpo_peer

    pairs = material.examples(PAIRS, 1)
    with tempfile.TemporaryDirectory() as folder:
        chat, negatives = material.template("chat", candidates=20), material.rejected(pairs, 1)
        trainer = dpo_peer(chat, pairs, negatives, folder, PAIRS)
        trainer.args.max_steps = 2
        trainer.train()


def _libraries() -> None:
    from benchmarks import material

    material.adapted_model()


def _peak(way: str) -> float:
    """MiB."""
    command = [sys.executable, "-m", "benchmarks.rows.memory", "--way", way]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def run() -> dict[str, Any]:
    rounds = 1
    peaks = {way: [_peak(way) for _ in range(rounds)] for way in ("rosepo", "trl", "libraries")}
    ours, theirs, start = (sorted(values)[len(values) // 2] for values in peaks.values())
    return {
        "name": "memory-k1",
        "work": f"peak memory of a step of {PAIRS} pairs, chat prompts with 20 candidates, K = 1",
        "unit": "MiB",
        "rosepo": ours,
        "peer": theirs,
        "peer_name": "TRL DPOTrainer",
        "ratio": ours / theirs,
        "target": 0.4,
        "floor_ratio": ours / start,
        "measurements": rounds,
        "note": f"{start:.0f} MiB of each are the libraries and the model",
    }


if __name__ == "__main__":
    if "--way" in sys.argv:
        {"rosepo": _rosepo, "trl": _trl, "libraries": _libraries}[sys.argv[-1]]()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    else:
        print(json.dumps(run()))
