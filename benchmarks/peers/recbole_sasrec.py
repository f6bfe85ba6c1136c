"""RecBole's SASRec on interactions written by benchmarks/rows/sasrec.py: how good after how many epochs, or how long
an epoch takes.

    RECBOLE_PYTHON benchmarks/peers/recbole_sasrec.py FOLDER [--patience N] [--batch-size B] [--time S]

Runs in an environment of its own, and imports nothing of rosepo. FOLDER is RecBole's dataset: FOLDER/NAME.inter,
NAME being the folder's. After every epoch prints a JSON line: epoch, NDCG@10 of validation and test among all items
that are not in the history. RecBole's own full ranking of sequential models does not mask what was seen, so the
ranking is done here; the model, the batches and the training loop are RecBole's. With --time trains for S seconds and
prints one line: seconds_per_epoch, from the share of the batches that were done after the first few, and versions.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import recbole
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed

WARM_UP = 5


class Timed:
    """Batches until some seconds after the first `WARM_UP` of them have passed."""

    def __init__(self, batches: Any, seconds: float) -> None:
        self._batches, self._seconds = batches, seconds
        self.seconds_per_epoch = 0.0

    def __iter__(self) -> Iterator[Any]:
        start = 0.0
        # Whoever asks for batch i has trained on i batches.
        for done, batch in enumerate(self._batches):
            if done == WARM_UP:
                start = time.perf_counter()
            elif done > WARM_UP:
                passed = time.perf_counter() - start
                self.seconds_per_epoch = passed / (done - WARM_UP) * len(self._batches)
                if passed > self._seconds:
                    return
            yield batch


class Targets:
    """The held-out interactions of validation or test."""

    def __init__(self, loader: Any, histories: dict[int, list[int]]) -> None:
        self.batch = loader._dataset.inter_feat
        users = self.batch["user_id"].tolist()
        self.target = self.batch["item_id"][:, None]
        seen = []
        for row, (user, target) in enumerate(zip(users, self.target[:, 0].tolist(), strict=True)):
            history = histories[user]
            seen += [(row, item) for item in history]
            history.append(target)
        self.row, self.item = torch.tensor(seen).T

    @torch.no_grad()
    def ndcg(self, model: SASRec) -> float:
        """NDCG@10 among padding excluded, history excluded items."""
        model.eval()
        scores = model.full_sort_predict(self.batch)
        target = scores.gather(1, self.target)
        scores[:, 0] = scores[self.row, self.item] = -torch.inf
        above = (scores > target).sum(dim=1)
        return float(torch.where(above < 10, 1 / torch.log2(above + 2.0), 0.0).mean())


def training_histories(rows: Any) -> dict[int, list[int]]:
    """Each user's items but the last two. A row is an interaction with those before it, and the first has no row."""
    histories: dict[int, list[int]] = {}
    columns = (rows[name].tolist() for name in ("user_id", "item_id"))
    for user, item, first in zip(*columns, rows["item_id_list"][:, 0].tolist(), strict=True):
        histories.setdefault(user, [first]).append(item)
    return {user: items[:-2] for user, items in histories.items()}


def settings(folder: Path, batch_size: int, seed: int) -> dict[str, Any]:
    """RecBole's defaults for all that is not named: Adam, 1e-3, dropout 0.5, cross-entropy over the catalogue."""
    return {
        "data_path": str(folder.parent),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "train_neg_sample_args": None,
        "MAX_ITEM_LIST_LENGTH": 50,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_size": 64,
        "inner_size": 64,
        "train_batch_size": batch_size,
        "seed": seed,
        "use_gpu": False,
        "show_progress": False,
        "checkpoint_dir": "saved",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with FOLDER/NAME.inter")
    parser.add_argument("--time", type=float, help="only time so many seconds of an epoch")
    parser.add_argument("--patience", type=int, default=10, help="stop after so many epochs without a gain")
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # RecBole reads the command line too, and leaves folders where it runs.
    sys.argv = sys.argv[:1]
    logging.disable(logging.WARNING)
    folder = arguments.folder.resolve()
    os.chdir(tempfile.mkdtemp())
    config = Config("SASRec", folder.name, config_dict=settings(folder, arguments.batch_size, arguments.seed))
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train, validation, test = data_preparation(config, dataset)
    model = SASRec(config, train._dataset)
    trainer = Trainer(config, model)

    if arguments.time is not None:
        batches = Timed(train, arguments.time)
        trainer._train_epoch(batches, 0)
        versions = {"recbole": recbole.__version__, "recbole's torch": torch.__version__}
        print(json.dumps({"seconds_per_epoch": batches.seconds_per_epoch, "versions": versions}))
        return

    histories = training_histories(dataset.inter_feat)
    held_out = Targets(validation, histories)
    final = Targets(test, histories)

    epoch, best, best_epoch = 0, -1.0, 0
    while epoch - best_epoch < arguments.patience:
        trainer._train_epoch(train, epoch)
        epoch += 1
        quality = {"ndcg@10": held_out.ndcg(model), "test_ndcg@10": final.ndcg(model)}
        if quality["ndcg@10"] > best:
            best, best_epoch = quality["ndcg@10"], epoch
        print(json.dumps({"epoch": epoch, **quality}), flush=True)


if __name__ == "__main__":
    main()
