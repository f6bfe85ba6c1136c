"""The registry of plugins: finds the plugin of a name, and makes a component of it.

Every distribution, also rosepo itself, names modules in the entry-point group ``rosepo``. The registry imports these
modules to learn which plugins they register. The implementation of a plugin is imported when it is first used.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from importlib.metadata import EntryPoint
from inspect import isabstract, isclass, ismodule
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
from rosepo_core.contracts.errors import NotInstalledError, PluginError, RequestError, nearest
from rosepo_core.contracts.options import Options, parse_options
from rosepo_core.plugins.containment import contained, described
from rosepo_core.plugins.installed import (
    OWN,
    PluginWarning,
    check_requirement,
    distribution_of,
    installed_points,
    version_of,
)
from rosepo_core.plugins.one_file import PluginFile, absolute_name, is_file_name
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


@dataclass(frozen=True)
class Entry:
    """One line of the list of plugins: an implementation, or a plugin module with an error.

    Attributes:
        kind: a key of `KINDS`, or ``"plugin"`` for a module with an error.
        name: the name that users write; for a module, the name of the entry point.
        distribution: the distribution that contains it, or the name of its file.
        version: that distribution's version, or the first digits of the SHA-256 of the file's content.
        target: ``"package.module:Class"``; for a module, its name; for a plugin in a file, ``"/path/file.py:Class"``.
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
        """``distribution/name``, which is unique; of a plugin in a file, path and class."""
        return self.target if is_file_name(self.target) else f"{self.distribution}/{self.name}"

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}' of {self.distribution} {self.version}"


