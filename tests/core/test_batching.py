"""Questions that are answered together: groups, order, limits, errors and the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass

import pytest

from rosepo_core.contracts.errors import RequestError
from rosepo_core.serving.web.batching import Batcher, QueueFullError, StoppingError


@dataclass(frozen=True)
class Ask:
    name: str
    group: str = "a"


class Model:
    """Answers with names in capitals, and keeps the batches. It waits where `gate` is closed."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.busy = threading.Event()

    def __call__(self, questions: Sequence[Ask]) -> list[str]:
        self.busy.set()
        assert self.gate.wait(10)
        self.batches.append([each.name for each in questions])
        if any(each.name == "bad" for each in questions):
            raise RequestError("this is no name")
        if any(each.name == "broken" for each in questions):
            raise ZeroDivisionError
        return [each.name.upper() for each in questions]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def batcher(model: Model) -> Iterator[Batcher[Ask, str]]:
    batcher = Batcher(model, most=3, wait=0.0, room=4)
    yield batcher
    model.gate.set()
    batcher.stop()


@pytest.fixture
def held(model: Model, batcher: Batcher[Ask, str]) -> Batcher[Ask, str]:
    """The model works at a first question until the gate opens, so that others wait."""
    model.gate.clear()
    batcher.ask(Ask("first"))
    assert model.busy.wait(10)
    return batcher


def test_what_waits_is_answered_together_by_group(model, held):
    asked = [held.ask(Ask(name, group)) for name, group in (("b", "a"), ("c", "other"), ("d", "a"), ("e", "a"))]
    model.gate.set()
    assert [each.result(10) for each in asked] == ["B", "C", "D", "E"]
    assert model.batches == [["first"], ["b", "d", "e"], ["c"]]


def test_a_batch_has_a_largest_size(model, held):
    asked = [held.ask(Ask(name)) for name in "bcde"]
    model.gate.set()
    assert [each.result(10) for each in asked] == ["B", "C", "D", "E"]
    assert model.batches == [["first"], ["b", "c", "d"], ["e"]]


def test_the_first_question_waits_for_others(model):
    batcher = Batcher(model, most=2, wait=60.0, room=4)
    asked = [batcher.ask(Ask(name)) for name in "ab"]
    assert [each.result(10) for each in asked] == ["A", "B"]
    assert model.batches == [["a", "b"]]
    batcher.stop()


def test_a_full_queue_refuses(model, held):
    asked = [held.ask(Ask(name)) for name in "bcde"]
    assert held.length == 4
    with pytest.raises(QueueFullError, match="the server is busy; ask again in 1 s") as raised:
        held.ask(Ask("f"))
    assert raised.value.retry_after == 1
    assert asked[2].cancel()
    again = held.ask(Ask("g"))
    model.gate.set()
    assert again.result(10) == "G"
    with pytest.raises(CancelledError):
        asked[2].result(10)
    assert model.batches == [["first"], ["b", "c", "e"], ["g"]]


def test_what_would_wait_too_long_is_refused(model):
    """The first question takes a second or a little more, so within 3.5 s there is time for two or three."""
    batcher = Batcher(model, most=1, wait=0.0, room=100, patience=3.5)
    model.gate.clear()
    slow = batcher.ask(Ask("slow"))
    threading.Timer(1.0, model.gate.set).start()
    slow.result(10)
    model.gate.clear()
    model.busy.clear()
    asked = [batcher.ask(Ask("a"))]
    assert model.busy.wait(10)
    with suppress(QueueFullError):
        asked += (batcher.ask(Ask(name)) for name in "bcdef")
    assert 2 <= len(asked) <= 4
    model.gate.set()
    assert [each.result(10) for each in asked] == ["A", "B", "C", "D"][: len(asked)]
    batcher.stop()


def test_a_wrong_question_fails_alone(model, held):
    asked = [held.ask(Ask(name)) for name in ("b", "bad", "c")]
    model.gate.set()
    assert (asked[0].result(10), asked[2].result(10)) == ("B", "C")
    with pytest.raises(RequestError, match="this is no name"):
        asked[1].result(10)


def test_the_thread_outlives_an_error(model, batcher):
    with pytest.raises(ZeroDivisionError):
        batcher.ask(Ask("broken")).result(10)
    assert batcher.ask(Ask("b")).result(10) == "B"


def test_the_end_answers_what_waits(model, held):
    asked = [held.ask(Ask(name)) for name in "bc"]
    ending = threading.Thread(target=held.stop)
    ending.start()
    model.gate.set()
    ending.join(10)
    assert [each.result(0) for each in asked] == ["B", "C"]
    with pytest.raises(StoppingError):
        held.ask(Ask("d"))
