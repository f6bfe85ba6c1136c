"""The page of `rosepo serve`: what it asks for, and itself in a browser, if there is one."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import rosepo_core

pytest.importorskip("fastapi")

import uvicorn
from starlette.testclient import TestClient

from rosepo_core.data.catalogue_in_use import CatalogueInUse
from rosepo_core.serving.run_lists import RunLists
from rosepo_core.serving.web.app import create_app
from rosepo_core.serving.web.served_runs import ServedRuns
from rosepo_core.serving.web.service import Service
from rosepo_core.serving.web.settings import ServeSettings
from rosepo_core.stages.split import load_split

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
EVIL = "<img src=x onerror=\"document.title='broken'\">"


@pytest.fixture(scope="module")
def served(finished: Path, rosepo: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose aligned model is calibrated, for lists of at most 12."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("served") / "run")
    done = rosepo("calibrate", folder, "--k", 12)
    assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="module")
def app(served: Path) -> Iterator[Any]:
    """Two names of one run; the other's first title is HTML."""

    def lists(_: Path, in_use: CatalogueInUse) -> RunLists:
        return RunLists(served, in_use)

    def load(folder: Path) -> rosepo_core.Recommender:
        found = rosepo_core.Recommender.load(served)
        if folder.name == "evil":
            found.catalogue.__dict__["titles"] = (EVIL, *found.catalogue.titles[1:])
        return found

    settings = ServeSettings(batch_wait=0.0, hosts=("testserver", "127.0.0.1"))
    service = Service(ServedRuns({"first": served, "evil": Path("evil")}, load, lists), settings)
    yield create_app(service)
    service.stop()


@pytest.fixture(scope="module")
def client(app: Any) -> TestClient:
    return TestClient(app)


def test_the_lists_are_the_models_own(client, finished):
    state = client.get("/page/runs").json()
    assert next((each["name"], each["models"], each["report"]) for each in state["runs"]) == (
        "first",
        ["base", "sft", "aligned"],
        True,
    )
    history = ["i5", "i14"]
    for model in ("aligned", "base", "sft", "base"):
        done = client.post("/page/list", json={"model": model, "history": history, "k": 6}).json()
        expected = rosepo_core.Recommender.load(finished, model).recommend(history, 6, by="id")
        assert [each["item"] for each in done["items"]] == [each.item for each in expected]
        assert [each["title"] for each in done["items"]] == [each.title for each in expected]


def test_marks_of_items(client, finished):
    catalogue = load_split(finished / "split").catalogue
    counts = dict(zip(catalogue.ids, catalogue.popularity.tolist(), strict=True))
    done = client.post("/page/list", json={"model": "aligned", "history": ["i39"], "k": 40}).json()["items"]
    assert {each["item"] for each in done if each["new"]} == {
        item for item, count in counts.items() if not count and item != "i39"
    }
    popular = {each["item"] for each in done if each["popular"]}
    assert 0.4 < sum(counts[item] for item in popular) / sum(counts.values()) < 0.6
    assert min(counts[item] for item in popular) >= max(counts[each["item"]] for each in done if not each["popular"])


def test_a_user_without_what_is_held_out(client, finished):
    every = rosepo_core.Recommender.load(finished).history("u1", by="id")
    found = client.get("/page/user", params={"name": "u1"}).json()
    assert [each["item"] for each in found["history"]] == every[:-1]
    assert found["held_out"]["item"] == every[-1]
    assert client.get("/page/users", params={"query": "u2"}).json()["users"] == ["u2", "u20", "u21", "u22", "u23"]
    assert client.get("/page/user", params={"name": "nobody"}).status_code == 404


def test_the_page_asks_nobody_else(client):
    for path in ("/", "/page.css", "/page.js"):
        done = client.get(path)
        assert done.status_code == 200
        assert "http://" not in done.text
        assert "https://" not in done.text
    assert "script-src 'self'" in client.get("/").headers["content-security-policy"]
    report = client.get("/page/report")
    assert report.headers["content-security-policy"].startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert "</html>" in report.text


@pytest.fixture(scope="module")
def guarded(app: Any) -> Any:
    """The same runs behind a token."""
    settings = ServeSettings(batch_wait=0.0, token="secret", hosts=("testserver", "127.0.0.1"))
    service = Service(app.state.service.runs, settings)
    yield create_app(service)
    service.stop()


