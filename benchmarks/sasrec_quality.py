"""Quality, calibration and time of the oracle `sasrec` on MovieLens-100K, leave-one-out.

Each target is ranked among all items that are not in its history; nothing is sampled. Hyperparameters were chosen on
the validation targets. The other lines are what `fit` returns.

    python benchmarks/sasrec_quality.py [--gap] [--seeds 0 1 2] [--set hidden_size=96 ...]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import torch

from rosepo_core.api import Examples, OracleContext, Split
from rosepo_core.contracts.ranking import rank_targets
from rosepo_core.contracts.sections import SplitOptions
from rosepo_core.data.filters import filter_corpus
from rosepo_core.data.splitting import split_corpus
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.testing.toys import SilentReporter, train_examples
from rosepo_metrics.accuracy import hit_rate, ndcg


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


def mean_flip(oracle, split: Split, examples: Examples, temperature: float) -> float:
    """Against 100 items drawn uniformly from the unseen ones, not clipped."""
    sampled = np.random.default_rng(0).integers(0, len(split.catalogue), size=(len(examples), 100), dtype=np.int32)
    unseen = ~split.train_seen.contains(examples.user, sampled) & (sampled != examples.target[:, None])
    scores = oracle.score(examples, np.concatenate([examples.target[:, None], sampled], axis=1))
    margins = (scores[:, :1] - scores[:, 1:])[unseen].astype(np.float64)
    return float((1 / (1 + np.exp(margins / temperature))).mean())


def fit(split: Split, options: dict[str, str], seed: int):
    oracle = load_plugins().create("oracle", "sasrec", options)
    return oracle, oracle.fit(split, OracleContext(np.random.default_rng(seed), seed, SilentReporter()))


def print_table(rows: list[dict[str, float]], seeds: list[int]) -> None:
    print(f"{'':34}" + "".join(f"{f'seed {seed}':>10}" for seed in seeds) + f"{'mean':>10}")
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(f"{name:34}" + "".join(f"{value:10.4f}" for value in (*values, float(np.mean(values)))))


def measure_quality(split: Split, options: dict[str, str], seed: int) -> dict[str, float]:
    started, worked = time.perf_counter(), time.process_time()
    oracle, shown = fit(split, options, seed)
    wall, cpu = time.perf_counter() - started, time.process_time() - worked
    row = {}
    for name, examples in (("validation", split.validation), ("test", split.test)):
        row[f"{name} NDCG@10"], row[f"{name} HR@10"] = quality(oracle, examples, len(split.catalogue))
    return row | shown | {"seconds": wall, "CPU seconds": cpu}


def measure_gap(split: Split, options: dict[str, str], seed: int) -> dict[str, float]:
    """Train on two thirds of the users; the honest flips are those at the last training positions of the others."""
    out = np.zeros(len(split.users), dtype=np.bool_)
    out[np.random.default_rng(seed).permutation(len(out))[: len(out) // 3]] = True
    kept = np.flatnonzero(~out[split.validation.user])
    some = replace(
        split, train=split.train.prefix(np.where(out, 0, split.train.lengths)), validation=split.validation.take(kept)
    )
    oracle, shown = fit(some, options, seed)
    last = train_examples(split)
    learned, unknown = last.take(np.flatnonzero(~out)), last.take(np.flatnonzero(out))
    held_out, used = shown["temperature_held_out"], shown["temperature"]
    return {
        "temperature held out": held_out,
        "flips, users trained on": mean_flip(oracle, split, learned, held_out),
        "flips, users kept out": mean_flip(oracle, split, unknown, held_out),
        "temperature used": used,
        "flips as used, users trained on": mean_flip(oracle, split, learned, used),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=VALUE", help="options of sasrec")
    parser.add_argument("--gap", action="store_true", help="keep a third of the users out and compare their flips")
    arguments = parser.parse_args()
    options = dict(pair.split("=", 1) for pair in arguments.set)
    split = movielens()
    print(f"{len(split.users)} users, {len(split.catalogue)} items, {torch.get_num_threads()} threads")
    measure = measure_gap if arguments.gap else measure_quality
    print_table([measure(split, options, seed) for seed in arguments.seeds], arguments.seeds)


if __name__ == "__main__":
    main()
