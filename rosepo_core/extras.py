"""The extras of the distribution: packages that only some of the work needs, such as ``rosepo[train]``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

from packaging.requirements import Requirement

from rosepo_core.contracts.errors import RequestError

PREFERRED = ("train", "serve", "sweep", "gpu", "semantic")
"""The extras for users; a package that is in several is asked for by the first of them."""


def requirements(extra: str = "") -> list[Requirement]:
    """What an extra requires; without a name, what rosepo always requires.

    Raises:
        importlib.metadata.PackageNotFoundError: rosepo runs from its source tree, not installed.
    """
    found = []
    for line in metadata.requires("rosepo") or []:
        requirement = Requirement(line)
        always = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if wanted and (not extra or not always):
            found.append(requirement)
    return found


def extra_with(module: str) -> str | None:
    """The extra that installs a module, such as ``"train"`` for ``"trl"``; `None` if no extra does."""
    name = _normal(module.partition(".")[0])
    try:
        return next(
            (extra for extra in PREFERRED if name in {_normal(each.name) for each in requirements(extra)}), None
        )
    except metadata.PackageNotFoundError:
        return None


@contextmanager
def named_extras() -> Iterator[None]:
    """Inside, a missing package of an extra is an error that names the extra.

    Raises:
        RequestError: a module of an extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        extra = extra_with(error.name or "")
        if extra is None:
            raise
        raise RequestError(
            f"this needs the package {error.name}, which is not installed: pip install 'rosepo[{extra}]'"
        ) from error


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
