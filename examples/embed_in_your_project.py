"""Align a recommender on frames and recommend with it; `python examples/embed_in_your_project.py` does it small.

The frames may be of pandas, Polars or Arrow, or a `datasets.Dataset`. Running this a second time only recommends,
because a run of equal frames and settings is reused.
"""

from __future__ import annotations

from typing import Any

import rosepo_core
from rosepo_core.api import load_plugins
from rosepo_core.serving.recommender import Recommendation

OPTIONS = {
    "model": "smollm2-135m",
    "prompt.titles": "short",
    "sft.steps": 10,
    "oracle.max_epochs": 2,
    "sampler": "uniform",
    "preferences.max_users": 8,
    "preferences.max_per_user": 10,
    "evaluation.max_users": 20,
}


def main(log: object, items: object, user: str, **arguments: Any) -> list[Recommendation]:
    with rosepo_core.ConsoleReporter().live() as reporter:
        recommender = rosepo_core.align(log, items, reporter=reporter, **arguments)
    recommended = recommender.recommend(recommender.history(user), k=5)
    for each in recommended:
        print(f"{each.score:8.2f}  {each.title}")
    return recommended


if __name__ == "__main__":
    movies = load_plugins().create("dataset", "movielens-100k", {}).load(rosepo_core.ConsoleReporter())
    main(movies.interactions, movies.catalogue, user="42", options=OPTIONS, run="runs/embedded")
