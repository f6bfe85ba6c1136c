"""Recommends with a finished run. Histories and recommendations are titles, not item numbers."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.contracts.options import parse_options
from rosepo_core.contracts.records import Floats, Ints, Places, Sequences
from rosepo_core.contracts.sections import SCORES, ModelOptions, RankingOptions, Score
from rosepo_core.engine.policy import PolicySlot
from rosepo_core.engine.saved_template import load_template
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.evaluation.run_models import LANGUAGE_MODELS
from rosepo_core.seeds import is_seeds, seed_runs
from rosepo_core.serving.ranker import Ranker, load_ranker
from rosepo_core.stages.session import QuietReporter
from rosepo_core.stages.split import load_split
from rosepo_core.store.changes import CONFIG
from rosepo_core.store.run_store import RunStore

_YEAR = re.compile(r" ?\(\d{4}\)$")


class TitleIndex:
    """Finds the item of a title, also if it is written a little differently."""

    def __init__(self, titles: Sequence[str]) -> None:
        """`titles` are the titles of the catalogue, in index order, without duplicates."""
        self._titles = titles
        self._exact = {title: item for item, title in enumerate(titles)}
        self._folded: dict[str, list[int]] = defaultdict(list)
        self._stems: dict[str, list[int]] = defaultdict(list)
        for item, title in enumerate(titles):
            self._folded[_fold(title)].append(item)
            self._stems[_YEAR.sub("", _fold(title))].append(item)

    def find(self, title: str) -> int:
        """The item of a title.

        The title may differ from the catalogue in case and white space. It may have a year where the catalogue has
        none, or the other way round. Exactly one item must match.

        Raises:
            RequestError: no item matches, or several do; the message has the nearest titles.
        """
        if title in self._exact:
            return self._exact[title]
        folded = _fold(title)
        if not folded:
            raise RequestError("a title of the history is empty; leave it out")
        # Two different years are two different films.
        stem = _YEAR.sub("", folded)
        for items in (self._folded.get(folded), (self._stems if stem == folded else self._folded).get(stem)):
            if items and len(items) == 1:
                return items[0]
            if items:
                meant = " or ".join(repr(self._titles[item]) for item in items)
                raise RequestError(f"title '{title}' may be {meant}; write one of them")
        raise RequestError(f"title '{title}' is not in the run's catalogue{nearest(title, self._titles)}")


def _fold(title: str) -> str:
    return " ".join(unicodedata.normalize("NFC", title).casefold().split())


BEAMS = 32
"""Width of the exact search; changes speed only."""


class Recommender:
    """A language model of a run and the run's catalogue. It recommends only titles of this catalogue.

    Attributes:
        titles: the titles of the catalogue, in index order.
        score: the score by which titles are ranked.
    """

    def __init__(self, model: TitleModel, titles: Sequence[str], ranker: Ranker | None = None) -> None:
        """See `from_run`.

        Args:
            model: the language model over the catalogue.
            titles: the titles of the catalogue, in index order.
            ranker: ranks by another score than likelihood.
        """
        self.titles = tuple(titles)
        self.score: Score = "likelihood" if ranker is None else ranker.rule.score
        self._ranker = ranker
        self._model = model
        self._index = TitleIndex(self.titles)

    @staticmethod
    def from_run(
        folder: str | Path,
        stage: str = "aligned",
        reporter: Reporter | None = None,
        *,
        score: Score | None = None,
    ) -> Recommender:
        """Load the model of a run.

        Args:
            folder: the run folder; or a folder of runs under seeds, whose first run is used.
            stage: ``"aligned"``, ``"sft"`` or ``"base"`` (the model before any training).
            reporter: receives progress and notes.
            score: the score by which titles are ranked; by default `ranking.score` of the run.

        Raises:
            RequestError: there is no run, it has not finished this stage, its base model is missing, or it was not
                evaluated with this score.
        """
        if score is not None and score not in SCORES:
            raise RequestError(f"unknown score '{score}'{nearest(score, SCORES)}")
        if stage not in LANGUAGE_MODELS:
            raise RequestError(f"unknown model '{stage}'{nearest(stage, LANGUAGE_MODELS)}")
        folder, reporter = Path(folder), reporter or QuietReporter()
        if is_seeds(folder):
            first, *others = seed_runs(folder).values()
            reporter.note(f"recommending with the first of {len(others) + 1} seeds, {first}")
            folder = first
        store = RunStore.open(folder)
        weights = store.artifact("sft" if stage == "base" else stage).folder
        config = _config(folder)
        policy = _policy(config, reporter)
        template = load_template(weights, policy.tokenizer)
        model = policy.base() if stage == "base" else policy.trained(weights)
        titled = TitleModel(model, template, reporter, seed=0)
        catalogue = load_split(store.artifact("split").folder).catalogue
        ranking = parse_options(RankingOptions, config.get("ranking", {}), "ranking")
        ranker = load_ranker(store, config, stage, score or ranking.score, catalogue, titled)
        return Recommender(titled, catalogue.titles, ranker)

    def recommend(self, history: Sequence[str], k: int = 10) -> list[tuple[str, float]]:
        """Recommend titles to choose next.

        Args:
            history: titles, oldest first, in any spelling that `TitleIndex.find` accepts.
            k: number of titles; there may be fewer if the catalogue is small.

        Returns:
            Titles and their scores, best first. No title is in the history. The score depends on `score`: the
            log-probability of the title; its mean over the title's tokens; the log-probability minus that without a
            history; or, for ``fusion``, the logarithm of the probability that the title is chosen among those that
            were scored.

        Raises:
            RequestError: a title is not in the catalogue, or the history is empty.
        """
        if not history:
            raise RequestError("the history is empty; give at least one title")
        items = np.array([self._index.find(title) for title in history], dtype=np.int32)
        sequence = Sequences(items, np.array([0, len(items)], dtype=np.int64))
        place = Places(sequence, np.zeros(1, np.int32), np.array([len(items)], dtype=np.int32))
        found, scores = self._top(place, items, min(k, len(self.titles)))
        return [
            (self.titles[item], float(score))
            for item, score in zip(found.tolist(), scores.tolist(), strict=True)
            if item >= 0
        ]

    def _top(self, place: Places, history: Ints, k: int) -> tuple[Ints, Floats]:
        """Items int32 [k] and their scores float32 [k], best first; -1 and -inf if there are fewer."""
        if self._ranker is not None:
            return self._ranker.top(self._model, place, history, k)
        items, scores = self._model.top(place, k, exclude=[history], beams=BEAMS, exact=True)
        return items[0], scores[0]


def _config(folder: Path) -> Mapping[str, Any]:
    """The tables of the run's configuration, unchecked: the plugins that recommending does not use need not be
    installed."""
    path = folder / CONFIG
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read: {error}; write it again with `rosepo train --run`") from None


def _policy(config: Mapping[str, Any], reporter: Reporter) -> PolicySlot:
    """The run's language model."""
    options = parse_options(ModelOptions, config.get("model", {}), "model")
    return PolicySlot(options.name, options.dtype, reporter)
