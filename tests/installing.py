"""Distributions that pip installs, as a user's pip does."""

from __future__ import annotations

import base64
import hashlib
import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from zipfile import ZipFile

import pytest

from rosepo_core.plugins.registry import load_plugins


@dataclass(frozen=True)
class Distribution:
    """A distribution with one module and one entry point in the group ``rosepo``.

    Attributes:
        name: its name; that of its module has ``_`` for ``-``.
        source: the code of the module.
        version: its version.
        requires: what it requires, such as ``rosepo<0.1``.
        attribute: what the entry point names in the module, such as ``:PLUGIN``.
    """

    name: str
    source: str
    version: str = "1.0"
    requires: tuple[str, ...] = ()
    attribute: str = ""

    @property
    def module(self) -> str:
        return self.name.replace("-", "_")

    def wheel(self, folder: Path) -> Path:
        path = folder / f"{self.module}-{self.version}-py3-none-any.whl"
        info = f"{self.module}-{self.version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n"
        files = {
            f"{self.module}.py": dedent(self.source),
            f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {each}\n" for each in self.requires),
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/entry_points.txt": f"[rosepo]\nmain = {self.module}{self.attribute}\n",
        }
        record = "".join(f"{name},sha256={_digest(text)},{len(text.encode())}\n" for name, text in files.items())
        with ZipFile(path, "w") as archive:
            for name, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
                archive.writestr(name, text)
        return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def pip_install(distributions: Iterable[Distribution], folder: Path) -> Path:
    """Let pip install distributions into ``folder/site-packages``, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    site = folder / "site-packages"
    wheels = [each.wheel(folder) for each in distributions]
    how = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-compile", "--target", site]
    command = [sys.executable, "-m", "pip", "install", *map(str, [*how, *wheels])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return site


def uninstall(distribution: Distribution, site: Path) -> None:
    """Remove what `pip_install` left of a distribution: pip does not uninstall from a folder."""
    info = site / f"{distribution.module}-{distribution.version}.dist-info"
    for line in (info / "RECORD").read_text().splitlines():
        (site / line.partition(",")[0]).unlink(missing_ok=True)
    shutil.rmtree(info)


@contextmanager
def on_path(site: Path, distributions: Iterable[Distribution]) -> Iterator[None]:
    """What is installed in a folder on the path of this process, as in a new one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        load_plugins.cache_clear()
        yield
    for each in distributions:
        sys.modules.pop(each.module, None)
    importlib.invalidate_caches()
    load_plugins.cache_clear()
