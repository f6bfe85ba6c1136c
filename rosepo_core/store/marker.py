"""RUN/run.json: it makes a folder a run, and lists what a finished command left there, with SHA-256 sums.

The list has config.toml, the files for readers, and the manifests of all stages. So a file or a stage that was
damaged, replaced or lost is noticed, although the rest of the run fits together. Model cards are not in it, because
people edit them; metrics.jsonl is not, because it grows with every step of a training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from rosepo_core.contracts.errors import RequestError
from rosepo_core.store.changes import CONFIG
from rosepo_core.store.sealed import is_own, read_sealed, sealed

MARKER = "run.json"
"""The file that identifies a run folder. config.toml cannot do this, because other projects have files of this
name."""

_KIND = {"kind": "rosepo run", "schema": 2}


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run folder; also if its `MARKER` is damaged. Folders that cannot be read are not."""
    try:
        found = json.loads((folder / MARKER).read_bytes())
    except OSError:
        return False
    except (ValueError, RecursionError):
        return True
    return isinstance(found, dict) and found.get("kind") == _KIND["kind"]


def marker(listed: Mapping[str, str], *, own: bool = True) -> str:
    """The text of RUN/run.json.

    Args:
        listed: the SHA-256 sums of files in RUN, by their relative paths.
        own: whether this user made the run. What is only measured in the run of another stays that of the other.
    """
    return sealed({**_KIND, "files": dict(sorted(listed.items()))}, own=own)


def sum_of(text: str) -> str:
    """The SHA-256 of a file with this text."""
    return hashlib.sha256(text.encode()).hexdigest()


def listed_files(folder: Path) -> Mapping[str, str]:
    """The SHA-256 sums that RUN/run.json lists; empty without the file.

    Raises:
        RequestError: the file is damaged.
    """
    found = _read(folder)
    listed: Mapping[str, str] = {} if found is None else found["files"]
    return listed


def is_own_run(folder: Path) -> bool:
    """Whether this user made the run with its present configuration on this machine, so that what the configuration
    names can be trusted.

    Raises:
        RequestError: RUN/run.json is damaged.
    """
    found = _read(folder)
    return found is not None and is_own(found)


def read_listed(folder: Path, name: str) -> str | None:
    """The text of RUN/`name`, which is checked; `None` if the run has no such file.

    Raises:
        RequestError: the file is not as the run left it.
    """
    wanted = listed_files(folder).get(name)
    remedy = f"copy it from a copy of the run, or run the command of {folder} again with another --run beside it"
    try:
        content = (folder / name).read_bytes()
    except FileNotFoundError:
        if wanted is None:
            return None
        raise RequestError(f"{folder / name} is missing: {remedy}") from None
    except OSError as error:
        raise RequestError(f"{folder / name} cannot be read ({error.strerror}): {remedy}") from None
    if wanted is not None and hashlib.sha256(content).hexdigest() != wanted:
        if name == CONFIG:
            remedy = f"if you changed it yourself, `rosepo trust {folder}`; otherwise {remedy}"
        raise RequestError(
            f"{folder / name} is damaged or was changed: its SHA-256 is not the one in {MARKER}; {remedy}, which "
            "reuses finished stages"
        )
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise RequestError(f"{folder / name} is not UTF-8 text: {remedy}") from None


def _read(folder: Path) -> dict[str, Any] | None:
    remedy = (
        f"copy it from a copy of the run, or run the command of {folder} again with another --run beside it, which "
        "reuses finished stages"
    )
    found = read_sealed(folder / MARKER, remedy)
    if found is None:
        return None
    listed = found.get("files")
    if {**found, **_KIND} != found or not isinstance(listed, dict) or not all(map(_is_plain, listed.items())):
        raise RequestError(f"{folder / MARKER} is of another version of rosepo: {remedy}")
    return found


def _is_plain(entry: tuple[str, object]) -> bool:
    path = PurePosixPath(entry[0])
    return isinstance(entry[1], str) and not path.is_absolute() and ".." not in path.parts
