"""Artifacts, the results of stages in a run folder: files, and a manifest with their SHA-256 sums, written last.

A fingerprint covers everything that the artifact depends on.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from rosepo_core.contracts.errors import RequestError, RosepoError
from rosepo_core.store import files

MANIFEST = "manifest.json"


def fingerprint(*parts: Any) -> str:
    """SHA-256 (hex, 16 digits) of `parts` as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Artifact:
    """The result of a stage in the run folder.

    Attributes:
        stage: the name of the stage and of its folder.
        folder: its folder; for a change, its folder until the change is complete.
        fingerprint: fingerprint of everything that it depends on.
        reused: the run folder that it was taken from; `None` if it was made now.
        seconds: the time that making it took, now or earlier.
    """

    stage: str
    folder: Path
    fingerprint: str
    reused: Path | None
    seconds: float


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a stage's folder; `None` if it is missing or damaged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not (isinstance(manifest, dict) and {"fingerprint", "inputs", "files", "seconds"} <= manifest.keys()):
        return None
    return manifest if all(map(_stays_inside, manifest["files"])) else None


def check_artifact(folder: Path) -> None:
    """Check that a stage's folder, also a copy of it, has the files that the stage wrote. Other folders are not
    checked.

    Raises:
        RequestError: a file is damaged.
    """
    manifest = read_manifest(folder)
    if manifest and (damaged := damage(folder, manifest)) is not None:
        raise RequestError(f"{damaged}: copy {folder} again from the run that made it, or make it anew there")


def content_sums(path: Path) -> Mapping[str, str]:
    """The SHA-256 sums of a file, or of all files in a folder, by their relative paths; empty if nothing exists."""
    found = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    return {each.relative_to(path).as_posix(): _sha256(each) for each in found}


def damage(folder: Path, manifest: Mapping[str, Any], *, links: bool = True) -> str | None:
    """The damage of an artifact's files, as a text; `None` if all files are unchanged.

    Args:
        folder: the artifact's folder.
        manifest: its manifest.
        links: whether a file may be a link, or be in a linked folder.
    """
    for name, digest in manifest["files"].items():
        path = folder / name
        try:
            if not links and not _is_regular(folder, name):
                return f"{path} is no regular file"
            if _sha256(path) != digest:
                return f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}"
        except FileNotFoundError:
            return f"{path} is missing"
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"
    return None


def write_manifest(folder: Path, stage: str, wanted: str, inputs: Mapping[str, str], seconds: float) -> None:
    """Complete an artifact after all its files are written: flush them to the disk, then write the manifest.

    Args:
        folder: the artifact's folder.
        stage: the name of its stage.
        wanted: its fingerprint.
        inputs: the fingerprints of the artifacts that it was made from, by stage.
        seconds: the time that making it took.

    Raises:
        RosepoError: a file has weights that are not numbers.
        OSError: the disk is full.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in names:
        if name.endswith(".safetensors"):
            _refuse_nan(stage, folder / name)
        files.fsync(folder / name)
    manifest = {
        "stage": stage,
        "fingerprint": wanted,
        "inputs": dict(inputs),
        "seconds": seconds,
        "files": {name: _sha256(folder / name) for name in names},
    }
    files.write_text(folder / MANIFEST, json.dumps(manifest, indent=1))


def copy_artifact(source: Path, target: Path, stage: str, inputs: Mapping[str, str] | None = None) -> None:
    """Copy an artifact into the empty folder `target`, by hard links if the file system has them.

    Args:
        source: the artifact's folder.
        target: the empty folder.
        stage: the name of its stage there.
        inputs: the fingerprints of the artifacts that it was made from, by stage; `None` to keep the names.

    Raises:
        RosepoError: the artifact changed during this, or cannot be linked or copied.
    """
    manifest = read_manifest(source)
    assert manifest is not None
    for name in manifest["files"]:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        files.link(source / name, target / name)
    if (damaged := damage(target, manifest, links=False)) is not None:
        raise RosepoError(f"{source} changed while it was read ({damaged}): run the same command again")
    manifest |= {"stage": stage, "inputs": manifest["inputs"] if inputs is None else dict(inputs)}
    files.write_text(target / MANIFEST, json.dumps(manifest, indent=1))


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _is_regular(folder: Path, name: str) -> bool:
    *above, last = (folder, *(folder / part for part in _prefixes(name)))
    return all(stat.S_ISDIR(os.lstat(each).st_mode) for each in above) and stat.S_ISREG(os.lstat(last).st_mode)


def _prefixes(name: str) -> Iterator[PurePosixPath]:
    path = PurePosixPath(name)
    yield from reversed(path.parents[:-1])
    yield path


def _sha256(path: Path) -> str:
    """The SHA-256 of a file. It is computed once in a process, as long as the file does not change."""
    found = os.stat(path)
    return _sha256_of(path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@cache
def _sha256_of(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_nan(stage: str, path: Path) -> None:
    """Refuse weights or scores that are not numbers."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            tensor = file.get_tensor(name)
            # torch has no operations on floats of one byte.
            known = tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor
            if bool(known.isnan().any()):
                raise RosepoError(
                    f"stage '{stage}' made values that are not numbers (NaN in '{name}' of {path.name}) and is not "
                    "kept: lower the learning rate, or set model.dtype='float32'"
                )
