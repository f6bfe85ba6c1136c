"""The server's app on a tiny model, asked in process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("fastapi")

import httpx2
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Catalogue
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.serving.filters import Filter
from rosepo_core.serving.recommender import Recommender
from rosepo_core.serving.web.app import create_app
from rosepo_core.serving.web.served_runs import ServedRuns, named_folders
from rosepo_core.serving.web.service import Service
from rosepo_core.serving.web.settings import ServeSettings
from rosepo_core.testing import SilentReporter, prompt_template

HOSTS = ("testserver",)


@pytest.fixture(scope="module")
def recommender(tiny_model: Any, tiny_tokenizer: Any, catalogue: Catalogue) -> Recommender:
    """Every third item is a comedy."""
    genres = ["Comedy" if item % 3 == 0 else "Drama" for item in range(len(catalogue))]
    described = replace(catalogue, attributes=pl.DataFrame({"genres": genres}))
    template = prompt_template({}, tiny_tokenizer, described, 8)
    users = {"ann": np.array([3, 1], dtype=np.int32)}
    return Recommender(TitleModel(tiny_model, template, SilentReporter(), 0), described, users=lambda: users)


class Loads:
    """Loads the recommender, unless it is told to fail."""

    def __init__(self, recommender: Recommender) -> None:
        self.recommender, self.fails = recommender, False
        self.folders: list[Path] = []

    def __call__(self, folder: Path) -> Recommender:
        if self.fails:
            raise RequestError(f"{folder} holds no run")
        self.folders.append(folder)
        return self.recommender


@pytest.fixture(scope="module")
def loads(recommender: Recommender) -> Loads:
    return Loads(recommender)


@pytest.fixture(scope="module")
def app(loads: Loads) -> Any:
    settings = ServeSettings(
        batch_wait=0.0, most_k=20, most_history=6, most_candidates=5, most_body=2048, hosts=HOSTS
    )
    return create_app(Service(ServedRuns(named_folders(["runs/a", "b=runs/other"]), loads), settings))


@pytest.fixture(scope="module")
def client(app: Any) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def shown(found: Any) -> list[dict[str, Any]]:
    return [{**each._asdict(), "score": pytest.approx(each.score, abs=1e-4)} for each in found]


def test_recommendations_are_the_recommenders(client, recommender):
    history = ["Quiet Rivers (1994)", "night train (1974)"]
    done = client.post("/recommend", json={"history": history, "k": 4})
    assert done.status_code == 200
    assert done.json() == {
        "run": "a",
        "ranked_by": "likelihood",
        "answered_by": "model",
        "confidence": None,
        "confidence_interval": None,
        "recommendations": shown(recommender.recommend(history, 4)),
    }
    assert done.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_filters_ids_and_other_runs(client, recommender):
    conditions = {"deny": ["i7"], "having": {"genres": ["Comedy"]}}
    body = {"run": "b", "history": ["i0", "gone"], "by": "id", "on_unknown": "skip", "filter": conditions}
    done = client.post("/recommend", json=body).json()
    expected = recommender.recommend(["i0"], 10, filter=Filter(deny=["i7"], having={"genres": ["Comedy"]}), by="id")
    assert (done["run"], done["recommendations"]) == ("b", shown(expected))


def test_ranking(client, recommender):
    candidates = ["Copper Sun (1968)", "1984 (1956)", "Bluebird (1940)"]
    done = client.post("/rank", json={"history": ["Mirror, Mirror (1982)"], "candidates": candidates})
    assert done.json()["recommendations"] == shown(recommender.rank(["Mirror, Mirror (1982)"], candidates))


def test_many_at_once_get_what_each_gets_alone(app, recommender):
    """They are answered in batches, whatever their k."""
    histories = [[f"i{item}", f"i{item + 1}"] for item in range(12)]

    async def ask() -> list[Any]:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client:
            bodies = [{"history": each, "by": "id", "k": 1 + number % 3} for number, each in enumerate(histories)]
            return await asyncio.gather(*(client.post("/recommend", json=body) for body in bodies))

    before = app.state.service.metrics.text().decode()
    for number, (done, history) in enumerate(zip(asyncio.run(ask()), histories, strict=True)):
        expected = recommender.recommend(history, 1 + number % 3, by="id")
        assert done.json()["recommendations"] == shown(expected)
    after = app.state.service.metrics.text().decode()
    assert value(after, "rosepo_batch_size_sum") - value(before, "rosepo_batch_size_sum") == 12
    assert value(after, "rosepo_batch_size_count") - value(before, "rosepo_batch_size_count") < 12


def value(metrics: str, name: str) -> float:
    return next(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(name))


def test_items_while_typing(client):
    def titles(**query: Any) -> list[str]:
        return [each["title"] for each in client.get("/items", params=query).json()["items"]]

    assert titles(query="harvest", limit=2) == ["Harvest Moon (1987)", "Harvest Moon (1996)"]
    assert titles(query="cafe etoiles") == ["Le Café des Étoiles (1991)"]
    assert titles(query="sun") == ["Copper Sun (1968)", "Copper Sun: The Return (1971)"]
    assert titles(query="salt bridge") == ["A Bridge of Salt (1990)"]
    assert titles(limit=1) == ["The Lighthouse Keeper (1995)"]
    assert titles(query="no such thing") == []


def test_health_and_metrics(client):
    state = client.get("/health").json()
    assert state["status"] == "ok"
    assert [(each["name"], each["ranked_by"], each["items"]) for each in state["runs"]] == [
        ("a", "likelihood", 40),
        ("b", "likelihood", 40),
    ]
    client.get("/nowhere")
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert 'rosepo_requests_total{route="/health",status="200"}' in metrics.text
    assert 'rosepo_requests_total{route="other",status="404"}' in metrics.text
    assert "nowhere" not in metrics.text


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (
            "/recommend",
            {"history": ["Quiet River"]},
            422,
            "title 'Quiet River' is not in the run's catalogue; did you",
        ),
        ("/recommend", {"history": ["i0"], "by": "id", "run": "c"}, 404, "no run is served as 'c'; known: a, b"),
        ("/recommend", {"history": ["i0"], "by": "id", "k": 21}, 422, "k: 21 is too many; this server gives 20"),
        ("/recommend", {"history": ["i0"], "by": "id", "k": 0}, 422, "k: Input should be greater than or equal to 1"),
        ("/recommend", {"history": ["i0"] * 7, "by": "id"}, 422, "history: 7 items are too many"),
        ("/recommend", {"history": [], "by": "id"}, 422, "history: List should have at least 1 item"),
        ("/recommend", {"history": ["i0"], "folder": "/etc"}, 422, "folder: Extra inputs are not permitted"),
        (
            "/recommend",
            {"history": ["i0"], "by": "id", "filter": {"having": {"genre": ["Comedy"]}}},
            422,
            "the catalogue has no attribute 'genre'; did you mean 'genres'?",
        ),
        ("/rank", {"history": ["i0"], "candidates": ["i1", "i1"], "by": "id"}, 422, "a candidate is there twice"),
        ("/rank", {"history": ["i0"], "candidates": ["i1"] * 6, "by": "id"}, 422, "candidates: 6 are too many"),
        ("/recommend", {"history": ["x" * 3000]}, 413, "the body may have 2,048 bytes at most"),
        ("/nowhere", {}, 404, "Not Found"),
    ],
)
def test_errors_have_one_form(client, path, body, status, message):
    done = client.post(path, json=body)
    assert done.status_code == status
    assert list(done.json()) == ["error"]
    assert list(done.json()["error"]) == ["code", "message"]
    assert message in done.json()["error"]["message"]


@pytest.mark.parametrize("content", [b"{", b'{"history": [' + b"[" * 1900, b'{"history": ["\\ud800"]}', b"\xff\xfe"])
def test_bodies_that_are_no_requests(client, content):
    done = client.post("/recommend", content=content, headers={"Content-Type": "application/json"})
    assert done.status_code in (400, 422)
    assert list(done.json()["error"]) == ["code", "message"]


def test_another_host_is_refused(client):
    done = client.get("/health", headers={"Host": "evil.example"})
    assert done.status_code == 400
    assert "--allow-host" in done.json()["error"]["message"]
    assert client.get("/health", headers={"Host": "testserver:8000"}).status_code == 200


@pytest.fixture(scope="module")
def guarded(loads: Loads) -> Iterator[TestClient]:
    settings = ServeSettings(token="secret", hosts=HOSTS, origins=("https://shop.example",))
    with TestClient(create_app(Service(ServedRuns({"a": Path("runs/a")}, loads), settings))) as client:
        yield client


def test_a_token(guarded):
    assert guarded.get("/health").status_code == 200
    for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
        done = guarded.get("/items", headers=header)
        assert (done.status_code, done.headers["www-authenticate"]) == (401, "Bearer")
    assert guarded.get("/items", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_other_pages_may_ask_only_if_they_are_named(guarded, client):
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    assert guarded.options("/recommend", headers=asked).headers["access-control-allow-origin"] == asked["Origin"]
    assert "access-control-allow-origin" not in client.options("/recommend", headers=asked).headers
    other = guarded.options("/recommend", headers={**asked, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


def test_reload(guarded, client, loads):
    token = {"Authorization": "Bearer secret"}
    before = guarded.get("/health").json()["runs"][0]["loaded"]
    loads.folders.clear()
    done = guarded.post("/reload", headers=token)
    assert done.status_code == 200
    assert loads.folders == [Path("runs/a")]
    assert done.json()["runs"][0]["loaded"] > before
    loads.fails = True
    failed = guarded.post("/reload", headers=token)
    loads.fails = False
    said = failed.json()["error"]["message"]
    assert (failed.status_code, said) == (422, "run 'a' was not loaded, the old one stays: runs/a holds no run")
    assert guarded.get("/items", headers=token).status_code == 200
    assert guarded.post("/reload").status_code == 401
    assert client.post("/reload").status_code == 404


def test_a_run_that_cannot_be_loaded_again_does_not_keep_others_from_it(recommender):
    broken = False

    def load(folder: Path) -> Recommender:
        if broken and folder.name == "a":
            raise PermissionError("cannot read runs/a")
        return recommender

    runs = ServedRuns({"a": Path("runs/a"), "b": Path("runs/b")}, load)
    before, broken = list(runs), True
    with pytest.raises(RequestError, match=r"run 'a' was not loaded, the old one stays: cannot read runs/a$"):
        runs.reload()
    assert runs.get("a") is before[0]
    assert runs.get("b") is not before[1]


def test_a_full_queue_and_late_answers(recommender, monkeypatch):
    """The model is slower than the time-out; a queue of one is full at once."""
    settings = ServeSettings(batch=1, batch_wait=0.0, queue=1, timeout=0.4, hosts=HOSTS)
    service = Service(ServedRuns({"a": Path("a")}, lambda _: recommender), settings)
    app = create_app(service)

    async def ask() -> list[Any]:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client:
            bodies = [{"history": ["i0"], "by": "id"}] * 6
            return await asyncio.gather(*(client.post("/recommend", json=body) for body in bodies))

    gate = threading.Event()
    original = recommender.recommend_many

    def slow(*arguments: Any, **keywords: Any) -> Any:
        gate.wait(10)
        return original(*arguments, **keywords)

    monkeypatch.setattr(recommender, "recommend_many", slow)
    answers = asyncio.run(ask())
    gate.set()
    statuses = sorted(each.status_code for each in answers)
    assert set(statuses) == {503, 504}
    full = next(each for each in answers if each.status_code == 503)
    assert full.headers["retry-after"] == "1"
    assert full.json()["error"] == {"code": "busy", "message": "the server is busy; ask again in 1 s"}
    late = next(each for each in answers if each.status_code == 504)
    assert late.json()["error"]["code"] == "too-late"
    service.stop()
    stopped = asyncio.run(ask())
    assert {each.status_code for each in stopped} == {503}


def test_names_of_runs(tmp_path):
    assert named_folders([str(tmp_path / "x"), "y=runs/x"]) == {"x": tmp_path / "x", "y": Path("runs/x")}
    with pytest.raises(RequestError, match="are both named 'x'; name one otherwise, as other="):
        named_folders(["runs/x", "old/x"])


def test_schemathesis_finds_nothing(loads):
    """Requests that the document allows, and some that it does not. Only the server knows which titles there are, so
    it may refuse a request that the document allows."""
    # Its largest bodies have some 100,000 bytes, and it takes 413 for an answer that is no refusal.
    limits = ServeSettings(batch_wait=0.0, most_body=1 << 24, hosts=HOSTS)
    service = Service(ServedRuns({"a": Path("runs/a")}, loads), limits)
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(service), headers={"Host": "testserver"})
    for found in schema.get_all_operations():
        operation = found.ok()
        # A request without parameters cannot break the document.
        modes = (
            schemathesis.GenerationMode
            if operation.body or operation.query
            else [schemathesis.GenerationMode.POSITIVE]
        )
        for mode in modes:
            strategy = operation.as_strategy(generation_mode=mode)

            @given(case=strategy)
            @settings(
                max_examples=15,
                derandomize=True,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def every(case: Any) -> None:
                case.call_and_validate(headers={"Host": "testserver"}, excluded_checks=[positive_data_acceptance])

            every()
    service.stop()
