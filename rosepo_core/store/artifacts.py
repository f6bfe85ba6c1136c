"""Artifacts, the results of stages in a run folder: files, and a manifest with their SHA-256 sums, written last.

A fingerprint covers everything that the artifact depends on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from rosepo_core.contracts.errors import RequestError, RosepoError
from rosepo_core.store import files
from rosepo_core.store.sealed import is_own, read_sealed, sealed

MANIFEST = "manifest.json"

ABOUT_FILE = "rosepo.json"
"""The file of an export that says what it is."""

GROWS = ("catalogue_changes.parquet",)
"""Files in the folder of a model that change after it was written (`serving.changed_catalogue`)."""


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


AGAIN = "copy the folder again from the run that made it, or make it anew there"
"""What to do about a damaged artifact, if no command is known."""


def read_manifest(folder: Path, remedy: str = AGAIN) -> dict[str, Any] | None:
    """The manifest of a stage's folder; `None` if there is none.

    Args:
        folder: the folder.
        remedy: what to do if it is damaged, for the error.

    Raises:
        RequestError: the manifest is damaged, or names files outside the folder.
    """
    manifest = read_sealed(folder / MANIFEST, remedy)
    if manifest is not None and not _is_manifest(manifest):
        raise RequestError(f"{folder / MANIFEST} is no list of an artifact's files: {remedy}")
    return manifest


def whole_manifest(folder: Path) -> dict[str, Any] | None:
    """As `read_manifest`; `None` also if the manifest is damaged."""
    try:
        return read_manifest(folder)
    except RequestError:
        return None


def check_artifact(folder: Path) -> bool:
    """Check that a stage's folder, also a copy of it, or an export, has the files that were written, and no others.

    Returns:
        whether there is a manifest. Without it, nothing is checked.

    Raises:
        RequestError: a file is damaged.
    """
    manifest = read_manifest(folder)
    if manifest is None and (folder / ABOUT_FILE).exists():
        raise RequestError(f"{folder / MANIFEST} is missing: {AGAIN}")
    if manifest and (damaged := damage(folder, manifest, cached=True)) is not None:
        raise RequestError(f"{damaged}: {AGAIN}")
    return manifest is not None


def is_own_artifact(folder: Path) -> bool:
    """Whether this user made an artifact or an export on this machine, as its manifest says."""
    manifest = whole_manifest(folder)
    return manifest is not None and is_own(manifest)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Read from an artifact whose sums are right. Its content may still be another than rosepo writes, because others
    made it. What a library says of that becomes one error.

    Raises:
        RequestError: the content cannot be read.
    """
    try:
        yield
    except (RosepoError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    # A panic in compiled code is no Exception.
    except BaseException as error:
        cause = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise RequestError(f"{folder} does not hold what rosepo writes ({cause}): {AGAIN}") from error


def content_sums(path: Path) -> Mapping[str, str]:
    """The SHA-256 sums of a file, or of all files in a folder, by their relative paths; empty if nothing exists."""
    found = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    return {each.relative_to(path).as_posix(): file_sum(each) for each in found}


def damage(folder: Path, manifest: Mapping[str, Any], *, cached: bool = False) -> str | None:
    """The damage of an artifact's files, as a text; `None` if they are as they were written.

    Args:
        folder: the artifact's folder.
        manifest: its manifest.
        cached: whether files may be links into the cache of a model hub, which keeps all files of a model elsewhere.
    """
    listed: Mapping[str, str] = manifest["files"]
    try:
        for name, digest in listed.items():
            path = folder / name
            if not _is_regular(folder, name, also_folder=not cached) and not (cached and _is_cached(path)):
                return f"{path} is no regular file"
            if file_sum(path) != digest:
                return f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}"
        more = next((name for name in _files(folder) if name not in listed and not _is_beside(name)), None)
        return None if more is None else f"{folder / more} does not belong there: it is not in {MANIFEST}"
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"


def write_manifest(
    folder: Path, stage: str, wanted: str, inputs: Mapping[str, str], seconds: float, *, own: bool = True
) -> None:
    """Complete an artifact after all its files are written: flush them to the disk, then write the manifest.

    Args:
        folder: the artifact's folder.
        stage: the name of its stage.
        wanted: its fingerprint.
        inputs: the fingerprints of the artifacts that it was made from, by stage.
        seconds: the time that making it took.
        own: whether this user made everything that it was made from.

    Raises:
        RosepoError: a file has weights that are not numbers.
        OSError: the disk is full.
    """
    names = [name for name in _files(folder) if name != MANIFEST]
    for name in names:
        if name.endswith(".safetensors"):
            _refuse_nan(stage, folder / name)
        files.fsync(folder / name)
    manifest = {
        "stage": stage,
        "fingerprint": wanted,
        "inputs": dict(inputs),
        "seconds": seconds,
        "files": {name: file_sum(folder / name) for name in names},
    }
    files.write_text(folder / MANIFEST, sealed(manifest, own=own))


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
    if (damaged := damage(target, manifest)) is not None:
        raise RosepoError(f"{source} changed while it was read ({damaged}): run the same command again")
    own = is_own(manifest)
    manifest |= {"stage": stage, "inputs": manifest["inputs"] if inputs is None else dict(inputs)}
    files.write_text(target / MANIFEST, sealed(manifest, own=own))


def copy_files(source: Path, target: Path) -> None:
    """Copy the files that a manifest lists, and the manifest, into the folder `target`."""
    manifest = read_manifest(source)
    assert manifest is not None
    for name in (*manifest["files"], MANIFEST):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name, follow_symlinks=False)


def _is_manifest(found: Mapping[str, Any]) -> bool:
    return (
        isinstance(found.get("stage"), str)
        and isinstance(found.get("fingerprint"), str)
        and isinstance(found.get("seconds"), int | float)
        and all(isinstance(found.get(key), dict) for key in ("inputs", "files"))
        and all(isinstance(value, str) for key in ("inputs", "files") for value in found[key].values())
        and all(map(_stays_inside, found["files"]))
        and all(len(PurePosixPath(name).parts) == 1 and _stays_inside(name) for name in found["inputs"])
    )


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _files(folder: Path) -> list[str]:
    """The relative paths of all that is in a folder and is no folder."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _is_beside(name: str) -> bool:
    """Whether a file may be in an artifact's folder although the manifest does not have it: no stage and no library
    reads it, or it has a check of its own."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    return hidden or name in (MANIFEST, *GROWS) or path.suffix == ".md" or path.stem in ("LICENSE", "NOTICE")


def _is_cached(path: Path) -> bool:
    """Whether a file is a link from the snapshot of a hub's model to its content: ``snapshots/COMMIT/FILE`` ->
    ``blobs/HASH``."""
    target = path.resolve()
    snapshots = path.parent.absolute().parent
    is_hub = snapshots.name == "snapshots" and target.parent == snapshots.parent.resolve() / "blobs"
    return is_hub and target.is_file()


def _is_regular(folder: Path, name: str, *, also_folder: bool) -> bool:
    """Whether a file is no link and in no linked folder; `also_folder` if `folder` may be no link either."""
    *above, last = (*([folder] if also_folder else []), *(folder / part for part in _prefixes(name)))
    return all(stat.S_ISDIR(os.lstat(each).st_mode) for each in above) and stat.S_ISREG(os.lstat(last).st_mode)


def _prefixes(name: str) -> Iterator[PurePosixPath]:
    path = PurePosixPath(name)
    yield from reversed(path.parents[:-1])
    yield path


def file_sum(path: Path) -> str:
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
