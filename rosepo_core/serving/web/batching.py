"""Questions that arrive at nearly the same time are answered together.

One thread owns the model. It takes the oldest question, waits a moment for others of the same group, and answers up
to `most` of them in one call. While it works, questions wait in a queue of bounded length. So under load batches
fill by themselves, and a question that comes alone waits `wait` seconds at most.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from rosepo_core.contracts.errors import RequestError, RosepoError


class Grouped(Protocol):
    """A question. Questions of an equal group can be answered in one call."""

    @property
    def group(self) -> Hashable:
        """Equal for questions that can be answered together."""
        ...


Q = TypeVar("Q", bound=Grouped)
A = TypeVar("A")


class QueueFullError(RosepoError):
    """There is no room for another question.

    Attributes:
        retry_after: seconds after which there should be room.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the server is busy; ask again in {retry_after} s")
        self.retry_after = retry_after


class StoppingError(RosepoError):
    """The server takes no more questions."""

    def __init__(self) -> None:
        super().__init__("the server is stopping")


@dataclass(frozen=True)
class _Waiting(Generic[Q, A]):
    question: Q
    answer: Future[A]


class Batcher(Generic[Q, A]):
    """Answers questions in batches, in one thread of its own, in the order in which they came."""

    def __init__(
        self,
        answer: Callable[[Sequence[Q]], Sequence[A]],
        *,
        most: int,
        wait: float,
        room: int,
        patience: float = math.inf,
        done: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        """
        Args:
            answer: answers questions of one group, in their order.
            most: the most questions of a batch.
            wait: seconds that the first question of a batch waits for others.
            room: the most questions that wait.
            patience: the most seconds that a question should wait. By the time that earlier ones took, more are
                refused at once, which is better than an answer that comes too late.
            done: receives the size of each batch and the seconds that it took.
        """
        self._answer = answer
        self._most, self._wait, self._room, self._patience = most, wait, room, patience
        self._done = done
        self._queue: deque[_Waiting[Q, A]] = deque()
        self._change = threading.Condition()
        self._stopping = False
        self._seconds_each = 0.0
        self._answering = 0
        self._thread = threading.Thread(target=self._work, name="rosepo-model", daemon=True)
        self._thread.start()

    @property
    def length(self) -> int:
        """How many questions wait."""
        return len(self._queue)

    def ask(self, question: Q) -> Future[A]:
        """Put a question into the queue. A question whose future is cancelled before its turn is left out.

        Raises:
            QueueFullError: there is no room.
            StoppingError: `stop` was called.
        """
        with self._change:
            if self._stopping:
                raise StoppingError
            if self._is_full():
                # Questions that nobody waits for any more need no room.
                self._queue = deque(each for each in self._queue if not each.answer.cancelled())
            if self._is_full():
                raise QueueFullError(max(1, math.ceil(self._expected() / 2)))
            waiting = _Waiting[Q, A](question, Future())
            self._queue.append(waiting)
            self._change.notify()
        return waiting.answer

    def _expected(self) -> float:
        """Seconds until a question that comes now is answered, by the time that earlier ones took."""
        return self._seconds_each * (self._answering + len(self._queue) + 1)

    def _is_full(self) -> bool:
        late = bool(self._answering or self._queue) and self._expected() > self._patience
        return late or len(self._queue) >= self._room

    def stop(self) -> None:
        """Take no more questions, answer those that wait, and end the thread."""
        with self._change:
            self._stopping = True
            self._change.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            started = time.perf_counter()
            self._give(batch)
            seconds = time.perf_counter() - started
            each = seconds / len(batch)
            with self._change:
                self._seconds_each = each if not self._seconds_each else 0.8 * self._seconds_each + 0.2 * each
                self._answering = 0
            self._done(len(batch), seconds)
            # Otherwise answers and the models of replaced runs would live until the next question.
            del batch

    def _next(self) -> list[_Waiting[Q, A]]:
        """The next batch; empty at the end."""
        with self._change:
            while True:
                self._change.wait_for(lambda: self._queue or self._stopping)
                if not self._queue:
                    return []
                until = time.monotonic() + self._wait
                while not self._stopping and self._of_group() < self._most:
                    left = until - time.monotonic()
                    if left <= 0 or not self._change.wait(left):
                        break
                group = self._queue[0].question.group
                batch: list[_Waiting[Q, A]] = []
                rest: deque[_Waiting[Q, A]] = deque()
                for each in self._queue:
                    if len(batch) == self._most or each.question.group != group:
                        rest.append(each)
                    elif each.answer.set_running_or_notify_cancel():
                        batch.append(each)
                self._queue = rest
                if batch:
                    self._answering = len(batch)
                    return batch

    def _of_group(self) -> int:
        """How many questions wait that can be answered with the first."""
        group = self._queue[0].question.group
        return sum(each.question.group == group for each in self._queue)

    def _give(self, batch: Sequence[_Waiting[Q, A]]) -> None:
        """Answer a batch. If the request of one of several is wrong, each is asked alone, so that no question fails
        because of another."""
        try:
            answers = self._answer([each.question for each in batch])
        except RequestError as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
            else:
                for each in batch:
                    self._give([each])
        except BaseException as error:
            for each in batch:
                each.answer.set_exception(error)
        else:
            for each, answer in zip(batch, answers, strict=True):
                each.answer.set_result(answer)
