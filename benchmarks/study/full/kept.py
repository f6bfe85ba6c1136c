"""The folder that is carried from machine to machine: small results of what is finished, and what the rest needs.

FOLDER/study.json      what is compared
FOLDER/data/NAME       files of the data that are not fetched
FOLDER/cells/CELL      of a finished cell: users.parquet, about.json
FOLDER/adapters/CELL   its adapter, rounded to bfloat16; nothing that is still to do needs it
FOLDER/runs/CELL       runs of a seed in progress, with what its arms share
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors.torch import load_file, save_file

from benchmarks.study.arms import Cell
from benchmarks.study.full.cells import REFERENCE
from rosepo_core.evaluation.buckets import bucket_names
from rosepo_core.ownership import LOCK
from rosepo_core.stages.split import load_split
from rosepo_core.store.files import remove, write_text
from rosepo_core.store.marker import is_own_run, is_run
from rosepo_core.store.partial import SUFFIX
from rosepo_core.store.trusting import trust

COLUMNS = ("hr@1", "hr@10", "ndcg@10")
LENGTHS = ((0, "up to 9"), (10, "10 to 49"), (50, "50 and more"))
"""The fewest earlier interactions of each bucket of users, and its name."""

OWN_STAGES = ("aligned", "evaluation")
"""Large stages of a run that no other arm uses."""

_SHARED = {"popularity": "popularity", "oracle": "sasrec", "base": "base", "sft": "sft"}
_ADAPTER = "adapter_model.safetensors"
_BESIDE_ADAPTER = ("adapter_config.json", "base_model.json", "prompt_template.json")


class Kept:
    """The folder."""

    def __init__(self, folder: Path) -> None:
        """`folder` may be new."""
        self.folder = folder
        self.data, self.runs = folder / "data", folder / "runs"

    def begin(self, asked: Mapping[str, Any], *, trusts: bool) -> None:
        """Write down what is compared, and clear what a killed process left.

        Args:
            asked: what is compared.
            trusts: whether runs of another machine may be taken over (`rosepo trust`). rosepo reuses stages of the
                user's own runs alone, and does not know them by their key there.

        Raises:
            SystemExit: the folder holds a study of something else, or runs of another machine that are not trusted.
            RequestError: a run that is taken over is damaged.
        """
        self.runs.mkdir(parents=True, exist_ok=True)
        file = self.folder / "study.json"
        if file.exists() and (before := json.loads(file.read_text(encoding="utf-8"))) != asked:
            other = [key for key in asked if before.get(key) != asked[key]]
            raise SystemExit(f"{self.folder} holds a study with another {', '.join(other)}: name another --runs")
        write_text(file, json.dumps(asked, indent=1) + "\n")
        for run in filter(is_run, sorted(self.runs.iterdir())):
            _clear(run)
            if not is_own_run(run):
                if not trusts:
                    raise SystemExit(
                        f"{run} was made on another machine or by others: if it is yours, add --trust, and what the "
                        "arms share is not made again"
                    )
                trust(run)

    @property
    def asked(self) -> Mapping[str, Any]:
        """What `begin` wrote down."""
        found: dict[str, Any] = json.loads((self.folder / "study.json").read_text(encoding="utf-8"))
        return found

    def run(self, cell: Cell) -> Path:
        """The run folder of a cell in progress."""
        return self.runs / cell.name

    def is_finished(self, cell: Cell) -> bool:
        """Whether the results of a cell are there."""
        return (self._of(cell) / "about.json").is_file()

    def about(self, cell: Cell) -> dict[str, Any]:
        """What `keep` wrote of a finished cell."""
        found: dict[str, Any] = json.loads((self._of(cell) / "about.json").read_text(encoding="utf-8"))
        return found

    def users(self, cells: Sequence[Cell]) -> pl.DataFrame:
        """One row a part, model, score and user of these finished cells, see `_users_of`."""
        return pl.concat([pl.read_parquet(self._of(cell) / "users.parquet") for cell in cells])

    def keep(self, cell: Cell, about: Mapping[str, Any], wanted: Sequence[Cell]) -> None:
        """Keep the results of a run that is finished, and remove of the runs what no other cell needs.

        Args:
            cell: whose run it is.
            about: what to write down of it.
            wanted: all cells of the study.
        """
        run, place = self.run(cell), self._of(cell)
        place.mkdir(parents=True, exist_ok=True)
        _users_of(run, cell).write_parquet(place / "users.parquet", compression="zstd")
        _copy_adapter(run / "aligned", self.folder / "adapters" / cell.name)
        # This file says that the cell is finished, so it comes last.
        write_text(place / "about.json", json.dumps(about, indent=1) + "\n")
        self.tidy(wanted)

    def tidy(self, wanted: Sequence[Cell]) -> None:
        """Remove of the runs what no cell that is still to do needs."""
        for of_seed in _by_seed(wanted):
            going_on = not all(self.is_finished(cell) for cell in of_seed)
            runs = [self.run(cell) for cell in of_seed if self.is_finished(cell) and self.run(cell).exists()]
            for run in runs:
                if not going_on:
                    remove(run)
                    continue
                # The first has what all arms share; of the others, an oracle may be another.
                for stage in [each for each in run.iterdir() if each.is_dir()]:
                    if stage.name in OWN_STAGES if run == runs[0] else stage.name != "oracle":
                        remove(stage)

    def drop_partial(self, cell: Cell) -> None:
        """Forget what a stage has that was cut off: it is large, and starts again. Finished stages stay."""
        _clear(self.run(cell))

    def _of(self, cell: Cell) -> Path:
        return self.folder / "cells" / cell.name


def _by_seed(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    for key in dict.fromkeys((cell.dataset, cell.seed) for cell in cells):
        yield [cell for cell in cells if (cell.dataset, cell.seed) == key]


def _clear(run: Path) -> None:
    """Remove stages in progress, and the lock of a process on another machine, which is over where it was killed."""
    for left in run.glob(f"*{SUFFIX}"):
        remove(left)
    lock = run / LOCK
    if lock.exists():
        try:
            host = json.loads(lock.read_text(encoding="utf-8"))["host"]
        except (ValueError, KeyError):
            host = ""
        if host != socket.gethostname():
            lock.unlink()


def _users_of(run: Path, cell: Cell) -> pl.DataFrame:
    """One row a part, model, score and user: ``dataset``, ``seed``, ``part``, ``model``, ``score``, ``user``,
    ``target``, ``bucket`` (interactions of the target in training), ``length`` (of the history) and `COLUMNS`.

    Models that all arms share are in the table of the reference alone. Of models that are no language models, the
    score is "own", or "fusion".
    """
    split = load_split(run / "split")
    named = {"aligned": cell.arm} | (_SHARED if cell.arm == REFERENCE else {})
    every = (
        pl.read_parquet(run / "evaluation" / "per_user.parquet")
        .with_columns(pl.col("model").str.splitn(" ", 2).struct.rename_fields(["of", "by"]).alias("parts"))
        .unnest("parts")
    )
    targets = pl.DataFrame({"target": split.catalogue.ids, "bucket": bucket_names(split.catalogue.popularity)})
    tables = []
    for part, examples in (("validation", split.validation), ("test", split.test)):
        of_user = pl.DataFrame(
            {
                "user": [split.users[user] for user in examples.user.tolist()],
                "length": _lengths(examples.position.tolist()),
            }
        ).unique("user", keep="first")
        tables.append(
            every.filter(_part(pl.col("protocol")) == part, pl.col("of").is_in(list(named)))
            .join(targets, on="target", how="left", maintain_order="left")
            .join(of_user, on="user", how="left", maintain_order="left")
            .select(
                dataset=pl.lit(cell.dataset),
                seed=pl.lit(cell.seed, pl.Int64),
                part=pl.lit(part),
                model=pl.col("of").replace(named),
                score=pl.col("by").fill_null(
                    pl.when(pl.col("of").is_in(["popularity", "oracle"]))
                    .then(pl.lit("own"))
                    .otherwise(pl.lit("likelihood"))
                ),
                user="user",
                target="target",
                bucket="bucket",
                length="length",
                **{column: column for column in COLUMNS},
            )
        )
    return pl.concat(tables)


def _part(protocol: pl.Expr) -> pl.Expr:
    return pl.when(protocol.str.contains("validation")).then(pl.lit("validation")).otherwise(pl.lit("test"))


def _lengths(positions: Sequence[int]) -> list[str]:
    """The bucket of each user, by the interactions before the target."""
    return [[name for fewest, name in LENGTHS if position >= fewest][-1] for position in positions]


def _copy_adapter(source: Path, target: Path) -> None:
    if not (source / _ADAPTER).exists():
        return
    remove(target)
    target.mkdir(parents=True)
    weights = {name: weight.to(torch.bfloat16) for name, weight in load_file(source / _ADAPTER).items()}
    save_file(weights, target / _ADAPTER, {"format": "pt"})
    for name in _BESIDE_ADAPTER:
        if (source / name).exists():
            shutil.copy(source / name, target)
