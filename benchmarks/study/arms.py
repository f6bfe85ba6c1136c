"""What is compared: datasets, and arms that start from the same fine-tuned model."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIZE = Path(__file__).parent / "demo.toml"
BETA = 1.0
SELF_HARD = {"name": "self-hard", "mode": "pool", "pool": 3, "power": 0}
SEMANTIC = {"name": "semantic-similar"}
POPULARITY = {"name": "popularity-aware"}
ORACLE_HARD = {"name": "oracle-hard", "pool": 20}
UNCLIPPED = {"name": "sasrec", "max_flip": 0.99}
ROSEPO = {"name": "rosepo", "beta": BETA}
ALSO_ALIKE = {"negatives": ["uniform", "semantic"]}
ARMS: Mapping[str, Mapping[str, Any]] = {
    "dpo": {"sampler": [SELF_HARD], "loss": {"name": "dpo", "beta": BETA}},
    "cdpo": {"sampler": [SELF_HARD], "loss": ROSEPO, "oracle": {"name": "constant", "value": 0.1}},
    "ipo": {"sampler": [SELF_HARD], "loss": {"name": "ipo", "beta": 0.1}},
    "rosepo-self-hard": {"sampler": [SELF_HARD], "loss": ROSEPO, "evaluation": ALSO_ALIKE},
    "rosepo-semantic": {"sampler": [SEMANTIC], "loss": ROSEPO, "evaluation": ALSO_ALIKE},
    "rosepo-popularity": {"sampler": [POPULARITY], "loss": ROSEPO},
    "rosepo-mixture": {"sampler": [SELF_HARD, SEMANTIC, POPULARITY], "loss": ROSEPO},
    "rosepo-oracle-hard": {"sampler": [ORACLE_HARD], "loss": ROSEPO, "oracle": UNCLIPPED},
}
"""What each adds to the configuration that all share. IPO aims at a margin of 1 / (2 beta) a token: its beta is
another quantity than that of DPO. The last arm is not the paper's: rejected items from the top of the oracle, and
factors that may exceed one half, did best on the validation users of MovieLens (`benchmarks.study.scaling`)."""

REFERENCE = "rosepo-self-hard"
"""The arm whose runs the popularity, oracle, base and SFT rows are taken from."""

DATASETS: Mapping[str, str | None] = {
    "movielens-100k": None,
    "sprec": "goodreads-sprec",
    "s-dpo": "lastfm-sdpo",
}
"""Dataset plugins, and the folder of their files."""


@dataclass(frozen=True)
class Cell:
    """One run of the study."""

    dataset: str
    seed: int
    arm: str

    @property
    def name(self) -> str:
        """The run folder's."""
        return f"{self.dataset}-{self.seed}-{self.arm}"


def cells(datasets: list[str], seeds: int, arms: list[str]) -> Iterator[Cell]:
    """In the order of the work: a cut leaves complete seeds, and every dataset as many as the others."""
    for seed in range(seeds):
        for dataset in datasets:
            for arm in arms:
                yield Cell(dataset, seed, arm)


def config_of(cell: Cell, data: Path, size: Path = SIZE) -> dict[str, Any]:
    """The tables of the run's configuration."""
    tables = tomllib.loads(size.read_text(encoding="utf-8"))
    own = tables.pop("datasets", {}).get(cell.dataset, {})
    folder = DATASETS[cell.dataset]
    dataset = {"name": cell.dataset} | ({} if folder is None else {"path": str(data / folder)})
    for changes in (own, ARMS[cell.arm], {"dataset": dataset | own.get("dataset", {}), "seed": cell.seed}):
        for section, value in changes.items():
            merged = isinstance(value, Mapping) and "name" not in value
            tables[section] = {**tables.get(section, {}), **value} if merged else value
    return tables
