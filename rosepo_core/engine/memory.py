"""Memory of a training process on a CPU.

A training step frees what it allocates, gigabytes of it, and the C library gives large blocks back to the system at
once. The next step gets them anew, page by page and filled with zeros, which costs more than many of the operations
on them; on virtual machines that hand freed pages back to their host it can cost several times the step.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt (malloc.h)."""


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next allocations, until it ends. Peak memory stays what it is.

    It is glibc that is told; elsewhere nothing changes. Graphics memory has its own allocator, which keeps it anyway.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
