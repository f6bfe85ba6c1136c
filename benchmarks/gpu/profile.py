"""Where the time of an optimizer step goes on a GPU.

    python -m benchmarks.gpu.profile [--shape 135m] [--limit SECONDS]

For SFT on timelines and alignment on chat prompts, one after another:

- what passes cost (`engine.passes`), and how many a step has,
- seconds of each step: as it is, with compiled layers, without the fused adapters, and with at most 5 % padding (the
  rule for a CPU),
- torch's profiler over a few steps: the kernels and the operations that take longest.

Each part has its own limit of time, and prints as it goes.
"""

from __future__ import annotations

import argparse
import statistics
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest import mock

import numpy as np
from torch.profiler import ProfilerActivity, profile

from benchmarks import material
from benchmarks.gpu.shapes import DEVICE, SHAPES, Steps, adapted_model, card, limited, peak, start_peak
from rosepo_core.engine import passes, preparation
from rosepo_core.engine.packing import CPU, pack
from rosepo_core.engine.training import TrainingSettings, align_preferences, fine_tune

ON_GPU = DEVICE == "cuda"
TREES = 32 if ON_GPU else 2
STEPS = 14 if ON_GPU else 3
WARM_UP = 5 if ON_GPU else 1
SHOWN = 14
"""Lines of the profiler's tables."""

Train = Callable[[Any, TrainingSettings, Steps], object]


def sft_work() -> tuple[Train, list[int]]:
    """SFT on the timelines of some users, and the lengths of the sequences."""
    sequences = material.split().train
    users = material.examples(2 * TREES, 1).user
    kept = sequences.prefix(np.where(np.isin(np.arange(len(sequences)), users), sequences.lengths, 0))
    ours = material.template("timeline").sft_sequences(kept)
    return lambda model, settings, steps: fine_tune(model, ours, settings, steps), [len(ids) for ids, _ in ours]


def alignment_work(shape: str) -> tuple[Train, list[int]]:
    """Alignment on chat prompts with 20 candidates, and the lengths of the trees."""
    chat, pairs = material.template("chat", candidates=20), material.examples(2 * TREES, 2)
    grown = material.trees(adapted_model(shape), chat, pairs, material.rejected(pairs, 1))

    def train(model: Any, settings: TrainingSettings, steps: Steps) -> object:
        return align_preferences(model, material.dpo(), grown, settings, steps)

    return train, [len(tree.tree) for tree in grown]


@contextmanager
def unfused() -> Iterator[None]:
    """Inside the context, models are prepared without fused adapters."""
    with mock.patch.object(preparation, "fuse_adapters"):
        yield


@contextmanager
def little_padding() -> Iterator[None]:
    """Inside the context, passes are grouped as on a CPU."""
    with mock.patch.object(passes, "pack", lambda lengths, budget, _: pack(lengths, budget, CPU)):
        yield


VARIANTS: dict[str, tuple[Callable[[], AbstractContextManager[None]], bool]] = {
    "as it is": (nullcontext, False),
    "compiled layers": (nullcontext, True),
    "no fused adapters": (unfused, False),
    "little padding": (little_padding, False),
}
"""By name: a context, and whether layers are compiled."""


def say(*words: object) -> None:
    print(*words, flush=True)


def steps_of(train: Train, shape: str, compiled: bool, count: int = STEPS) -> list[float]:
    """Seconds of each step."""
    steps = Steps()
    train(adapted_model(shape), TrainingSettings(1e-5, TREES, steps=count, compile=compiled), steps)
    return steps.seconds


def report(name: str, shape: str, train: Train, lengths: Sequence[int], limit: float) -> None:
    """Everything about one training."""
    say(f"{name}: {len(lengths)} trees of {np.mean(lengths):.0f} tokens, {TREES} a step")

    def part(title: str, work: Callable[[], object]) -> None:
        try:
            with limited(limit):
                say(f"  {title}: {work()}")
        except Exception as error:
            traceback.print_exc()
            say(f"  {title}: {type(error).__name__}: {error}")

    def cost() -> str:
        planned = passes.training_passes(adapted_model(shape), "auto", "token_budget", in_rows=ON_GPU)
        groups, packed = planned.of_trees(lengths[:TREES])
        return f"{planned}; {len(groups)} passes a step, in long rows: {packed}"

    def timed(context: Callable[[], AbstractContextManager[None]], compiled: bool) -> str:
        start_peak()
        with context():
            seconds = steps_of(train, shape, compiled)
        median = statistics.median(seconds[WARM_UP:])
        rate = TREES * float(np.mean(lengths)) / median
        return (
            f"{median:.4f} s a step, {rate:,.0f} tokens/s, {peak():.1f} GiB; {[round(each, 3) for each in seconds]}"
        )

    part("passes", cost)
    for title, (context, compiled) in VARIANTS.items():
        if ON_GPU or not compiled:
            part(title, lambda context=context, compiled=compiled: timed(context, compiled))

    def profiled() -> str:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if ON_GPU else [])]
        with profile(activities=activities) as found:
            steps_of(train, shape, compiled=False, count=WARM_UP + 1)
        orders = (["self_cuda_time_total"] if ON_GPU else []) + ["self_cpu_time_total"]
        tables = [
            found.key_averages().table(sort_by=order, row_limit=SHOWN, max_name_column_width=60) for order in orders
        ]
        return "\n" + "\n".join(tables)

    part("profile", profiled)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="135m" if ON_GPU else "tiny")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that a part may take")
    arguments = parser.parse_args()
    say(card())
    report("SFT on timelines", arguments.shape, *sft_work(), arguments.limit)
    report("alignment on chat prompts", arguments.shape, *alignment_work(arguments.shape), arguments.limit)


if __name__ == "__main__":
    main()
