"""The stage `split`: divides the corpus into training, validation and test. `rosepo_core.data.splitting` says how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import (
    Candidates,
    Catalogue,
    Corpus,
    Examples,
    SeenItems,
    Sequences,
    Split,
)
from rosepo_core.contracts.sections import HeldOut
from rosepo_core.data.splitting import split_corpus

if TYPE_CHECKING:
    from rosepo_core.stages.session import Handle, Session

ARRAYS = "split.safetensors"
USERS = "users.parquet"
CATALOGUE = "catalogue.parquet"
ABOUT = "split.json"


def stage(session: Session, corpus: Handle[Corpus]) -> Handle[Split]:
    """RUN/split: the interactions of each user for training, validation and test."""

    def build(folder: Path) -> None:
        save_split(split_corpus(corpus.content, session.config.split), folder)

    return session.artifact("split", {"split": session.that_decides["split"]}, [corpus], build, load_split)


def held_out_examples(session: Session, split: Split, part: HeldOut) -> Examples:
    """The examples of a part; if there are more than `evaluation.max_users`, that many, drawn by the seed.

    Raises:
        RequestError: the part has no example.
    """
    examples = split.validation if part == "validation" else split.test
    most = session.config.evaluation.max_users
    if not len(examples):
        if part == "validation":
            raise RequestError("there is no validation example: leave evaluation.part at 'test'")
        raise RequestError("there is no user to test on: no user has an interaction to hold out")
    if most is None or most >= len(examples):
        return examples
    return examples.take(np.sort(session.rng(f"{part} users").choice(len(examples), most, replace=False)))


def save_split(split: Split, folder: Path) -> None:
    """Write the split into `folder`, which exists: arrays as safetensors, ids and titles as parquet, the strategy as
    JSON."""
    arrays: dict[str, NDArray[Any]] = {
        "train.items": split.train.items,
        "train.offsets": split.train.offsets,
        "seen.keys": split.seen.keys,
        "popularity": split.catalogue.popularity,
    }
    for name, examples in (("validation", split.validation), ("test", split.test)):
        arrays[f"{name}.items"] = examples.sequences.items
        arrays[f"{name}.offsets"] = examples.sequences.offsets
        arrays[f"{name}.user"] = examples.user
        arrays[f"{name}.position"] = examples.position
    if split.supplied_candidates is not None:
        arrays["given.items"] = split.supplied_candidates.items
        arrays["given.target_column"] = split.supplied_candidates.target_column
    if split.offered is not None:
        arrays["offered.items"], arrays["offered.offsets"] = split.offered.items, split.offered.offsets
    if split.disliked is not None:
        arrays["disliked.keys"] = split.disliked.keys
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / ARRAYS)
    (folder / ABOUT).write_text(json.dumps({"strategy": split.strategy}), encoding="utf-8")
    pl.DataFrame({"user": split.users}, schema={"user": pl.String}).write_parquet(folder / USERS)
    names = pl.DataFrame(
        {"item": split.catalogue.ids, "title": split.catalogue.titles}, schema={"item": pl.String, "title": pl.String}
    )
    pl.concat([names, split.catalogue.attributes], how="horizontal").write_parquet(folder / CATALOGUE)


def load_split(folder: Path) -> Split:
    """Read what `save_split` wrote."""
    arrays = load_file(folder / ARRAYS)
    table = pl.read_parquet(folder / CATALOGUE)
    catalogue = Catalogue(
        ids=tuple(table["item"]),
        titles=tuple(table["title"]),
        popularity=arrays["popularity"],
        attributes=table.drop("item", "title"),
    )

    def examples(name: str) -> Examples:
        sequences = Sequences(arrays[f"{name}.items"], arrays[f"{name}.offsets"])
        return Examples.of(sequences, arrays[f"{name}.user"], arrays[f"{name}.position"])

    supplied = None
    if "given.items" in arrays:
        supplied = Candidates(arrays["given.items"], arrays["given.target_column"])
    return Split(
        users=tuple(pl.read_parquet(folder / USERS)["user"]),
        catalogue=catalogue,
        train=Sequences(arrays["train.items"], arrays["train.offsets"]),
        validation=examples("validation"),
        test=examples("test"),
        seen=SeenItems(arrays["seen.keys"], len(catalogue)),
        strategy=json.loads((folder / ABOUT).read_text(encoding="utf-8"))["strategy"],
        supplied_candidates=supplied,
        offered=Sequences(arrays["offered.items"], arrays["offered.offsets"]) if "offered.items" in arrays else None,
        disliked=SeenItems(arrays["disliked.keys"], len(catalogue)) if "disliked.keys" in arrays else None,
    )
