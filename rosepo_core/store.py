"""The run folder: artifacts that appear whole or not at all, found again by fingerprint.

A stage writes into a staging folder; its files are fsynced, a manifest with their SHA-256 sums is written last, and
one rename puts the folder in its place. A fingerprint covers everything that the stage depends on. An artifact with
the wanted fingerprint is reused from the run itself or from any run folder beside it, by hard links, so that every
run folder stays complete in itself.

RUN/config.toml describes the artifacts of RUN at any time. What would replace an artifact, or was made under another
configuration, is a change. It is kept apart in RUN/unfinished until it is complete, and then put in place as one:
what is to be moved is written down first, so that a process that is killed between two moves leaves a list that the
next one works off.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from rosepo_core import ownership
from rosepo_core.contracts.errors import RequestError, RosepoError

MANIFEST = "manifest.json"
CONFIG = "config.toml"
MARKER = "run.json"
"""What tells a run folder from any other: a project may well have a config.toml of its own."""

IS_RUN = {"kind": "rosepo run", "schema": 1}
UNFINISHED = "unfinished"
_MOVES = "moves.json"
_TEXTS = "texts"
_DISPLACED = "displaced"
_STAGING = ".new-"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Note = Callable[[str], None]


def fingerprint(*parts: Any) -> str:
    """SHA-256 (hex, 16 digits) of `parts` as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Artifact:
    """What a stage left in the run folder.

    Attributes:
        stage: the stage's name, also the folder's.
        folder: where it is; of a change, where it is until the change is complete.
        fingerprint: of all that it depends on.
        reused: the run folder it was taken from where it was not made anew, else None.
        seconds: how long the making took, whenever that was.
    """

    stage: str
    folder: Path
    fingerprint: str
    reused: Path | None
    seconds: float


