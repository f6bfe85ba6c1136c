"""What a pass costs on this machine: a fixed time, a time for each token, a time for each pair of tokens in a row.

    python -m benchmarks.pass_cost [--quick]

Times forward passes, and forward with backward, of SmolLM2-135M with an adapter over rows of several shapes in turn,
fits the three costs to the medians by least squares of relative errors, and prints them in tokens. Times are those of
the processor's work, so other processes on the machine matter little. The constants `CPU` of `engine/packing.py` come
from here.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import numpy as np
import torch
from scipy.optimize import nnls

from benchmarks import material
from rosepo_core.engine.log_probs import log_probs
from rosepo_core.engine.trees import TokenTree, TreeBatch

SHAPES = ((1, 32), (1, 64), (4, 64), (1, 128), (2, 128), (4, 128), (1, 256), (1, 512))
"""Rows and tokens of a row."""
ROUNDS = 5


def plain_rows(rows: int, width: int) -> TreeBatch:
    """Sequences with a response of 8 tokens at their ends."""
    ids = np.random.default_rng(0).integers(0, 40_000, (rows, width), dtype=np.int32)
    grown = [
        TokenTree.grow(
            row,
            rows=np.zeros(1, np.int64),
            columns=np.zeros(1, np.int64),
            visible=np.array([width - 8]),
            lengths=np.array([8]),
            targets=row[-8:],
            in_trunk=np.ones(1, np.bool_),
        )
        for row in ids
    ]
    return TreeBatch.of(grown, pad_token_id=0)


def fitted(seconds: dict[tuple[int, int], float]) -> dict[str, float]:
    """The costs in tokens, and the largest relative error of the fit."""
    shapes = np.array(list(seconds))
    measured = np.array(list(seconds.values()))
    parts = np.stack([np.ones(len(shapes)), shapes[:, 0] * shapes[:, 1], shapes[:, 0] * shapes[:, 1] ** 2], axis=1)
    (fixed, token, square), _ = nnls(parts / measured[:, None], np.ones(len(shapes)))
    error = np.abs(parts @ [fixed, token, square] / measured - 1).max()
    return {
        "tokens_a_second": 1 / token,
        "fixed": fixed / token,
        "square": square / token,
        "largest_error": float(error),
    }


def main() -> None:
    rounds = 2 if "--quick" in sys.argv else ROUNDS
    model = material.adapted_model()
    for kind, training in (("training", True), ("scoring", False)):
        times: dict[tuple[int, int], list[float]] = {shape: [] for shape in SHAPES}
        batches = {shape: plain_rows(*shape) for shape in SHAPES}
        for turn in range(rounds + 1):
            for shape, batch in batches.items():
                start = time.process_time()
                with torch.set_grad_enabled(training):
                    total = log_probs(model, batch).sum()
                    if training:
                        total.backward()
                if turn:
                    times[shape].append(time.process_time() - start)
        medians = {shape: statistics.median(each) for shape, each in times.items()}
        shown = {f"{rows} x {width}": round(rows * width / medians[rows, width]) for rows, width in SHAPES}
        print(json.dumps({"kind": kind, **fitted(medians), "tokens_a_second_by_shape": shown}), flush=True)


if __name__ == "__main__":
    main()
