"""Row linear: what a user more costs a whole run, between 1 and 2 and between 2 and 4 times as many users.

    python -m benchmarks.rows.linear [--quick]

A run is everything that `rosepo train` does, on a log of some MovieLens users that is copied under new user names
once, twice or four times, so that the work is exactly proportional: the oracle included, whose epochs are set. What a
run costs whatever its users (imports, the model) drops out of the differences (2n users - n users) / n and
(4n users - 2n users) / 2n without being estimated; if time grew with the square of the users, the second would be
twice the first. Sizes take turns, and each one's median counts.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.material import split
from rosepo_core import train

USERS = 4
LAST = 22
COPIES = (1, 2, 4)
ROUNDS = 3


def write_log(users: int, copies: int, path: Path) -> None:
    """The last interactions of users who have many, `copies` times."""
    sequences, titles = split().test.sequences, split().catalogue.titles
    chosen = np.random.default_rng(0).choice(np.flatnonzero(sequences.lengths >= LAST), users, replace=False)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("user", "item", "title", "timestamp"))
        for user in chosen.tolist():
            for copy in range(copies):
                for place, item in enumerate(sequences[user][-LAST:].tolist()):
                    writer.writerow((f"{user} {copy}", item, titles[item], place))


def seconds(users: int, copies: int) -> float:
    """Of a run on `users * copies` users."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.csv"
        write_log(users, copies, log)
        settings = {
            "dataset": {"name": "table", "path": str(log)},
            "prompt": {"titles": "short"},
            "sft": {"batch_size": users},
            "oracle": {"name": "sasrec", "max_epochs": 4, "patience": 4, "temperature": 1.0},
            "sampler": {"name": "uniform"},
            "alignment": {"batch_size": users},
            "evaluation": {"candidates": 10},
        }
        start = time.perf_counter()
        train(settings, Path(folder) / "run")
        return time.perf_counter() - start


def run(quick: bool) -> dict[str, Any]:
    users, rounds = (2, 1) if quick else (USERS, ROUNDS)
    # The first run also imports and fetches.
    seconds(users, 1)
    taken: dict[int, list[float]] = {copies: [] for copies in COPIES}
    for _ in range(rounds):
        for copies in COPIES:
            taken[copies].append(seconds(users, copies))
    once, twice, four = (statistics.median(taken[copies]) for copies in COPIES)
    first, second = (twice - once) / users, (four - twice) / (2 * users)
    return {
        "name": "linear",
        "work": f"seconds of a whole run for a user more, from {2 * users} to {4 * users} users",
        "unit": "s/user",
        "rosepo": second,
        "peer": first,
        "peer_name": f"itself from {users} to {2 * users} users",
        "ratio": second / first,
        "target": 1.15,
        "floor_ratio": None,
        "measurements": rounds,
        "seconds": {str(users * copies): values for copies, values in taken.items()},
        "note": f"{once:.1f}, {twice:.1f} and {four:.1f} s, of which {once - users * first:.1f} s whatever the users",
    }


if __name__ == "__main__":
    print(json.dumps(run("--quick" in sys.argv)))
