"""Amazon Industrial and Scientific as a log of interactions.

The MiniOneRec repository publishes rows: a history of at most ten items, and the next item. Its training rows are
not in ../shared, but the rows of its validation and test files overlap: the history of a user's next row is the last
ten items of the history and the item of the row before. So the first history of a user and the items of all rows are
the user's sequence. Only what came before a first history of ten is lost (227 users).
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import polars as pl

SOURCE = Path("../shared/data/amazon-industrial")
PARTS = ("valid", "test")
"""The published files, in the order of time."""
WINDOW = 10
"""The length of the longest history in a row."""


def write_log(folder: Path, source: Path = SOURCE) -> Path:
    """Write FOLDER/amazon-industrial.csv: 21,664 interactions of 3,285 users, with the columns ``user``, ``item``,
    ``title`` and ``position`` (in the user's sequence, from 0). Of repeated purchases of an item, the first stays.

    Args:
        folder: where to write it; made if it is not there.
        source: the folder with the published files.

    Returns:
        the file.

    Raises:
        ValueError: a row does not continue the row before it.
    """
    sequences: dict[str, list[int]] = {}
    titles: dict[int, str] = {}
    for part in PARTS:
        for row in pl.read_csv(source / f"Industrial_and_Scientific-{part}.csv.gz").iter_rows(named=True):
            history: list[int] = ast.literal_eval(row["history_item_id"])
            titles |= zip(history, ast.literal_eval(row["history_item_title"]), strict=True)
            titles[row["item_id"]] = row["item_title"]
            sequence = sequences.setdefault(row["user_id"], list(history))
            if sequence[-WINDOW:] != history:
                raise ValueError(f"the history of user {row['user_id']} before {row['item_id']} is of another row")
            sequence.append(row["item_id"])
    log = [
        {"user": user, "item": item, "title": titles[item], "position": position}
        for user, sequence in sequences.items()
        for position, item in enumerate(dict.fromkeys(sequence))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "amazon-industrial.csv"
    pl.DataFrame(log).write_csv(file)
    return file


def dataset(file: Path) -> dict[str, Any]:
    """The section ``[dataset]`` for what `write_log` wrote."""
    return {"name": "table", "path": str(file), "timestamp": "position"}
