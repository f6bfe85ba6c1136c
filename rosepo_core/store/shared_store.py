"""The store of a run folder that several processes work on: rank 0 owns and writes it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rosepo_core import ranks
from rosepo_core.store.artifacts import Artifact
from rosepo_core.store.metric_lines import METRIC_LINES
from rosepo_core.store.run_store import Note, RunStore


class SharedStore(RunStore):
    """A `RunStore` whose methods every rank calls in the same order. Rank 0 does what they say; the others learn
    which artifact was found or made, and read it from the folder. With one process it is a plain `RunStore`."""

    def __init__(self, folder: Path) -> None:
        """As `RunStore`; the other ranks have nothing but the folder's name."""
        self.folder = folder
        ranks.told_by_first("opening the run folder", lambda: super(SharedStore, self).__init__(folder))

    @staticmethod
    def open(folder: Path) -> SharedStore:
        """As `RunStore.open`."""

        def check() -> None:
            RunStore.open(folder)

        ranks.told_by_first("finding the run folder", check)
        return SharedStore(folder)

    @contextmanager
    def working(self, config: str, main: Collection[str] = (), *, reading: bool = False) -> Iterator[None]:
        """As `RunStore.working`, on rank 0."""
        with ExitStack() as stack:
            # The other ranks may still read the folder as it was.
            ranks.meet("before the run folder changes")
            work = super().working(config, main, reading=reading)
            ranks.told_by_first("taking the run folder", lambda: stack.enter_context(work))
            yield

    def commit(self) -> None:
        """As `RunStore.commit`, on rank 0."""
        if ranks.is_first():
            super().commit()

    @property
    def is_apart(self) -> bool:
        """As `RunStore.is_apart`; on other ranks false, for they have nothing to say about it."""
        return ranks.is_first() and super().is_apart

    def metric_lines(self, stage: str) -> Path:
        """As `RunStore.metric_lines`; the other ranks write no lines."""
        return super().metric_lines(stage) if ranks.is_first() else self.folder / METRIC_LINES

    def find(
        self, stage: str, wanted: str, note: Note = lambda _: None, *, also: str | None = None
    ) -> Artifact | None:
        """What `RunStore.find` found on rank 0."""
        found = ranks.told_by_first(
            f"finding {stage}", lambda: _written(super(SharedStore, self).find(stage, wanted, note, also=also))
        )
        return _read(found) if found else None

    def reuse(self, found: Artifact, inputs: Mapping[str, str] | None = None) -> Artifact:
        """What `RunStore.reuse` took on rank 0."""

        def taken() -> Any:
            return _written(super(SharedStore, self).reuse(found, inputs))

        return _read(ranks.told_by_first(f"reusing {found.stage}", taken))

    def make(
        self,
        stage: str,
        wanted: str,
        inputs: Mapping[str, str],
        build: Callable[[Path], float],
        *,
        replace: bool = False,
    ) -> Artifact:
        """What `RunStore.make` made on rank 0. On other ranks, `build` gets a folder that is thrown away."""

        def made() -> Any:
            return _written(super(SharedStore, self).make(stage, wanted, inputs, build, replace=replace))

        if not ranks.is_first():
            with tempfile.TemporaryDirectory() as scratch:
                build(Path(scratch))
        return _read(ranks.told_by_first(f"making {stage}", made))

    def write(self, name: str, text: str) -> None:
        """As `RunStore.write`, on rank 0."""
        if ranks.is_first():
            super().write(name, text)

    def artifact(self, stage: str, command: str = "") -> Artifact:
        """What `RunStore.artifact` found on rank 0."""
        return _read(
            ranks.told_by_first(
                f"reading {stage}", lambda: _written(super(SharedStore, self).artifact(stage, command))
            )
        )


def _written(artifact: Artifact | None) -> Any:
    if artifact is None:
        return None
    reused = None if artifact.reused is None else str(artifact.reused)
    return {**vars(artifact), "folder": str(artifact.folder), "reused": reused}


def _read(found: Any) -> Artifact:
    reused = None if found["reused"] is None else Path(found["reused"])
    return Artifact(**{**found, "folder": Path(found["folder"]), "reused": reused})
