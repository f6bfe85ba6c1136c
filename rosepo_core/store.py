"""The run folder: artifacts that appear whole or not at all, found again by fingerprint.

A stage writes into a staging folder; its files are fsynced, a manifest with their SHA-256 sums is written last, and
one rename puts the folder in its place. A fingerprint covers everything that the stage depends on. An artifact with
the wanted fingerprint is reused from the run itself or from any run folder beside it, by hard links, so that every
run folder stays complete in itself.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosepo_core.contracts.errors import RequestError, RosepoError

MANIFEST = "manifest.json"
CONFIG = "config.toml"


def fingerprint(*parts: Any) -> str:
    """SHA-256 (hex, 16 digits) of `parts` as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Artifact:
    """What a stage left in the run folder.

    Attributes:
        stage: the stage's name, also the folder's.
        folder: where it is.
        fingerprint: of all that it depends on.
        reused: the folder it was taken from where it was not made anew, else None.
        seconds: how long the making took, whenever that was.
    """

    stage: str
    folder: Path
    fingerprint: str
    reused: Path | None
    seconds: float


class RunStore:
    """One run folder."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made when the first thing is written.

        Raises:
            RequestError: `folder` is a file, or holds other things than a run.
        """
        self.folder = folder
        self._existed = folder.exists()
        self._config_before: str | None = None
        self._replaced: list[tuple[Path, Path | None]] = []
        self._provisional = False
        if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / CONFIG).exists())):
            raise RequestError(f"{folder} exists and is no run folder (it has no {CONFIG}): choose another --run")

    @staticmethod
    def open(folder: Path) -> RunStore:
        """The store of a run that exists.

        Raises:
            RequestError: there is none.
        """
        if not (folder / CONFIG).is_file():
            raise RequestError(
                f"{folder} is no run folder: it has no {CONFIG}; name the folder that `rosepo train` printed"
            )
        return RunStore(folder)

    def begin(self, config: str) -> None:
        """Write the configuration; until `commit`, `roll_back` can undo it and whatever stages follow.

        Raises:
            RequestError: the folder cannot be written.
        """
        file = self.folder / CONFIG
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._config_before = file.read_text(encoding="utf-8") if file.exists() else None
            write_text(file, config)
        except OSError as error:
            raise RequestError(f"{self.folder} cannot be written: {error.strerror}; choose another --run") from None
        self._provisional = True

    def commit(self) -> None:
        """Keep what has been made, and what is made from now on as soon as it is there."""
        for _, old in self._replaced:
            if old is not None:
                shutil.rmtree(old)
        self._replaced.clear()
        self._provisional = False

    def roll_back(self) -> None:
        """Leave the folder as it was before `begin`; nothing happens after `commit`."""
        if not self._provisional:
            return
        for final, old in reversed(self._replaced):
            shutil.rmtree(final)
            if old is not None:
                os.rename(old / final.name, final)
                old.rmdir()
        self._replaced.clear()
        self._provisional = False
        if self._config_before is not None:
            write_text(self.folder / CONFIG, self._config_before)
        elif self._existed:
            (self.folder / CONFIG).unlink()
        else:
            shutil.rmtree(self.folder)

    def find(self, stage: str, wanted: str) -> Artifact | None:
        """The undamaged artifact of `stage` with the fingerprint `wanted`, from this run or one beside it."""
        for folder in (self.folder, *self._siblings()):
            manifest = read_manifest(folder / stage)
            if manifest and manifest["fingerprint"] == wanted and _intact(folder / stage, manifest):
                return Artifact(stage, folder / stage, wanted, folder, manifest["seconds"])
        return None

    def reuse(self, found: Artifact) -> Artifact:
        """Bring an artifact of another run into this one."""
        if found.folder.parent != self.folder:
            with self._staging(found.stage) as staged:
                shutil.copytree(found.folder, staged, copy_function=_link, dirs_exist_ok=True)
                self._put(staged, found.stage)
        return Artifact(found.stage, self.folder / found.stage, found.fingerprint, found.reused, found.seconds)

    def make(self, stage: str, wanted: str, inputs: Mapping[str, str], build: Callable[[Path], float]) -> Artifact:
        """Have `build` fill a staging folder and put it in place; whatever stood there goes once it is complete.

        Args:
            stage: its name.
            wanted: the artifact's fingerprint.
            inputs: the fingerprints of the artifacts that it is made from, by stage.
            build: writes files into the folder that it is given and returns the seconds that the work took.
        """
        with self._staging(stage) as staged:
            seconds = round(build(staged), 3)
            files = {
                str(path.relative_to(staged)): _sha256(path) for path in sorted(staged.rglob("*")) if path.is_file()
            }
            for path in files:
                _fsync(staged / path)
            manifest = {
                "stage": stage,
                "fingerprint": wanted,
                "inputs": dict(inputs),
                "seconds": seconds,
                "files": files,
            }
            write_text(staged / MANIFEST, json.dumps(manifest, indent=1))
            self._put(staged, stage)
        return Artifact(stage, self.folder / stage, wanted, None, seconds)

    def artifact(self, stage: str) -> Artifact:
        """The finished artifact of `stage` in this run, whatever its fingerprint.

        Raises:
            RequestError: the run has not come that far, or an earlier stage was made anew since.
        """
        again = f"finish the run with `rosepo train --config {self.folder / CONFIG} --run {self.folder}`"
        manifest = read_manifest(self.folder / stage)
        if manifest is None:
            raise RequestError(f"{self.folder} has no finished stage '{stage}': {again}")
        for name, used in manifest.get("inputs", {}).items():
            if self.artifact(name).fingerprint != used:
                raise RequestError(f"{self.folder}: stage '{name}' was made anew after stage '{stage}': {again}")
        return Artifact(stage, self.folder / stage, manifest["fingerprint"], self.folder, manifest["seconds"])

    def _siblings(self) -> Iterator[Path]:
        parent = self.folder.resolve().parent
        if parent.is_dir():
            yield from sorted(
                # Path.is_file raises where others' folders may not be entered.
                run
                for run in parent.iterdir()
                if os.path.isfile(run / CONFIG) and run != self.folder.resolve()
            )

    def _staging(self, stage: str) -> _Staging:
        self.folder.mkdir(parents=True, exist_ok=True)
        return _Staging(self.folder, stage)

    def _put(self, staged: Path, stage: str) -> None:
        final = self.folder / stage
        old = Path(tempfile.mkdtemp(prefix=f".{stage}-old-", dir=self.folder)) if final.exists() else None
        if old is not None:
            os.rename(final, old / stage)
        os.rename(staged, final)
        _fsync(self.folder)
        self._replaced.append((final, old))
        if not self._provisional:
            self.commit()


class _Staging:
    """A folder that is gone afterwards unless it was renamed."""

    def __init__(self, folder: Path, stage: str) -> None:
        self._path = Path(tempfile.mkdtemp(prefix=f".{stage}-", dir=folder))

    def __enter__(self) -> Path:
        self._path.chmod(0o755)
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a stage's folder; None where there is none or it is damaged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(manifest, dict) and {"fingerprint", "files", "seconds"} <= manifest.keys()
    return manifest if whole else None


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _intact(folder: Path, manifest: Mapping[str, Any]) -> bool:
    files: Mapping[str, str] = manifest["files"]
    try:
        return all(_sha256(folder / name) == digest for name, digest in files.items())
    except OSError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise RosepoError(f"cannot reuse {source}: {error.strerror}") from error
        shutil.copy2(source, target)
