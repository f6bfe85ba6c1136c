"""What a request must pass before any route sees it: host, token, size and time of its body. And the headers of every
answer."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rosepo_core.serving.web import report_access
from rosepo_core.serving.web.problems import problem
from rosepo_core.serving.web.settings import ServeSettings

OPEN = ("/", "/page.css", "/page.js", "/health")
"""Paths that need no token: the page, which has no data in it, and the state of the server."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
POLICY = "Content-Security-Policy"
NOTHING = "default-src 'none'; frame-ancestors 'none'"
"""The content security policy of answers that are no page."""

Observe = Callable[[str, int, float], None]


class _TooLongError(Exception):
    """The body has more bytes than are allowed."""


class Guards:
    """Wraps an ASGI app."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, observe: Observe) -> None:
        """`observe` receives route, status and seconds of each request."""
        self._app, self._settings, self._observe = app, settings, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in {**HEADERS, POLICY: NOTHING}.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._guarded(scope, receive, sending)
        finally:
            # Only paths of routes: a client must not be able to fill the memory with names of its own.
            route = getattr(scope.get("route"), "path", "other")
            self._observe(route, status, time.perf_counter() - started)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, settings = Headers(scope=scope), self._settings
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if "*" not in settings.hosts and name not in settings.hosts:
            await problem(400, "this server has another name; see `rosepo serve --allow-host`")(scope, receive, send)
            return
        path, token = scope["path"], settings.token
        if token is not None and not (
            path in OPEN or self._has_token(headers) or report_access.is_open(path, headers.get("cookie", ""), token)
        ):
            wanted = problem(
                401, "give the server's token: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
            )
            await wanted(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self._body(headers, receive), settings.timeout)
        except _TooLongError:
            most = f"the body may have {settings.most_body:,} bytes at most"
            await problem(413, most, {"Connection": "close"})(scope, receive, send)
            return
        except TimeoutError:
            late = problem(504, "the body did not come in time", {"Connection": "close"})
            await late(scope, receive, send)
            return
        given = False

        async def receiving() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receiving, send)

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        assert self._settings.token is not None
        same = hmac.compare_digest(token.strip().encode(), self._settings.token.encode())
        return scheme.lower() == "bearer" and same

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        most = self._settings.most_body
        stated = headers.get("content-length", "0")
        if stated.isdigit() and int(stated) > most:
            raise _TooLongError
        parts = bytearray()
        while True:
            message = await receive()
            parts += message.get("body", b"")
            if len(parts) > most:
                raise _TooLongError
            if not message.get("more_body", False):
                return bytes(parts)
