"""The page at /, and what only it asks for."""

from __future__ import annotations

from importlib import resources
from itertools import islice
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from rosepo_core.serving.web import report_access
from rosepo_core.serving.web.messages import (
    LONGEST_NAME,
    ListQuestion,
    ShownItem,
    ShownList,
    ShownRun,
    ShownRuns,
    ShownUser,
    ShownUsers,
)
from rosepo_core.serving.web.questions import models_of, to_list
from rosepo_core.serving.web.served_runs import ServedRun, UnknownNameError
from rosepo_core.serving.web.service import Service

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'none'; " + (
    "base-uri 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}

MOST_USERS = 20

Run = Annotated[str | None, Query(description="The name of a run that is served; by default the first.")]

routes = APIRouter(prefix="/page", include_in_schema=False)


def files() -> APIRouter:
    """Routes of the page's own files."""
    found = APIRouter(include_in_schema=False)
    folder = resources.files("rosepo_core.serving.web") / "page"
    for path, (name, kind) in FILES.items():
        content = (folder / name).read_bytes()

        def file(content: bytes = content, kind: str = kind) -> Response:
            return Response(content, media_type=kind, headers={"Content-Security-Policy": POLICY})

        # FastAPI would take the arguments for parameters of the request.
        found.add_api_route(path, lambda file=file: file(), methods=["GET"], name=name)
    return found


@routes.get("/runs")
def runs(request: Request, response: Response) -> ShownRuns:
    """The runs, and what the page can show of each. Who may ask this may also open the links to reports."""
    service = _service(request)
    if service.settings.token is not None:
        response.headers["Set-Cookie"] = report_access.set_cookie(service.settings.token)
    return ShownRuns(
        runs=[
            ShownRun(
                name=run.name,
                models=list(models_of(run)),
                users=run.lists is not None,
                report=run.lists is not None and run.lists.has_report,
            )
            for run in service.runs
        ],
        most_history=service.settings.most_history,
        most_k=service.settings.most_k,
    )


@routes.post("/list")
async def list_of_model(asked: ListQuestion, request: Request) -> ShownList:
    """The first items of one model."""
    service = _service(request)
    run = service.runs.get(asked.run)
    question = await run_in_threadpool(to_list, run, asked, service.settings)
    found = await service.answered(question)
    items = await run_in_threadpool(lambda: [_shown(run, each.item) for each in found])
    return ShownList(run=run.name, model=asked.model, items=items, confidence=found.first(asked.shown).confidence)


@routes.get("/users")
def users(
    request: Request, query: Annotated[str, Query(max_length=LONGEST_NAME)] = "", run: Run = None
) -> ShownUsers:
    """Users of the log whose ids begin with a text; the user of just this id first."""
    lists = _service(request).runs.get(run).lists
    known = {} if lists is None else lists.users
    first = [query] if query in known else []
    found = (name for name in known if name.startswith(query) and name != query)
    return ShownUsers(users=[*first, *islice(found, MOST_USERS - len(first))])


@routes.get("/user")
def user(request: Request, name: Annotated[str, Query(max_length=LONGEST_NAME)], run: Run = None) -> ShownUser:
    """The history of a user of the log, and what the user chose next."""
    service = _service(request)
    served = service.runs.get(run)
    if served.lists is None:
        raise UnknownNameError("this run has no log to show users of")
    if name not in served.lists.users:
        raise UnknownNameError(f"user '{name}' is not in the run's log")
    history, held_out = served.lists.user(name)
    ids = served.lists.catalogue.ids
    return ShownUser(
        history=[_shown(served, ids[item]) for item in history[-service.settings.most_history :]],
        held_out=None if held_out is None else _shown(served, ids[held_out]),
    )


@routes.get(report_access.PATH.removeprefix(routes.prefix))
def report(request: Request, run: Run = None) -> Response:
    """The run's report."""
    lists = _service(request).runs.get(run).lists
    page = None if lists is None else lists.report()
    if page is None:
        raise UnknownNameError("this run has no report")
    return Response(page, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})


def _shown(run: ServedRun, item: str) -> ShownItem:
    catalogue = run.recommender.catalogue
    number = run.numbers[item]
    popular = False if run.lists is None else bool(run.lists.popular[number])
    return ShownItem(
        title=catalogue.titles[number], item=item, popular=popular, new=not np.any(catalogue.popularity[number])
    )


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service
