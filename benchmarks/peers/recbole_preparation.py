"""How long RecBole takes to prepare a log: read, 5-core, leave-one-out by time, examples of a sequential model.

    RECBOLE_PYTHON benchmarks/peers/recbole_preparation.py FOLDER K

Runs in an environment of its own (benchmarks/rows/sasrec.py makes one), and imports nothing of rosepo. FOLDER is
RecBole's dataset: FOLDER/NAME.inter, NAME being the folder's. Prints a JSON line: seconds by the clock and of the
processors, without imports, and bytes at the peak.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from recbole.config import Config
from recbole.data import create_dataset


def main() -> None:
    folder, core = Path(sys.argv[1]).resolve(), int(sys.argv[2])
    # RecBole reads the command line too, and leaves folders where it runs.
    sys.argv = sys.argv[:1]
    logging.disable(logging.WARNING)
    os.chdir(tempfile.mkdtemp())
    settings = {
        "data_path": str(folder.parent),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "user_inter_num_interval": f"[{core},inf)",
        "item_inter_num_interval": f"[{core},inf)",
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "train_neg_sample_args": None,
        "MAX_ITEM_LIST_LENGTH": 50,
        "use_gpu": False,
        "show_progress": False,
    }
    config = Config("SASRec", folder.name, config_dict=settings)
    start, used = time.perf_counter(), time.process_time()
    create_dataset(config).build()
    measured = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - used}
    print(json.dumps({**measured, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