class RunStore:
    """One run folder. To read it, `open` it; whatever makes, reuses or writes does so inside `working`."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made when work on it begins.

        Raises:
            RequestError: `folder` is a file, or holds other things than a run.
        """
        self.folder = folder
        self._config: str | None = None
        self._main: frozenset[str] = frozenset()
        self._owner: ownership.Owner | None = None
        self._new_folder = False
        self._new_run = False
        self._apart = False
        self._provisional = False
        self._made: list[Path] = []
        self._settled: dict[str, Path] = {}
        self._kept: set[str] = set()
        self._texts: dict[str, str] = {}
        if folder.exists() and not is_run(folder) and (not folder.is_dir() or any(_not_ours(folder))):
            raise RequestError(f"{folder} exists and is no run folder (it has no {MARKER}): choose another --run")

    @staticmethod
    def open(folder: Path) -> RunStore:
        """The store of a run that exists.

        Raises:
            RequestError: there is none.
        """
        if not is_run(folder) or not (folder / CONFIG).is_file():
            lacks = MARKER if not is_run(folder) else CONFIG
            raise RequestError(
                f"{folder} is no run folder: it has no {lacks}; name the folder that `rosepo train` printed"
            )
        store = RunStore(folder)
        if (folder / UNFINISHED / _MOVES).exists():
            with store._owned():
                store._work_off()
        return store

    @property
    def config(self) -> str:
        """The configuration that describes the artifacts; empty where there is none yet."""
        try:
            return (self.folder / CONFIG).read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    @contextmanager
    def working(self, config: str, main: Collection[str] = (), *, reading: bool = False) -> Iterator[None]:
        """Make the artifacts of a configuration.

        Where this ends with a `RequestError` before `commit`, the folder is left as it was. Where it ends with any
        other exception, what stood in the folder is left as it was, and what has been made is kept to be found again.
        Else a change is put in place, if it has a successor for each main stage of the run; one that has not stays
        apart (`is_apart`).

        Args:
            config: the text of config.toml.
            main: the stages that a change may not take away; others may go, as they only served them.
            reading: the folder is not taken before something must be made, so that runs which nobody may write to
                can be read.

        Raises:
            RequestError: another process owns the folder, or it cannot be written.
        """
        self._config = config
        self._main = frozenset(main)
        if not reading:
            self._begin()
        try:
            yield
            if self._owner is not None:
                self._end()
        except RequestError:
            self._roll_back()
            raise
        finally:
            self._config = None
            self._give_back()

    def commit(self) -> None:
        """Keep what has been made, and what is made from now on as soon as it is there."""
        self._provisional = False
        self._made.clear()

    @property
    def is_apart(self) -> bool:
        """Whether there is a change that lacks a successor for a main stage of the run, so that it was not put in
        place."""
        return self._apart

    def find(self, stage: str, wanted: str, note: Note = lambda _: None) -> Artifact | None:
        """The undamaged artifact of `stage` with the fingerprint `wanted`, from this run or one beside it.

        Args:
            stage: its name.
            wanted: its fingerprint.
            note: is told of a damaged one in this run.
        """
        for parent in (self.folder, self._pending):
            manifest = read_manifest(parent / stage)
            if manifest and manifest["fingerprint"] == wanted:
                if (damage := _damage(parent / stage, manifest)) is None:
                    return Artifact(stage, parent / stage, wanted, self.folder, manifest["seconds"])
                note(f"{damage}; the stage is made anew")
        for run in self._siblings():
            manifest = None if (run / stage).is_symlink() else read_manifest(run / stage)
            if manifest and manifest["fingerprint"] == wanted and not _damage(run / stage, manifest, links=False):
                return Artifact(stage, run / stage, wanted, run, manifest["seconds"])
        return None

    def reuse(self, found: Artifact) -> Artifact:
        """Bring an artifact that `find` gave into this run."""
        place = found.folder
        if place.parent == self._pending:
            self._begin()
            place = self._put(place, found.stage, found.fingerprint)
        elif place.parent != self.folder:
            with self._staging(found.stage) as staged:
                manifest = read_manifest(place)
                assert manifest is not None
                for name in manifest["files"]:
                    (staged / name).parent.mkdir(parents=True, exist_ok=True)
                    _link(place / name, staged / name)
                if (damage := _damage(staged, manifest, links=False)) is not None:
                    raise RosepoError(f"{place} changed while it was read ({damage}): run the same command again")
                write_text(staged / MANIFEST, json.dumps(manifest, indent=1))
                place = self._put(staged, found.stage, found.fingerprint)
        self._settled[found.stage] = place
        return Artifact(found.stage, place, found.fingerprint, found.reused, found.seconds)

    def make(
        self,
        stage: str,
        wanted: str,
        inputs: Mapping[str, str],
        build: Callable[[Path], float],
        *,
        replace: bool = False,
    ) -> Artifact:
        """Have `build` fill a staging folder and put it in place, or beside what it would replace.

        Args:
            stage: its name.
            wanted: the artifact's fingerprint.
            inputs: the fingerprints of the artifacts that it is made from, by stage.
            build: writes files into the folder that it is given and returns the seconds that the work took.
            replace: the run's own artifact is whole, and is to be replaced all the same.

        Raises:
            RosepoError: `build` wrote weights that are not numbers, or the disk is full.
        """
        with self._staging(stage) as staged:
            try:
                seconds = round(build(staged), 3)
                names = sorted(path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file())
                for name in names:
                    if name.endswith(".safetensors"):
                        _refuse_nan(stage, staged / name)
                    _fsync(staged / name)
                manifest = {
                    "stage": stage,
                    "fingerprint": wanted,
                    "inputs": dict(inputs),
                    "seconds": seconds,
                    "files": {name: _sha256(staged / name) for name in names},
                }
                write_text(staged / MANIFEST, json.dumps(manifest, indent=1))
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                raise RosepoError(
                    f"stage '{stage}' cannot be written to {self.folder}: {error.strerror}; make room and run the "
                    "same command again, finished stages are reused"
                ) from error
            place = self._put(staged, stage, wanted, replace=replace)
        self._settled[stage] = place
        return Artifact(stage, place, wanted, None, seconds)

    def write(self, name: str, text: str) -> None:
        """Have the file RUN/`name` written together with the artifacts that it tells of, when the work is done."""
        self._texts[name] = text

    def artifact(self, stage: str, command: str = "") -> Artifact:
        """The finished artifact of `stage` in this run, whatever its fingerprint; its files are as they were made.

        Args:
            stage: its name.
            command: what makes it, for errors; if empty, the command that trains the run.

        Raises:
            RequestError: the run has not come that far, an earlier stage was made anew since, or a file is damaged.
        """
        command = command or f"rosepo train --config {self.folder / CONFIG} --run {self.folder}"
        manifest = self._fitting(stage, command)
        if (damage := _damage(self.folder / stage, manifest)) is not None:
            raise RequestError(f"{damage}: make it anew with `{command}`")
        self._kept.add(stage)
        return Artifact(stage, self.folder / stage, manifest["fingerprint"], self.folder, manifest["seconds"])

    def _fitting(self, stage: str, command: str) -> dict[str, Any]:
        """The manifest of an artifact that was made of those that stand here."""
        manifest = read_manifest(self.folder / stage)
        if manifest is None:
            raise RequestError(f"{self.folder} has no finished stage '{stage}': finish the run with `{command}`")
        for name, used in manifest["inputs"].items():
            if self._fitting(name, command)["fingerprint"] != used:
                raise RequestError(
                    f"{self.folder}: stage '{name}' was made anew after stage '{stage}': finish the run with "
                    f"`{command}`"
                )
        return manifest

    def _siblings(self) -> Iterator[Path]:
        parent = self.folder.resolve().parent
        if parent.is_dir():
            for run in sorted(parent.iterdir()):
                if run != self.folder.resolve() and not run.is_symlink() and is_run(run):
                    yield run

    # How work on the folder begins and ends.

    @contextmanager
    def _owned(self) -> Iterator[None]:
        try:
            self._owner = ownership.take(self.folder)
        except OSError as error:
            raise RequestError(f"{self.folder} cannot be written: {error.strerror}") from None
        try:
            yield
        finally:
            self._give_back()

    def _begin(self) -> None:
        """Take the folder, clear what a killed process left, and see what the configuration means for the run."""
        if self._owner is not None:
            return
        assert self._config is not None, "artifacts are made inside `working` alone"
        self._new_folder = not self.folder.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._owner = ownership.take(self.folder)
            self._clear()
            self._work_off()
            self._new_run = not self.config and not self._standing()
            if not is_run(self.folder):
                write_text(self.folder / MARKER, json.dumps(IS_RUN) + "\n")
            if self._new_run:
                write_text(self.folder / CONFIG, self._config)
        except OSError as error:
            if self._new_folder and self.folder.is_dir():
                shutil.rmtree(self.folder, ignore_errors=True)
            self._give_back()
            raise RequestError(f"{self.folder} cannot be written: {error.strerror}; choose another --run") from None
        self._apart = self.config != self._config
        self._provisional = True

    def _clear(self) -> None:
        for folder in (self.folder, self._pending):
            for left in folder.glob(f"{_STAGING}*"):
                _remove(left)

    def _give_back(self) -> None:
        if self._owner is not None:
            # Stages of an unfinished change wait there.
            if self._pending.is_dir() and not any(
                each.name == _MOVES or read_manifest(each) for each in self._pending.iterdir()
            ):
                _remove(self._pending)
            ownership.give_back(self.folder, self._owner)
            self._owner = None

    def _roll_back(self) -> None:
        if self._owner is None or not self._provisional:
            return
        for place in self._made:
            _remove(place)
        if self._new_folder:
            _remove(self.folder)
        elif self._new_run:
            for name in (CONFIG, MARKER):
                (self.folder / name).unlink(missing_ok=True)

    @property
    def _pending(self) -> Path:
        return self.folder / UNFINISHED

    def _standing(self) -> dict[str, dict[str, Any]]:
        """The manifests of the run's artifacts."""
        found = {entry.name: read_manifest(entry) for entry in self.folder.iterdir() if entry != self._pending}
        return {stage: manifest for stage, manifest in found.items() if manifest}

    def _staging(self, stage: str) -> _Staging:
        self._begin()
        return _Staging(self.folder, stage)

    def _put(self, staged: Path, stage: str, wanted: str, *, replace: bool = False) -> Path:
        standing = read_manifest(self.folder / stage)
        if standing and (replace or standing["fingerprint"] != wanted):
            self._apart = True
        parent = self._pending if self._apart else self.folder
        if staged == parent / stage:
            return staged
        parent.mkdir(exist_ok=True)
        place = parent / stage
        # It is damaged, or of a change that was given up.
        with _Staging(self.folder, stage) as old:
            new = not _rename(place, old / stage)
            os.rename(staged, place)
            _fsync(parent)
        if new and self._provisional:
            self._made.append(place)
        return place

    # How a change is put in place.

    def _end(self) -> None:
        if not self._apart and not self._texts:
            return
        standing = self._standing()
        if self._apart and not standing.keys() & self._main <= self._settled.keys() | self._kept:
            return
        plan = {
            "stages": [stage for stage, place in self._settled.items() if place.parent == self._pending],
            "dropped": sorted(standing.keys() - self._settled.keys() - self._kept) if self._apart else [],
            "texts": sorted(self._texts),
            "config": self._apart,
            "settled": sorted(self._settled) if self._apart else [],
        }
        try:
            self._write_down(plan)
            self._work_off()
        except OSError as error:
            raise RosepoError(
                f"{self.folder} cannot be written: {error.strerror}; run the same command again"
            ) from error
        self._apart = False

    def _write_down(self, plan: Mapping[str, Any]) -> None:
        texts = {f"{_TEXTS}/{name}": text for name, text in self._texts.items()}
        if self._apart:
            assert self._config is not None
            texts[CONFIG] = self._config
        for name, text in {**texts, _MOVES: json.dumps(plan, indent=1)}.items():
            (self._pending / name).parent.mkdir(parents=True, exist_ok=True)
            write_text(self._pending / name, text)

    def _work_off(self) -> None:
        """Put a complete change in place, or go on with it: every step may be the one that was not done before."""
        try:
            plan = json.loads((self._pending / _MOVES).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        displaced = self._pending / _DISPLACED
        displaced.mkdir(exist_ok=True)
        for stage in plan["stages"]:
            if (self._pending / stage).exists():
                _rename(self.folder / stage, displaced / stage)
                os.rename(self._pending / stage, self.folder / stage)
        for stage in plan["dropped"]:
            _rename(self.folder / stage, displaced / stage)
        for name in plan["texts"]:
            if (self._pending / _TEXTS / name).exists():
                os.replace(self._pending / _TEXTS / name, self.folder / name)
        if plan["config"] and (self._pending / CONFIG).exists():
            os.replace(self._pending / CONFIG, self.folder / CONFIG)
        _fsync(self.folder)
        (self._pending / _MOVES).unlink()
        # What else is there belongs to another change.
        for name in (_DISPLACED, _TEXTS, *plan["settled"]):
            _remove(self._pending / name)


class _Staging:
    """A folder that is gone afterwards unless it was renamed."""

    def __init__(self, folder: Path, stage: str) -> None:
        self._path = Path(tempfile.mkdtemp(prefix=f"{_STAGING}{stage}-", dir=folder))

    def __enter__(self) -> Path:
        self._path.chmod(0o755)
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run folder; others' folders may be such as nobody may look into."""
    try:
        return bool(json.loads((folder / MARKER).read_text(encoding="utf-8")) == IS_RUN)
    except (OSError, ValueError):
        return False


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a stage's folder; None where there is none or it is damaged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not (isinstance(manifest, dict) and {"fingerprint", "inputs", "files", "seconds"} <= manifest.keys()):
        return None
    return manifest if all(map(_stays_inside, manifest["files"])) else None


def check_artifact(folder: Path) -> None:
    """See that a stage's folder, wherever it is by now, holds what the stage wrote; of others nothing is known.

    Raises:
        RequestError: a file is damaged.
    """
    manifest = read_manifest(folder)
    if manifest and (damage := _damage(folder, manifest)) is not None:
        raise RequestError(f"{damage}: copy {folder} again from the run that made it, or make it anew there")


def content_sums(path: Path) -> Mapping[str, str]:
    """The SHA-256 sums of a file, or of all the files below a folder, by their paths from there on; none where there
    is nothing."""
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    return {each.relative_to(path).as_posix(): _sha256(each) for each in files}


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=f"{_STAGING}{path.name}-", dir=path.parent)
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


