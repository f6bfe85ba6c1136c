"""One process owns a run folder while it changes it: a lock file says which process, on which host, since when."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rosepo_core.contracts.errors import RequestError

LOCK = ".lock"


@dataclass(frozen=True)
class Owner:
    """The process that owns a folder.

    Attributes:
        pid: the process id.
        started: the start of the process by the kernel, in clock ticks since boot. It tells the process from a later
            one with the same id. Empty if the kernel does not say.
        host: the machine that it runs on.
        since: when it took the folder, UTC.
    """

    pid: int
    started: str
    host: str
    since: str

    @staticmethod
    def this_process() -> Owner:
        """The current process."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return Owner(os.getpid(), _started(os.getpid()), socket.gethostname(), now)

    @property
    def is_gone(self) -> bool:
        """Whether the process has certainly ended. For another host this is unknown, and the answer is false."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on host {self.host} since {self.since}"


def take(folder: Path) -> Owner:
    """Make this process the owner of `folder`, which must exist. The lock of a process that has ended is replaced.

    Raises:
        RequestError: another process owns the folder, or this process already does.
        OSError: the lock cannot be written.
    """
    with _exclusive(folder / LOCK) as handle:
        other = _parse(os.pread(handle, 4096, 0))
        if other is not None and not other.is_gone:
            here = other.host == socket.gethostname()
            remedy = "wait until it is done" if here else f"if it no longer runs there, remove {folder / LOCK}"
            raise RequestError(f"{folder} is in use by {other}: {remedy}")
        owner = Owner.this_process()
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(asdict(owner)).encode(), 0)
        os.fsync(handle)
    return owner


def give_back(folder: Path, owner: Owner) -> None:
    """Give up the ownership from `take`. Nothing happens if the folder is gone or has another owner now."""
    with suppress(OSError), _exclusive(folder / LOCK, create=False) as handle:
        if _parse(os.pread(handle, 4096, 0)) == owner:
            (folder / LOCK).unlink()


@contextmanager
def _exclusive(lock: Path, *, create: bool = True) -> Iterator[int]:
    """The lock file's handle, with exclusive access on this machine. Hold it for a moment only."""
    while True:
        handle = os.open(lock, os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
        try:
            with suppress(OSError):  # Some network file systems have no such locks.
                fcntl.flock(handle, fcntl.LOCK_EX)
            # The process before may have removed the file that was opened here.
            if not _is_at(handle, lock):
                continue
            yield handle
            return
        finally:
            os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _parse(content: bytes) -> Owner | None:
    """The owner in a lock file; `None` if its process was killed before it wrote its data."""
    try:
        return Owner(**json.loads(content))
    except (ValueError, TypeError):
        return None


def _started(pid: int) -> str:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The program's name, in parentheses, may contain spaces. The start time is the 20th field after it.
    return status.rpartition(")")[2].split()[19]
