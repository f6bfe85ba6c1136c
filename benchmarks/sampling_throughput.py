"""How many pairs a second each sampler draws, without a language model, on a synthetic log with Zipf popularity.

    python benchmarks/sampling_throughput.py [--pairs 100000] [--items 50000] [--users 10000] [--k 4] [--json]

Time is the whole of `RejectedSampler.sample`; for `semantic-similar` that includes finding each distinct target's
neighbours once, which is most of it. Embeddings are random, of the width of all-MiniLM-L6-v2. `self-hard` in mode
`pool` scores with a table look-up in place of a language model, so its row is what sampling costs beside the model.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time

import numpy as np
import polars as pl

from rosepo_core.api import Catalogue, Examples, Floats, Ints, SamplerContext, SeenItems, Sequences
from rosepo_core.plugins.registry import load_plugins

SAMPLERS = {
    "uniform": {},
    "popularity-aware": {},
    "semantic-similar": {},
    "self-hard": {"mode": "pool"},
}


class Silent:
    def progress(self, done: int, total: int, unit: str) -> None:
        pass

    def note(self, message: str) -> None:
        pass


class TableModel:
    """Scores by a look-up: what is left is the cost of sampling itself."""

    def __init__(self, table: Floats) -> None:
        self.table = table

    def score(self, examples: Examples, items: Ints) -> Floats:
        return np.where(items >= 0, self.table[items], -np.inf).astype(np.float32)


def synthetic_log(users: int, items: int, interactions: int, rng: np.random.Generator) -> Sequences:
    """Interactions with Zipf-distributed items; users are active to unlike degrees."""
    lengths = np.maximum(rng.geometric(users / interactions, size=users), 3)
    zipf = np.cumsum(1 / np.arange(1, items + 1))
    sampled = np.searchsorted(zipf, rng.random(lengths.sum()) * zipf[-1]).clip(max=items - 1)
    return Sequences(sampled.astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000, help="pairs to draw; one example gives k of them")
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--interactions", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=384, help="width of the title embeddings")
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--sampler", action="append", choices=sorted(SAMPLERS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    log = synthetic_log(arguments.users, arguments.items, arguments.interactions, rng)
    rows = -(-arguments.pairs // arguments.k)
    users = rng.integers(0, arguments.users, size=rows).astype(np.int32)
    examples = Examples.of(log, users, (rng.random(rows) * log.lengths[users]).astype(np.int32))
    embeddings = rng.normal(size=(arguments.items, arguments.width)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    names = tuple(f"Title {item}" for item in range(arguments.items))
    popularity = np.bincount(log.items, minlength=arguments.items).astype(np.int64)

    results = []
    for name in arguments.sampler or SAMPLERS:
        sampler = load_plugins().create("sampler", name, SAMPLERS[name])
        context = SamplerContext(
            catalogue=Catalogue(names, names, popularity, pl.DataFrame()),
            seen=SeenItems.of(log, arguments.items),
            rng=np.random.default_rng(1),
            reporter=Silent(),
            language_model=TableModel(rng.normal(size=arguments.items).astype(np.float32)),  # type: ignore[arg-type]
            title_embeddings=lambda: embeddings,
        )
        start = time.perf_counter()
        rejected = sampler.sample(examples, arguments.k, context)
        seconds = time.perf_counter() - start
        pairs = int((rejected >= 0).sum())
        results.append({"sampler": name, "pairs": pairs, "seconds": seconds, "pairs_per_second": pairs / seconds})

    # macOS counts in bytes where Linux counts in KiB.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    if arguments.json:
        print(json.dumps({"arguments": vars(arguments), "peak_mib": peak, "results": results}))
        return
    print(
        f"{len(examples):,} examples, k = {arguments.k}, {arguments.items:,} items, {len(log.items):,} interactions"
    )
    for result in results:
        print(
            f"{result['sampler']:<18}{result['pairs']:>10,} pairs{result['seconds']:>8.2f} s"
            f"{result['pairs_per_second']:>12,.0f} pairs/s"
        )
    print(f"peak memory {peak:,.0f} MiB")


if __name__ == "__main__":
    main()
