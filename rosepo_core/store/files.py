"""Writes files and folders so that each is complete or absent, even if the process is killed."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from rosepo_core.contracts.errors import RosepoError

STAGING = ".new-"
"""Names of incomplete files and folders begin with this."""


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file completely or not at all."""
    handle, name = tempfile.mkstemp(prefix=f"{STAGING}{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class Staging:
    """A temporary folder, which is removed at the end unless it was renamed."""

    def __init__(self, folder: Path, stage: str) -> None:
        self._path = Path(tempfile.mkdtemp(prefix=f"{STAGING}{stage}-", dir=folder))

    def __enter__(self) -> Path:
        self._path.chmod(0o755)
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def fsync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rename(source: Path, target: Path) -> bool:
    """Rename a file or folder. Returns whether it existed."""
    try:
        os.rename(source, target)
    except FileNotFoundError:
        return False
    return True


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with its content. It is no error if it does not exist."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link(source: Path, target: Path) -> None:
    """Make a hard link, or a copy if the file system has no hard links between the two places.

    Raises:
        RosepoError: neither is possible.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise RosepoError(f"cannot reuse {source}: {error.strerror}") from error
        shutil.copy2(source, target, follow_symlinks=False)
