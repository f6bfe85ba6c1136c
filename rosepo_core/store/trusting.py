"""Takes over a run: its configuration as it is now, and its stages, as if this user had made them."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from pathlib import Path

from rosepo_core import ownership
from rosepo_core.contracts.errors import RequestError
from rosepo_core.store import files
from rosepo_core.store.artifacts import MANIFEST, damage, file_sum, read_manifest
from rosepo_core.store.changes import CONFIG
from rosepo_core.store.marker import MARKER, is_run, listed_files, marker, read_listed
from rosepo_core.store.sealed import sealed


def trust(folder: Path) -> Collection[str]:
    """Sign a run with this user's key.

    Returns:
        the stages of the run, which are whole.

    Raises:
        RequestError: this is no run; something in it is damaged, except a configuration that can still be read; the
            folder cannot be written, or another process works on it.
    """
    if not is_run(folder):
        raise RequestError(f"{folder} is no run folder: it has no {MARKER}")
    try:
        owner = ownership.take(folder)
    except OSError as error:
        raise RequestError(f"{folder} cannot be written: {error.strerror}") from None
    try:
        listed = {name: each for name, each in listed_files(folder).items() if "/" not in name}
        for name in listed.keys() - {CONFIG}:
            read_listed(folder, name)
        _check_config(folder / CONFIG)
        stages = {path.parent.name: read_manifest(path.parent) for path in sorted(folder.glob(f"*/{MANIFEST}"))}
        manifests = {stage: manifest for stage, manifest in stages.items() if manifest is not None}
        for stage, manifest in manifests.items():
            if (damaged := damage(folder / stage, manifest)) is not None:
                raise RequestError(f"{damaged}: copy it again from the run that made it, or train again")
        for stage, manifest in manifests.items():
            files.write_text(folder / stage / MANIFEST, sealed(manifest))
        sums = {f"{stage}/{MANIFEST}": file_sum(folder / stage / MANIFEST) for stage in manifests}
        files.write_text(folder / MARKER, marker({**listed, CONFIG: file_sum(folder / CONFIG), **sums}))
    finally:
        ownership.give_back(folder, owner)
    return list(manifests)


def _check_config(path: Path) -> None:
    try:
        tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RequestError(f"{path} is no TOML file: {error}") from None