def test_a_report_behind_a_token(guarded):
    client = TestClient(guarded)
    assert client.get("/page/report").status_code == 401
    done = client.get("/page/runs", headers={"Authorization": "Bearer secret"})
    assert [each["report"] for each in done.json()["runs"]] == [True, True]
    cookie = done.headers["set-cookie"]
    assert "secret" not in cookie
    assert cookie.endswith("; Path=/page/report; HttpOnly; SameSite=Strict")
    # The client sends the cookie now, as a browser does for a link, and the cookie opens nothing else.
    assert "</html>" in client.get("/page/report?run=first").text
    own = {"Cookie": cookie.partition(";")[0]}
    assert [client.get(path, headers=own).status_code for path in ("/page/users", "/items")] == [401, 401]
    assert TestClient(guarded).get("/page/report", headers={"Cookie": own["Cookie"][:-1]}).status_code == 401


def test_a_server_without_a_page(finished):
    service = Service(
        ServedRuns({"a": finished}, rosepo_core.Recommender.load), ServeSettings(page=False, hosts=("*",))
    )
    client = TestClient(create_app(service))
    assert [client.get(path).status_code for path in ("/", "/page/users", "/health")] == [404, 404, 200]
    service.stop()


@contextmanager
def listening(app: Any) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def url(app: Any) -> Iterator[str]:
    with listening(app) as url:
        yield url


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_in_a_browser(url, guarded, client):
    """By keyboard alone, on a screen of a phone's width."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as play, listening(guarded) as hidden:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        # The page's policy allows no `eval`, by which a browser test could wait for a condition in JavaScript.
        page = browser.new_page(viewport={"width": 390, "height": 800})
        problems: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.wait_for_selector("#run option:nth-child(2)", state="attached")

        # A user of the log: what is held out is marked in the lists or said below them.
        page.focus("#user")
        page.keyboard.type("u1")
        page.wait_for_selector("#user-options [role=option]")
        page.keyboard.press("Enter")
        page.wait_for_selector(".card:nth-child(3) li")
        user = client.get("/page/user", params={"name": "u1"}).json()
        titles = [each["title"] for each in user["history"]]
        assert page.locator("#history .title").all_inner_texts() == titles
        assert page.locator("#held-out strong").inner_text() == user["held_out"]["title"]
        page.wait_for_selector(".waits", state="detached")
        said = [card.inner_text() for card in page.locator(".card").all()]
        assert all(user["held_out"]["title"] in text or "Held out" in text for text in said)
        assert page.locator(".card").nth(1).locator(".against").inner_text() == "against Base"

        # The last title goes one place up, and then the lists are those of the new order.
        page.locator("#history li").last.get_by_role("button", name="Earlier").press("Enter")
        assert page.locator("#history .title").all_inner_texts()[-2:] == titles[-2:][::-1]
        page.wait_for_selector(".waits", state="detached")
        items = [each["item"] for each in user["history"]]
        body = {"model": "aligned", "history": [*items[:-2], items[-1], items[-2]], "k": 10}
        listed = client.post("/page/list", json=body).json()
        expected = [each["title"] for each in listed["items"]]
        shown = page.locator(".card").nth(2).locator("li .title").all_inner_texts()
        assert [text.split("●")[0].split(" (held out)")[0].rstrip("✦").strip() for text in shown] == expected
        # The page asks for 20 titles and shows 10. The confidence is that of the 10, of the one model that has it.
        confidence = f"Confidence {100 * listed['confidence']:.0f} %: the next title is one of these 10"
        assert page.locator(".confidence").all_inner_texts() == [confidence]
        assert page.locator(".card").nth(2).locator(".confidence").count() == 1

        # Two runs side by side; a title that is HTML is text.
        page.select_option("#against", "evil")
        page.wait_for_selector(".waits", state="detached")
        assert page.locator(".cards").count() == 2
        assert page.locator(".cards").nth(1).locator(".against").first.inner_text() == "against first"
        page.select_option("#run", "evil")
        page.focus("#title")
        page.keyboard.type("img")
        page.wait_for_selector("#title-options li:only-child")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        assert page.locator("#history .title").all_inner_texts() == [EVIL]
        assert page.title() == "rosepo"
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert problems == []
        assert [each for each in asked if not each.startswith(url)] == []

        # Behind a token: the link opens the report, and the token is in no address.
        page.goto(hidden)
        page.fill("#token", "secret")
        page.keyboard.press("Enter")
        with page.expect_popup() as opened:
            page.click("#report")
        assert opened.value.title() == client.get("/page/report").text.split("<title>")[1].split("</title>")[0]
        assert [each for each in asked if "secret" in each] == []
        browser.close()
