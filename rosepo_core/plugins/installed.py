"""The entry points of installed distributions, and whether a distribution was made for this version of rosepo."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from importlib.metadata import EntryPoint, distributions, entry_points

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from rosepo_core import __version__
from rosepo_core.contracts.errors import PluginError
from rosepo_core.contracts.hookspecs import ENTRY_POINT_GROUP
from rosepo_core.plugins.containment import described

OWN = "rosepo"
"""The distribution of rosepo itself."""


class PluginWarning(UserWarning):
    """A plugin does not work; everything else continues."""


def installed_points() -> Iterable[EntryPoint]:
    """The entry points of all installed distributions in the group ``rosepo``.

    A distribution whose ``entry_points.txt`` cannot be read is a `PluginWarning`. Python's own search ends at such a
    file, even if its distribution is no plugin.
    """
    try:
        return entry_points(group=ENTRY_POINT_GROUP)
    except Exception:
        return _those_that_can_be_read()


def _those_that_can_be_read() -> list[EntryPoint]:
    found: dict[str, list[EntryPoint]] = {}
    for each in distributions():
        name = each.name or "unknown"
        if canonicalize_name(name) in found:
            # Another version, which is hidden by the first on the path.
            continue
        try:
            points = list(each.entry_points.select(group=ENTRY_POINT_GROUP))
        except Exception as error:
            points = []
            message = f"its entry_points.txt cannot be read ({described(error)}); upgrade or uninstall {name}"
            warnings.warn(f"{name} {each.version}: {message}", PluginWarning, stacklevel=3)
        found[canonicalize_name(name)] = points
    return [point for points in found.values() for point in points]


def distribution_of(point: EntryPoint) -> str:
    """The name of the distribution that has an entry point."""
    return (point.dist.name if point.dist else None) or "unknown"


def version_of(point: EntryPoint) -> str:
    """The version of the distribution that has an entry point."""
    return (point.dist.version if point.dist else None) or ""


def check_requirement(point: EntryPoint) -> None:
    """Check that the distribution of a plugin was made for this version of rosepo: that its own requirement, such as
    ``rosepo>=0.1,<0.2`` among the dependencies in its pyproject.toml, is fulfilled. An installer checks it, too, but
    not when rosepo alone is upgraded.

    Raises:
        PluginError: it was made for other versions.
    """
    for text in (point.dist.requires if point.dist else None) or ():
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            continue
        # What only an extra requires is not required by the plugin.
        applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if canonicalize_name(wanted.name) != OWN or not applies:
            continue
        if not wanted.specifier.contains(__version__, prereleases=True):
            raise PluginError(f"it was made for rosepo {wanted.specifier}, and this is rosepo {__version__}")
