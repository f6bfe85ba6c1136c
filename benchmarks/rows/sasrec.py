"""Row sasrec: seconds of training until SASRec ranks best on MovieLens-100K's validation targets.

    python -m benchmarks.rows.sasrec [--quick] [--peer-log=FILE]

Leave-one-out, as `rosepo train` splits; 2 layers, 2 heads, hidden size 64, 50 items of history; each target among all
items that are not in its history. The peer is RecBole's SASRec on exactly these interactions, with as many threads,
in an environment of its own: RECBOLE_PYTHON names the interpreter (.venv-recbole/bin/python, made if absent).

The clocks favour the peer: rosepo's runs through the validation of the epochs before the best one, RecBole's stands
still during validation. Both leave out loading the data. RecBole takes hours, so it is run once, after rosepo's
seeds, and is stopped after MAX_SECONDS; then the ratio is a lower bound. FILE holds what an earlier run of
benchmarks/peers/recbole_sasrec.py printed, to be read in place of a new run.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.sasrec_quality import movielens, quality
from rosepo_core.api import OracleContext, Split
from rosepo_core.registry import load_plugins

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch==2.13.0", "numpy<2", "pandas<3", "setuptools<81", "recbole==1.2.1", "ray", "hyperopt", "thop")
SIZES = {"layers": 2, "heads": 2, "hidden_size": 64, "max_history": 50}
SEEDS = 5
MAX_SECONDS = 1350
PATIENCE = 10
# Of 32 to 2048, RecBole's default, the size with the shortest epochs on one thread.
BATCH_SIZE = 256


class Clock:
    """A reporter that keeps when each epoch had been trained, in seconds."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self._start = time.perf_counter()

    def progress(self, done: int, total: int, unit: str) -> None:
        self.epochs.append(time.perf_counter() - self._start)

    def note(self, message: str) -> None:
        pass


def ours(split: Split, seed: int, options: dict[str, Any]) -> dict[str, float]:
    """Seconds until the best epoch, which one that was, NDCG@10 of validation and test."""
    oracle = load_plugins().create("oracle", "sasrec", SIZES | options)
    clock = Clock()
    shown = oracle.fit(split, OracleContext(np.random.default_rng(seed), seed, clock))
    test, _ = quality(oracle, split.test, len(split.catalogue))
    return {
        "seconds": clock.epochs[int(shown["epochs"]) - 1],
        "epoch": shown["epochs"],
        "ndcg@10": shown["ndcg@10"],
        "test_ndcg@10": test,
    }


def floor(split: Split) -> float:
    """Seconds of an epoch if only its matrix products had to be made, attention's aside, forward and backward, all
    at the speed of the product with the catalogue."""
    size, items = SIZES["hidden_size"], len(split.catalogue)
    hidden, weight = torch.randn(2500, size), torch.randn(size, items)
    logits = torch.empty(2500, items)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        torch.mm(hidden, weight, out=logits)
        seconds.append(time.perf_counter() - start)
    rate = hidden.numel() * items / statistics.median(seconds)
    return 3 * len(split.train.items) * (6 * SIZES["layers"] * size**2 + size * items) / rate


def interpreter() -> str:
    """RecBole's Python."""
    given = os.environ.get("RECBOLE_PYTHON")
    if given:
        return given
    folder = ROOT / ".venv-recbole"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, stdout=sys.stderr)
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True, stdout=sys.stderr)
    return str(python)


def write_interactions(split: Split, path: Path) -> None:
    """A RecBole file of all interactions; a user's places stand for their times."""
    sequences = split.test.sequences
    # Every user's sequence must end with the test target, after the validation target: so RecBole splits alike.
    assert np.array_equal(split.test.user, np.arange(len(split.users)))
    assert np.array_equal(split.test.position, split.train.lengths + 1)
    with path.open("w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user in range(len(split.users)):
            places = enumerate(sequences[user].tolist())
            file.writelines(f"{user}\t{item}\t{place}\n" for place, item in places)


def theirs(split: Split, max_seconds: float) -> str:
    """What RecBole's run printed: a JSON line an epoch."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "movielens"
        folder.mkdir()
        write_interactions(split, folder / "movielens.inter")
        command = [
            interpreter(),
            "-W",
            "ignore",
            str(ROOT / "benchmarks" / "peers" / "recbole_sasrec.py"),
            str(folder),
        ]
        command += [f"--max-seconds={max_seconds}", f"--patience={PATIENCE}", f"--batch-size={BATCH_SIZE}"]
        environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def run(quick: bool, peer_log: Path | None = None) -> dict[str, Any]:
    split = movielens()
    options = {"max_epochs": 1} if quick else {}
    runs = [ours(split, seed, options) for seed in range(1 if quick else SEEDS)]
    mine = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    printed = peer_log.read_text(encoding="utf-8") if peer_log else theirs(split, 5 if quick else MAX_SECONDS)
    epochs = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    best = max(epochs, key=lambda line: line["ndcg@10"])
    ended = epochs[-1]["epoch"] - best["epoch"] >= PATIENCE
    spread = [one["seconds"] for one in runs]
    note = (
        f"{torch.get_num_threads()} thread(s); rosepo, median of {len(runs)} seeds ({min(spread):.1f} to "
        f"{max(spread):.1f} s): NDCG@10 {mine['ndcg@10']:.4f} on validation, {mine['test_ndcg@10']:.4f} on test, "
        f"best epoch {mine['epoch']:g}; RecBole, one run, batch {BATCH_SIZE}: {best['ndcg@10']:.4f} and "
        f"{best['test_ndcg@10']:.4f} at epoch {best['epoch']:.3g}"
    )
    if not ended:
        note += (
            f", when its {epochs[-1]['seconds']:.0f} s ended before its best: the ratio is a lower bound, and "
            "quality is compared there"
        )
    return {
        "name": "sasrec",
        "work": "SASRec on MovieLens-100K to its best validation NDCG@10",
        "unit": "s",
        "rosepo": mine["seconds"],
        "peer": best["seconds"],
        "peer_name": "RecBole 1.2.1 SASRec",
        "ratio": best["seconds"] / mine["seconds"],
        "target": 50,
        "floor_ratio": mine["seconds"] / (mine["epoch"] * floor(split)),
        "measurements": len(runs),
        "ndcg@10": mine["ndcg@10"],
        "test_ndcg@10": mine["test_ndcg@10"],
        "peer_ndcg@10": best["ndcg@10"],
        "peer_test_ndcg@10": best["test_ndcg@10"],
        "lower_bound": not ended,
        "note": note,
    }


if __name__ == "__main__":
    logs = [Path(argument.partition("=")[2]) for argument in sys.argv if argument.startswith("--peer-log=")]
    print(json.dumps(run("--quick" in sys.argv, *logs)))
