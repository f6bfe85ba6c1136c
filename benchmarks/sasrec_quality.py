"""Quality, calibration and time of the oracle `sasrec` on MovieLens-100K, leave-one-out.

Each target is ranked among all items that are not in its history; nothing is sampled. Hyperparameters were chosen on
the validation targets. `train flips` and `validation flips` are mean flip probabilities of the targets against
uniformly drawn unseen items, at positions that the network was trained on and at the held-out ones.

    python benchmarks/sasrec_quality.py [--seeds 0 1 2] [--set hidden_size=96 ...]
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np

from rosepo_core.api import Examples, OracleContext, Split
from rosepo_core.metrics import hit_rate, ndcg, rank_targets
from rosepo_core.registry import load_plugins
from rosepo_core.sections import SplitOptions
from rosepo_core.stages.dataset import filter_corpus
from rosepo_core.stages.split import split_corpus
from rosepo_core.testing.toys import SilentReporter, train_examples


def movielens() -> Split:
    dataset = load_plugins().create("dataset", "movielens-100k", {})
    return split_corpus(filter_corpus(dataset.load(SilentReporter()), dataset.options), SplitOptions())


def quality(oracle, examples: Examples, items: int) -> tuple[float, float]:
    """NDCG@10 and HR@10 among all items outside the history."""
    everything = np.broadcast_to(np.arange(items, dtype=np.int32), (len(examples), items))
    offered = np.ones(everything.shape, dtype=np.bool_)
    for row, (user, position) in enumerate(zip(examples.user, examples.position, strict=True)):
        offered[row, examples.sequences[user][:position]] = False
    ranks = rank_targets(oracle.score(examples, everything), examples.target, offered)
    return float(ndcg(ranks, 10).mean()), float(hit_rate(ranks, 10).mean())


def mean_flip(oracle, split: Split, examples: Examples, rng: np.random.Generator) -> float:
    rejected = rng.integers(0, len(split.catalogue), size=(len(examples), 20), dtype=np.int32)
    seen = split.train_seen.contains(examples.user, rejected) | (rejected == examples.target[:, None])
    return float(oracle.flip_probability(examples, rejected)[~seen].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=VALUE", help="options of sasrec")
    arguments = parser.parse_args()
    options = dict(pair.split("=", 1) for pair in arguments.set)
    split = movielens()
    train = train_examples(split)
    print(f"{len(split.users)} users, {len(split.catalogue)} items, {os.cpu_count()} cores")
    rows = []
    for seed in arguments.seeds:
        oracle = load_plugins().create("oracle", "sasrec", options)
        started, worked = time.perf_counter(), time.process_time()
        fit = oracle.fit(split, OracleContext(np.random.default_rng(seed), seed, SilentReporter()))
        wall, cpu = time.perf_counter() - started, time.process_time() - worked
        rng = np.random.default_rng(seed)
        row = {}
        for name, examples in (("validation", split.validation), ("test", split.test)):
            row[f"{name} NDCG@10"], row[f"{name} HR@10"] = quality(oracle, examples, len(split.catalogue))
        row |= {key: fit[key] for key in ("epochs", "temperature", "auc", "ece_uncalibrated", "ece")}
        row["train flips"] = mean_flip(oracle, split, train, rng)
        row["validation flips"] = mean_flip(oracle, split, split.validation, rng)
        row |= {"seconds": wall, "CPU seconds": cpu}
        rows.append(row)
    print(f"{'':18}" + "".join(f"{f'seed {seed}':>10}" for seed in arguments.seeds) + f"{'mean':>10}")
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(f"{name:18}" + "".join(f"{value:10.4f}" for value in (*values, float(np.mean(values)))))


if __name__ == "__main__":
    main()
