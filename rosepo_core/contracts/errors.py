"""The errors that rosepo raises.

`RequestError` is a mistake in the request, which the user can fix: the command line shows the one or two lines of the
message and ends with exit code 2. Any other `RosepoError` is a failure of the work itself: exit code 1.
"""

from __future__ import annotations

from collections.abc import Iterable

CLOSE = 50
"""The least similarity, of 100, of a name that a message offers for a wrong one."""


class RosepoError(Exception):
    """Base of all errors that rosepo raises on purpose; users see its text unchanged."""

    exit_code = 1


class RequestError(RosepoError):
    """The request was wrong; the message names the file, row or key and the fix."""

    exit_code = 2


class NotInstalledError(RequestError):
    """No installed plugin has a name.

    Attributes:
        failed: a clause that names the plugins that did not load, which may have had it; or empty.
    """

    def __init__(self, message: str, failed: str) -> None:
        super().__init__(message + failed)
        self.failed = failed


class DivergedError(RosepoError):
    """A training failed by its settings: its numbers are no numbers any more."""


class PluginError(RosepoError):
    """A plugin broke its contract; the message names the plugin and the wrong result."""


def beyond_python(error: Exception) -> str:
    """What is wrong with a text of JSON or TOML that the parser gave up on, in the words of its author."""
    if isinstance(error, RecursionError | MemoryError):
        return "lists or objects are nested too deeply"
    if "integer string conversion" in str(error):
        return "a number has more than 4,300 digits"
    return str(getattr(error, "msg", error))


def nearest(name: str, known: Iterable[str], limit: int = 3) -> str:
    """A clause for an error message that offers the names most like `name`.

    Returns e.g. ``"; did you mean 'self-hard' or 'uniform'?"``. If no name is similar, it lists the known names; if
    there are none, it is empty.
    """
    from rapidfuzz import fuzz, process

    known = sorted(set(known))
    if not known:
        return ""
    found = process.extract(name, known, scorer=fuzz.ratio, processor=str.casefold, limit=limit, score_cutoff=CLOSE)
    close = [match for match, _, _ in found]
    if close:
        return f"; did you mean {' or '.join(repr(match) for match in close)}?"
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"; known: {shown}"
