"""The store of one run folder: finds, reuses and makes artifacts, and puts changes in place."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rosepo_core import ownership
from rosepo_core.contracts.errors import RequestError, RosepoError
from rosepo_core.packages import cache_folder
from rosepo_core.store import files
from rosepo_core.store.artifacts import (
    MANIFEST,
    Artifact,
    copy_artifact,
    damage,
    file_sum,
    is_own_artifact,
    read_manifest,
    whole_manifest,
    write_manifest,
)
from rosepo_core.store.changes import CONFIG, Change
from rosepo_core.store.marker import MARKER, is_own_run, is_run, listed_files, marker, read_listed, sum_of
from rosepo_core.store.metric_lines import METRIC_LINES
from rosepo_core.store.partial import SUFFIX, PartialFolder, read_about
from rosepo_core.store.sealed import KEY_FILE, is_own

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Note = Callable[[str], None]


class RunStore:
    """One run folder. Use `open` to read it. Make, reuse and write artifacts only inside `working`."""

    def __init__(self, folder: Path) -> None:
        """`folder` is created when work on it begins.

        Raises:
            RequestError: `folder` is a file, or has other content than a run.
        """
        self.folder = folder
        self._change = Change(folder)
        self._config: str | None = None
        self._main: frozenset[str] = frozenset()
        self._owner: ownership.Owner | None = None
        self._new_folder = False
        self._new_run = False
        self._apart = False
        self._provisional = False
        self._made: list[Path] = []
        self._partial_before: frozenset[Path] = frozenset()
        self._settled: dict[str, Path] = {}
        self._kept: set[str] = set()
        self._texts: dict[str, str] = {}
        if folder.exists() and not is_run(folder) and (not folder.is_dir() or any(_not_ours(folder))):
            raise RequestError(f"{folder} exists and is no run folder (it has no {MARKER}): choose another --run")
        listed_files(folder)

    @staticmethod
    def open(folder: Path) -> RunStore:
        """The store of an existing run.

        Raises:
            RequestError: there is no run in this folder, or its configuration was changed by others.
        """
        if not is_run(folder) or not (folder / CONFIG).is_file():
            lacks = MARKER if not is_run(folder) else CONFIG
            raise RequestError(
                f"{folder} is no run folder: it has no {lacks}; name the folder that `rosepo train` printed"
            )
        store = RunStore(folder)
        if store._change.is_written_down:
            with store._owned():
                store._change.work_off()
        read_listed(folder, CONFIG)
        return store

    def check_place(self) -> None:
        """Find out, without writing anything, whether the folder can be made or written.

        Raises:
            RequestError: it cannot.
        """
        above = next(each for each in (self.folder, *self.folder.absolute().parents) if each.exists())
        if not above.is_dir():
            raise RequestError(f"{self.folder} cannot be written: {above} is a file; choose another --run")
        if not os.access(above, os.W_OK | os.X_OK):
            raise RequestError(f"{self.folder} cannot be written: {above} is read-only; choose another --run")

    @property
    def config(self) -> str:
        """The configuration that describes the artifacts; empty if there is none yet."""
        try:
            return (self.folder / CONFIG).read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    @contextmanager
    def working(self, config: str, main: Collection[str] = (), *, reading: bool = False) -> Iterator[None]:
        """Make the artifacts of a configuration inside this context.

        - After a `RequestError` before `commit`, the folder is as it was.
        - After any other exception, the old artifacts are as they were. Finished new artifacts, and what the stage in
          progress has so far (`partial`), are kept for the next time.
        - Otherwise a change is put in place if it has a new artifact for each main stage of the run. If it has not,
          it waits in RUN/unfinished (`is_apart`).

        Args:
            config: the text of config.toml.
            main: the stages that a change must replace and not remove. Other stages may be removed, because they only
                served these.
            reading: if true, the process becomes the owner of the folder only when something must be made. So runs in
                read-only folders can be read.

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
        """Keep all artifacts made so far, and each later one as soon as it is finished."""
        self._provisional = False
        self._made.clear()

    @property
    def is_apart(self) -> bool:
        """Whether there is a change that was not put in place, because it lacks a new artifact for a main stage."""
        return self._apart

    def find(
        self, stage: str, wanted: str, note: Note = lambda _: None, *, also: str | None = None
    ) -> Artifact | None:
        """The undamaged artifact of `stage` with the fingerprint `wanted`, from this run or one beside it.

        Args:
            stage: the name of the stage.
            wanted: the fingerprint.
            note: receives a note about a damaged artifact in this run.
            also: another name under which a run may have the artifact.
        """
        names = (stage,) if also is None else (stage, also)
        for place in (parent / name for name in names for parent in (self.folder, self._change.folder)):
            try:
                manifest = read_manifest(place, "the stage is made anew")
            except RequestError as error:
                note(str(error))
                continue
            if manifest is None and place.exists():
                note(f"{place / MANIFEST} is missing: the stage is made anew")
            if manifest and manifest["fingerprint"] == wanted:
                if (damaged := damage(place, manifest)) is None:
                    return Artifact(stage, place, wanted, self.folder, manifest["seconds"])
                note(f"{damaged}; the stage is made anew")
        for place in (run / name for run in self._siblings() for name in names):
            manifest = None if place.is_symlink() else whole_manifest(place)
            if manifest is None or manifest["fingerprint"] != wanted or damage(place, manifest):
                continue
            if is_own(manifest):
                return Artifact(stage, place, wanted, place.parent, manifest["seconds"])
            note(
                f"{place} would do, and is not reused: it is not signed with your key "
                f"({cache_folder() / KEY_FILE}), so others may have made it; if you trust it, `rosepo trust "
                f"{place.parent}`"
            )
        return None

    def reuse(self, found: Artifact, inputs: Mapping[str, str] | None = None) -> Artifact:
        """Take an artifact that `find` returned into this run.

        Args:
            found: the artifact.
            inputs: what it is made from, as in `make`, by the names that these artifacts have in this run; if `None`,
                they have the same names.
        """
        place = found.folder
        if place == self._change.folder / found.stage:
            self._begin()
            place = self._put(place, found.stage, found.fingerprint)
        elif place != self.folder / found.stage:
            with self._staging(found.stage) as staged:
                copy_artifact(place, staged, found.stage, inputs)
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
        """Make an artifact: let `build` fill a staging folder, and put it in place, or into the change if it replaces
        an artifact of the run.

        Args:
            stage: the name of the stage.
            wanted: the artifact's fingerprint.
            inputs: the fingerprints of the artifacts that it is made from, by stage.
            build: writes files into the folder that it gets, and returns the seconds that the work took.
            replace: replace the run's own artifact, although it is complete.

        Raises:
            RosepoError: `build` wrote weights that are not numbers, or the disk is full.
        """
        with self._staging(stage) as staged:
            try:
                seconds = round(build(staged), 3)
                write_manifest(staged, stage, wanted, inputs, seconds, own=self._are_own(inputs))
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                raise RosepoError(
                    f"stage '{stage}' cannot be written to {self.folder}: {error.strerror}; make room and run the "
                    "same command again, finished stages are reused"
                ) from error
            place = self._put(staged, stage, wanted, replace=replace)
        files.remove(self._partial_folder(stage))
        self._settled[stage] = place
        return Artifact(stage, place, wanted, None, seconds)

    def add(
        self, stage: str, wanted: str, inputs: Mapping[str, str], seconds: float, build: Callable[[Path], None]
    ) -> None:
        """Make an artifact of a finished run that no other one is made from, in the place of an older one. This is no
        change of the run, and must not be called inside `working`.

        Args:
            stage: the name of the stage.
            wanted: the artifact's fingerprint.
            inputs: as in `make`.
            seconds: the time that the work took.
            build: writes files into the folder that it gets.

        Raises:
            RequestError: another process owns the folder, or it cannot be written.
        """
        with self._owned():
            try:
                with files.Staging(self.folder, stage) as staged, files.Staging(self.folder, stage) as old:
                    build(staged)
                    write_manifest(staged, stage, wanted, inputs, seconds, own=self._are_own(inputs))
                    files.rename(self.folder / stage, old / stage)
                    os.rename(staged, self.folder / stage)
                    files.fsync(self.folder)
                name = f"{stage}/{MANIFEST}"
                listed = {**listed_files(self.folder), name: file_sum(self.folder / name)}
                files.write_text(self.folder / MARKER, marker(listed, own=is_own_run(self.folder)))
            except OSError as error:
                raise RequestError(f"{self.folder} cannot be written: {error.strerror}") from None

    def partial(self, stage: str, wanted: str, minutes: float, *, replace: bool = False) -> PartialFolder:
        """What earlier attempts at an artifact left, for the `build` of `make`. What is there for another fingerprint
        is removed.

        Args:
            stage: the name of the stage.
            wanted: the artifact's fingerprint.
            minutes: how often to save.
            replace: as in `make`. What an attempt without it left is not used then.
        """
        # Outside its stage, an artifact that is made again has the same fingerprint as the one that it replaces.
        return PartialFolder(self._partial_folder(stage), f"{wanted} again" if replace else wanted, minutes)

    def _partial_folder(self, stage: str) -> Path:
        return self.folder / f"{stage}{SUFFIX}"

    def metric_lines(self, stage: str) -> Path:
        """The file for the lines of a training (`store.metric_lines`): RUN/metrics.jsonl; in a change, a copy in
        RUN/unfinished that takes its place together with the artifacts."""
        own, apart = self.folder / METRIC_LINES, self._change.folder / METRIC_LINES
        if not self._apart and whole_manifest(self.folder / stage) is None:
            return own
        if not apart.exists():
            apart.parent.mkdir(exist_ok=True)
            files.write_text(apart, own.read_text(encoding="utf-8") if own.exists() else "")
        return apart

    def write(self, name: str, text: str) -> None:
        """Write the file RUN/`name` when the work is done, together with the artifacts that it describes."""
        self._texts[name] = text

    def artifact(self, stage: str, command: str = "") -> Artifact:
        """The finished artifact of `stage` in this run, with any fingerprint. Its files are checked.

        Args:
            stage: its name.
            command: what makes it, for errors; if empty, the command that trains the run.

        Raises:
            RequestError: the run has not finished this stage, an earlier stage was made again since, or a file is
                damaged.
        """
        command = command or _again(self.folder)
        manifest = self._fitting(stage, command)
        if (damaged := damage(self.folder / stage, manifest)) is not None:
            raise RequestError(f"{damaged}: make it anew with `{command}`")
        self._kept.add(stage)
        return Artifact(stage, self.folder / stage, manifest["fingerprint"], self.folder, manifest["seconds"])

    def _fitting(self, stage: str, command: str) -> dict[str, Any]:
        """The manifest of an artifact, which must have been made from the present artifacts of earlier stages."""
        path = self.folder / stage / MANIFEST
        remedy = f"make it anew with `{command}`"
        manifest = read_manifest(self.folder / stage, remedy)
        wanted = listed_files(self.folder).get(f"{stage}/{MANIFEST}")
        if manifest is None:
            if (self.folder / stage).exists():
                raise RequestError(f"{path} is missing: {remedy}")
            raise RequestError(f"{self.folder} has no finished stage '{stage}': finish the run with `{command}`")
        for name, used in manifest["inputs"].items():
            if self._fitting(name, command)["fingerprint"] != used:
                raise RequestError(
                    f"{self.folder}: stage '{name}' was made anew after stage '{stage}': finish the run with "
                    f"`{command}`"
                )
        if wanted is not None and stage not in self._settled and file_sum(path) != wanted:
            raise RequestError(f"{path} is not the one that the run left: {remedy}")
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
        """Become the owner of the folder, remove files that a killed process left, and find out whether this is a new
        run or a change."""
        if self._owner is not None:
            return
        assert self._config is not None, "artifacts are made inside `working` alone"
        self._new_folder = not self.folder.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._owner = ownership.take(self.folder)
            self._clear()
            self._change.work_off()
            self._new_run = not self.config and not self._standing()
            if self._new_run:
                files.write_text(self.folder / MARKER, marker({CONFIG: sum_of(self._config)}))
                files.write_text(self.folder / CONFIG, self._config)
        except OSError as error:
            if self._new_folder and self.folder.is_dir():
                shutil.rmtree(self.folder, ignore_errors=True)
            self._give_back()
            raise RequestError(f"{self.folder} cannot be written: {error.strerror}; choose another --run") from None
        self._apart = self.config != self._config
        self._provisional = True

    def _clear(self) -> None:
        partial = list(self.folder.glob(f"*{SUFFIX}"))
        for folder in (self.folder, self._change.folder, *partial):
            for left in folder.glob(f"{files.STAGING}*"):
                files.remove(left)
        for folder in partial:
            # The process was killed after it had put the artifact in place.
            stage, about = folder.name.removesuffix(SUFFIX), read_about(folder)
            whole = [whole_manifest(parent / stage) for parent in (self.folder, self._change.folder)]
            if about is None or any(each and each["fingerprint"] == about["fingerprint"] for each in whole):
                files.remove(folder)
        self._partial_before = frozenset(self.folder.glob(f"*{SUFFIX}"))

    def _give_back(self) -> None:
        if self._owner is not None:
            self._change.tidy()
            ownership.give_back(self.folder, self._owner)
            self._owner = None

    def _roll_back(self) -> None:
        if self._owner is None or not self._provisional:
            return
        for place in (*self._made, *set(self.folder.glob(f"*{SUFFIX}")) - self._partial_before):
            files.remove(place)
        if self._new_folder:
            files.remove(self.folder)
        elif self._new_run:
            for name in (CONFIG, MARKER, METRIC_LINES):
                (self.folder / name).unlink(missing_ok=True)

    def _standing(self) -> dict[str, dict[str, Any]]:
        """The manifests of the run's artifacts."""
        found = {entry.name: whole_manifest(entry) for entry in self.folder.iterdir() if entry != self._change.folder}
        return {stage: manifest for stage, manifest in found.items() if manifest}

    def _staging(self, stage: str) -> files.Staging:
        self._begin()
        return files.Staging(self.folder, stage)

    def _put(self, staged: Path, stage: str, wanted: str, *, replace: bool = False) -> Path:
        standing = whole_manifest(self.folder / stage)
        if standing and (replace or standing["fingerprint"] != wanted):
            self._apart = True
        parent = self._change.folder if self._apart else self.folder
        if staged == parent / stage:
            return staged
        parent.mkdir(exist_ok=True)
        place = parent / stage
        # An old artifact in this place is damaged, or belongs to an abandoned change.
        with files.Staging(self.folder, stage) as old:
            new = not files.rename(place, old / stage)
            os.rename(staged, place)
            files.fsync(parent)
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
        lines = self._change.folder / METRIC_LINES
        texts = {METRIC_LINES: lines.read_text(encoding="utf-8")} if self._apart and lines.exists() else {}
        dropped = standing.keys() - self._settled.keys() - self._kept if self._apart else set[str]()
        try:
            self._change.write_down(
                {**self._texts, **texts, MARKER: self._marker(standing.keys() - dropped)},
                config=self._config if self._apart else None,
                stages=[stage for stage, place in self._settled.items() if place.parent == self._change.folder],
                dropped=dropped,
                settled=self._settled if self._apart else (),
            )
            self._change.work_off()
            if texts:
                files.remove(lines)
        except OSError as error:
            raise RosepoError(
                f"{self.folder} cannot be written: {error.strerror}; run the same command again"
            ) from error
        self._apart = False

    def _are_own(self, stages: Collection[str]) -> bool:
        """Whether this user made all these stages of the run."""
        return all(is_own_artifact(self._settled.get(stage, self.folder / stage)) for stage in stages)

    def _marker(self, standing: Collection[str]) -> str:
        """The text of RUN/run.json: the sums of the configuration, the files for readers, and the manifests."""
        assert self._config is not None
        stages = {stage: self.folder / stage for stage in standing} | self._settled
        # Of files that this command did not write again, the sums stay. Model cards have none, because people edit
        # them.
        kept = {name: each for name, each in listed_files(self.folder).items() if "/" not in name}
        sums = {
            **kept,
            **{name: sum_of(text) for name, text in self._texts.items() if "/" not in name},
            CONFIG: sum_of(self._config if self._apart else self.config),
            **{f"{stage}/{MANIFEST}": file_sum(place / MANIFEST) for stage, place in stages.items()},
        }
        return marker(sums, own=is_own_run(self.folder))


def has_stage(folder: Path, stage: str) -> bool:
    """Whether a run has an artifact, or has lost it.

    Raises:
        RequestError: the artifact's manifest, or RUN/run.json, is damaged.
    """
    listed = f"{stage}/{MANIFEST}" in listed_files(folder)
    return read_manifest(folder / stage, f"make it anew with `{_again(folder)}`") is not None or listed


def _again(folder: Path) -> str:
    """The command that trains a run."""
    return f"rosepo train --config {folder / CONFIG} --run {folder}"


def _not_ours(folder: Path) -> Iterator[Path]:
    """Files that do not come from rosepo. A process that was killed at the beginning of a run leaves only a lock and
    incomplete files."""
    return (
        each for each in folder.iterdir() if each.name != ownership.LOCK and not each.name.startswith(files.STAGING)
    )
