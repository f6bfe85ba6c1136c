"""Folders of runs under seeds: each run is in ``seed-S``."""

from __future__ import annotations

from pathlib import Path

from rosepo_core.contracts.errors import RequestError
from rosepo_core.store.marker import MARKER, is_run


def is_seeds(folder: Path) -> bool:
    """Whether `folder` contains runs under seeds, and is not itself a run."""
    return not is_run(folder) and any(is_run(each) for each in folder.glob("seed-*"))


def seed_runs(folder: Path) -> dict[int, Path]:
    """The runs of a folder of seeds, by seed, ascending.

    Raises:
        RequestError: there is none.
    """
    found = {
        int(each.name.removeprefix("seed-")): each
        for each in folder.glob("seed-*")
        if each.name.removeprefix("seed-").isdecimal() and is_run(each)
    }
    if not found:
        raise RequestError(f"{folder} holds no runs under seeds (seed-*/{MARKER}): name what `--seeds` made")
    return dict(sorted(found.items()))
