"""The server's work without HTTP: from a question to its answer."""

from __future__ import annotations

import asyncio

from starlette.concurrency import run_in_threadpool

from rosepo_core.contracts.errors import RosepoError
from rosepo_core.serving.recommender import Recommended
from rosepo_core.serving.web.batching import Batcher
from rosepo_core.serving.web.messages import (
    Answer,
    CatalogueItem,
    CatalogueItems,
    Health,
    RankedItem,
    RankQuestion,
    RecommendAnswer,
    RecommendQuestion,
    RunState,
)
from rosepo_core.serving.web.metrics import Metrics
from rosepo_core.serving.web.questions import AnyQuestion, answer, to_rank, to_recommend
from rosepo_core.serving.web.served_runs import ServedRuns
from rosepo_core.serving.web.settings import ServeSettings

PATIENCE = 0.8
"""The share of the time-out that questions may wait. The rest is for batches that take longer than earlier ones."""


class LateError(RosepoError):
    """An answer was not there in time."""


class Service:
    """Answers questions about the runs that are served.

    Attributes:
        runs: the runs.
        settings: limits and times.
        metrics: what is counted.
    """

    def __init__(self, runs: ServedRuns, settings: ServeSettings) -> None:
        """Starts the thread that owns the models; `stop` ends it."""
        self.runs, self.settings = runs, settings
        self.metrics = Metrics(lambda: self._batcher.length)
        self._batcher: Batcher[AnyQuestion, Recommended] = Batcher(
            answer,
            most=settings.batch,
            wait=settings.batch_wait,
            room=settings.queue,
            patience=PATIENCE * settings.timeout,
            done=self.metrics.batch,
        )

    async def recommend(self, asked: RecommendQuestion) -> RecommendAnswer:
        """Answer a question for recommendations."""
        run = self.runs.get(asked.run)
        # Looking for the title that may have been meant takes long in a large catalogue.
        question = await run_in_threadpool(to_recommend, run, asked, self.settings)
        found = await self.answered(question)
        return RecommendAnswer(
            run=run.name,
            ranked_by=run.recommender.score,
            answered_by=found.answered_by,
            confidence=found.confidence,
            confidence_interval=found.interval,
            recommendations=_items(found),
        )

    async def rank(self, asked: RankQuestion) -> Answer:
        """Answer a question for the order of candidates."""
        run = self.runs.get(asked.run)
        question = await run_in_threadpool(to_rank, run, asked, self.settings)
        found = await self.answered(question)
        return Answer(run=run.name, ranked_by=run.recommender.score, recommendations=_items(found))

    def items(self, name: str | None, query: str, limit: int) -> CatalogueItems:
        """Items whose titles contain the words of `query`."""
        run = self.runs.get(name)
        catalogue = run.recommender.catalogue
        found = run.search.find(query, limit)
        return CatalogueItems(
            run=run.name,
            items=[
                CatalogueItem(
                    title=catalogue.titles[item],
                    item=catalogue.ids[item],
                    interactions=int(catalogue.popularity[item]),
                )
                for item in found
            ],
        )

    def health(self) -> Health:
        """The state of the server."""
        states = [
            RunState(
                name=run.name,
                ranked_by=run.recommender.score,
                items=len(run.recommender.catalogue),
                loaded=run.loaded,
            )
            for run in self.runs
        ]
        return Health(status="ok", runs=states, waiting=self._batcher.length)

    def reload(self) -> Health:
        """Load all runs again from their folders, while the old ones answer."""
        self.runs.reload()
        self.metrics.reload()
        return self.health()

    def stop(self) -> None:
        """Answer what waits, and end the thread."""
        self._batcher.stop()

    async def answered(self, question: AnyQuestion) -> Recommended:
        """The answer of the model.

        Raises:
            LateError: it was not there in time.
            QueueFullError: too many questions wait.
            StoppingError: the server is stopping.
            RosepoError: the model refused the question.
        """
        future = asyncio.wrap_future(self._batcher.ask(question))
        try:
            return await asyncio.wait_for(future, self.settings.timeout)
        except TimeoutError:
            raise LateError(f"the answer was not there within {self.settings.timeout:g} s; ask again later") from None


def _items(found: Recommended) -> list[RankedItem]:
    return [RankedItem(**each._asdict()) for each in found]
