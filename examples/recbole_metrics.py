"""RecBole's own metrics of a run's predictions: the half in RecBole's environment.

    RECBOLE_PYTHON examples/recbole_metrics.py DATA/NAME FILE

RecBole needs numpy 1, so its environment is another than rosepo's; `pip install --no-deps rosepo` there is enough.
FILE is what examples/recbole_predictions.py wrote.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from pathlib import Path

from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer

from rosepo_core.adapters.recbole import RosepoPredictions


def main(data: str, file: str) -> None:
    folder, predictions = Path(data).resolve(), Path(file).resolve()
    settings = {
        "data_path": str(folder.parent),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "train_neg_sample_args": None,
        "metrics": ["NDCG", "Hit", "MRR"],
        "topk": [5, 10],
        "metric_decimal_place": 7,
        "use_gpu": False,
        "show_progress": False,
    }
    # RecBole reads the command line, too, and leaves folders where it runs.
    sys.argv = sys.argv[:1]
    os.chdir(tempfile.mkdtemp())
    config = Config(RosepoPredictions, folder.name, config_dict=settings)
    train, _, test = data_preparation(config, create_dataset(config))
    trainer = Trainer(config, RosepoPredictions(config, train.dataset, predictions))
    trainer.eval_collector.data_collect(train)
    print(json.dumps(trainer.evaluate(test, load_best_model=False)))


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main(*sys.argv[1:])
