"""Questions for the model, checked, with items by their own ids. Only these wait in the queue."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.serving.fallbacks import Fallback
from rosepo_core.serving.filters import Filter
from rosepo_core.serving.recommender import Recommended
from rosepo_core.serving.web.messages import Conditions, ListQuestion, Question, RankQuestion, RecommendQuestion
from rosepo_core.serving.web.served_runs import ServedRun, UnknownNameError
from rosepo_core.serving.web.settings import ServeSettings

SERVED = "served"
"""The name of the model that a run's recommender has, where the page knows no other."""


@dataclass(frozen=True)
class ToRecommend:
    """A question for recommendations.

    Attributes:
        run: the run that is asked.
        history: ids of items, oldest first.
        k: number of items.
        conditions: which items are possible, by id, as JSON; empty for all. Equal texts are equal conditions.
        threshold: the confidence below which `fallback` answers; `None` for no threshold.
        fallback: who answers then.
    """

    run: ServedRun
    history: tuple[str, ...]
    k: int
    conditions: str
    threshold: float | None
    fallback: Fallback

    @property
    def group(self) -> Hashable:
        """The same run, conditions and threshold. Another `k` is no hindrance where the result does not depend on
        it."""
        pool = self.run.recommender.pool
        return self.run, self.conditions, self.threshold, self.fallback, max(self.k, pool) if pool else 0


@dataclass(frozen=True)
class ToRank:
    """A question for the order of candidates, all by id."""

    run: ServedRun
    history: tuple[str, ...]
    candidates: tuple[str, ...]

    @property
    def group(self) -> Hashable:
        """The same run."""
        return self.run, "rank"


@dataclass(frozen=True)
class ToList:
    """A question of the page for the list of one model."""

    run: ServedRun
    model: str
    history: tuple[str, ...]
    k: int

    @property
    def group(self) -> Hashable:
        """The same model and length, so that lists are the same whoever else asks."""
        return self.run, self.model, self.k, "list"


AnyQuestion = ToRecommend | ToRank | ToList


def to_recommend(run: ServedRun, asked: RecommendQuestion, settings: ServeSettings) -> ToRecommend:
    """Check a question.

    Raises:
        RequestError: it is over a limit, or names items that are not in the catalogue.
    """
    if asked.k > settings.most_k:
        raise RequestError(f"k: {asked.k} is too many; this server gives {settings.most_k} items at most")
    conditions = "" if asked.filter is None else _by_id(run, asked.filter, asked)
    if asked.threshold is not None:
        filter = _filter(conditions) if conditions else None
        run.recommender.check_threshold(asked.threshold, asked.fallback, asked.k, filter)
    return ToRecommend(run, _history(run, asked, settings), asked.k, conditions, asked.threshold, asked.fallback)


def to_rank(run: ServedRun, asked: RankQuestion, settings: ServeSettings) -> ToRank:
    """Check a question; see `to_recommend`."""
    if len(asked.candidates) > settings.most_candidates:
        raise RequestError(
            f"candidates: {len(asked.candidates)} are too many; this server ranks {settings.most_candidates} at most"
        )
    history = _history(run, asked, settings)
    return ToRank(run, history, tuple(run.recommender.candidate_ids(asked.candidates, by=asked.by)))


def to_list(run: ServedRun, asked: ListQuestion, settings: ServeSettings) -> ToList:
    """Check a question; see `to_recommend`."""
    if asked.k > settings.most_k or len(asked.history) > settings.most_history:
        raise RequestError(f"k is at most {settings.most_k}, and a history has at most {settings.most_history} items")
    known = models_of(run)
    if asked.model not in known:
        raise UnknownNameError(f"the run has no model '{asked.model}'{nearest(asked.model, known)}")
    return ToList(run, asked.model, tuple(run.recommender.ids_of(asked.history, by="id")), asked.k)


def models_of(run: ServedRun) -> tuple[str, ...]:
    """The models whose lists the page can show."""
    return (SERVED,) if run.lists is None else run.lists.names


def answer(questions: Sequence[AnyQuestion]) -> list[Recommended]:
    """Answer questions of one group."""
    recommender = questions[0].run.recommender
    histories = [each.history for each in questions]
    first = questions[0]
    if isinstance(first, ToRank):
        candidates = [each.candidates for each in questions if isinstance(each, ToRank)]
        return [Recommended(found) for found in recommender.rank_many(histories, candidates, by="id")]
    if isinstance(first, ToList):
        lists = first.run.lists
        if lists is None:
            return recommender.recommend_many(histories, first.k, by="id")
        return lists.top(first.model, histories, first.k)
    counts = [each.k for each in questions if isinstance(each, ToRecommend)]
    filter = _filter(first.conditions) if first.conditions else None
    return recommender.recommend_many(
        histories, counts, filter=filter, by="id", threshold=first.threshold, fallback=first.fallback
    )


def _history(run: ServedRun, asked: Question, settings: ServeSettings) -> tuple[str, ...]:
    if len(asked.history) > settings.most_history:
        raise RequestError(
            f"history: {len(asked.history)} items are too many; this server reads {settings.most_history} at most, "
            "so leave the oldest out"
        )
    return tuple(run.recommender.ids_of(asked.history, by=asked.by, on_unknown=asked.on_unknown))


def _by_id(run: ServedRun, filter: Conditions, asked: Question) -> str:
    def ids(names: Sequence[str]) -> list[str]:
        return sorted(run.recommender.ids_of(names, by=asked.by)) if names else []

    return json.dumps(
        {
            "allow": None if filter.allow is None else ids(filter.allow),
            "deny": ids(filter.deny),
            "having": {column: sorted(values) for column, values in filter.having.items()},
            "lacking": {column: sorted(values) for column, values in filter.lacking.items()},
        },
        sort_keys=True,
    )


def _filter(conditions: str) -> Filter:
    return Filter(**json.loads(conditions))
