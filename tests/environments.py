"""Libraries that cannot live beside the versions that rosepo is tested with, for a Python process of their own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rosepo_core.packages import cache_folder

ROOT = Path(__file__).parents[1]


def other_libraries(name: str, *packages: str) -> Path:
    """A folder with pinned packages, in rosepo's cache; made if absent. All checkouts share it.

    The test is skipped if it cannot be made.
    """
    digest = hashlib.sha256(repr((packages, sys.version)).encode()).hexdigest()[:12]
    folder = cache_folder() / "environments" / f"{name}-{digest}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as temporary:
            made = Path(temporary) / "made"
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            how = ["--no-deps", "--only-binary", ":all:", "--target", str(made)]
            done = subprocess.run([*install, *how, *packages], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"no environment with {packages[0]}: {done.stderr.strip().splitlines()[-1]}")
            try:
                made.rename(folder)
            except OSError:  # Another process was faster.
                assert folder.exists()
    return folder


def run_python(libraries: Path, *arguments: object) -> str:
    """What a Python program prints. It runs in the root of the project, and sees the libraries first, and behind them
    everything that the tests see."""
    behind = [path for path in filter(None, sys.path) if not Path(path).is_relative_to(sys.base_prefix)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(libraries), *behind])}
    command = [sys.executable, "-W", "ignore", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
