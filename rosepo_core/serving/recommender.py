"""Recommends with a trained model. Histories and recommendations are titles or ids, not item numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.contracts.ranking import best_items
from rosepo_core.contracts.records import Bools, Catalogue, Floats, Ints, Places
from rosepo_core.contracts.sections import SCORES, Score
from rosepo_core.data.catalogue_changes import items_table, read_changes
from rosepo_core.data.catalogue_in_use import CatalogueInUse
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.serving.changed_catalogue import rows_named
from rosepo_core.serving.filters import Filter
from rosepo_core.serving.places import places_of
from rosepo_core.serving.ranker import Ranker
from rosepo_core.serving.sources import Source, chosen_model, open_source
from rosepo_core.serving.title_index import By, IdIndex, TitleIndex
from rosepo_core.stages.session import QuietReporter


class Recommendation(NamedTuple):
    """A recommended item.

    Attributes:
        title: its title.
        score: its score; `Recommender.recommend` says what it is.
        item: its own id in the log.
        new: whether it has no training interaction.
    """

    title: str
    score: float
    item: str
    new: bool = False


OnUnknown = Literal["error", "skip"]
"""What happens to an item of a history that is not in the catalogue."""


class Recommender:
    """A language model and a catalogue. It recommends only items of this catalogue. Several threads
    may use it at once.

    Attributes:
        catalogue: the items, those that are never recommended, too.
        in_use: the same items, and what has changed since the training.
        score: the score by which titles are ranked.
        title_index: finds items by titles that are not written exactly as in the catalogue.
        folder: where the model is from.
    """

    def __init__(
        self,
        model: TitleModel,
        catalogue: Catalogue | CatalogueInUse,
        ranker: Ranker | None = None,
        users: Callable[[], Mapping[str, Ints] | None] = lambda: None,
        reporter: Reporter | None = None,
        folder: str = "",
    ) -> None:
        """See `load`.

        Args:
            model: the language model over the catalogue.
            catalogue: the items, perhaps with changes since the training.
            ranker: ranks by another score than likelihood.
            users: the items of each user of the log, in order of time, by the user's own id; `None` without a log.
            reporter: receives notes.
            folder: where the model is from.
        """
        self.in_use = CatalogueInUse.of(catalogue) if isinstance(catalogue, Catalogue) else catalogue
        self.catalogue = self.in_use.items
        self._active = ~self.in_use.retired if self.in_use.retired.any() else None
        self.score: Score = "likelihood" if ranker is None else ranker.rule.score
        self._ranker = ranker
        self._model = model
        self.title_index = TitleIndex(self.catalogue.titles)
        self._ids = IdIndex(self.catalogue.ids)
        self._users = cache(users)
        self._reporter = reporter or QuietReporter()
        self.folder = folder

    @staticmethod
    def load(
        folder: str | Path,
        stage: str | None = None,
        reporter: Reporter | None = None,
        *,
        score: Score | None = None,
    ) -> Recommender:
        """Load a model.

        Args:
            folder: a run folder; a folder of runs under seeds, whose first run is used; RUN/aligned or RUN/sft, or a
                copy of it; or what `rosepo export` wrote.
            stage: the model of a run: ``"aligned"`` (the default), ``"sft"`` or ``"base"`` (the model before any
                training), or ``"round-1-aligned"`` and so on in a run of several rounds. Other folders hold one
                model.
            reporter: receives progress and notes.
            score: the score by which titles are ranked; by default `ranking.score` of the run, and likelihood for
                RUN/aligned alone.

        Raises:
            RequestError: there is no such model, its base model is missing, or what the score needs is not there.
        """
        if score is not None and score not in SCORES:
            raise RequestError(f"unknown score '{score}'{nearest(score, SCORES)}")
        reporter = reporter or QuietReporter()
        source = open_source(Path(folder), reporter)
        return Recommender.of(source, chosen_model(source, stage), score or source.score, reporter)

    @staticmethod
    def of(source: Source, name: str, score: Score, reporter: Reporter) -> Recommender:
        """Load the model `name` of a source, to rank by `score`.

        Raises:
            RequestError: as `load`.
        """

        @cache
        def load(name: str) -> TitleModel:
            # Each has a base model of its own in memory, so that threads can ask them all.
            stored = source.stored(name)
            return stored.title_model(stored.slot(reporter), reporter)

        ranker = source.ranker(name, score, load)
        return Recommender(load(name), source.in_use, ranker, lambda: source.users, reporter, str(source.folder))

    def with_items(self, items: object, *, whole: bool = False) -> Recommender:
        """A recommender with a changed catalogue and the same language model: items are added, renamed, described
        anew and retired without training. This recommender stays as it is, so requests under way are not disturbed:

            recommender = recommender.with_items(pl.DataFrame({"item": ["n1"], "title": ["A New Film (2026)"]}))

        A new item is scored by its title, like all others. It has a popularity of 0, and `Recommendation.new` says
        so. A renamed item keeps its interactions. A retired one may be in histories, and is never recommended.

        Args:
            items: a frame of pandas, Polars or Arrow, or the path of a file, with a row for each item that changes,
                see `rosepo_core.data.catalogue_changes.read_changes`.
            whole: the table names all items: others are retired, and those that it names are not.

        Raises:
            RequestError: a row cannot be used; the message says which and why. Nothing has changed then.
        """
        table = items_table(items)
        in_use = self.in_use.updated(read_changes(table, self.in_use, whole=whole))
        if in_use.retired.all():
            raise RequestError("all items would be retired, and nothing could be recommended; leave some")
        with rows_named(table):
            model = self._model.with_items(in_use.items, in_use.retitled)
            ranker = None if self._ranker is None else self._ranker.with_items(in_use.items, in_use.retitled, model)
        found = copy(self)
        found.in_use, found.catalogue = in_use, in_use.items
        found._active = ~in_use.retired if in_use.retired.any() else None
        found._model, found._ranker = model, ranker
        found.title_index = self.title_index.changed(in_use.items.titles)
        found._ids = IdIndex(in_use.items.ids)
        return found

    def __repr__(self) -> str:
        items = len(self.catalogue) - int(self.in_use.retired.sum())
        return f"<Recommender {self.folder}: {items:,} items by {self.score}>"

    @property
    def language_model(self) -> TitleModel:
        """The language model over the catalogue."""
        return self._model

    @property
    def titles(self) -> tuple[str, ...]:
        """The titles of the catalogue, in index order."""
        return self.catalogue.titles

    @property
    def pool(self) -> int:
        """How many titles `score` compares for a history; 0 for likelihood, which compares all. Recommendations do
        not depend on `k` up to this number, or at all for likelihood."""
        return 0 if self._ranker is None else self._ranker.pool

    def ids_of(self, history: Sequence[str | int], *, by: By = "title", on_unknown: OnUnknown = "error") -> list[str]:
        """The own ids of the items of a history; see `recommend`.

        Raises:
            RequestError: an item is not in the catalogue, or the history is empty.
        """
        (items,) = self._known([history], by, on_unknown)
        return [self.catalogue.ids[item] for item in items.tolist()]

    def candidate_ids(self, candidates: Sequence[str | int], *, by: By = "title") -> list[str]:
        """The own ids of candidates; see `rank`.

        Raises:
            RequestError: a candidate is not in the catalogue or there twice, or their number is not possible.
        """
        return [self.catalogue.ids[item] for item in self._to_rank(candidates, by)]

    def history(self, user: str | int, by: By = "title") -> list[str]:
        """Everything that a user of the log has chosen, oldest first, held-out items too.

        Args:
            user: the user's own id in the log.
            by: whether items are named by title or id.

        Raises:
            RequestError: there is no such user, or no log.
        """
        known, user = self._users(), str(user)
        if known is None:
            raise RequestError(
                f"user '{user}' is not known: this is a model without the log of its run; give a history"
            )
        if user not in known:
            raise RequestError(f"user '{user}' is not in the run's log{nearest(user, known)}")
        names = self.catalogue.titles if by == "title" else self.catalogue.ids
        return [names[item] for item in known[user].tolist()]

    def recommend(
        self,
        history: Sequence[str | int],
        k: int = 10,
        *,
        filter: Filter | None = None,
        by: By = "title",
        on_unknown: OnUnknown = "error",
    ) -> list[Recommendation]:
        """Recommend items to choose next.

        Args:
            history: items, oldest first: titles in any spelling that `TitleIndex.find` accepts, or ids, which may be
                numbers.
            k: number of items; there may be fewer if few are possible.
            filter: which items are possible; by default all.
            by: whether `history` and `filter` name items by title or by their own id in the log.
            on_unknown: what to do with items of the history that are not in the catalogue: ``"error"``, or
                ``"skip"`` them with a note.

        Returns:
            The items, best first. None is in the history. The score depends on `score`: the log-probability of the
            title; its mean over the title's tokens; the log-probability minus that without a history; or, for
            ``fusion``, the logarithm of the probability that the title is chosen among those that were scored.

        Raises:
            RequestError: an item is not in the catalogue, the history is empty, or no item passes the filter.
        """
        (found,) = self.recommend_many([history], k, filter=filter, by=by, on_unknown=on_unknown)
        return found

    def recommend_many(
        self,
        histories: Sequence[Sequence[str | int]],
        k: int = 10,
        *,
        filter: Filter | None = None,
        by: By = "title",
        on_unknown: OnUnknown = "error",
    ) -> list[list[Recommendation]]:
        """Recommend items for many histories at once; see `recommend`.

        Raises:
            RequestError: as `recommend`; the message has the number of the history, from 1.
        """
        known = self._known(histories, by, on_unknown)
        passing = self._passing(filter, by)
        if not known:
            return []
        # Equal histories have equal answers.
        number = {history.tobytes(): history for history in known}
        different = list(number.values())
        rows = dict(zip(number, range(len(number)), strict=True))
        items, scores = self._top(places_of(different), different, min(k, len(self.catalogue)), passing)
        answers = self._named(items, scores)
        return [list(answers[rows[history.tobytes()]]) for history in known]

    def rank(
        self,
        history: Sequence[str | int],
        candidates: Sequence[str | int],
        *,
        by: By = "title",
        on_unknown: OnUnknown = "error",
    ) -> list[Recommendation]:
        """Rank candidates for a history.

        Args:
            history: as for `recommend`.
            candidates: items of the catalogue, each once; they may be in the history.
            by: as for `recommend`, for the candidates, too.
            on_unknown: as for `recommend`. An unknown candidate is always an error.

        Returns:
            The candidates, best first. Scores are as those of `recommend`; the probabilities of ``fusion`` are among
            the candidates.

        Raises:
            RequestError: an item is not in the catalogue, or a list is empty.
        """
        (found,) = self.rank_many([history], [candidates], by=by, on_unknown=on_unknown)
        return found

    def rank_many(
        self,
        histories: Sequence[Sequence[str | int]],
        candidates: Sequence[Sequence[str | int]],
        *,
        by: By = "title",
        on_unknown: OnUnknown = "error",
    ) -> list[list[Recommendation]]:
        """Rank candidates for many histories at once, a list of candidates for each history; see `rank`.

        Raises:
            RequestError: as `rank`; the message has the number of the history, from 1.
        """
        if len(candidates) != len(histories):
            raise RequestError(
                f"there are {len(histories)} histories and {len(candidates)} lists of candidates; give one each"
            )
        known = self._known(histories, by, on_unknown)
        if not known:
            return []
        table = np.full((len(known), max(map(len, candidates))), -1, dtype=np.int32)
        for row, names in enumerate(candidates):
            with _numbered(row, len(candidates)):
                items = self._to_rank(names, by)
            table[row, : len(items)] = items
        places = places_of(known)
        if self._ranker is not None:
            scores = self._ranker.scores(self._model, places, table)
        else:
            scores = self._model.log_probs(places, table)
        return self._named(*best_items(scores, table, table.shape[1]))

    def _to_rank(self, candidates: Sequence[str | int], by: By) -> list[int]:
        """The items of candidates."""
        if not len(candidates):
            raise RequestError("there are no candidates; give at least one")
        if self._model.listed_count not in (0, len(candidates)):
            raise RequestError(
                f"the prompts of this run list {self._model.listed_count} candidates (prompt.candidates), "
                f"and here are {len(candidates)}"
            )
        index = self._index(by)
        items = [index.find(str(name)) for name in candidates]
        if len(set(items)) < len(items):
            raise RequestError("a candidate is there twice; give each once")
        for name, item in zip(candidates, items, strict=True):
            if self.in_use.retired[item]:
                raise RequestError(f"candidate '{name}' is retired and never recommended; leave it out")
        return items

    def _index(self, by: By) -> TitleIndex | IdIndex:
        return self.title_index if by == "title" else self._ids

    def _passing(self, filter: Filter | None, by: By) -> Bools | None:
        """Which items may be recommended, bool [items]; `None` for all."""
        if filter is None:
            return self._active
        passing = filter.passing(self.catalogue, self._index(by).find)
        if self._active is None:
            return passing
        if not (passing & self._active).any():
            raise RequestError("all items that pass the filter are retired; loosen it")
        return passing & self._active

    def _known(self, histories: Sequence[Sequence[str | int]], by: By, on_unknown: OnUnknown) -> list[Ints]:
        """The items of each history, int32 [h]."""
        found, skipped, index = [], 0, self._index(by)
        for row, history in enumerate(histories):
            items = []
            with _numbered(row, len(histories)):
                if isinstance(history, str):
                    raise RequestError(f"a history is a list of {by}s, and '{history}' is one {by}")
                for name in map(str, history):
                    if on_unknown == "skip" and len(index.matches(name)) != 1:
                        skipped += 1
                    else:
                        items.append(index.find(name))
                if not items:
                    raise RequestError(
                        "no item of the history is in the catalogue"
                        if len(history)
                        else f"the history is empty; give at least one {by}"
                    )
            found.append(np.array(items, dtype=np.int32))
        if skipped:
            self._reporter.note(f"skipped {skipped:,} items of histories that are not in the catalogue")
        return found

    def _top(self, places: Places, histories: Sequence[Ints], k: int, passing: Bools | None) -> tuple[Ints, Floats]:
        """Items int32 [n, k] and their scores float32 [n, k], best first; -1 and -inf if there are fewer."""
        if self._ranker is not None:
            out = np.empty(0, np.int32) if passing is None else np.flatnonzero(~passing).astype(np.int32)
            return self._ranker.top(self._model, places, [np.union1d(each, out) for each in histories], k)
        only = None if passing is None else np.flatnonzero(passing)
        return self._model.top(places, k, exclude=histories, beams=None, exact=True, only=only)

    def _named(self, items: Ints, scores: Floats) -> list[list[Recommendation]]:
        titles, ids, popularity = self.catalogue.titles, self.catalogue.ids, self.catalogue.popularity
        return [
            [
                Recommendation(titles[item], score, ids[item], not popularity[item])
                for item, score in zip(of_row.tolist(), of_scores.tolist(), strict=True)
                if item >= 0
            ]
            for of_row, of_scores in zip(items, scores, strict=True)
        ]


@contextmanager
def _numbered(row: int, rows: int) -> Iterator[None]:
    """Errors inside say which of several histories they are about."""
    try:
        yield
    except RequestError as error:
        if rows == 1:
            raise
        raise RequestError(f"history {row + 1}: {error}") from None
