"""Compares one call for many histories with one call for each. `python -m benchmarks.many_histories RUN`.

Both ways take turns on the same histories. For each it counts the tokens that pass through the model, and compares
the time with the floor: the arithmetic of these tokens in the layers, and of each predicted state in the head, at the
rate of a plain product with the model's own widest layer. Times are seconds of processor cores, which other work on
the machine disturbs less than the clock. The table goes into benchmarks/results/serve.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import pages
from benchmarks.serve import PAGES
from rosepo_core.engine.head import decoder_of
from rosepo_core.serving.recommender import Recommender

MARK = "many-histories"


@dataclass
class Way:
    """What one way of asking costs for each history.

    Attributes:
        seconds: seconds of processor cores, one figure for each turn.
        prompt: tokens of prompts that are read. titles: tokens of titles that are read.
        passes: forward passes.
    """

    seconds: list[float]
    prompt: float = 0.0
    titles: float = 0.0
    passes: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def processor_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def turn(recommender: Recommender, model: Any, calls: Sequence[Sequence[list[str]]], k: int, way: Way) -> list[Any]:
    """Ask each of `calls`, and add what it cost to `way`."""
    found: list[Any] = []
    prompt, titles, passes = 0, 0, 0
    count = sum(map(len, calls))
    read: list[int] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda layer, args, out: read.append(args[0].shape[-1]))
    spent = 0.0
    for histories in calls:
        read.clear()
        spent += processor_seconds(
            lambda asked=histories: found.extend(recommender.recommend_many(asked, k, by="id"))
        )
        prompt, titles, passes = prompt + read[0], titles + sum(read[1:]), passes + len(read)
    hook.remove()
    way.seconds.append(spent / count)
    way.prompt, way.titles, way.passes = prompt / count, titles / count, passes / count
    return found


def rate(model: Any) -> float:
    """Multiplications and additions in a second of a core, in a product of 512 tokens with the widest layer."""
    weight = max((each for each in decoder_of(model).layers[0].parameters() if each.dim() == 2), key=torch.numel)
    states = torch.randn(512, weight.shape[1], dtype=weight.dtype)
    times = 20
    work = lambda: [states @ weight.T for _ in range(times)]  # noqa: E731
    work()
    spent = min(processor_seconds(work) for _ in range(3))
    return 2.0 * times * len(states) * weight.numel() / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--histories", type=int, default=16)
    parser.add_argument("--history", type=int, default=10, help="items of a history")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--turns", type=int, default=3)
    chosen = parser.parse_args()
    recommender = Recommender.load(chosen.run, score="likelihood")
    model = recommender.language_model._model
    known = recommender.catalogue
    popular = [known.ids[item] for item in (-known.popularity).argsort(kind="stable")[:100]]
    histories = [
        [popular[(7 * row + 13 * place) % len(popular)] for place in range(chosen.history)]
        for row in range(chosen.histories)
    ]
    alone, together = Way([]), Way([])
    recommender.recommend_many(histories[:1], chosen.k, by="id")
    with torch.inference_mode():
        for _ in range(chosen.turns):
            one = turn(recommender, model, [[each] for each in histories], chosen.k, alone)
            many = turn(recommender, model, [histories], chosen.k, together)
            assert [[each.item for each in row] for row in one] == [[each.item for each in row] for row in many]
        speed = rate(model)
    weights = sum(each.numel() for each in decoder_of(model).layers.parameters())
    head = model.get_output_embeddings().weight.numel()
    rows, document = [], {"rate": speed}
    for name, way in (("a call for each", alone), (f"one call for {len(histories)}", together)):
        floor = 2.0 * ((way.prompt + way.titles) * weights + (1 + way.titles) * head) / speed
        rows.append(
            f"| {name} | {way.prompt:.0f} | {way.titles:.0f} | {way.passes:.1f} | {way.median:.2f} | {floor:.2f} | "
            f"{way.median / floor:.1f} |"
        )
        document[name] = {**vars(way), "floor": floor}
    table = [
        "| | prompt tokens | title tokens | passes | core seconds | floor | times the floor |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *rows,
        "",
        f"For each history; median of turns: {chosen.turns}; {torch.get_num_threads()} thread"
        f"{'s' * (torch.get_num_threads() > 1)}. One call is {alone.median / together.median:.1f} times as fast. The "
        f"floor is at {speed / 1e9:.0f} billion operations in a second of a core.",
    ]
    pages.put(PAGES[0], MARK, "\n".join(table))
    print(json.dumps(document))


if __name__ == "__main__":
    main()
