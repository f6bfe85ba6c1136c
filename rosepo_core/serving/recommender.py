"""Recommends with a trained model. Histories and recommendations are titles or ids, not item numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from rosepo_core.contracts.components import Reporter, SmoothingOracle
from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.contracts.ranking import best_items
from rosepo_core.contracts.records import Bools, Catalogue, Doubles, Floats, Ints
from rosepo_core.contracts.sections import SCORES, Score
from rosepo_core.data.catalogue_changes import items_table, read_changes
from rosepo_core.data.catalogue_in_use import CatalogueInUse
from rosepo_core.engine.shared_bases import SharedBases
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.evaluation.list_confidence import log_masses
from rosepo_core.serving.changed_catalogue import rows_named
from rosepo_core.serving.confidence import Calibrated, Confidence
from rosepo_core.serving.fallbacks import FALLBACKS, Fallback, best_of_oracle, most_popular
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


class Recommended(list[Recommendation]):
    """Recommended items, best first, and how far they can be trusted.

    Attributes:
        answered_by: who made the list: the ``"model"``, or the fallback, ``"popularity"`` or ``"oracle"``. The
            scores are this one's; those of popularity are numbers of training interactions.
        confidence: the calibrated probability that the next item of the user is in the list of the model, also if
            that was below the threshold and the fallback answered; `None` if it is not calibrated for such lists
            (`Recommender.why_no_confidence`).
        interval: the ends of the 95 % interval of `confidence` for other calibration users; `None` without one.
    """

    def __init__(
        self,
        items: Iterable[Recommendation] = (),
        confidences: tuple[Confidence, ...] = (),
        answered_by: Literal["model", "popularity", "oracle"] = "model",
    ) -> None:
        """
        Args:
            items: the items, best first.
            confidences: the confidence of the first 1, 2, ... items; empty if it is not calibrated.
            answered_by: see the class.
        """
        super().__init__(items)
        self.answered_by = answered_by
        self._confidences = confidences
        known = confidences[len(self) - 1] if 0 < len(self) <= len(confidences) else None
        self.confidence = None if known is None else known.value
        self.interval = None if known is None else (known.low, known.high)

    def first(self, k: int) -> Recommended:
        """The first `k` items of a list of the model, with their own confidence."""
        return Recommended(self[:k], self._confidences, self.answered_by)


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
        calibrated: Calibrated | None = None,
        oracle: Callable[[], SmoothingOracle | None] = lambda: None,
    ) -> None:
        """See `load`.

        Args:
            model: the language model over the catalogue.
            catalogue: the items, perhaps with changes since the training.
            ranker: ranks by another score than likelihood.
            users: the items of each user of the log, in order of time, by the user's own id; `None` without a log.
            reporter: receives notes.
            folder: where the model is from.
            calibrated: what is known about the confidence of its lists.
            oracle: loads the oracle for lists that the model is not confident of; `None` if there is none.
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
        self._calibrated = calibrated or Calibrated.none("the confidence of these lists is not calibrated")
        self._calibrated_in_use = self._calibrated.over(self.in_use)
        self._oracle = cache(oracle)

    @staticmethod
    def load(
        folder: str | Path,
        stage: str | None = None,
        reporter: Reporter | None = None,
        *,
        score: Score | None = None,
        bases: SharedBases | None = None,
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
            bases: weights in memory to share with other recommenders; by default this one has its own.

        Raises:
            RequestError: there is no such model, its base model is missing, or what the score needs is not there.
        """
        if score is not None and score not in SCORES:
            raise RequestError(f"unknown score '{score}'{nearest(score, SCORES)}")
        reporter = reporter or QuietReporter()
        source = open_source(Path(folder), reporter)
        return Recommender.of(source, chosen_model(source, stage), score or source.score, reporter, bases)

    @staticmethod
    def of(
        source: Source, name: str, score: Score, reporter: Reporter, bases: SharedBases | None = None
    ) -> Recommender:
        """Load the model `name` of a source, to rank by `score`.

        Raises:
            RequestError: as `load`.
        """

        @cache
        def load(name: str) -> TitleModel:
            # Each has modules of its own in memory, so that threads can ask them all.
            stored = source.stored(name)
            return stored.title_model(stored.slot(reporter, bases), reporter)

        ranker = source.ranker(name, score, load)
        calibrated = source.calibrated(name, score)
        folder, users = str(source.folder), lambda: source.users
        return Recommender(load(name), source.in_use, ranker, users, reporter, folder, calibrated, source.oracle)

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
        found._calibrated_in_use = self._calibrated.over(in_use)
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
        threshold: float | None = None,
        fallback: Fallback = "popularity",
    ) -> Recommended:
        """Recommend items to choose next.

        Args:
            history: items, oldest first: titles in any spelling that `TitleIndex.find` accepts, or ids, which may be
                numbers.
            k: number of items; there may be fewer if few are possible.
            filter: which items are possible; by default all.
            by: whether `history` and `filter` name items by title or by their own id in the log.
            on_unknown: what to do with items of the history that are not in the catalogue: ``"error"``, or
                ``"skip"`` them with a note.
            threshold: if the confidence of the list is below this probability, `fallback` answers.
            fallback: the most popular items (``"popularity"``), or those that the run's oracle puts first
                (``"oracle"``).

        Returns:
            The items, best first, with the confidence of the list. None is in the history. The score depends on
            `score`: the log-probability of the title; its mean over the title's tokens; the log-probability minus
            that without a history; or, for ``fusion``, the logarithm of the probability that the title is chosen
            among those that were scored.

        Raises:
            RequestError: an item is not in the catalogue, the history is empty, no item passes the filter, or there
                is a threshold and no confidence, or no such fallback.
        """
        (found,) = self.recommend_many(
            [history], k, filter=filter, by=by, on_unknown=on_unknown, threshold=threshold, fallback=fallback
        )
        return found

    def recommend_many(
        self,
        histories: Sequence[Sequence[str | int]],
        k: int | Sequence[int] = 10,
        *,
        filter: Filter | None = None,
        by: By = "title",
        on_unknown: OnUnknown = "error",
        threshold: float | None = None,
        fallback: Fallback = "popularity",
    ) -> list[Recommended]:
        """Recommend items for many histories at once; see `recommend`.

        Args:
            histories: the histories.
            k: number of items, for all histories or for each.
            filter: as for `recommend`.
            by: as for `recommend`.
            on_unknown: as for `recommend`.
            threshold: as for `recommend`.
            fallback: as for `recommend`.

        Raises:
            RequestError: as `recommend`; the message has the number of the history, from 1.
        """
        ks = [k] * len(histories) if isinstance(k, int) else list(k)
        filter = None if filter is None or filter.passes_all else filter
        if threshold is not None:
            self.check_threshold(threshold, fallback, max(ks, default=1), filter)
        known = self._known(histories, by, on_unknown)
        passing = self._passing(filter, by)
        if not known:
            return []
        items, scores, total = self._top(known, min(max(ks), len(self.catalogue)), passing)
        masses = log_masses(scores, total)
        found = []
        for row, listed in enumerate(self._named(items, scores)):
            confidences = () if filter else self._calibrated_in_use.confidences(masses[row])
            found.append(Recommended(listed[: ks[row]], confidences))
        if threshold is not None:
            self._answer_by(fallback, found, [_below(each, threshold) for each in found], known, ks)
        return found

    def why_no_confidence(self, k: int = 10, *, filter: Filter | None = None) -> str | None:
        """Why a list of `k` items has no confidence, and what would give it one; `None` if it has one."""
        if self._calibrated_in_use.calibration is None:
            return self._calibrated_in_use.missing
        if filter is not None and not filter.passes_all:
            return "the confidence is calibrated for lists without a filter; leave the filter out"
        longest = self._calibrated_in_use.calibration.longest
        if min(k, len(self.catalogue)) > longest:
            return (
                f"the confidence is calibrated for lists of at most {longest} items; ask for fewer, or calibrate "
                f"with --k {k}"
            )
        return None

    def check_threshold(self, threshold: float, fallback: Fallback, k: int, filter: Filter | None = None) -> None:
        """Check the arguments of `recommend` that go with a threshold.

        Raises:
            RequestError: it is no probability, lists of `k` items have no confidence, or there is no such fallback.
        """
        if not 0 < threshold <= 1:
            raise RequestError(f"a threshold is a probability above 0 and at most 1, and {threshold:g} is none")
        if fallback not in FALLBACKS:
            raise RequestError(f"unknown fallback '{fallback}'{nearest(fallback, FALLBACKS)}")
        if (why := self.why_no_confidence(k, filter=filter)) is not None:
            raise RequestError(f"a threshold needs the confidence of the list: {why}")
        if fallback == "oracle":
            oracle = self._oracle()
            if oracle is None or not oracle.ranks:
                what = "there is no oracle beside this model" if oracle is None else "its oracle ranks nothing"
                raise RequestError(f"{what}; take the fallback 'popularity'")

    def lists(self, histories: Sequence[Ints], k: int) -> tuple[Ints, Doubles]:
        """What `recommend_many` recommends without a filter, by item numbers.

        Args:
            histories: items of each history, oldest first, int32 [h].
            k: number of items.

        Returns:
            the items, int32 [n, k], best first, -1 if there are fewer; and the logarithm of the mass of the first 1,
            2, ... of them, float64 [n, k], see `list_confidence.log_masses`.
        """
        items, scores, total = self._top(histories, k, self._active)
        return items, log_masses(scores, total)

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

    def _top(self, histories: Sequence[Ints], k: int, passing: Bools | None) -> tuple[Ints, Floats, Doubles]:
        """Items int32 [n, k] and their scores float32 [n, k], best first, -1 and -inf if there are fewer; and the
        logarithm of the sum of exp(score) over all titles that the score compares, float64 [n]."""
        # Equal histories have equal answers.
        number = {history.tobytes(): history for history in histories}
        different = list(number.values())
        row_of = dict(zip(number, range(len(number)), strict=True))
        rows = [row_of[history.tobytes()] for history in histories]
        places = places_of(different)
        if self._ranker is not None:
            out = np.empty(0, np.int32) if passing is None else np.flatnonzero(~passing).astype(np.int32)
            excluded = [np.union1d(each, out) for each in different]
            items, scores, total = self._ranker.top(self._model, places, excluded, k)
        else:
            only = None if passing is None else np.flatnonzero(passing)
            items, scores = self._model.top(places, k, exclude=different, beams=None, exact=True, only=only)
            # All texts together have the probability 1.
            total = np.zeros(len(different))
        return items[rows], scores[rows], total[rows]

    def _answer_by(
        self,
        fallback: Fallback,
        found: list[Recommended],
        unsure: Sequence[bool],
        histories: Sequence[Ints],
        ks: Sequence[int],
    ) -> None:
        """Put the fallback's lists in the place of those that the model is not confident of."""
        rows = [row for row, is_unsure in enumerate(unsure) if is_unsure]
        if not rows:
            return
        asked, most = [histories[row] for row in rows], max(ks[row] for row in rows)
        if fallback == "oracle":
            oracle = self._oracle()
            assert oracle is not None
            items, scores = best_of_oracle(oracle, self.in_use, asked, most)
        else:
            items, scores = most_popular(self.in_use, asked, most)
        for row, listed in zip(rows, self._named(items, scores), strict=True):
            instead = Recommended(listed[: ks[row]], answered_by=fallback)
            instead.confidence, instead.interval = found[row].confidence, found[row].interval
            found[row] = instead

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


def _below(found: Recommended, threshold: float) -> bool:
    return found.confidence is not None and found.confidence < threshold


@contextmanager
def _numbered(row: int, rows: int) -> Iterator[None]:
    """Errors inside say which of several histories they are about."""
    try:
        yield
    except RequestError as error:
        if rows == 1:
            raise
        raise RequestError(f"history {row + 1}: {error}") from None
