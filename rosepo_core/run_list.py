"""The runs in a folder, with what they are and how good they are. Only small files are read, and no plugin.

A damaged run does not hide the others: its line says what is wrong.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rosepo_core.contracts.errors import RequestError
from rosepo_core.evaluation.run_models import by_score_in_use, last_language_model, preferred_column
from rosepo_core.plugins.one_file import plain_name
from rosepo_core.stages.rounds import stages_of
from rosepo_core.store.artifacts import read_manifest
from rosepo_core.store.changes import CONFIG
from rosepo_core.store.marker import is_run, read_listed


@dataclass(frozen=True)
class ListedRun:
    """One run.

    Attributes:
        folder: its folder.
        state: ``evaluated``, the last finished stage, such as ``up to sft``, or what is wrong with the folder.
        dataset: name of the dataset; empty if the configuration cannot be read, as all names below.
        model: name of the language model.
        method: names of samplers, oracle and losses, or ``evaluation only``.
        row: the last trained language model by the score that it ranks by; `None` without a table.
        column: the column of `value`, such as ``ndcg@10``.
        value: the value in the first protocol; `None` without a table.
        protocol: this protocol.
    """

    folder: Path
    state: str
    dataset: str = ""
    model: str = ""
    method: str = ""
    row: str | None = None
    column: str | None = None
    value: float | None = None
    protocol: str | None = None


def list_runs(folder: Path) -> list[ListedRun]:
    """The runs in `folder`: itself, the folders in it, and the runs under seeds in these; by name.

    Raises:
        RequestError: there is no such folder.
    """
    if not folder.is_dir():
        raise RequestError(f"there is no folder {folder}; name a folder with runs, such as runs/")
    places = [folder, *sorted(folder.glob("*")), *sorted(folder.glob("*/seed-*"))]
    return sorted((_listed(each) for each in places if is_run(each)), key=lambda run: run.folder)


def _listed(folder: Path) -> ListedRun:
    try:
        config = tomllib.loads(read_listed(folder, CONFIG) or "")
        state = _state(folder, config.get("rounds", 1))
        trained = (folder / "aligned").exists() or state != "evaluated"
        parts = ["+".join(map(_name, _several(config[key]))) for key in ("sampler", "oracle", "loss")]
        run = ListedRun(
            folder,
            state,
            dataset=_name(config["dataset"]),
            model=str(config["model"]["name"]),
            method=" ".join(parts) if trained else "evaluation only",
        )
    except RequestError as error:
        return ListedRun(folder, _in_short(folder, error))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return ListedRun(folder, f"{CONFIG} cannot be read: {type(error).__name__}")
    if state != "evaluated":
        return run
    try:
        tables = json.loads(read_listed(folder, "metrics.json") or "")["protocols"]
        return replace(run, **_result(tables))
    except RequestError as error:
        return replace(run, state=_in_short(folder, error))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return replace(run, state=f"metrics.json cannot be read: {type(error).__name__}")


def _in_short(folder: Path, error: RequestError) -> str:
    """What an error says of a file in `folder`, without the remedy."""
    return str(error).removeprefix(f"{folder}/").partition(": ")[0]


def _state(folder: Path, rounds: int) -> str:
    *stages, last = stages_of(rounds)
    done = [stage for stage in (*stages, last) if read_manifest(folder / stage) is not None]
    if not done:
        return "begun"
    return "evaluated" if done[-1] == last else f"up to {done[-1]}"


def _result(tables: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Mapping[str, Any]:
    """The fields of `ListedRun` about the first table."""
    protocol, table = next(iter(tables.items()))
    rows = by_score_in_use(table)
    row = next((name for name in rows if name.split()[0] == last_language_model(table)), rows[-1])
    column = preferred_column(table[row])
    return {"protocol": protocol, "row": row, "column": column, "value": table[row][column]}


def _several(section: Any) -> Iterator[Any]:
    yield from section if isinstance(section, list) else [section]


def _name(section: Mapping[str, Any]) -> str:
    return plain_name(str(section["name"]))
