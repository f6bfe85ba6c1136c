"""Environments of libraries that cannot live beside the versions that rosepo is tested with."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import pytest

from rosepo_core.packages import cache_folder

ROOT = Path(__file__).parents[1]


def other_python(name: str, *packages: str) -> str:
    """An interpreter that sees pinned packages first, and behind them everything that the tests see.

    It is $NAME_PYTHON, or that of an environment in rosepo's cache, made if absent. The test is skipped if it cannot
    be made.
    """
    if given := os.environ.get(f"{name.upper()}_PYTHON"):
        return given
    # Not what pytest adds, or Python itself.
    behind = [
        path
        for path in map(Path, filter(None, sys.path))
        if path.is_dir() and not any(path.is_relative_to(other) for other in (sys.base_prefix, ROOT / "tests"))
    ]
    digest = hashlib.sha256(repr((packages, sorted(behind), sys.version)).encode()).hexdigest()[:12]
    folder = cache_folder() / "environments" / f"{name}-{digest}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as temporary:
            _make(Path(temporary) / "made", behind, packages)
            try:
                (Path(temporary) / "made").rename(folder)
            except OSError:  # Another process was faster.
                assert folder.exists()
    return str(folder / "bin" / "python")


def _make(folder: Path, behind: list[Path], packages: tuple[str, ...]) -> None:
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "behind.pth").write_text("".join(f"{path}\n" for path in behind), encoding="utf-8")
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    how = ["--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*install, *how, *packages], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no environment with {packages[0]}: {done.stderr.strip().splitlines()[-1]}")


def run_python(python: str, *arguments: object) -> str:
    """What a Python program prints; it runs in the root of the project."""
    command = [python, "-W", "ignore", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
