"""Lists of all models of a run for one history, to be seen side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rosepo_core.contracts.components import Reporter, SmoothingOracle
from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.contracts.records import Floats, Ints, Places
from rosepo_core.contracts.sections import Score
from rosepo_core.data.catalogue_in_use import CatalogueInUse
from rosepo_core.engine.policy import PolicySlot
from rosepo_core.engine.saved_template import load_template
from rosepo_core.engine.shared_bases import SharedBases
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.plugins.recorded import read_records
from rosepo_core.report.outputs import REPORT
from rosepo_core.serving.fallbacks import best_of_oracle
from rosepo_core.serving.places import places_of
from rosepo_core.serving.ranker import oracle_scores
from rosepo_core.serving.recommender import Recommendation, Recommended, Recommender
from rosepo_core.serving.sources import RunSource, StoredModel
from rosepo_core.stages.session import QuietReporter
from rosepo_core.store.marker import read_listed
from rosepo_core.store.run_store import has_stage

FUSION = "fusion"
"""The aligned model under the score `fusion`."""

POPULAR = 0.5
"""Items are popular if they are the fewest that have this share of all training interactions."""


class RunLists:
    """The models of a finished run. They share one base model, which is read when it is first needed and changes its
    state from question to question: only one thread may ask.

    Attributes:
        catalogue: the run's items, those that are never recommended, too.
        in_use: the same items, and what has changed since the training.
    """

    def __init__(
        self,
        folder: Path,
        in_use: CatalogueInUse | None = None,
        reporter: Reporter | None = None,
        bases: SharedBases | None = None,
    ) -> None:
        """
        Args:
            folder: a finished run, or runs under seeds, of which the first is taken.
            in_use: the catalogue; by default that of the folder, which may change while it is read.
            reporter: receives notes.
            bases: weights in memory to share with others.

        Raises:
            RequestError: there is no run.
        """
        self._reporter = reporter or QuietReporter()
        self._source = RunSource(folder, self._reporter)
        self._folder = self._source.folder
        self._bases = bases
        if in_use is not None:
            self._source.in_use = in_use
        self.in_use = self._source.in_use
        self.catalogue = self.in_use.items
        self._model = cache(self._title_model)
        self._recommender = cache(self._load)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The models, in the order of the page."""
        trained = reversed(self._source.models)
        needed = {name: "sft" if name == "base" else name for name in trained} | {FUSION: "fusion-aligned"}
        there = [name for name, stage in needed.items() if has_stage(self._folder, stage)]
        return (*(("oracle",) if self._oracle_ranks() else ()), *there)

    @property
    def has_report(self) -> bool:
        """Whether the run has a report."""
        return (self._folder / REPORT).is_file()

    def report(self) -> str | None:
        """The page of the run's report, if it is there.

        Raises:
            RequestError: it is damaged.
        """
        return read_listed(self._folder, REPORT)

    @cached_property
    def users(self) -> Mapping[str, Ints]:
        """Everything that each user has chosen, oldest first."""
        return self._source.users

    @cached_property
    def popular(self) -> NDArray[np.bool_]:
        """Which items are popular: bool [items]."""
        counts = self.catalogue.popularity
        order = np.argsort(-counts, kind="stable")
        before = np.cumsum(counts[order]) - counts[order]
        found = np.zeros(len(counts), np.bool_)
        found[order] = before < POPULAR * counts.sum()
        return found

    def user(self, name: str) -> tuple[list[int], int | None]:
        """The history of a user as the test sees it, and the item that the test holds out.

        Raises:
            RequestError: there is no such user.
        """
        if name not in self.users:
            raise RequestError(f"user '{name}' is not in the run's log{nearest(name, self.users)}")
        items = self.users[name].tolist()
        held_out = self._source.split.users.index(name) in set(self._source.split.test.user.tolist())
        return (items[:-1], items[-1]) if held_out and len(items) > 1 else (items, None)

    def top(self, name: str, histories: Sequence[Sequence[str]], k: int) -> list[Recommended]:
        """The first items of a model, for many histories.

        Args:
            name: one of `names`.
            histories: ids of items, oldest first.
            k: number of items.

        Raises:
            RequestError: the run has no such model, or it cannot be loaded.
        """
        if name not in self.names:
            raise RequestError(f"the run has no model '{name}'{nearest(name, self.names)}")
        if name != "oracle":
            return self._recommender(name).recommend_many(histories, k, by="id")
        numbers = {item: number for number, item in enumerate(self.catalogue.ids)}
        known = [np.array([numbers[item] for item in history], np.int32) for history in histories]
        best, values = best_of_oracle(self._oracle, self.in_use, known, min(k, len(self.catalogue)))
        return [
            Recommended(
                [
                    Recommendation(
                        self.catalogue.titles[item],
                        value,
                        self.catalogue.ids[item],
                        not self.catalogue.popularity[item],
                    )
                    for item, value in zip(row.tolist(), of_row.tolist(), strict=True)
                    if item >= 0
                ],
                answered_by="oracle",
            )
            for row, of_row in zip(best, values, strict=True)
        ]

    def _oracle_ranks(self) -> bool:
        """Whether the run has an oracle that can rank, and its plugin is installed."""
        if not has_stage(self._folder, "oracle"):
            return False
        # That its plugin is not installed is no error. That something is damaged is one.
        self._source.store.artifact("oracle")
        read_records(self._folder)
        one = np.zeros(1, np.int32)
        try:
            return oracle_scores(self._oracle, places_of([one]), one[None], 1) is not None
        except RequestError:
            return False

    @cached_property
    def _oracle(self) -> SmoothingOracle:
        oracle = self._source.oracle()
        assert oracle is not None
        return oracle

    @cached_property
    def _slot(self) -> PolicySlot:
        return self._source.stored("base").slot(self._reporter, self._bases)

    def _load(self, name: str) -> Recommender:
        stage = "aligned" if name == FUSION else name
        score: Score = "fusion" if name == FUSION else "likelihood"
        ranker = self._source.ranker(stage, score, self._model)
        calibrated = self._source.calibrated(stage, score)
        return Recommender(self._model(stage), self.in_use, ranker, reporter=self._reporter, calibrated=calibrated)

    def _title_model(self, name: str) -> TitleModel:
        stored = self._source.stored(name)
        return stored.over_catalogue(_InTurn(stored, self._slot, self._reporter))


class _InTurn(TitleModel):
    """A language model whose weights come into the shared slot when it is asked."""

    def __init__(self, stored: StoredModel, slot: PolicySlot, reporter: Reporter) -> None:
        template = load_template(stored.folder, slot.tokenizer)
        super().__init__(None, template, reporter, seed=0, token_budget=stored.options.token_budget)
        self._stored, self._slot = stored, slot

    def log_probs(self, places: Places, items: Ints) -> Floats:
        """See `TitleModel.log_probs`."""
        self._model = self._stored.put_into(self._slot)
        return super().log_probs(places, items)

    def top(self, places: Places, k: int, **options: Any) -> tuple[Ints, Floats]:
        """See `TitleModel.top`."""
        self._model = self._stored.put_into(self._slot)
        return super().top(places, k, **options)
