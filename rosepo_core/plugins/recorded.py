"""What a run keeps of its plugins (RUN/plugins.json), so that it can be read when one of them is no longer installed.

Reading a finished run needs little of most plugins: whether its loss had a reference, whether a sampler asked the
oracle. These facts are recorded. A component that cannot be made any more is replaced by a stand-in, which knows the
recorded facts, and refuses everything that needs the plugin's code.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from packaging.utils import canonicalize_name

from rosepo_core.config import PluginChoice, RecordedOptions, RunConfig
from rosepo_core.contracts.components import Component
from rosepo_core.contracts.errors import NotInstalledError, RequestError, RosepoError
from rosepo_core.plugins.one_file import plain_name
from rosepo_core.plugins.registry import KINDS, Registry
from rosepo_core.store.marker import read_listed

PLUGINS_FILE = "plugins.json"
SCHEMA = 1

FACTS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("candidates",),
    "sampler": ("needs",),
    "oracle": ("needs", "ranks"),
    "loss": ("scope", "needs_reference", "needs_smoothing", "needs_tokens", "needs_mismatched", "needs_ratings"),
}
"""The attributes of components that are recorded, by kind."""

HARMLESS = ("__init__", "files", "parts")
"""The methods of a component that a stand-in has, too."""


@dataclass(frozen=True)
class PluginRecord:
    """What a run keeps of one of its plugins.

    Attributes:
        name: the name as in the configuration.
        distribution: the distribution that it was from.
        version: that distribution's version.
        description: its docstring.
        facts: the attributes of `FACTS`.
    """

    name: str
    distribution: str
    version: str
    description: str
    facts: Mapping[str, Any]

    def origin(self, kind: str) -> str:
        """The plugin as `Component.origin` was."""
        return f"{kind} '{plain_name(self.name)}' of {self.distribution} {self.version}"


Records = Mapping[str, Sequence[PluginRecord]]
"""The records of a run: by kind, in the order of the configuration."""


def record(config: RunConfig, registry: Registry, before: Records) -> Records:
    """The records of all plugins of a configuration; those of `before` for plugins that cannot be made any more."""
    return {
        kind: [
            each
            for index, choice in enumerate(config.choices(kind))
            if (each := _record(kind, choice, registry, before, index)) is not None
        ]
        for kind in KINDS
    }


def _record(kind: str, choice: PluginChoice, registry: Registry, before: Records, index: int) -> PluginRecord | None:
    if isinstance(choice.options, RecordedOptions):
        return find(before, kind, choice.name, index)
    entry = registry.entry(kind, choice.name)
    component = registry.make(kind, choice.name, choice.options)
    facts = {name: _plain(getattr(component, name)) for name in FACTS.get(kind, ())}
    description = inspect.getdoc(type(component)) or ""
    return PluginRecord(choice.name, entry.distribution, entry.version, description, facts)


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else value


def to_json(records: Records) -> str:
    """The text of RUN/plugins.json."""
    tables = {kind: [asdict(each) for each in found] for kind, found in records.items()}
    return json.dumps({"schema": SCHEMA, "plugins": tables}, indent=1, ensure_ascii=False) + "\n"


def read_records(folder: Path) -> Records:
    """The records of a run; empty if it has none.

    Raises:
        RequestError: they cannot be read.
    """
    text = read_listed(folder, PLUGINS_FILE)
    if text is None:
        return {}
    try:
        content = json.loads(text)
        if content["schema"] == SCHEMA:
            return {kind: [PluginRecord(**each) for each in found] for kind, found in content["plugins"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise RequestError(
        f"{folder / PLUGINS_FILE} is damaged, or of another version of rosepo: copy it again from where it was made"
    )


def origin_of(records: Records, kind: str, name: str, index: int = 0) -> str:
    """A plugin of a run as `Component.origin` was; its kind and name alone if there is no record."""
    made = find(records, kind, name, index)
    return made.origin(kind) if made else f"{kind} '{plain_name(name)}'"


def find(records: Records, kind: str, name: str, index: int = 0) -> PluginRecord | None:
    """The record of a plugin: that at its place in the configuration, or else the first with its name."""
    found = [(place, each) for place, each in enumerate(records.get(kind, ())) if each.name == name]
    return min(found, key=lambda pair: pair[0] != index)[1] if found else None


def lacking(origin: str, where: Path, error: RosepoError) -> RequestError:
    """The error of work that needs the code of a plugin which cannot be used.

    Args:
        origin: the plugin, as `Component.origin` was: ``"loss 'margin' of acme-hinge 1.2"``; without a distribution
            if that is not known.
        where: what was made with it.
        error: why it cannot be used.
    """
    return RequestError(f"this needs the code of {origin}, with which {where} was made: {why_lacking(origin, error)}")


def why_lacking(origin: str, error: RosepoError) -> str:
    """Why a plugin cannot be used, and what to do; arguments as for `lacking`."""
    if not isinstance(error, NotInstalledError):
        return str(error)
    distribution = origin.rpartition("' of ")[2] if "' of " in origin else "the distribution that brings it"
    return f"it is not installed; install {distribution}{error.failed}"


def check_same(kind: str, name: str, origin: str, registry: Registry) -> None:
    """Check that the plugin with a name is still of the distribution that a run has it from; any version will do.

    Args:
        kind: its kind.
        name: its name.
        origin: as for `lacking`. Without a distribution, nothing is checked.
        registry: the plugins.

    Raises:
        RequestError: the name is now that of another distribution's plugin, or as for `Registry.entry`.
    """
    entry = registry.entry(kind, name)
    before = origin.rpartition("' of ")[2]
    if "' of " in origin and canonicalize_name(before.rpartition(" ")[0]) != canonicalize_name(entry.distribution):
        raise RequestError(f"'{name}' is now a {kind} of {entry.distribution} {entry.version}; install {before}")


def as_made(config: RunConfig, registry: Registry, records: Records) -> RunConfig:
    """The configuration of a finished run, in which a plugin counts as missing if its name is now that of another
    distribution's plugin."""

    def checked(kind: str, index: int, choice: PluginChoice) -> PluginChoice:
        if isinstance(choice.options, RecordedOptions):
            return choice
        try:
            check_same(kind, choice.name, origin_of(records, kind, choice.name, index), registry)
        except RequestError as error:
            options = RecordedOptions.of(choice.options.model_dump(mode="json"), error)
            return choice.model_copy(update={"options": options})
        return choice

    found = {kind: tuple(checked(kind, *each) for each in enumerate(config.choices(kind))) for kind in KINDS}
    several = {kind: isinstance(getattr(config, kind), tuple) for kind in KINDS}
    return config.model_copy(update={kind: each if several[kind] else each[0] for kind, each in found.items()})


def stand_in(kind: str, options: RecordedOptions, made: PluginRecord | None, error: RequestError) -> Component:
    """A component with the recorded facts. Everything else that its kind can do raises `error`."""
    contract = KINDS[kind]

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise error

    members: dict[str, Any] = {
        name: property(refuse) if isinstance(value, property) else refuse
        for each in reversed(contract.__mro__[:-1])
        for name, value in vars(each).items()
        if name not in HARMLESS and (isinstance(value, property) or inspect.isfunction(value))
    }
    members |= {name: property(refuse) for name in FACTS.get(kind, ())}
    if made is not None:
        members |= {name: _typed(value) for name, value in made.facts.items()}
        members["__doc__"] = made.description
    made_class: Callable[[Any], Component] = type("StandIn", (contract,), members)
    return made_class(options)


def _typed(value: Any) -> Any:
    return frozenset(value) if isinstance(value, list) else value
