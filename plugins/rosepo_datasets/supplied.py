"""JSON files of examples, as papers publish them: finds and reads them, and draws the parts that have no file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
from pydantic import Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rosepo_core.api import DatasetOptions, Ints, Part, RequestError, beyond_python, expanded

_PART_IN_NAME = re.compile(r"(?:^|[-_.])(train|val|valid|validation|test)$")
_PARTS: Mapping[str, Part] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}

RUN = 5
"""Rows that share this many titles in a row are taken to belong to one person. The core counts leaks with the same
number."""


class GivenOptions(DatasetOptions):
    """Options of datasets that come as rows of JSON."""

    path: Path = Field(
        description="The training file; or a folder with train.json or ...-train.json, and perhaps the other "
        "parts with similar names (val, valid, validation; test)."
    )
    validation: Path | None = Field(None, description="The file of the validation part; drawn from 'path' if unset.")
    test: Path | None = Field(None, description="The file of the test part; drawn from 'path' if unset.")
    validation_fraction: float = Field(
        0.1, ge=0, lt=1, description="Share of the rows of 'path' for validation, if it has no file."
    )
    test_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share of the rows of 'path' for the test, if it has no file."
    )
    split_seed: int = Field(
        0,
        ge=0,
        description="Seed for drawing these rows. It is separate, so that runs with other seeds share a split.",
    )


@dataclass(frozen=True)
class Row:
    """One row of a file.

    Attributes:
        file: the file of the row.
        number: its position in the file's list, from 1.
        values: the values by key.
    """

    file: Path
    number: int
    values: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.file} row {self.number}"

    def text(self, key: str) -> str:
        """
        Raises:
            RequestError: there is no such key, or its value is no text.
        """
        value = self._value(key)
        if not isinstance(value, str):
            raise RequestError(f"{self}: '{key}' is {_kind(value)}, not text: mend the row or take it out")
        return value

    def texts(self, key: str, separator: str | None = None) -> list[str]:
        """A list of texts, or the parts of one text if there is a `separator`.

        Raises:
            RequestError: there is no such key, or its value is no such list.
        """
        value = self._value(key)
        if separator is not None and isinstance(value, str):
            value = value.split(separator) if value else []
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            wanted = "a list of texts" + (f", or a text with '{separator}' between" if separator else "")
            raise RequestError(f"{self}: '{key}' is not {wanted}: mend the row or take it out")
        return value

    def _value(self, key: str) -> Any:
        if key not in self.values:
            has = ", ".join(f"'{name}'" for name in self.values) or "nothing"
            raise RequestError(f"{self}: the key '{key}' is missing (it has {has}): mend the row or take it out")
        return self.values[key]


def read_json(file: Path) -> Any:
    """
    Raises:
        RequestError: the file cannot be read, or is no JSON; the message has line and column.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{file}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{file} is not UTF-8 text (byte {error.start}): convert it") from None
    except json.JSONDecodeError as error:
        raise RequestError(
            f"{file} line {error.lineno} column {error.colno}: not valid JSON: {error.msg}; is the file whole?"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{file}: {beyond_python(error)}; mend it") from None


def read_rows(options: GivenOptions) -> Iterator[tuple[Part, Row]]:
    """All rows of all files, with the part of their file.

    Raises:
        RequestError: as `find_files` and `read_json`, or a file is no list of objects, or an empty one.
    """
    for part, file in find_files(options).items():
        yield from ((part, row) for row in _rows(file))


def _rows(file: Path) -> list[Row]:
    content = read_json(file)
    if not isinstance(content, list) or not content:
        raise RequestError(f"{file} holds {_kind(content)}, not a list of rows: name a file of examples")
    for number, values in enumerate(content, 1):
        if not isinstance(values, dict):
            raise RequestError(f"{file} row {number} is {_kind(values)}, not an object: mend it or take it out")
    return [Row(file, number, values) for number, values in enumerate(content, 1)]


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    kinds = {dict: "an object", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def find_files(options: GivenOptions, end: str = ".json") -> dict[Part, Path]:
    """The file of each part that has one; ``"train"`` always has.

    Args:
        options: the user's settings.
        end: how the names of files in a folder end; ``.gz`` may follow.

    Raises:
        RequestError: a file does not exist, one is named twice, or a folder does not say which one to train on.
    """
    path = expanded(options.path)
    files: dict[Part, Path] = _files_in(path, end) if path.is_dir() else {"train": path}
    for part, key, file in (
        ("validation", "dataset.validation", options.validation),
        ("test", "dataset.test", options.test),
    ):
        if file is not None:
            if not expanded(file).is_file():
                raise RequestError(f"{file} ({key}) does not exist: name a file")
            files[cast(Part, part)] = expanded(file)
    if not files["train"].is_file():
        raise RequestError(f"{files['train']} (dataset.path) does not exist: name a file or a folder")
    if len({file.resolve() for file in files.values()}) < len(files):
        raise RequestError(
            "one file is named for two parts: " + ", ".join(f"{key} {file}" for key, file in files.items())
        )
    return {part: files[part] for part in dict.fromkeys(_PARTS.values()) if part in files}


def _files_in(folder: Path, end: str) -> dict[Part, Path]:
    """The files in a folder, or in its folders train, valid and test, by their names or their folders' names."""
    found: dict[Part, Path] = {}
    inside = [(file, file.name.removesuffix(".gz").removesuffix(end)) for file in folder.glob(f"*{end}*")]
    inside += [(file, name) for name in _PARTS for file in (folder / name).glob(f"*{end}*")]
    for file, name in sorted(inside):
        match = _PART_IN_NAME.search(name) if file.name.removesuffix(".gz").endswith(end) else None
        if match:
            part = _PARTS[match[1]]
            if part in found:
                raise RequestError(
                    f"{folder} (dataset.path) has {found[part].name} and {file.name}, both for {part}: name files "
                    "with dataset.path, dataset.validation and dataset.test"
                )
            found[part] = file
    if len(found) == 1:
        return {"train": next(iter(found.values()))}
    if "train" not in found:
        has = (
            ", ".join(file.name for file in found.values())
            or f"no file that ends in train{end}, val{end} or test{end}"
        )
        raise RequestError(
            f"{folder} (dataset.path) does not say what to train on, it has {has}: name the file to train on with "
            "dataset.path, and others with dataset.validation and dataset.test"
        )
    return found


def require_titles(row: Row, titles: Sequence[str]) -> None:
    """
    Raises:
        RequestError: one of them is empty.
    """
    if not all(title.strip() for title in titles):
        raise RequestError(f"{row} names an empty title: mend the row or take it out")


@dataclass(frozen=True)
class Example:
    """The content of a row, as ids of items.

    Attributes:
        row: the row.
        part: the part of its file.
        history: the items of the history, oldest first.
        target: the next item.
        candidates: the items to rank, the target among them; `None` if candidates will be drawn.
    """

    row: Row
    part: Part
    history: list[str]
    target: str
    candidates: list[str] | None = None


def table_of(
    examples: Sequence[Example], options: GivenOptions, notes: list[str], files: Mapping[Part, Path]
) -> pl.DataFrame:
    """The table for `Corpus.of_examples`. Parts without a file are drawn from the training file.

    Args:
        examples: the examples of all files.
        options: the files, and the shares to draw.
        notes: receives a note about drawn parts.
        files: the file of each part that has one, from `find_files`.

    Raises:
        RequestError: as `draw_parts`, or there is nothing to train on.
    """
    parts = [example.part for example in examples]
    if "train" not in parts:
        raise RequestError(f"{files['train']}: no row is left to train on; all were left out")
    shares: dict[Part, float] = {"validation": options.validation_fraction, "test": options.test_fraction}
    shares = {part: share for part, share in shares.items() if part not in files and share > 0}
    if shares:
        to_train = [place for place, part in enumerate(parts) if part == "train"]
        rows = [[*examples[place].history, examples[place].target] for place in to_train]
        sampled = draw_parts(rows, shares, options.split_seed)
        for place, part in zip(to_train, sampled, strict=True):
            parts[place] = part
        notes.append(
            f"{files['train'].name}: drew {', '.join(f'{sampled.count(part)} rows for {part}' for part in shares)} "
            f"and left {sampled.count('train')} to train on (dataset.split_seed={options.split_seed}); rows that "
            f"share {RUN} titles in a row stay together"
        )
    stems = {file.stem for file in files.values()}
    table = {
        "user": [
            f"{row.file.stem if len(stems) == len(files) else row.file}:{row.number}"
            for row in (example.row for example in examples)
        ],
        "part": parts,
        "history": [example.history for example in examples],
        "target": [example.target for example in examples],
        "candidates": [example.candidates for example in examples],
    }
    names = pl.List(pl.String)
    frame = pl.DataFrame(table, schema_overrides={"history": names, "candidates": names})
    return frame if frame["candidates"].null_count() == 0 else frame.drop("candidates")


def draw_parts(rows: Sequence[Sequence[str]], shares: Mapping[Part, float], seed: int) -> list[Part]:
    """Draw the part of each row, so that rows of one person stay together.

    Rows of published files are often overlapping windows of one history, with the target of one among the titles of
    the next. If single rows were drawn at random, training would see most of the test targets. Therefore rows that
    share `RUN` titles in a row, and equal rows, form one group; so do rows that are connected through other rows.
    Groups are taken in random order. A group goes to a part if it fits into the part's share, and otherwise to
    training.

    Args:
        rows: the titles of each row, the target last.
        shares: share of the rows for each part that is drawn.
        seed: seed of the random order.

    Raises:
        RequestError: the shares leave nothing to train on, or a part gets no row.
    """
    if sum(shares.values()) >= 1:
        raise RequestError(
            "dataset.validation_fraction and dataset.test_fraction leave nothing to train on: their sum must be "
            "below 1"
        )
    room = {part: max(1, round(share * len(rows))) for part, share in shares.items() if share > 0}
    groups = _groups(rows)
    sizes = np.bincount(groups)
    of_group: list[Part] = ["train"] * len(sizes)
    free = dict(room)
    for group in np.random.default_rng(seed).permutation(len(sizes)).tolist():
        for part in free:
            if sizes[group] <= free[part]:
                of_group[group] = part
                free[part] -= int(sizes[group])
                break
    sampled = [of_group[group] for group in groups.tolist()]
    for part in ("train", *room):
        if part not in sampled:
            raise RequestError(
                f"no rows are left for {part}: {len(rows)} rows fall into {len(sizes)} groups that share titles and "
                f"must stay together; name a file with dataset.{'path' if part == 'train' else part}"
            )
    return sampled


def _groups(rows: Sequence[Sequence[str]]) -> Ints:
    """The number of each row's group: int32 [rows]."""
    short = {tuple(row) for row in rows if len(row) < RUN}
    numbers: dict[tuple[str, ...], int] = {}
    links = [
        (row, numbers.setdefault(run, len(numbers)))
        for row, titles in enumerate(rows)
        for run in _runs(titles, short)
    ]
    row, run = np.array(links).T
    size = len(rows) + len(numbers)
    graph = coo_array((np.ones(len(row)), (row, len(rows) + run)), shape=(size, size))
    groups: Ints = connected_components(graph, directed=False)[1][: len(rows)]
    return np.unique(groups, return_inverse=True)[1].astype(np.int32)


def _runs(titles: Sequence[str], short: set[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """The titles that connect a row to others: every `RUN` titles in a row, and its beginnings that are whole
    rows."""
    yield from (tuple(titles[at : at + RUN]) for at in range(len(titles) - RUN + 1))
    beginnings = (tuple(titles[:length]) for length in range(2, min(len(titles), RUN - 1) + 1))
    yield from (beginning for beginning in beginnings if beginning in short)
