"""rosepo as a component of LensKit's pipelines (Ekstrand 2020, doi:10.1145/3340531.3412778)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from lenskit.data import Dataset, ItemList, QueryInput, RecQuery
from lenskit.pipeline import Component
from lenskit.training import Trainable, TrainingOptions
from pydantic import BaseModel

import rosepo_core
from rosepo_core.contracts.errors import RequestError

_TIMES = ("timestamp", "last_time")
"""Fields of a user's items that say when; LensKit names the last one so where it has counted repeats."""


class RosepoConfig(BaseModel, extra="forbid"):
    """Options of `RosepoScorer`.

    Attributes:
        run: the run folder. Without `options`, it holds a finished run, or a model that `Recommender.load` takes.
        options: keys of the configuration, such as ``{"model": "smollm2-135m", "loss": "dpo"}``. If they are given,
            the pipeline trains a run on its data, in `run` or in a folder in ``runs`` for each data.
        stage: the model of the run: ``"aligned"`` (the default), ``"sft"`` or ``"base"``.
    """

    run: Path | None = None
    options: dict[str, Any] | None = None
    stage: str | None = None


class RosepoScorer(Component[ItemList], Trainable):  # type: ignore[misc]
    """Scores items by the language model of a run.

    Ids of items are compared as text. The history is the query's items that the model knows, in order of time where
    they have times, else as they are given. An item that the model does not know has no score, and so has every item
    after an empty history. Scores are those of `rosepo_core.Recommender.rank`.
    """

    config: RosepoConfig
    _trained: str | None = None
    _model: rosepo_core.Recommender | None = None

    def train(self, data: Dataset, options: TrainingOptions = TrainingOptions()) -> None:  # noqa: B008
        """Train a run on the pipeline's data, if `RosepoConfig.options` are given. Items need an attribute ``title``.

        rosepo holds out the last items of each user for its own validation and test (``split.*``). LensKit's test
        data is never seen. A finished run of equal data and options is loaded.

        Raises:
            RequestError: as `rosepo_core.align`, or the interactions have no times. LensKit sorts them by item, so
                nothing else says their order.
        """
        keys = self.config.options
        if keys is None or (self._trained is not None and not options.retrain):
            return
        log = data.interaction_table(format="arrow", original_ids=True)
        if "timestamp" not in log.column_names and "dataset.timestamp" not in keys:
            raise RequestError("the interactions have no timestamps, and rosepo needs their order: add them")
        items = data.entities("item").arrow()
        self._trained = rosepo_core.align(log, items, options=keys, run=self.config.run).folder
        self._model = None

    def __call__(self, query: QueryInput, items: ItemList) -> ItemList:
        """Score items.

        Raises:
            RequestError: there is no run, or it is not finished.
        """
        model = self._loaded()
        known = {item: number for number, item in enumerate(model.catalogue.ids)}
        history = [item for item in _in_time(RecQuery.create(query).query_items) if item in known]
        ids = [str(item) for item in items.ids()]
        scored = [item for item in dict.fromkeys(ids) if item in known]
        scores: dict[str, float] = {}
        if history and scored:
            scores = {each.item: each.score for each in model.rank(history, scored, by="id")}
        return ItemList(items, scores=np.array([scores.get(item, np.nan) for item in ids], dtype=np.float32))

    def _loaded(self) -> rosepo_core.Recommender:
        if self._model is None:
            folder = self._trained or self.config.run
            if folder is None:
                raise RequestError("RosepoScorer has no model: name a run, or give options and train the pipeline")
            self._model = rosepo_core.Recommender.load(folder, self.config.stage)
        return self._model

    def __getstate__(self) -> dict[str, Any]:
        """Without the model, which another process loads again."""
        return {**self.__dict__, "_model": None}


def _in_time(items: ItemList | None) -> list[str]:
    """The ids of a user's items, oldest first."""
    if items is None:
        return []
    ids = [str(item) for item in items.ids()]
    for name in _TIMES:
        if (times := items.field(name)) is not None:
            return [ids[place] for place in np.argsort(times, kind="stable")]
    return ids
