"""Plugins in one file: ``./my_loss.py:MyLoss``, for an idea that is not packaged yet.

Their name is a path and a class. A configuration keeps the absolute path. The content of the file stands for the
version, so a stage is made again after the file was edited.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
import traceback
from contextlib import suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from rosepo_core.contracts.errors import PluginError, RequestError, nearest
from rosepo_core.contracts.paths import expanded
from rosepo_core.plugins.containment import contained, described

IN_A_FILE = re.compile(r"(?P<path>.*\.py)(:(?P<member>.*))?", re.DOTALL)

DIGITS = 8
"""Hexadecimal digits of the content's SHA-256 that stand for the version."""


def is_file_name(name: str) -> bool:
    """Whether the name of a plugin is that of a file and a class, or of a file without a class."""
    return IN_A_FILE.fullmatch(name) is not None


def plain_name(name: str) -> str:
    """The name of a plugin in tables and folders: of a file the class, else the name without its distribution."""
    return name.rpartition(":")[2] if is_file_name(name) else name.rpartition("/")[2]


def shown_name(name: str) -> str:
    """The name of a plugin for readers: as it is, but of a file the class."""
    return plain_name(name) if is_file_name(name) else name


def absolute_name(name: str) -> str:
    """The name with an absolute path, for use in another folder."""
    path, colon, member = _parts(name)
    with suppress(RuntimeError):  # There is no such user.
        path = expanded(path)
    return f"{path.absolute()}{colon}{member}"


def check_recorded(name: str, where: Path, *, own: bool) -> None:
    """Check the name of a plugin that a finished run has, before the plugin is imported. Others may have written the
    name of a file, to let code run that came with the run. rosepo itself writes absolute paths.

    Args:
        name: the name.
        where: where it is written.
        own: whether this user wrote it.

    Raises:
        RequestError: it is the name of a file, and others wrote it, or the path is relative.
    """
    if not is_file_name(name):
        return
    if not own:
        raise RequestError(
            f"{where} names code in a file, '{name}', and is not signed with your key, so others may have written "
            "it: such code does not run; if you trust it, see `rosepo trust --help`"
        )
    if not _parts(name)[0].is_absolute():
        raise RequestError(
            f"{where} names the plugin '{name}': a finished run names a file by its absolute path; write it there if "
            "you trust the file"
        )


class PluginFile:
    """A class in a file.

    Attributes:
        path: the file.
        member: the name of the class.
        version: the first digits of the SHA-256 of its content.
    """

    def __init__(self, name: str) -> None:
        """
        Raises:
            RequestError: the file cannot be read, or no class is named.
        """
        self.path, _, self.member = _parts(absolute_name(name))
        try:
            self._source = self.path.read_bytes()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise RequestError(f"'{name}': {self.path} cannot be read: {why}") from None
        self.version = hashlib.sha256(self._source).hexdigest()[:DIGITS]
        if not self.member.isidentifier():
            classes = ", ".join(each.name for each in self._classes()) or "none"
            raise RequestError(f"'{name}' names no class: write {self.path.name}:CLASS; it has {classes}")

    @property
    def name(self) -> str:
        """Path and class."""
        return f"{self.path}:{self.member}"

    def summary(self) -> str:
        """The first line of the class's docstring. The file is read, but not imported."""
        found = [each for each in self._classes() if each.name == self.member]
        described_as = ast.get_docstring(found[0]) if found else None
        return (described_as or f"{self.member} in {self.path.name}").strip().partition("\n")[0]

    def load(self) -> object:
        """The class. The file is imported once for each content.

        Raises:
            RequestError: the file has no such class.
            PluginError: the file cannot be imported.
        """
        module = self._module()
        if self.member not in vars(module):
            own = [each.name for each in self._classes()]
            raise RequestError(f"{self.path} has no class '{self.member}'{nearest(self.member, own)}")
        member: object = vars(module)[self.member]
        return member

    def _module(self) -> ModuleType:
        # No other module has this name, and another content has another.
        name = f"_{re.sub(r'[^0-9a-zA-Z]', '_', self.path.stem)}_{self.version}"
        known = sys.modules.get(name)
        if known is not None and known.__file__ == str(self.path):
            return known
        spec = spec_from_file_location(name, self.path)
        assert spec is not None
        module = module_from_spec(spec)
        sys.modules[name] = module
        try:
            with contained():
                exec(compile(self._source, str(self.path), "exec"), vars(module))
        except BaseException as error:
            del sys.modules[name]
            if not isinstance(error, Exception):
                raise
            raise PluginError(f"{self.path} cannot be imported: {described(error)}{self._line(error)}") from error
        return module

    def _line(self, error: BaseException) -> str:
        """The line of this file at which an import failed."""
        # What is no Exception is the cause of an error.
        traces = [each.__traceback__ for each in (error.__cause__, error) if each is not None]
        frames = [frame for trace in traces for frame in traceback.extract_tb(trace)]
        lines = [frame.lineno for frame in frames if frame.filename == str(self.path)]
        return f" (line {lines[-1]})" if lines else ""

    def _classes(self) -> list[ast.ClassDef]:
        try:
            return [node for node in ast.parse(self._source).body if isinstance(node, ast.ClassDef)]
        except (SyntaxError, ValueError):
            return []


def _parts(name: str) -> tuple[Path, str, str]:
    matched = IN_A_FILE.fullmatch(name)
    assert matched is not None
    return Path(matched["path"]), ":" if matched[2] else "", matched["member"] or ""
