"""Train on RecBole's atomic files, and write predictions that RecBole measures: the half in rosepo's environment.

    python examples/recbole_predictions.py DATA/NAME RUN FILE

DATA/NAME has NAME.inter and NAME.item. The other half is examples/recbole_metrics.py.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import rosepo_core
from rosepo_core.adapters.recbole_files import write_predictions

SETTINGS = {
    "model": "smollm2-135m",
    "prompt": {"titles": "short"},
    "sft": {"steps": 10},
    "sampler": "uniform",
    "preferences": {"max_users": 8, "max_per_user": 10},
    "evaluation": {"max_users": 20},
}


def main(data: str, run: str, file: str, settings: Mapping[str, Any]) -> None:
    done = rosepo_core.train({**settings, "dataset": {"name": "recbole", "path": data}}, run)
    print(f"predictions for {write_predictions(done.folder, file)} users in {file}")


if __name__ == "__main__":
    main(*sys.argv[1:], settings=SETTINGS)
