"""`rosepo serve` in this process, and clients in other threads."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import rosepo_core
from benchmarks import serve

pytest.importorskip("fastapi")

from rosepo_core.engine import shared_bases

HISTORY = ["Quiet Rivers (1994)", "Night Train (1974)"]


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def ask(port: int, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def until(condition: Callable[[], Any]) -> Any:
    for _ in range(600):
        try:
            if found := condition():
                return found
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def test_recommends_loads_again_and_ends_well(rosepo, finished, port, monkeypatch):
    """The server has the main thread, as signals need it; a client has another."""
    found: dict[str, Any] = {}
    loaded, load_model = [], shared_bases.load_model
    monkeypatch.setattr(shared_bases, "load_model", lambda *args: loaded.append(args) or load_model(*args))

    def client() -> None:
        try:
            first = until(lambda: ask(port, "/health"))["runs"][0]
            found["answer"] = ask(port, "/recommend", {"history": HISTORY, "k": 3})
            found["load"] = serve.asked(port, serve.histories(port, 3), 5, 4, 0.1)
            with ThreadPoolExecutor(1) as pool:
                stop = threading.Event()
                body = {"history": HISTORY, "k": 3}
                asking = pool.submit(lambda: [ask(port, "/recommend", body) for _ in iter(stop.is_set, True)])
                os.kill(os.getpid(), signal.SIGHUP)
                found["again"] = until(lambda: ask(port, "/health")["runs"][0]["loaded"] > first["loaded"])
                stop.set()
                found["meanwhile"] = asking.result()
            with ThreadPoolExecutor(8) as pool:
                body = {"history": HISTORY, "k": 40}
                last = [pool.submit(ask, port, "/recommend", body) for _ in range(8)]
                until(lambda: ask(port, "/health")["waiting"] == 8)
                os.kill(os.getpid(), signal.SIGTERM)
                found["last"] = [len(each.result()["recommendations"]) for each in last]
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    # The client's last signal may come when the server has ended.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        thread = threading.Thread(target=client)
        thread.start()
        done = rosepo("serve", f"mine={finished}", "--port", port, "--batch", 9, "--batch-wait", 700)
        thread.join(60)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done.code == 0, done.err
    assert f"serving  http://127.0.0.1:{port}" in done.err
    expected = rosepo_core.Recommender.load(finished).recommend(HISTORY, 3)
    assert found["answer"]["run"] == "mine"
    assert [each["title"] for each in found["answer"]["recommendations"]] == [each.title for each in expected]
    assert found["again"]
    load = found["load"]
    assert load.statuses == {200: 4}
    assert load.batch == 4
    shown = serve.page(serve.Finding(load, load, (2.0**20, 2.0**20)), "COMMAND", 2)
    assert (
        "1.0 times the answers of one request at a time. Memory after each tenth of the time, in MiB: 1, 1." in shown
    )
    assert "Errors: none." in shown
    load.statuses[500] += 1
    assert serve.Finding(load, load, (1.0, 2.0)).faults == ["2 answers 500", "memory grew"]
    # Each answer is there and the same, and the base model was loaded once.
    assert found["meanwhile"]
    assert all(each == found["answer"] for each in found["meanwhile"])
    assert len(loaded) == 1
    assert found["last"] == [38] * 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 can be reached from other machines, so requests need a token"),
        (["--token-file", "nowhere"], "--token-file nowhere cannot be read"),
        (["--host", "192.0.2.1", "--token-file", "{token}"], "cannot listen at 192.0.2.1, port 8000"),
    ],
)
def test_requests_that_cannot_be_meant(rosepo, finished, tmp_path, monkeypatch, arguments, message):
    monkeypatch.delenv("ROSEPO_SERVE_TOKEN", raising=False)
    token = tmp_path / "token"
    token.write_text("secret\n")
    done = rosepo("serve", finished, *(each.format(token=token) for each in arguments))
    assert done.code == 2
    assert message in done.err


def test_a_folder_without_a_run(rosepo, tmp_path):
    done = rosepo("serve", tmp_path)
    assert done.code == 2
    assert str(tmp_path) in done.err
