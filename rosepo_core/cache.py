"""What the cache folder holds, and its removal. Nothing outside the folder is touched, and no link is followed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.packages import UNPACKED, cache_folder
from rosepo_core.store.sealed import KEY_FILE

AGAIN = {"wheels": "fetched again", "models": "converted again", "downloads": "fetched again"}
"""The folders of the cache that rosepo itself fills, and how it gets what is missing there."""

OTHER = "other"
"""The kind of what is in no folder of a kind."""

ALL = "all"
"""The name for everything that rosepo can make again."""


@dataclass(frozen=True)
class CacheEntry:
    """One file or folder of the cache.

    Attributes:
        path: where it is.
        kind: the folder of the cache that it is in, such as ``models``; ``other`` if it is in none.
        bytes: its size; of a link, that of the link.
        last_used: when a file of it was last read or written, as far as the file system notes this.
        incomplete: whether it is what an interrupted download or conversion left.
    """

    path: Path
    kind: str
    bytes: int
    last_used: datetime
    incomplete: bool

    @property
    def name(self) -> str:
        """The name of the file or folder."""
        return self.path.name

    @property
    def again(self) -> str:
        """How rosepo gets the entry again when it needs it; empty if rosepo itself did not make it."""
        if self.kind == OTHER:
            return "unpacked again" if self.name.startswith(UNPACKED) else ""
        return AGAIN.get(self.kind, "")

    def document(self) -> dict[str, Any]:
        """The entry as JSON values."""
        return {
            "kind": self.kind,
            "name": self.name,
            "path": str(self.path),
            "bytes": self.bytes,
            "last_used": self.last_used.isoformat(timespec="seconds"),
            "incomplete": self.incomplete,
            "made_again": bool(self.again),
        }


def entries() -> list[CacheEntry]:
    """What the cache holds, by kind and name.

    Raises:
        RequestError: the folder cannot be read.
    """
    folder = cache_folder()
    found = []
    try:
        for path in sorted(folder.iterdir()) if folder.exists() else []:
            if path.is_dir() and not path.is_symlink() and not _is_hidden(path):
                found += [_entry(each, path.name) for each in sorted(path.iterdir())]
            elif path.name != KEY_FILE:
                # Nobody can make that again.
                found.append(_entry(path, OTHER))
    except OSError as error:
        raise RequestError(f"cannot read the cache folder {folder} ({error.strerror})") from error
    return found


def chosen(every: Sequence[CacheEntry], names: Sequence[str]) -> list[CacheEntry]:
    """The entries that are named, each once.

    Args:
        every: the entries of the cache.
        names: ``NAME`` or ``KIND/NAME`` of entries; ``all`` stands for everything that rosepo can make again.

    Raises:
        RequestError: there is no such entry, or there are several.
    """
    found: dict[Path, CacheEntry] = {}
    for name in names:
        named = [each for each in every if name in (each.name, f"{each.kind}/{each.name}")]
        if name == ALL:
            named = [each for each in every if each.again]
        elif not named:
            raise RequestError(f"the cache holds no '{name}'{nearest(name, [each.name for each in every])}")
        elif len(named) > 1:
            several = " or ".join(f"{each.kind}/{each.name}" for each in named)
            raise RequestError(f"the cache holds several '{name}': write {several}")
        found |= {each.path: each for each in named}
    return list(found.values())


def remove(some: Sequence[CacheEntry]) -> int:
    """Remove entries, and return how many bytes this freed.

    Raises:
        RequestError: one cannot be removed; those before it are gone.
    """
    for entry in some:
        try:
            if entry.path.is_dir() and not entry.path.is_symlink():
                shutil.rmtree(entry.path)
            else:
                entry.path.unlink()
        except OSError as error:
            raise RequestError(f"cannot remove {error.filename or entry.path} ({error.strerror})") from error
    return sum(entry.bytes for entry in some)


def _entry(path: Path, kind: str) -> CacheEntry:
    files = _files(path)
    used = max(max(each.st_atime, each.st_mtime) for each in files)
    size = sum(each.st_size for each in files)
    return CacheEntry(path, kind, size, datetime.fromtimestamp(used, UTC), _is_hidden(path))


def _files(path: Path) -> list[os.stat_result]:
    """Of a folder, the files in it; of anything else, and of an empty folder, itself."""
    inside = (
        [] if path.is_symlink() else [Path(top, file).lstat() for top, _, files in os.walk(path) for file in files]
    )
    return inside or [path.lstat()]


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")
