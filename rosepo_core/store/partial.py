"""What a stage in progress has so far. After an interruption, the same command goes on from there.

RUN/STAGE.partial has a file ``blocks-N.safetensors`` for the N-th long computation of the stage, with the arrays that
it fills block by block, and a folder ``checkpoint-STEP`` of a training. Each of them is complete or absent.
Computations and trainings are the same in each attempt, so an attempt takes what an earlier one saved and does the
rest.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rosepo_core import ranks
from rosepo_core.store import files

SUFFIX = ".partial"
"""The end of the names of these folders."""

_ABOUT = "partial.json"
_CHECKPOINT = "checkpoint-"

Arrays = Mapping[str, NDArray[Any]]


class Partial:
    """What a stage in progress has so far. This one is for work outside a run: it keeps nothing."""

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next checkpoint of a training."""
        return False

    @contextmanager
    def filled(self, arrays: Arrays, *about: object) -> Iterator[Callable[[], None]]:
        """Let a computation fill `arrays` block by block.

        The arrays get what an earlier attempt at the same computation saved. The computation must see in them which
        blocks are done, for example by NaN or a column of flags, and skip these. It must write the flags of a block
        last, because it may be interrupted anywhere.

        Args:
            arrays: the arrays, by name, filled with the values that mean "not done yet".
            about: everything that tells this computation from other computations of the stage: names, numbers, and
                arrays.

        Returns:
            a context that gives a function, to be called after each block.
        """
        yield lambda: None

    def checkpoint(self) -> Path | None:
        """The newest checkpoint of a training; `None` if there is none."""
        return None

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """Save a checkpoint of a training. Then remove the one before.

        Args:
            step: the number of steps that are done.
            write: writes the checkpoint into the folder that it gets.
        """


KEEPS_NOTHING = Partial()


class PartialFolder(Partial):
    """RUN/STAGE.partial, while the owner of RUN makes the stage. The folder is made when there is something to save.
    Each process of a run keeps its own share of a computation there; rank 0 comes first.

    Attributes:
        folder: the folder.
        seconds: the time that earlier attempts took until they saved the last time.
    """

    def __init__(self, folder: Path, fingerprint: str, minutes: float) -> None:
        """
        Args:
            folder: the folder. If it belongs to another fingerprint, it is removed.
            fingerprint: the fingerprint of the stage.
            minutes: how often to save. 0 saves after each block and step.
        """
        self.folder = folder
        self._fingerprint = fingerprint
        self._pause = 60 * minutes
        self._began = self._saved = time.monotonic()
        self._computations = 0
        self._unsaved: dict[int, tuple[str, Arrays]] = {}
        about = read_about(folder)
        if about is None or about["fingerprint"] != fingerprint:
            files.remove(folder)
        self.seconds: float = about["seconds"] if about and about["fingerprint"] == fingerprint else 0.0
        self.goes_on = folder.exists()

    @property
    def is_due(self) -> bool:
        """See `Partial.is_due`."""
        return time.monotonic() - self._saved >= self._pause

    @contextmanager
    def filled(self, arrays: Arrays, *about: object) -> Iterator[Callable[[], None]]:
        """See `Partial.filled`. If it ends with an exception, the arrays are saved by `save`."""
        number, identity = self._computations, _identity(arrays, about)
        self._computations += 1
        for name, found in self._saved_blocks(number, identity, arrays).items():
            np.copyto(arrays[name], found)

        def block_is_done() -> None:
            self._unsaved[number] = identity, arrays
            if self.is_due:
                self.save()

        yield block_is_done
        # From here on, the arrays belong to the caller, who may change them.
        if number in self._unsaved:
            self._unsaved[number] = identity, {name: array.copy() for name, array in arrays.items()}

    def save(self) -> None:
        """Save the blocks that have not been saved yet."""
        from safetensors.numpy import save

        for number, (identity, arrays) in self._unsaved.items():
            whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            self._begin()
            files.write_bytes(self._blocks(number), save(whole, {"identity": identity}))
        self._unsaved.clear()
        self._note_time()

    def checkpoint(self) -> Path | None:
        """See `Partial.checkpoint`."""
        return max(self.folder.glob(f"{_CHECKPOINT}*"), key=_step, default=None)

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """See `Partial.save_checkpoint`."""
        self._begin()
        before = list(self.folder.glob(f"{_CHECKPOINT}*"))
        with files.Staging(self.folder, "checkpoint") as staged:
            write(staged)
            for path in staged.rglob("*"):
                files.fsync(path)
            files.fsync(staged)
            place = self.folder / f"{_CHECKPOINT}{step}"
            if place in before:
                files.remove(place)
            files.rename(staged, place)
        files.fsync(self.folder)
        for old in before:
            if old != place:
                files.remove(old)
        self._note_time()

    def _begin(self) -> None:
        if not self.folder.exists():
            # Another rank may be as far.
            self.folder.mkdir(exist_ok=True)
            self._note_time()

    def _note_time(self) -> None:
        self._saved = time.monotonic()
        if self.folder.exists() and (ranks.is_first() or not (self.folder / _ABOUT).exists()):
            about = {"fingerprint": self._fingerprint, "seconds": self.seconds + self._saved - self._began}
            files.write_text(self.folder / _ABOUT, json.dumps(about))

    def _blocks(self, number: int) -> Path:
        share = "" if ranks.is_first() else f"-rank-{ranks.rank()}"
        return self.folder / f"blocks-{number}{share}.safetensors"

    def _saved_blocks(self, number: int, identity: str, arrays: Arrays) -> Arrays:
        """The arrays of an earlier attempt; empty if there are none, or if they are of another computation, such as a
        plugin's that does not repeat itself."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._blocks(number), framework="np") as file:
                if (file.metadata() or {}).get("identity") != identity:
                    return {}
                return {name: file.get_tensor(name) for name in arrays}
        except (FileNotFoundError, SafetensorError):
            return {}


def read_about(folder: Path) -> dict[str, Any] | None:
    """``fingerprint`` and ``seconds`` of a partial folder; `None` if it is missing, or its first file was never
    written."""
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) and {"fingerprint", "seconds"} <= about.keys() else None


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(_CHECKPOINT))


def _identity(arrays: Arrays, about: tuple[object, ...]) -> str:
    """SHA-256 (hex) of a computation: the shapes and types of its arrays, and what it is about."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype} {array.shape};".encode())
    for each in about:
        if isinstance(each, np.ndarray):
            found.update(f"{each.dtype} {each.shape};".encode())
            found.update(np.ascontiguousarray(each).tobytes())
        else:
            found.update(f"{each!r};".encode())
    return found.hexdigest()
