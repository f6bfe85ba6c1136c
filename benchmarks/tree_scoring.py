"""Scoring titles by token tree beside one sequence a title, with the same model, batches and code.

    python benchmarks/tree_scoring.py [--users 2] [--candidates 20] [--titles short] [--threads 1] [--json]

Two jobs on MovieLens-100K's users with the longest histories: `ranking` scores the candidates of each user's test
example, `pairs` scores a chosen and a rejected title at each of the last 30 places of a training sequence. `bare
forward` is the model below its head on as many tokens as the trees have, without mask or head: what is left to gain.
Seconds are the process's own on all its threads, which other work on the machine disturbs less: the best
of three in turn, of one for the sequences, which take long.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch

from rosepo_core.api import Examples, Ints
from rosepo_core.contracts.sections import SplitOptions
from rosepo_core.data.filters import filter_corpus
from rosepo_core.data.splitting import split_corpus
from rosepo_core.engine.log_probs import log_probs
from rosepo_core.engine.models import load_model
from rosepo_core.engine.packing import pack
from rosepo_core.engine.prompt_trees import prompt_trees
from rosepo_core.engine.trees import TokenTree, TreeBatch
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.testing import prompt_template
from rosepo_core.testing.toys import SilentReporter

HISTORY = 30
TOKEN_BUDGET = 4096


def batches(trees: list[TokenTree]) -> list[TreeBatch]:
    packed = pack([len(tree) for tree in trees], TOKEN_BUDGET)
    return [TreeBatch.of([trees[index] for index in members.tolist()], 0) for members in packed]


def jobs(arguments: argparse.Namespace, split) -> dict[str, tuple[Examples, Ints, bool]]:
    rng = np.random.default_rng(0)
    items = len(split.catalogue)
    rows = np.argsort(-split.test.position, kind="stable")[: arguments.users]
    test = split.test.take(rows)
    last = split.train.lengths[test.user]
    places = (last[:, None] - np.arange(HISTORY, 0, -1)).astype(np.int32)
    train = Examples.of(split.train, np.repeat(test.user, HISTORY), places.ravel())
    rejected = rng.integers(0, items, len(train)).astype(np.int32)
    return {
        "ranking": (test, rng.integers(0, items, (len(test), arguments.candidates)).astype(np.int32), False),
        "pairs": (train, np.stack([train.target, rejected], axis=1), True),
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=2)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--titles", default="short", choices=("short", "full"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    model, tokenizer = load_model(arguments.model, arguments.dtype, SilentReporter())
    model.eval()
    dataset = load_plugins().create("dataset", "movielens-100k", {})
    split = split_corpus(filter_corpus(dataset.load(SilentReporter()), dataset.options), SplitOptions())
    template = prompt_template({"titles": arguments.titles}, tokenizer, split.catalogue, HISTORY)

    results = {}
    for job, (examples, items, shared) in jobs(arguments, split).items():
        trees = prompt_trees(template, examples, items, shared=shared)
        by_tree = batches(trees)
        # A tree with one response is a plain sequence.
        by_sequence = batches(
            [
                sequence
                for row, column in np.ndindex(items.shape)
                for sequence in prompt_trees(
                    template, examples.take(np.array([row])), items[row : row + 1, column : column + 1], shared=shared
                )
            ]
        )

        def bare(of: list[TreeBatch] = by_tree) -> None:
            for batch in of:
                model.get_decoder()(input_ids=batch.input_ids, use_cache=False)

        def score(of: list[TreeBatch]) -> None:
            for batch in of:
                log_probs(model, batch)

        ways: dict[str, Callable[[], None]] = {
            "bare forward": bare,
            "tree": lambda of=by_tree: score(of),
            "sequences": lambda of=by_sequence: score(of),
        }
        seconds = dict.fromkeys(ways, np.inf)
        for repeat in range(3):
            for name, way in ways.items():
                if name == "sequences" and repeat:
                    continue
                start = time.process_time()
                way()
                seconds[name] = min(seconds[name], time.process_time() - start)
        tokens = {"tree": sum(map(len, trees)), "sequences": sum(b.input_ids.numel() for b in by_sequence)}
        results[job] = {
            "titles": int((items >= 0).sum()),
            "tokens": tokens,
            "seconds": seconds,
            "tree users/s": arguments.users / seconds["tree"],
            "sequences users/s": arguments.users / seconds["sequences"],
            "speed-up": seconds["sequences"] / seconds["tree"],
            "overhead of masks and head": seconds["tree"] / seconds["bare forward"] - 1,
            "tree tokens/s": tokens["tree"] / seconds["tree"],
        }
    if arguments.json:
        print(json.dumps(results))
        return
    for job, result in results.items():
        print(f"{job}: {arguments.users} users, {result['titles']} titles")
        for name in ("tree", "sequences"):
            print(f"  {name:10s} {result['tokens'][name]:8d} tokens  {result[f'{name} users/s']:8.2f} users/s")
        print(f"  speed-up {result['speed-up']:.1f}, {result['tree tokens/s']:.0f} tree tokens/s, ", end="")
        print(f"{result['overhead of masks and head']:.0%} over the bare forward")


if __name__ == "__main__":
    main()
