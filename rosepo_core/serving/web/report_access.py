"""Lets the page's link open a report where requests need a token.

A link cannot carry the token, and must not: addresses end in logs and histories. So the answer to a request with the
token sets a cookie. The browser sends it for reports of this server only, scripts cannot read it, and no other site's
page can make use of it. It is derived from the token and does not tell it, so nothing has to be kept or to expire
here; a server with another token refuses it.
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie

PATH = "/page/report"
"""The only path that the cookie opens."""

COOKIE = "rosepo-report"


def set_cookie(token: str) -> str:
    """The value of a header `Set-Cookie`."""
    return f"{COOKIE}={_value(token)}; Path={PATH}; HttpOnly; SameSite=Strict"


def is_open(path: str, cookies: str, token: str) -> bool:
    """Whether a request needs no other sign that it may read `path`.

    Args:
        path: the path of the request.
        cookies: its header `Cookie`.
        token: the server's token.
    """
    if path != PATH:
        return False
    try:
        found = SimpleCookie(cookies).get(COOKIE)
    except CookieError:
        return False
    return found is not None and hmac.compare_digest(found.value.encode(), _value(token).encode())


def _value(token: str) -> str:
    return hmac.new(token.encode(), b"rosepo: read reports", "sha256").hexdigest()
