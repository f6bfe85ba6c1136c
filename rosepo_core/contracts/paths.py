"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """The path with the home folder for ``~`` or ``~user`` at its beginning. If there is no such user, the path stays
    as it is, so that the error about a file that does not exist names it."""
    return Path(os.path.expanduser(path))
