"""Align a recommender and recommend with it from Python; `python examples/embed_in_your_project.py` does it small.

`align` takes the same tables as a configuration file and reuses every finished stage, so running this a second time
only recommends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import rosepo_core
from rosepo_core.serving.recommender import Recommendation

CONFIG = {
    "dataset": "movielens-100k",
    "model": "smollm2-135m",
    "prompt": {"titles": "short"},
    "sft": {"steps": 10},
    "oracle": {"name": "sasrec", "max_epochs": 2},
    "sampler": "uniform",
    "preferences": {"max_users": 8, "max_per_user": 10},
    "evaluation": {"max_users": 20},
}


def main(config: Mapping[str, Any], run: str, history: list[str]) -> list[Recommendation]:
    done = rosepo_core.train(config, run)
    for evaluation in done.evaluations:
        for name, result in evaluation.models.items():
            print(f"{name:<12} NDCG@10 {result.metrics['ndcg@10']:.3f}")
    recommended = rosepo_core.Recommender.load(done.folder).recommend(history, k=5)
    for each in recommended:
        print(f"{each.score:8.2f}  {each.title}")
    return recommended


if __name__ == "__main__":
    main(CONFIG, "runs/embedded", ["Toy Story (1995)", "Fargo (1996)", "The Usual Suspects (1995)"])