def _not_ours(folder: Path) -> Iterator[Path]:
    """What no process that was killed at the very beginning of a run can have left."""
    return (each for each in folder.iterdir() if each.name != ownership.LOCK and not each.name.startswith(_STAGING))


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _damage(folder: Path, manifest: Mapping[str, Any], *, links: bool = True) -> str | None:
    """What is wrong with an artifact's files, None where all are as they were made.

    Args:
        folder: the artifact's.
        manifest: its.
        links: whether a file may be a link, or lie behind one.
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


def _is_regular(folder: Path, name: str) -> bool:
    *above, last = (folder, *(folder / part for part in _prefixes(name)))
    return all(stat.S_ISDIR(os.lstat(each).st_mode) for each in above) and stat.S_ISREG(os.lstat(last).st_mode)


def _prefixes(name: str) -> Iterator[PurePosixPath]:
    path = PurePosixPath(name)
    yield from reversed(path.parents[:-1])
    yield path


def _sha256(path: Path) -> str:
    """Of a file's content, read once a process as long as the file stays the same."""
    found = os.stat(path)
    return _sha256_of(path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@cache
def _sha256_of(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_nan(stage: str, path: Path) -> None:
    """Weights or scores that are not numbers are no artifact, whoever made them."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            tensor = file.get_tensor(name)
            # Nothing is defined on floats of one byte.
            known = tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor
            if bool(known.isnan().any()):
                raise RosepoError(
                    f"stage '{stage}' made values that are not numbers (NaN in '{name}' of {path.name}) and is not "
                    "kept: lower the learning rate, or set model.dtype='float32'"
                )


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _rename(source: Path, target: Path) -> bool:
    """Whether there was anything to rename."""
    try:
        os.rename(source, target)
    except FileNotFoundError:
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise RosepoError(f"cannot reuse {source}: {error.strerror}") from error
        shutil.copy2(source, target, follow_symlinks=False)
