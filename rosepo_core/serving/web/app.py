"""The routes of the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.middleware.cors import CORSMiddleware

from rosepo_core import __version__
from rosepo_core.serving.web import page_routes, problems
from rosepo_core.serving.web.guards import Guards
from rosepo_core.serving.web.messages import (
    LONGEST_NAME,
    Answer,
    CatalogueItems,
    Health,
    RankQuestion,
    RecommendAnswer,
    RecommendQuestion,
    responses,
)
from rosepo_core.serving.web.metrics import CONTENT_TYPE
from rosepo_core.serving.web.service import Service
from rosepo_core.serving.web.settings import ServeSettings

routes = APIRouter()


@routes.post("/recommend", responses=responses(400, 401, 404, 413, 422, 500, 503, 504))
async def recommend(asked: RecommendQuestion, request: Request) -> RecommendAnswer:
    """Recommend items that come next after a history. None of them is in the history."""
    return await _service(request).recommend(asked)


@routes.post("/rank", responses=responses(400, 401, 404, 413, 422, 500, 503, 504))
async def rank(asked: RankQuestion, request: Request) -> Answer:
    """Rank candidates for a history."""
    return await _service(request).rank(asked)


@routes.get("/items", responses=responses(400, 401, 404, 413, 422, 500))
def items(
    request: Request,
    query: Annotated[str, Query(max_length=LONGEST_NAME, description="Words, or parts of them.")] = "",
    limit: Annotated[int, Query(ge=1, le=100, description="The most items.")] = 20,
    run: Annotated[str | None, Query(description="The name of a run that is served; by default the first.")] = None,
) -> CatalogueItems:
    """Find items whose titles contain some words; by default the most popular ones."""
    return _service(request).items(run, query, limit)


@routes.get("/health", responses=responses(400, 413, 500))
def health(request: Request) -> Health:
    """Say that the server works, and what it serves."""
    return _service(request).health()


@routes.get("/metrics", response_class=PlainTextResponse, responses=responses(400, 401, 413, 500))
def metrics(request: Request) -> Response:
    """Counters in Prometheus' text format."""
    return Response(_service(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def reload(request: Request) -> Health:
    """Load all runs again from their folders, while the old ones answer. No request is dropped."""
    return _service(request).reload()


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def create_app(service: Service) -> FastAPI:
    """The app of a service. Its end stops the service."""
    settings = service.settings

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.stop()

    app = FastAPI(
        title="rosepo",
        version=__version__,
        summary="Recommendations of a language model, out of a catalogue.",
        lifespan=lifespan,
        docs_url=None,  # its page would load scripts from another host
        redoc_url=None,
    )
    app.state.service = service
    app.include_router(routes)
    if settings.page:
        app.include_router(page_routes.files())
        app.include_router(page_routes.routes)
    if settings.token is not None:
        app.post("/reload", responses=responses(400, 401, 413, 422, 500))(reload)
    problems.add(app)
    app.add_middleware(Guards, settings=settings, observe=service.metrics.request)
    if settings.origins:
        # Outside of the guards, because a browser asks whether it may ask without the token.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.openapi = partial(_documented, app, app.openapi, settings)  # type: ignore[method-assign]
    return app


def _documented(app: FastAPI, schema_of: Any, settings: ServeSettings) -> dict[str, Any]:
    """The app's OpenAPI document, with the limits of this server."""
    if app.openapi_schema is None:
        schema = schema_of()
        forms = schema["components"]["schemas"]
        for form in ("RecommendQuestion", "RankQuestion"):
            forms[form]["properties"]["history"]["maxItems"] = settings.most_history
        forms["RecommendQuestion"]["properties"]["k"]["maximum"] = settings.most_k
        forms["RankQuestion"]["properties"]["candidates"]["maxItems"] = settings.most_candidates
        if settings.token is not None:
            schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"token": []}]
            schema["paths"]["/health"]["get"]["security"] = []
        app.openapi_schema = schema
    assert app.openapi_schema is not None
    return app.openapi_schema
