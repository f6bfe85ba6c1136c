"""Train and measure a language model inside LensKit, beside LensKit's own popularity.

It needs LensKit (`pip install lenskit`); `python examples/lenskit_pipeline.py` does it small, in some minutes.
LensKit splits the log, asks the pipelines and measures; rosepo trains on LensKit's training part alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rosepo_core.adapters.lenskit import RosepoScorer

# isort: split
import polars as pl
from lenskit.basic import PopScorer
from lenskit.batch import recommend
from lenskit.data import Dataset, ItemListCollection, UserIDKey
from lenskit.data.builder import DatasetBuilder
from lenskit.metrics import NDCG, Hit, RunAnalysis
from lenskit.pipeline import topn_pipeline
from lenskit.splitting import LastN, sample_users

from rosepo_core.api import load_plugins
from rosepo_core.stages.session import QuietReporter

OPTIONS = {
    "model": "smollm2-135m",
    "prompt.titles": "short",
    "sft.steps": 10,
    "sampler": "uniform",
    "preferences.max_users": 8,
    "preferences.max_per_user": 10,
    "evaluation.max_users": 20,
}


def dataset(log: pl.DataFrame, items: pl.DataFrame) -> Dataset:
    """A log and its titles as LensKit holds them."""
    builder = DatasetBuilder()
    titles = items.to_pandas().set_index("item_id")["title"]
    builder.add_entities("item", titles.index.to_numpy())
    builder.add_scalar_attribute("item", "title", titles)
    builder.add_interactions("rating", log.to_pandas(), entities=["user", "item"], missing="insert", default=True)
    return builder.build()


def main(
    data: Dataset, options: Mapping[str, Any], users: int, k: int = 10
) -> dict[str, ItemListCollection[UserIDKey]]:
    """The recommendations of each pipeline, for so many users, whose last item is held out."""
    split = sample_users(data, users, LastN(1), rng=0)
    found = {}
    for name, scorer in {"rosepo": RosepoScorer(options=dict(options)), "popularity": PopScorer()}.items():
        pipeline = topn_pipeline(scorer, n=k)
        pipeline.train(split.train)
        found[name] = recommend(pipeline, split.test, n_jobs=1)
        measured = RunAnalysis(NDCG(k), Hit(k)).measure(found[name], split.test).list_summary()
        print(f"{name:<12} {measured['mean'].round(3).to_dict()}")
    return found


if __name__ == "__main__":
    corpus = load_plugins().create("dataset", "movielens-100k", {}).load(QuietReporter())
    log = corpus.interactions.rename({"user": "user_id", "item": "item_id"}).cast({pl.Enum: pl.String})
    main(dataset(log, corpus.catalogue.rename({"item": "item_id"})), OPTIONS, users=5)