@contextmanager
def running(component: Component) -> Iterator[None]:
    """While `component` runs, add a note to any exception that names the component, its distribution and version.

    The exception keeps its type and traceback. Only what is no `Exception`, such as ``SystemExit``, becomes a
    `PluginError`, because a component must not end the program. This also works as a decorator.
    """
    note = f"raised by {component.origin or type(component).__qualname__}"
    try:
        yield
    except Exception as error:
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        raise
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        failure = PluginError(described(error))
        failure.add_note(note)
        raise failure from error


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
        self._failed_calls: set[str] = set()
        for point in sorted(points, key=lambda point: (distribution_of(point), point.name, point.value)):
            self._load(point)
        self._entries = [self._beside_own(entry) for entry in self._entries]

    @classmethod
    def discover(cls) -> Registry:
        """The plugins of all installed distributions. `load_plugins` does this once and keeps the result."""
        return cls(installed_points())

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
            name: a plain name or alias, or ``distribution/name``. A plain name that rosepo itself has is rosepo's, so
                that no installed distribution changes what a configuration means. Or ``path/file.py:Class``; the file
                is read, and not imported.

        Raises:
            NotInstalledError: no plugin has this name.
            RequestError: several have it, or the file cannot be read.
        """
        if is_file_name(name):
            file = PluginFile(name)
            return Entry(kind, file.member, file.path.name, file.version, file.name, file.summary())
        owners = self._owners(kind, name)
        if len(owners) == 1:
            return owners[0]
        if not owners:
            known = {name for entry in self.entries(kind) for name in (entry.name, *entry.aliases)} | {
                entry.qualified_name for entry in self.entries(kind) if "/" in name
            }
            failed = "".join(f" ({entry} did not load: {entry.error})" for entry in self.entries("plugin"))
            raise NotInstalledError(f"no {kind} is called '{name}'{nearest(name, known)}", failed)
        both = " and ".join(f"{owner.distribution} {owner.version}" for owner in owners)
        choices = " or ".join(f"'{owner.qualified_name}'" for owner in owners)
        raise RequestError(f"{both} each bring a {kind} '{name}'; write {choices}")

    def canonical(self, kind: str, name: str) -> str:
        """The name of the plugin that `name` is an alias of, or the absolute path of its file; any other name as it
        is."""
        if is_file_name(name):
            return absolute_name(name)
        distribution, slash, bare = name.rpartition("/")
        owners = {entry.name for entry in self._owners(kind, name) if entry.name != bare}
        return distribution + slash + owners.pop() if len(owners) == 1 else name

    def _owners(self, kind: str, name: str) -> list[Entry]:
        """The plugins that a name may mean."""
        owners = [entry for entry in self.entries(kind) if _matches(entry, name)]
        return [entry for entry in owners if entry.distribution == OWN] or owners

    def get(self, kind: str, name: str) -> type[Component]:
        """Import an implementation.

        Raises:
            RequestError: as for `entry`, or a file has no such class, or it is of another kind.
            PluginError: it cannot be imported, or breaks the contract of its kind.
        """
        entry = self.entry(kind, name)
        component = PluginFile(name).load() if is_file_name(name) else _imported(entry)
        contract = KINDS[kind]
        if not (isclass(component) and issubclass(component, contract)):
            if kinds := _kinds(component):
                raise RequestError(f"{entry}: '{entry.target}' is no {kind}, but a {kinds[0]}")
            raise PluginError(f"{entry}: '{entry.target}' is no subclass of {contract.__name__}")
        if isabstract(component):
            missing = ", ".join(sorted(getattr(component, "__abstractmethods__", ())))
            raise PluginError(f"{entry}: '{entry.target}' does not implement {missing}")
        if not (isclass(component.Options) and issubclass(component.Options, contract.Options)):
            raise PluginError(f"{entry}: '{entry.target}.Options' is no subclass of {contract.Options.__name__}")
        return component

    def kinds(self, name: str) -> list[str]:
        """The kinds of the class that a file has; it is imported.

        Raises:
            RequestError: the file has no such class, or this is no plugin.
            PluginError: it cannot be imported.
        """
        found = _kinds(PluginFile(name).load())
        if not found:
            classes = ", ".join(contract.__name__ for contract in KINDS.values())
            raise RequestError(f"'{name}' is no plugin: extend one of {classes}")
        return found

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
            with contained():
                component = component_class(options)
        except Exception as error:
            error.add_note(f"raised by {origin}")
            raise
        component.origin, component.summary = origin, entry.summary
        return component

    def register_commands(self, ask: Callable[[Callable[[Typer], None]], None]) -> None:
        """Let every plugin add its commands to the command line; a failure is a `PluginWarning`.

        Args:
            ask: is called for each plugin with the hook of that plugin. It gives the hook an app, and adds the
                commands that this then has.
        """
        for name, plugin in self._plugins.items():
            hook = partial(self._call_commands, name)
            self._contain(plugin, "rosepo_register_commands", partial(ask, hook))

    def _call_commands(self, name: str, app: Typer) -> None:
        self._call("rosepo_register_commands", name, app=app)

    def stage_finished(self, run: Path, stage: str, artifact: Path, reused: bool) -> None:
        """Call the hook `rosepo_stage_finished` of every plugin; a failure is a `PluginWarning`."""
        told = {"run": run, "stage": stage, "artifact": artifact, "reused": reused}
        for name, plugin in self._plugins.items():
            self._contain(plugin, "rosepo_stage_finished", partial(self._call, "rosepo_stage_finished", name, **told))

    def _load(self, point: EntryPoint) -> None:
        """Import one module and register its plugins.

        This does not use pluggy's loader, which skips a second distribution with the same entry-point name, and stops
        at the first module that cannot be imported.
        """
        plugin = Entry("plugin", point.name, distribution_of(point), version_of(point), point.value)
        found: list[Entry] = []
        name = f"{plugin.qualified_name}={point.value}"
        try:
            check_requirement(point)
            with contained():
                module = point.load()
                self._check_module(module, point)
                self._manager.register(module, name=name)
                for kind, hook in REGISTER_HOOKS.items():
                    self._call(hook, name, register=partial(self._register, plugin, found, kind))
                faults = list(self._misspelt(module))
        except Exception as error:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            self._report(plugin, f"{described(error)}; {_remedy(error, plugin)}")
            return
        self._plugins[name] = plugin
        self._entries += found
        for fault in faults:
            self._report(plugin, fault)

    def _check_module(self, module: Any, point: EntryPoint) -> None:
        """Check that an entry point names a module, and one of its own: pluggy compares and hashes what it gets."""
        if not ismodule(module):
            raise PluginError(
                f"'{point.value}' is a {type(module).__name__}; an entry point of rosepo names a module"
            )
        if (other := self._manager.get_name(module)) is not None:
            raise PluginError(f"'{point.value}' is the module of '{other.partition('=')[0]}', too")

    def _misspelt(self, module: Any) -> Iterator[str]:
        """What is wrong with the names and marks of a module's hooks, a line each."""
        for caller in self._manager.get_hookcallers(module) or ():
            required = [own for own in caller.get_hookimpls() if own.plugin is module and not own.optionalhook]
            if required and not caller.has_spec():
                yield f"'{caller.name}' is no hook{nearest(caller.name, self._hooks)}"
        for hook in self._hooks:
            function = getattr(module, hook, None)
            if callable(function) and self._manager.parse_hookimpl_opts(module, hook) is None:
                yield f"'{hook}' is not marked with @hookimpl and is never called"

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
        texts = {"name": name, "target": target, "summary": summary}
        if wrong := [what for what, text in texts.items() if not isinstance(text, str)]:
            raise PluginError(f"the {wrong[0]} of {kind} {name!r} is {texts[wrong[0]]!r}, and not a text")
        if isinstance(aliases, str) or not all(isinstance(alias, str) for alias in aliases):
            raise PluginError(f"the aliases of {kind} '{name}' are {aliases!r}, and not a list of texts")
        if not KEBAB_CASE.fullmatch(name):
            raise PluginError(f"the name of {kind} '{name}' is not kebab-case, as in 'self-hard'")
        if not TARGET.fullmatch(target):
            raise PluginError(f"the target of {kind} '{name}' is '{target}', not 'package.module:Class'")
        if len({name, *aliases}) <= len(aliases):
            raise PluginError(f"it registers {kind} '{name}' under one name twice")
        for alias in aliases:
            if not ALIAS.fullmatch(alias):
                raise PluginError(f"the alias '{alias}' of {kind} '{name}' has more than letters, digits, - and _")
        line = " ".join(summary.split())
        entry = Entry(kind, name, plugin.distribution, plugin.version, target, line, aliases=tuple(aliases))
        own = [other for other in self._entries + found if other.kind == kind]
        for each in (name, *aliases):
            if any(_matches(other, f"{plugin.distribution}/{each}") for other in own):
                raise PluginError(f"it registers {kind} '{each}' a second time")
        found.append(entry)

    def _call(self, hook: str, name: str, **arguments: Any) -> None:
        """Call one plugin's implementations of a hook, if it has any."""
        others = [plugin for other, plugin in self._manager.list_name_plugin() if other != name]
        self._manager.subset_hook_caller(hook, others)(**arguments)

    def _contain(self, plugin: Entry, hook: str, call: Callable[[], object]) -> None:
        """Call a hook of a plugin. A failure is a warning, which is issued once."""
        try:
            with contained():
                call()
        except Exception as error:
            message = f"{plugin}: {hook}: {described(error)}; upgrade or uninstall {plugin.distribution}"
            if message not in self._failed_calls:
                self._failed_calls.add(message)
                warnings.warn(message, PluginWarning, stacklevel=3)

    def _beside_own(self, entry: Entry) -> Entry:
        """An entry of another distribution, with an error if it has a name of rosepo's own."""
        taken = [
            name
            for name in (entry.name, *entry.aliases)
            if entry.distribution != OWN
            and any(_matches(own, name) for own in self._entries if (own.kind, own.distribution) == (entry.kind, OWN))
        ]
        if not taken:
            return entry
        error = f"'{taken[0]}' is rosepo's own {entry.kind}; for this one write '{entry.distribution}/{taken[0]}'"
        warnings.warn(f"{entry}: {error}", PluginWarning, stacklevel=2)
        return replace(entry, error=error)

    def _report(self, plugin: Entry, error: str) -> None:
        self._entries.append(replace(plugin, error=error))
        warnings.warn(f"{plugin}: {error}", PluginWarning, stacklevel=2)


