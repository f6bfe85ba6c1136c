"""A change of a run: what replaces its artifacts, kept apart in RUN/unfinished until it is complete.

A complete change is put in place as one. What is to be moved is written down first, so that a process that is killed
between two moves leaves a list that the next one works off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from rosepo_core.store import files
from rosepo_core.store.artifacts import read_manifest

UNFINISHED = "unfinished"
CONFIG = "config.toml"
_MOVES = "moves.json"
_TEXTS = "texts"
_DISPLACED = "displaced"


class Change:
    """The folder RUN/unfinished; at most one process may write to it.

    Attributes:
        run: the run folder.
        folder: where the change is until it is put in place; need not exist.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.folder = run / UNFINISHED

    @property
    def is_written_down(self) -> bool:
        """Whether a complete change is there that was not put in place to its end."""
        return (self.folder / _MOVES).exists()

    def write_down(
        self,
        texts: Mapping[str, str],
        *,
        config: str | None,
        stages: Collection[str] = (),
        dropped: Collection[str] = (),
        settled: Collection[str] = (),
    ) -> None:
        """Say what `work_off` is to do.

        Args:
            texts: files to write in the run folder, by name.
            config: the new text of config.toml; None if it stays.
            stages: the artifacts in `folder` that are to be moved into the run.
            dropped: the artifacts of the run that go.
            settled: the stages of which nothing is to be left in `folder`.
        """
        plan = {
            "stages": list(stages),
            "dropped": sorted(dropped),
            "texts": sorted(texts),
            "config": config is not None,
            "settled": sorted(settled),
        }
        written = {f"{_TEXTS}/{name}": text for name, text in texts.items()}
        if config is not None:
            written[CONFIG] = config
        for name, text in {**written, _MOVES: json.dumps(plan, indent=1)}.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            files.write_text(self.folder / name, text)

    def work_off(self) -> None:
        """Put a complete change in place, or go on with it: every step may be the one that was not done before."""
        try:
            plan = json.loads((self.folder / _MOVES).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        displaced = self.folder / _DISPLACED
        displaced.mkdir(exist_ok=True)
        for stage in plan["stages"]:
            if (self.folder / stage).exists():
                files.rename(self.run / stage, displaced / stage)
                os.rename(self.folder / stage, self.run / stage)
        for stage in plan["dropped"]:
            files.rename(self.run / stage, displaced / stage)
        for name in plan["texts"]:
            if (self.folder / _TEXTS / name).exists():
                os.replace(self.folder / _TEXTS / name, self.run / name)
        if plan["config"] and (self.folder / CONFIG).exists():
            os.replace(self.folder / CONFIG, self.run / CONFIG)
        files.fsync(self.run)
        (self.folder / _MOVES).unlink()
        # What else is there belongs to another change.
        for name in (_DISPLACED, _TEXTS, *plan["settled"]):
            files.remove(self.folder / name)

    def tidy(self) -> None:
        """Remove `folder`, unless stages of an unfinished change wait there."""
        if self.folder.is_dir() and not any(
            each.name == _MOVES or read_manifest(each) for each in self.folder.iterdir()
        ):
            files.remove(self.folder)
