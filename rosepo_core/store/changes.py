"""A change of a run: new artifacts that will replace old ones. They wait in RUN/unfinished until the change is
complete.

A complete change is put in place as a whole. First a list of all moves is written. If the process is killed between
two moves, the next process continues with this list.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from rosepo_core.store import files
from rosepo_core.store.artifacts import whole_manifest

UNFINISHED = "unfinished"
CONFIG = "config.toml"
_MOVES = "moves.json"
_TEXTS = "texts"
_DISPLACED = "displaced"


class Change:
    """The folder RUN/unfinished; at most one process may write to it.

    Attributes:
        run: the run folder.
        folder: the folder of the change until it is put in place; it need not exist.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.folder = run / UNFINISHED

    @property
    def is_written_down(self) -> bool:
        """Whether there is a complete change that has not been put in place completely."""
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
        """Write the list of moves for `work_off`.

        Args:
            texts: files to write in the run folder, by name.
            config: the new text of config.toml; `None` if it stays the same.
            stages: the artifacts in `folder` to move into the run.
            dropped: the artifacts of the run to remove.
            settled: the stages to remove from `folder` at the end.
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
        """Put a complete change in place, or continue to do so. Any of the steps may have been done before."""
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
        # Other stages in the folder belong to another change.
        for name in (_DISPLACED, _TEXTS, *plan["settled"]):
            files.remove(self.folder / name)

    def tidy(self) -> None:
        """Remove `folder`, unless stages of an unfinished change wait there."""
        if self.folder.is_dir() and not any(
            each.name == _MOVES or whole_manifest(each) for each in self.folder.iterdir()
        ):
            files.remove(self.folder)
