"""What the study at full size compares: data, arms and seeds, in the order of their value."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import amazon
from benchmarks.study.arms import Cell
from rosepo_core.config import RunConfig, read_config

SIZES = {name: Path(__file__).with_name(f"{name}.toml") for name in ("gpu", "tiny")}
"""What all arms have in common, by the name of the size."""

SEEDS = 5
REFERENCE = "rosepo"
SHARED = Path("../shared/data")
PLACES: Mapping[str, Path | None] = {
    "movielens-100k": None,
    "amazon-industrial": SHARED / "amazon-industrial",
    "sprec": SHARED / "goodreads-sprec",
    "s-dpo": SHARED / "lastfm-sdpo",
    "table": None,
}
"""Data, and where it is if ``--data NAME=PATH`` says nothing else: MovieLens is fetched, a table is the caller's."""

DEFAULT_DATA = ("movielens-100k", "amazon-industrial")

_SELF_HARD = {"name": "self-hard", "mode": "pool", "pool": 3, "power": 0}
_SEMANTIC = {"name": "semantic-similar"}
_POPULARITY = {"name": "popularity-aware"}
_UNIFORM = {"name": "uniform"}
_UNCLIPPED = {"max_flip": 0.99}
_BASE: Mapping[str, Any] = {"sampler": [_SELF_HARD], "loss": {"name": "rosepo", "beta": 1.0}}
ARMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    REFERENCE: ("self-hard rejected titles, personalized smoothing", {}),
    "dpo": ("no smoothing", {"loss": {"name": "dpo", "beta": 1.0}}),
    "reference-prior": ("compared with log p(title), not with SFT", {"alignment": {"reference": "prior"}}),
    "mixture": ("three kinds of rejected titles", {"sampler": [_SELF_HARD, _SEMANTIC, _POPULARITY]}),
    "oracle-hard": (
        "rejected titles from the top of the oracle, factors up to 0.99",
        {"sampler": [{"name": "oracle-hard", "pool": 20}], "oracle": _UNCLIPPED},
    ),
    "uniform-4": (
        "four uniform rejected titles, factors up to 0.99",
        {"sampler": [_UNIFORM], "preferences": {"negatives": 4}, "oracle": _UNCLIPPED},
    ),
    "semantic-similar": ("rejected titles of a similar meaning", {"sampler": [_SEMANTIC]}),
    "popularity-aware": ("popular rejected titles", {"sampler": [_POPULARITY]}),
    "s-dpo-4": (
        "softmax over four uniform rejected titles",
        {"sampler": [_UNIFORM], "preferences": {"negatives": 4}, "loss": {"name": "s-dpo", "beta": 1.0}},
    ),
    "simpo": ("no reference, mean log-probability", {"loss": {"name": "simpo"}}),
    "ipo": ("squared distance to a margin", {"loss": {"name": "ipo", "beta": 0.1}}),
    "beta-0.1": ("a tenth of beta", {"loss": {"name": "rosepo", "beta": 0.1}}),
    "sft-term": (
        "with a tenth of the loss of SFT",
        {"loss": [{"name": "rosepo", "beta": 1.0}, {"name": "sft", "weight": 0.1}]},
    ),
    "rounds-2": ("two rounds", {"rounds": 2}),
}
"""The arms in the order of their value: what each changes of the reference, in words and as configuration. Each
differs in one thing, except that four rejected titles are uniform, and that ``uniform-4`` and ``oracle-hard`` let
factors exceed one half (so did their best relatives in the study at CPU size)."""


def cells(datasets: Sequence[str], seeds: int, arms: Sequence[str]) -> Iterator[Cell]:
    """All of them: every arm of a seed comes before the next seed."""
    return (Cell(dataset, seed, arm) for seed in range(seeds) for dataset in datasets for arm in arms)


def place_data(name: str, source: Path | None, folder: Path) -> dict[str, Any] | None:
    """Put the files of a dataset into `folder`, if they are not there, and return the section ``[dataset]``.

    Paths are relative to the working directory, so that they, and what is made of them, are the same on each machine.

    Args:
        name: a name of `PLACES`.
        source: its files.
        folder: where they are kept with the results.

    Returns:
        the section; `None` if the files are not at hand.

    Amazon Industrial is published as rows of training, validation and test. Where all are there, they are taken as
    they are. Without those of training, the log is put together from the overlapping rows of the others
    (`benchmarks.amazon`), and rosepo splits it.
    """
    if name == "movielens-100k" and source is None:
        return {"name": name}
    kept = folder / name
    if not kept.exists():
        if source is None or not source.exists():
            return None
        kept.parent.mkdir(parents=True, exist_ok=True)
        if source.is_file():
            kept.mkdir()
            shutil.copy(source, kept)
        elif name == "amazon-industrial" and not any(source.glob("*train*.csv*")):
            amazon.write_log(kept, source)
        else:
            shutil.copytree(source, kept)
    files = sorted(kept.iterdir())
    if name == "amazon-industrial":
        log = kept / f"{name}.csv"
        return amazon.dataset(log) if log.exists() else {"name": "minionerec", "path": str(kept)}
    return {"name": name, "path": str(files[0] if len(files) == 1 and files[0].is_file() else kept)}


def config_of(cell: Cell, size: Path, dataset: Mapping[str, Any], model: str | None) -> RunConfig:
    """The configuration of a cell.

    Args:
        cell: dataset, seed and arm.
        size: a file of `SIZES`.
        dataset: the section that `place_data` returned.
        model: the language model; `None` for that of the size.
    """
    tables = tomllib.loads(size.read_text(encoding="utf-8"))
    own = tables.pop("datasets", {}).get(cell.dataset, {})
    asked = {"dataset": dataset, "seed": cell.seed} | ({} if model is None else {"model": {"name": model}})
    for changes in (own, _BASE, ARMS[cell.arm][1], asked):
        for section, value in changes.items():
            # Another loss or sampler has other options; other sections are changed key by key.
            kept = tables.get(section, {}) if isinstance(value, Mapping) and section != "loss" else None
            tables[section] = value if kept is None else {**kept, **value}
    return read_config(tables)
