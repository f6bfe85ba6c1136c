"""The registry of plugins: finds the plugin of a name, and makes a component of it.

Every distribution, also rosepo itself, names modules in the entry-point group ``rosepo``. The registry imports these
modules to learn which plugins they register. The implementation of a plugin is imported when it is first used.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract, isclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from rosepo_core.contracts import hookspecs
from rosepo_core.contracts.components import (
    Component,
    Dataset,
    Metric,
    PreferenceLoss,
    RejectedSampler,
    SmoothingOracle,
)
from rosepo_core.contracts.errors import PluginError, RequestError, RosepoError, nearest
from rosepo_core.contracts.options import Options, parse_options
from rosepo_core.prompts.template import PromptTemplate

if TYPE_CHECKING:
    from typer import Typer

KINDS: Mapping[str, type[Component]] = {
    "dataset": Dataset,
    "prompt": PromptTemplate,
    "sampler": RejectedSampler,
    "oracle": SmoothingOracle,
    "loss": PreferenceLoss,
    "metric": Metric,
}
"""The kinds of plugin and the base class of each. Their hooks are ``rosepo_register_<kind>s`` (losses:
``_losses``)."""

KEBAB_CASE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
ALIAS = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")
TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
REGISTER_HOOKS = {
    kind: f"rosepo_register_{kind}es" if kind == "loss" else f"rosepo_register_{kind}s" for kind in KINDS
}


class PluginWarning(UserWarning):
    """A plugin does not work; everything else continues."""


@dataclass(frozen=True)
class Entry:
    """One line of the list of plugins: an implementation, or a plugin module with an error.

    Attributes:
        kind: a key of `KINDS`, or ``"plugin"`` for a module with an error.
        name: the name that users write; for a module, the name of the entry point.
        distribution: the distribution that contains it.
        version: that distribution's version.
        target: ``"package.module:Class"``; for a module, its name.
        summary: one line.
        error: the error, in one line; `None` if there is none.
        aliases: other names that users may write.
    """

    kind: str
    name: str
    distribution: str
    version: str
    target: str
    summary: str = ""
    error: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def qualified_name(self) -> str:
        """``distribution/name``, which is unique."""
        return f"{self.distribution}/{self.name}"

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}' of {self.distribution} {self.version}"


@contextmanager
def running(component: Component) -> Iterator[None]:
    """While `component` runs, add a note to any exception that names the component, its distribution and version.

    The exception keeps its type and traceback. This also works as a decorator.
    """
    try:
        yield
    except Exception as error:
        note = f"raised by {component.origin or type(component).__qualname__}"
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        raise


class Registry:
    """All plugins of one set of entry points.

    Attributes:
        problems: the errors of plugins, one line each. Each is also issued once as a `PluginWarning`.
    """

    def __init__(self, points: Iterable[EntryPoint]) -> None:
        """Import the modules of `points` and call their register hooks. An error in a module does not stop this."""
        self._manager = pluggy.PluginManager("rosepo")
        self._manager.add_hookspecs(hookspecs)
        self._hooks = [name for name in vars(hookspecs) if name.startswith("rosepo_")]
        self._entries: list[Entry] = []
        self._plugins: dict[str, Entry] = {}
        for point in sorted(points, key=lambda point: (_distribution(point), point.name, point.value)):
            self._load(point)

    @classmethod
    def discover(cls) -> Registry:
        """The plugins of all installed distributions. `load_plugins` does this once and keeps the result."""
        return cls(entry_points(group=hookspecs.ENTRY_POINT_GROUP))

    @property
    def problems(self) -> tuple[str, ...]:
        """See the class."""
        return tuple(f"{entry}: {entry.error}" for entry in self._entries if entry.error)

    def entries(self, kind: str | None = None) -> list[Entry]:
        """The list of plugins, by kind and name: of one kind, or of all kinds, with the modules that have errors
        last.

        No implementation is imported.
        """
        order = [*KINDS, "plugin"]
        chosen = [entry for entry in self._entries if kind in (None, entry.kind)]
        return sorted(chosen, key=lambda entry: (order.index(entry.kind), entry.name, entry.distribution))

    def entry(self, kind: str, name: str) -> Entry:
        """The plugin with a name.

        Args:
            kind: a key of `KINDS`.
            name: a plain name or alias, or ``distribution/name``.

        Raises:
            RequestError: no plugin has this name, or several have it.
        """
        owners = [entry for entry in self.entries(kind) if _matches(entry, name)]
        if len(owners) == 1:
            return owners[0]
        if not owners:
            known = {name for entry in self.entries(kind) for name in (entry.name, *entry.aliases)} | {
                entry.qualified_name for entry in self.entries(kind) if "/" in name
            }
            failed = "".join(f" ({entry} did not load: {entry.error})" for entry in self.entries("plugin"))
            raise RequestError(f"no {kind} is called '{name}'{nearest(name, known)}{failed}")
        both = " and ".join(f"{owner.distribution} {owner.version}" for owner in owners)
        choices = " or ".join(f"'{owner.qualified_name}'" for owner in owners)
        raise RequestError(f"{both} each bring a {kind} '{name}'; write {choices}")

    def canonical(self, kind: str, name: str) -> str:
        """The name of the plugin that `name` is an alias of; any other name as it is."""
        distribution, slash, bare = name.rpartition("/")
        owners = {entry.name for entry in self.entries(kind) if _matches(entry, name) and entry.name != bare}
        return distribution + slash + owners.pop() if len(owners) == 1 else name

    def get(self, kind: str, name: str) -> type[Component]:
        """Import an implementation.

        Raises:
            RequestError: as for `entry`.
            PluginError: it cannot be imported, or breaks the contract of its kind.
        """
        entry = self.entry(kind, name)
        module_name, _, class_name = entry.target.partition(":")
        try:
            component = getattr(import_module(module_name), class_name)
        except (Exception, SystemExit) as error:
            raise PluginError(f"{entry}: cannot import '{entry.target}': {_describe(error)}") from error
        contract = KINDS[kind]
        if not (isclass(component) and issubclass(component, contract)):
            raise PluginError(f"{entry}: '{entry.target}' is no subclass of {contract.__name__}")
        if isabstract(component):
            missing = ", ".join(sorted(getattr(component, "__abstractmethods__", ())))
            raise PluginError(f"{entry}: '{entry.target}' does not implement {missing}")
        if not (isclass(component.Options) and issubclass(component.Options, contract.Options)):
            raise PluginError(f"{entry}: '{entry.target}.Options' is no subclass of {contract.Options.__name__}")
        return component

    def create(self, kind: str, name: str, options: Mapping[str, Any], where: str | None = None) -> Any:
        """A component with validated options. `running` can then name its plugin in errors.

        Args:
            kind: a key of `KINDS`.
            name: a plain name, or ``distribution/name``.
            options: keys as written by the user.
            where: the name of the section in error messages; by default the kind.

        Raises:
            RequestError: as for `entry`, or an option is unknown, missing or wrong.
            PluginError: as for `get`.
        """
        return self.make(kind, name, self.parse(kind, name, options, where))

    def parse(self, kind: str, name: str, options: Mapping[str, Any], where: str | None = None) -> Options:
        """The validated options of a plugin; arguments and errors are as in `create`."""
        return parse_options(self.get(kind, name).Options, options, where or kind)

    def make(self, kind: str, name: str, options: Options) -> Any:
        """A component with options from `parse`. `running` can then name its plugin in errors."""
        component_class = self.get(kind, name)
        entry = self.entry(kind, name)
        origin = str(entry)
        try:
            component = component_class(options)
        except Exception as error:
            error.add_note(f"raised by {origin}")
            raise
        component.origin, component.summary = origin, entry.summary
        return component

    def register_commands(self, app: Typer) -> None:
        """Let every plugin add its commands to the command line; a failure is a `PluginWarning`."""
        self._call_each("rosepo_register_commands", app=app)

    def stage_finished(self, run: Path, stage: str, artifact: Path, reused: bool) -> None:
        """Call the hook `rosepo_stage_finished` of every plugin; a failure is a `PluginWarning`."""
        self._call_each("rosepo_stage_finished", run=run, stage=stage, artifact=artifact, reused=reused)

    def _load(self, point: EntryPoint) -> None:
        """Import one module and register its plugins.

        This does not use pluggy's loader, which skips a second distribution with the same entry-point name, and stops
        at the first module that cannot be imported.
        """
        version = point.dist.version if point.dist else ""
        plugin = Entry("plugin", point.name, _distribution(point), version, point.value)
        found: list[Entry] = []
        try:
            module = point.load()
            name = self._manager.register(module, name=f"{plugin.qualified_name}={point.value}")
        except (Exception, SystemExit) as error:
            self._report(plugin, _describe(error))
            return
        assert name is not None
        try:
            for kind, hook in REGISTER_HOOKS.items():
                self._call(hook, name, register=partial(self._register, plugin, found, kind))
        except (Exception, SystemExit) as error:
            self._manager.unregister(name=name)
            self._report(plugin, _describe(error))
            return
        self._plugins[name] = plugin
        self._entries += found
        for caller in self._manager.get_hookcallers(module) or ():
            required = [own for own in caller.get_hookimpls() if own.plugin is module and not own.optionalhook]
            if required and not caller.has_spec():
                self._report(plugin, f"'{caller.name}' is no hook{nearest(caller.name, self._hooks)}")
        for hook in self._hooks:
            function = getattr(module, hook, None)
            if callable(function) and self._manager.parse_hookimpl_opts(module, hook) is None:
                self._report(plugin, f"'{hook}' is not marked with @hookimpl and is never called")

    def _register(
        self,
        plugin: Entry,
        found: list[Entry],
        kind: str,
        name: str,
        target: str,
        *,
        summary: str,
        aliases: Sequence[str] = (),
    ) -> None:
        if not KEBAB_CASE.fullmatch(name):
            raise PluginError(f"the name of {kind} '{name}' is not kebab-case, as in 'self-hard'")
        if not TARGET.fullmatch(target):
            raise PluginError(f"the target of {kind} '{name}' is '{target}', not 'package.module:Class'")
        if len({name, *aliases}) <= len(aliases):
            raise PluginError(f"it registers {kind} '{name}' under one name twice")
        for alias in aliases:
            if not ALIAS.fullmatch(alias):
                raise PluginError(f"the alias '{alias}' of {kind} '{name}' has more than letters, digits, - and _")
        entry = Entry(kind, name, plugin.distribution, plugin.version, target, summary, aliases=tuple(aliases))
        own = [other for other in self._entries + found if other.kind == kind]
        for each in (name, *aliases):
            if any(_matches(other, f"{plugin.distribution}/{each}") for other in own):
                raise PluginError(f"it registers {kind} '{each}' a second time")
        found.append(entry)

    def _call(self, hook: str, name: str, **arguments: Any) -> None:
        """Call one plugin's implementations of a hook, if it has any."""
        others = [plugin for other, plugin in self._manager.list_name_plugin() if other != name]
        self._manager.subset_hook_caller(hook, others)(**arguments)

    def _call_each(self, hook: str, **arguments: Any) -> None:
        for name, plugin in self._plugins.items():
            try:
                self._call(hook, name, **arguments)
            except (Exception, SystemExit) as error:
                warnings.warn(f"{plugin}: {hook}: {_describe(error)}", PluginWarning, stacklevel=3)

    def _report(self, plugin: Entry, error: str) -> None:
        self._entries.append(replace(plugin, error=error))
        warnings.warn(f"{plugin}: {error}", PluginWarning, stacklevel=2)


@cache
def load_plugins() -> Registry:
    """The plugins of all installed distributions, loaded once per process."""
    return Registry.discover()


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown"


def _matches(entry: Entry, name: str) -> bool:
    """Whether an entry has a name or alias. Distribution names are compared as in package indexes: case, `-`, `_` and
    `.` do not matter."""
    distribution, _, bare = name.rpartition("/")
    same = not distribution or _canonical(distribution) == _canonical(entry.distribution)
    return same and bare in (entry.name, *entry.aliases)


def _canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _describe(error: BaseException) -> str:
    """The exception in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, RosepoError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
