"""How many of the tokens that training and scoring pass through a model are padding, on MovieLens-100K.

    python -m benchmarks.padding [--batch-size=8] [--token-budget=2048] [--pairs=8000]

Prompts, batches and budgets have their defaults, and tokens are SmolLM2's; no model runs. `repeated` is the share of
tokens that a trunk has once more because its tree was too large for one pass.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks import material
from rosepo_core.contracts.components import DatasetOptions
from rosepo_core.contracts.sections import AlignmentOptions, PreferenceOptions
from rosepo_core.engine.packing import pack
from rosepo_core.engine.passes import constant_budget
from rosepo_core.engine.prompt_trees import prompt_trees
from rosepo_core.stages.sampling import choose_examples
from rosepo_core.testing import prompt_template


def measured(name: str, units: Sequence[Sequence[int]], tokens: int, batch_size: int, budget: int) -> dict[str, Any]:
    """One epoch over sequences or trees, each in parts of so many tokens, that have `tokens` in all undivided."""
    order = np.random.default_rng(0).permutation(len(units)).tolist()
    passed, padded = 0, []
    for start in range(0, len(order), batch_size):
        parts = np.concatenate([units[index] for index in order[start : start + batch_size]])
        passed += int(parts.sum())
        padded += [len(members) * int(parts[members].max()) for members in pack(parts, budget)]
    return {
        "name": name,
        "units": len(units),
        "tokens": tokens,
        "padding": round(1 - passed / sum(padded), 4),
        "repeated": round(1 - tokens / passed, 4),
        "passes_per_step": round(len(padded) / -(-len(order) // batch_size), 2),
        "tokens_per_pass": round(sum(padded) / len(padded)),
        "largest_pass": max(padded),
    }


def rows(batch_size: int, budget: int, pairs: int) -> Iterator[dict[str, Any]]:
    """Fine-tuning, alignment with one and 15 negatives, and scoring, with timelines and with chat prompts."""
    split = material.split()
    history = DatasetOptions().history_length
    examples = choose_examples(split, PreferenceOptions(max_pairs=pairs), np.random.default_rng(0))
    users = split.train.prefix(np.where(np.isin(np.arange(len(split.train)), examples.user), split.train.lengths, 0))
    for kind in ("timeline", "chat"):
        template = prompt_template({"name": kind}, material.tokenizer(), split.catalogue, history)
        lengths = [len(ids) for ids, _ in template.sft_sequences(users)]
        yield measured(f"sft, {kind}", [[length] for length in lengths], sum(lengths), batch_size, budget)
        for k in (1, 15):
            responses = np.concatenate([examples.target[:, None], material.rejected(examples, k)], axis=1)
            trees = prompt_trees(template, examples, responses, shared=True)
            parts = [[len(part) for part in tree.split_examples(budget)] for tree in trees]
            yield measured(f"alignment, {kind}, K = {k}", parts, sum(map(len, trees)), batch_size, budget)
        shown = material.rejected(split.test, 19)
        scored = prompt_trees(template, split.test, np.concatenate([split.test.target[:, None], shown], axis=1))
        sizes = [[len(tree)] for tree in scored]
        yield measured(
            f"scoring, {kind}, 20 candidates",
            sizes,
            sum(map(len, scored)),
            len(sizes),
            constant_budget("auto", False, "cpu"),
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=AlignmentOptions().batch_size)
    parser.add_argument("--token-budget", type=int, default=constant_budget("auto", True, "cpu"))
    parser.add_argument("--pairs", type=int, default=8000)
    arguments = parser.parse_args()
    for row in rows(arguments.batch_size, arguments.token_budget, arguments.pairs):
        print(json.dumps(row))
