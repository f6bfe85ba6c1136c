"""Recommending with a finished run: titles in, titles out, no item numbers."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.contracts.options import parse_options
from rosepo_core.contracts.sections import ModelOptions
from rosepo_core.engine.policy import PolicySlot
from rosepo_core.engine.saved_template import load_template
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.evaluation.run_models import LANGUAGE_MODELS
from rosepo_core.seeds import is_seeds, seed_runs
from rosepo_core.stages.session import QuietReporter
from rosepo_core.stages.split import load_split
from rosepo_core.store import CONFIG, RunStore

_YEAR = re.compile(r" ?\(\d{4}\)$")


class TitleIndex:
    """Finds the items that people mean by a title."""

    def __init__(self, titles: Sequence[str]) -> None:
        """`titles` of the catalogue, in index order, each once."""
        self._titles = titles
        self._exact = {title: item for item, title in enumerate(titles)}
        self._folded: dict[str, list[int]] = defaultdict(list)
        self._stems: dict[str, list[int]] = defaultdict(list)
        for item, title in enumerate(titles):
            self._folded[_fold(title)].append(item)
            self._stems[_YEAR.sub("", _fold(title))].append(item)

    def find(self, title: str) -> int:
        """The item of a title: written exactly, or up to case and white space, or with a year where the catalogue
        has none or the other way round; as long as only one item can be meant.

        Raises:
            RequestError: none or several can; the message has the nearest titles.
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


class Recommender:
    """A language model of a run and the run's catalogue; outputs are titles of that catalogue and no others."""

    def __init__(self, model: TitleModel, titles: Sequence[str]) -> None:
        """See `from_run`.

        Args:
            model: over the catalogue.
            titles: the catalogue's, in index order.
        """
        self.titles = tuple(titles)
        self._model = model
        self._index = TitleIndex(self.titles)

    @staticmethod
    def from_run(folder: str | Path, stage: str = "aligned", reporter: Reporter | None = None) -> Recommender:
        """Load the model that a run left.

        Args:
            folder: the run folder, or one of runs under seeds, of which the first recommends.
            stage: ``"aligned"``, ``"sft"`` or ``"base"``, the model before any training.
            reporter: hears of what takes time.

        Raises:
            RequestError: there is no run, it has not come that far, or its base model is gone.
        """
        if stage not in LANGUAGE_MODELS:
            raise RequestError(f"unknown model '{stage}'{nearest(stage, LANGUAGE_MODELS)}")
        folder, reporter = Path(folder), reporter or QuietReporter()
        if is_seeds(folder):
            first, *others = seed_runs(folder).values()
            reporter.note(f"recommending with the first of {len(others) + 1} seeds, {first}")
            folder = first
        store = RunStore.open(folder)
        weights = store.artifact("sft" if stage == "base" else stage).folder
        policy = _policy(folder, reporter)
        template = load_template(weights, policy.tokenizer)
        model = policy.base() if stage == "base" else policy.trained(weights)
        titles = load_split(store.artifact("split").folder).catalogue.titles
        return Recommender(TitleModel(model, template, reporter, seed=0), titles)

    def recommend(self, history: Sequence[str], k: int = 10) -> list[tuple[str, float]]:
        """What to choose next.

        Args:
            history: titles, oldest first; any spelling that `TitleIndex.find` takes.
            k: how many; there are fewer where the catalogue has no more.

        Returns:
            Titles and their log-probabilities as the next one, the most probable first; none is of the history.

        Raises:
            RequestError: a title is not in the catalogue, or there is none.
        """
        if not history:
            raise RequestError("the history is empty; give at least one title")
        items = np.array([self._index.find(title) for title in history], dtype=np.int32)
        found, scores = self._model.recommend(items, min(k, len(self.titles)))
        return [
            (self.titles[item], float(score))
            for item, score in zip(found.tolist(), scores.tolist(), strict=True)
            if item >= 0
        ]


def _policy(folder: Path, reporter: Reporter) -> PolicySlot:
    """Only the section of the model is read, so the plugins that made the run need not be there."""
    path = folder / CONFIG
    try:
        section = tomllib.loads(path.read_text(encoding="utf-8")).get("model", {})
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read: {error}; write it again with `rosepo train --run`") from None
    options = parse_options(ModelOptions, section, "model")
    return PolicySlot(options.name, options.dtype, reporter)
