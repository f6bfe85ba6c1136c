"""How long a change of a large catalogue takes, beside building it anew.

    python -m benchmarks.live_catalogue [--items N] [--prompt timeline|chat]

The titles are invented from the words of MovieLens titles. No model is loaded: building and changing is the work of
the tokenizer, the trie and the title index. Prints a table for benchmarks/results/live_catalogue.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from benchmarks.material import split, tokenizer
from rosepo_core.contracts.records import Catalogue
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.engine.title_trie import title_trie
from rosepo_core.serving.recommender import Recommender
from rosepo_core.testing import SilentReporter, prompt_template


def catalogue(items: int) -> Catalogue:
    """Different titles of two to six words of real titles, and a year."""
    rng = np.random.default_rng(0)
    words = sorted({word for title in split().catalogue.titles for word in title.split() if word.isalpha()})
    titles: dict[str, None] = {}
    while len(titles) < items:
        titles[f"{' '.join(rng.choice(words, rng.integers(2, 7)))} ({rng.integers(1950, 2020)})"] = None
    ids = tuple(f"i{number}" for number in range(items))
    return Catalogue(ids, tuple(titles), np.ones(items, np.int64), pl.DataFrame())


def built(of: Catalogue, prompt: str) -> Recommender:
    """A recommender from scratch."""
    template = prompt_template({"name": prompt}, tokenizer(), of, 10)
    title_trie(template)
    model: Any = None
    return Recommender(TitleModel(model, template, SilentReporter(), 0), of)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--prompt", choices=("timeline", "chat"), default="timeline")
    options = parser.parse_args()
    of = catalogue(options.items)
    tokenizer()("warm")
    print(f"| {options.items:,} items, prompt {options.prompt} | seconds | of processors |\n| --- | ---: | ---: |")
    recommender = timed("built anew", lambda: built(of, options.prompt))
    for count in (1, 1, 100, 1000):
        rows = pl.DataFrame(
            {"item": [f"n{row}" for row in range(count)], "title": [f"Film {row} (2026)" for row in range(count)]}
        )
        timed(f"{count:,} added", lambda rows=rows: recommender.with_items(rows))
    changed = recommender.with_items(rows)
    timed("1 renamed after that", lambda: changed.with_items(pl.DataFrame({"item": ["i7"], "title": ["Seven"]})))
    timed("100 retired", lambda: changed.with_items(pl.DataFrame({"item": of.ids[:100], "retired": [True] * 100})))


def timed(name: str, work: Callable[[], Recommender]) -> Recommender:
    """Print a row."""
    start, of_processors = time.perf_counter(), time.process_time()
    done = work()
    print(f"| {name} | {time.perf_counter() - start:.2f} | {time.process_time() - of_processors:.2f} |", flush=True)
    return done


if __name__ == "__main__":
    main()