@cache
def load_plugins() -> Registry:
    """The plugins of all installed distributions, loaded once per process."""
    return Registry.discover()


def _matches(entry: Entry, name: str) -> bool:
    """Whether an entry has a name or alias. Distribution names are compared as in package indexes: case, `-`, `_` and
    `.` do not matter."""
    distribution, _, bare = name.rpartition("/")
    same = not distribution or _canonical(distribution) == _canonical(entry.distribution)
    return same and bare in (entry.name, *entry.aliases)


def _canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _imported(entry: Entry) -> object:
    """What the target of an installed plugin names."""
    module_name, _, class_name = entry.target.partition(":")
    try:
        with contained():
            found: object = getattr(import_module(module_name), class_name)
            return found
    except Exception as error:
        remedy = _remedy(error, entry)
        raise PluginError(f"{entry}: cannot import '{entry.target}': {described(error)}; {remedy}") from error


def _kinds(component: object) -> list[str]:
    """The kinds of plugin that a class is of."""
    return [kind for kind, contract in KINDS.items() if isclass(component) and issubclass(component, contract)]


def _remedy(error: BaseException, plugin: Entry) -> str:
    """What a user can do about a plugin that does not load."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        top, own = error.name.partition(".")[0], plugin.target.partition(".")[0].partition(":")[0]
        if top != own:
            return f"install what brings '{top}', or uninstall {plugin.distribution}"
    return f"upgrade or uninstall {plugin.distribution}"
