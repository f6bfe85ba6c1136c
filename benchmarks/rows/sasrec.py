"""Row sasrec: seconds of training until SASRec ranks best on MovieLens-100K's validation targets.

    python -m benchmarks.rows.sasrec [--quick | --record]

Leave-one-out, as `rosepo train` splits; 2 layers, 2 heads, hidden size 64, 50 items of history; each target among all
items that are not in its history. The peer is RecBole's SASRec on exactly these interactions, with as many threads,
in an environment of its own: RECBOLE_PYTHON names the interpreter (.venv-recbole/bin/python, made if absent).

RecBole takes hours to its best epoch. Which epoch that is, and how good, comes from one run of it, whose log is kept
in benchmarks/results/recbole_sasrec.jsonl (`--record` makes it anew, an epoch a line); how long its epochs take is
measured here, in turn with rosepo's seeds, over some seconds of an epoch each. If the log ends before ten epochs
without a gain, its best may be still to come, and the ratio is a lower bound. The clocks favour the peer: rosepo's
runs through the validation of the epochs before the best one, RecBole's knows no validation. Both leave out loading.
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
from rosepo_core.plugins.registry import load_plugins

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch==2.13.0", "numpy<2", "pandas<3", "setuptools<81", "recbole==1.2.1", "ray", "hyperopt", "thop")
SIZES = {"layers": 2, "heads": 2, "hidden_size": 64, "max_history": 50}
SEEDS = 5
SLICE_SECONDS = 20
PATIENCE = 10
PEER_LOG = ROOT / "benchmarks" / "results" / "recbole_sasrec.jsonl"
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


def theirs(split: Split, *arguments: str, into: Any = subprocess.PIPE) -> str:
    """What benchmarks/peers/recbole_sasrec.py prints, or nothing where it goes `into` a file."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "movielens"
        folder.mkdir()
        write_interactions(split, folder / "movielens.inter")
        script = str(ROOT / "benchmarks" / "peers" / "recbole_sasrec.py")
        command = [interpreter(), "-W", "ignore", script, str(folder), f"--batch-size={BATCH_SIZE}", *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        return subprocess.run(command, check=True, stdout=into, text=True, env=environment).stdout


def peer_epoch(split: Split, seconds: float) -> dict[str, Any]:
    """Seconds that an epoch takes the peer, from so many seconds of one, and its versions."""
    timed: dict[str, Any] = json.loads(theirs(split, f"--time={seconds}").splitlines()[-1])
    return timed


def run(quick: bool) -> dict[str, Any]:
    split = movielens()
    options = {"max_epochs": 1} if quick else {}
    runs, timed = [], []
    for seed in range(1 if quick else SEEDS):
        runs.append(ours(split, seed, options))
        timed.append(peer_epoch(split, 3 if quick else SLICE_SECONDS))
    peer_epochs = [one["seconds_per_epoch"] for one in timed]
    mine = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    log = [json.loads(line) for line in PEER_LOG.read_text(encoding="utf-8").splitlines()]
    best = max(log, key=lambda line: line["ndcg@10"])
    ended = log[-1]["epoch"] - best["epoch"] >= PATIENCE
    peer = [best["epoch"] * seconds for seconds in peer_epochs]
    spread = [one["seconds"] for one in runs]
    note = (
        f"{torch.get_num_threads()} thread(s); rosepo, median of {len(runs)} seeds ({min(spread):.1f} to "
        f"{max(spread):.1f} s): NDCG@10 {mine['ndcg@10']:.4f} on validation, {mine['test_ndcg@10']:.4f} on test, "
        f"best epoch {mine['epoch']:g}; RecBole, one run, batch {BATCH_SIZE}: {best['ndcg@10']:.4f} and "
        f"{best['test_ndcg@10']:.4f} at epoch {best['epoch']}, {statistics.median(peer_epochs):.0f} s an epoch"
    )
    if not ended:
        note += f"; its log ends at epoch {log[-1]['epoch']}, so the ratio is a lower bound"
    return {
        "name": "sasrec",
        "work": "SASRec on MovieLens-100K to its best validation NDCG@10",
        "unit": "s",
        "rosepo": mine["seconds"],
        "peer": statistics.median(peer),
        "peer_name": f"RecBole {timed[0]['versions']['recbole']} SASRec",
        "peer_versions": timed[0]["versions"],
        "ratio": statistics.median(other / one["seconds"] for one, other in zip(runs, peer, strict=True)),
        "target": 50,
        "floor_ratio": mine["seconds"] / (mine["epoch"] * floor(split)),
        "measurements": len(runs),
        "ndcg@10": mine["ndcg@10"],
        "test_ndcg@10": mine["test_ndcg@10"],
        "peer_ndcg@10": best["ndcg@10"],
        "peer_test_ndcg@10": best["test_ndcg@10"],
        "peer_best_epoch": best["epoch"],
        "peer_seconds_per_epoch": statistics.median(peer_epochs),
        "lower_bound": not ended,
        "note": note,
    }


if __name__ == "__main__":
    if "--record" in sys.argv:
        with PEER_LOG.open("w", encoding="utf-8") as file:
            theirs(movielens(), f"--patience={PATIENCE}", into=file)
    else:
        print(json.dumps(run("--quick" in sys.argv)))
