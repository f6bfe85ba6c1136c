"""Runs the contract tests of a plugin, and says in words which promise is kept and which is broken.

The promises are the docstrings of the contract tests in `rosepo_core.testing`.
"""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rosepo_core.contracts.errors import PluginError, RequestError, nearest
from rosepo_core.plugins.containment import contained, described
from rosepo_core.plugins.one_file import is_file_name
from rosepo_core.plugins.registry import KINDS, Entry, Registry, load_plugins

LINES = 4
"""At most this many lines say why a promise is broken."""

TEST_FILE = """
import pytest

from rosepo_core.testing import {contract}


class TestPlugin({contract}):
    name = {name!r}

    @pytest.fixture
    def options(self):
        return {options!r}
"""


@dataclass(frozen=True)
class Promise:
    """One promise of the contract.

    Attributes:
        test: the name of the test in the contract.
        text: the promise, in words.
        broken: why it is broken, a few lines; `None` if it is kept.
    """

    test: str
    text: str
    broken: str | None


def plugin_of(registry: Registry, name: str, kind: str | None = None) -> Entry:
    """The one plugin of a name.

    Args:
        registry: the installed plugins.
        name: its name or alias, ``DISTRIBUTION/NAME``, or ``FILE.py:CLASS``.
        kind: a key of `KINDS`; by default any.

    Raises:
        RequestError: no plugin has the name, or several have it.
        PluginError: it is the name of a module or distribution that did not load.
    """
    if kind is not None and kind not in KINDS:
        raise RequestError(f"unknown kind of plugin '{kind}'{nearest(kind, KINDS)}")
    if kind is not None:
        return registry.entry(kind, name)
    kinds = (
        registry.kinds(name) if is_file_name(name) else [each for each in KINDS if _is_known(registry, each, name)]
    )
    if len(kinds) == 1:
        return registry.entry(kinds[0], name)
    if kinds:
        choices = " or ".join(f"--kind {each}" for each in kinds)
        raise RequestError(f"'{name}' is the name of a {' and of a '.join(kinds)}; add {choices}")
    for entry in registry.entries("plugin"):
        if name.partition("/")[0] in (entry.name, entry.distribution):
            raise PluginError(f"{entry}: {entry.error}")
    known = [name for entry in registry.entries() for name in (entry.name, *entry.aliases)]
    failed = "".join(f" ({entry}: {entry.error})" for entry in registry.entries("plugin"))
    raise RequestError(f"unknown plugin '{name}'{nearest(name, known)}{failed}")


def check_plugin(entry: Entry, options: Mapping[str, Any]) -> list[Promise]:
    """Run the contract tests of the plugin's kind.

    Args:
        entry: the plugin, from `plugin_of`.
        options: its options, as a user writes them.

    Returns:
        The promises of the contract, in its order.

    Raises:
        RequestError: pytest is not installed, or the options are wrong.
        PluginError: the plugin cannot be imported or made, or no test ran.
    """
    if find_spec("pytest") is None:
        raise RequestError("the check needs pytest, which is not installed: pip install pytest")
    registry = load_plugins()
    parsed = registry.parse(entry.kind, entry.qualified_name, options)
    try:
        with contained():
            registry.make(entry.kind, entry.qualified_name, parsed)
    except (PluginError, RequestError):
        raise
    except Exception as error:
        raise PluginError(f"{entry}: it cannot be made: {described(error)}{_place(error, entry)}") from error
    promises = _run(entry, options)
    if not promises:
        raise PluginError(f"{entry}: no contract test ran")
    return promises


def _is_known(registry: Registry, kind: str, name: str) -> bool:
    distribution, _, bare = name.rpartition("/")
    return any(
        bare in (entry.name, *entry.aliases) and distribution in ("", entry.distribution)
        for entry in registry.entries(kind)
    )


def _run(entry: Entry, options: Mapping[str, Any]) -> list[Promise]:
    import pytest

    recorder = _Recorder(entry)
    contract = f"{entry.kind.title()}Contract"
    with TemporaryDirectory() as folder, _quiet():
        # pytest imports a module once, so that each check has a module of its own.
        test, settings = Path(folder, f"test_{Path(folder).name}.py"), Path(folder, "pytest.ini")
        content = TEST_FILE.format(contract=contract, name=entry.qualified_name, options=dict(options))
        test.write_text(content, encoding="utf-8")
        settings.write_text("[pytest]\n", encoding="utf-8")
        # Neither settings nor plugins of pytest in the author's project may change the check.
        own = [f"--rootdir={folder}", "-c", str(settings), "--import-mode=importlib", "--disable-plugin-autoload"]
        code = pytest.main([str(test), *own, "-p", "no:cacheprovider", f"--basetemp={folder}/files"], [recorder])
    if code == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise PluginError(f"{entry}: the contract tests did not run: {recorder.error or f'pytest gave {code}'}")
    return recorder.promises()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without pytest's own output and the settings of pytest in the environment."""
    settings = {name: os.environ.pop(name) for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS") if name in os.environ}
    compiles = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    finally:
        sys.dont_write_bytecode = compiles
        os.environ.update(settings)


class _Recorder:
    """A plugin of pytest that keeps the promise of each test and why it is broken."""

    def __init__(self, entry: Entry) -> None:
        self.error: str | None = None
        self._entry = entry
        self._texts: dict[str, str] = {}
        self._broken: dict[str, str] = {}

    def promises(self) -> list[Promise]:
        """What was found, in the order of the tests."""
        return [Promise(test, text, self._broken.get(test)) for test, text in self._texts.items()]

    def pytest_collectreport(self, report: Any) -> None:
        """Keep why the tests could not be collected."""
        if report.failed:
            self.error = str(report.longrepr).strip().splitlines()[-1]

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Take each promise from the docstring of its test."""
        for item in items:
            text = inspect.getdoc(item.function) or item.originalname.replace("_", " ")
            self._texts[item.originalname] = " ".join(text.partition("\n\n")[0].split())

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        """Keep why a test failed: for a test with several parameters, the first time."""
        if call.excinfo is None:
            return
        parameters = getattr(item, "callspec", None)
        given = (
            "" if parameters is None else ", ".join(f"{key} = {value}" for key, value in parameters.params.items())
        )
        reason = _reason(call.excinfo.value, self._entry)
        self._broken.setdefault(item.originalname, f"with {given}: {reason}" if given else reason)


def _reason(error: BaseException, entry: Entry) -> str:
    """Why a test failed, in a few lines."""
    if isinstance(error, AssertionError) and str(error):
        lines = [line.rstrip() for line in str(error).splitlines() if line.strip()]
        if len(lines) > 1 and not lines[0].startswith("assert "):
            # The message of the contract stands before the expression.
            lines = [line for line in lines if not line.startswith("assert ") and not line.startswith(" +")]
        shown = lines[:LINES]
        return "\n".join([*shown, *(["..."] if len(lines) > LINES else [])])
    return f"{described(error)}{_place(error, entry)}"


def _place(error: BaseException, entry: Entry) -> str:
    """Where in the plugin's own code an error was raised; empty if it was not raised there."""
    file = source_file(entry)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if file and Path(frame.filename) == file]
    return f" ({file.name}, line {frames[-1].lineno})" if file and frames else ""


def source_file(entry: Entry) -> Path | None:
    """The file with the code of a plugin, which can be imported; `None` if it was not read from a file."""
    found = inspect.getsourcefile(load_plugins().get(entry.kind, entry.qualified_name))
    return None if found is None else Path(found)
