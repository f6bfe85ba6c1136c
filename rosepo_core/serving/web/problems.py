"""Every error of the server in one form, with the words of the error that was raised."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from rosepo_core.contracts.errors import RequestError, RosepoError
from rosepo_core.contracts.untrusted_text import message as as_message
from rosepo_core.serving.web.batching import QueueFullError, StoppingError
from rosepo_core.serving.web.served_runs import UnknownNameError
from rosepo_core.serving.web.service import LateError

CODES = {
    400: "wrong-request",
    401: "no-token",
    404: "not-found",
    405: "wrong-method",
    413: "too-long",
    422: "wrong-request",
    500: "failed",
    503: "busy",
    504: "too-late",
}

log = logging.getLogger("rosepo.serve")


def problem(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error as an answer."""
    text = message.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair has no UTF-8
    content = {"error": {"code": CODES.get(status, "wrong-request"), "message": text}}
    return JSONResponse(content, status, headers)


def add(app: FastAPI) -> None:
    """Let the app answer errors in this form."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return problem(400, "the body is no JSON: " + str(first.get("ctx", {}).get("error", "")))
        _, *where = first["loc"]
        name = ".".join(map(str, where))
        return problem(422, f"{name}: {first['msg']}" if name else str(first["msg"]))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RosepoError)
    async def ours(_: Request, error: RosepoError) -> JSONResponse:
        match error:
            case UnknownNameError():
                return problem(404, str(error))
            case RequestError():
                return problem(422, str(error))
            case QueueFullError():
                return problem(503, str(error), {"Retry-After": str(error.retry_after)})
            case LateError():
                return problem(504, str(error))
            case StoppingError():
                return problem(503, str(error), {"Retry-After": "1", "Connection": "close"})
        log.error("%s", as_message(str(error)))
        return problem(500, str(error))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        # Its words may hold what a client must not see.
        return problem(500, f"the server failed with {type(error).__name__}; its log says more")
