"""Row linear: seconds of a whole `rosepo train` against the number of users, 1, 2 and 4 times as many.

    python -m benchmarks.rows.linear [--quick]

One epoch of SFT, pairs, alignment and evaluation on MovieLens-100K cut to the first users of the split; the oracle is
`constant`, for SASRec always trains on the whole log.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rosepo_core import align

USERS = 8


def seconds(users: int) -> float:
    """Of a run with so many users in SFT, pairs and evaluation."""
    settings = {
        "dataset": {"name": "movielens-100k"},
        "prompt": {"titles": "short"},
        "sft": {"max_users": users, "batch_size": 4},
        "oracle": {"name": "constant"},
        "sampler": {"name": "uniform"},
        "preferences": {"max_users": users, "max_per_user": 20},
        "alignment": {"batch_size": 4},
        "evaluation": {"max_users": users},
    }
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        align(settings, Path(folder) / "run")
        return time.perf_counter() - start


def run(quick: bool) -> dict[str, Any]:
    users = 2 if quick else USERS
    fixed = seconds(1)
    once, twice, four = (seconds(users * factor) for factor in (1, 2, 4))
    per_user = (four - once) / (3 * users)
    expected = once + (four - once) / 3
    return {
        "name": "linear",
        "work": f"seconds of a run with {users}, {2 * users} and {4 * users} users",
        "unit": "s",
        "rosepo": four,
        "peer": once,
        "peer_name": "itself with a quarter of the users",
        "ratio": twice / expected,
        "target": 1.15,
        "floor_ratio": None,
        "measurements": 1,
        "note": f"{once:.0f}, {twice:.0f} and {four:.0f} s, {fixed:.0f} s with one user; "
        f"{per_user:.2f} s a user more; the ratio is the middle run over the line between the others",
    }


if __name__ == "__main__":
    print(json.dumps(run("--quick" in sys.argv)))
