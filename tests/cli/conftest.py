"""A log, a model and a command line that trains the one on the other in a second or two."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from rosepo_cli.app import run
from rosepo_core.records import Catalogue

SMALL = (
    "--model.dtype=float32",
    "--dataset.history_length=8",
    "--sft.steps=3",
    "--sft.batch_size=4",
    "--sft.learning_rate=0.01",
    "--preferences.max_per_user=3",
    "--alignment.steps=3",
    "--alignment.learning_rate=0.01",
    "--evaluation.candidates=5",
    "--seed=3",
)
"""Sizes at which every stage is done in a moment."""


@dataclass(frozen=True)
class Done:
    """What a command line gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def stages(self) -> dict[str, str]:
        """What each finished stage's line says after its name."""
        lines = (line.split(maxsplit=1) for line in self.err.splitlines() if line and not line.startswith(" "))
        return {words[0]: words[1] for words in lines if len(words) == 2}


Rosepo = Callable[..., Done]
Train = Callable[..., Done]


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="session")
def model_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> Path:
    """The tiny model as save_pretrained leaves it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue) -> Path:
    """24 users with 8 to 12 of the 40 titles each, the earlier ones of the catalogue more often."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(2, len(catalogue) + 2)
    rows = []
    for user in range(24):
        items = rng.choice(len(catalogue), rng.integers(8, 13), replace=False, p=weights / weights.sum())
        rows += [
            (f"u{user}", catalogue.ids[item], 1000 * user + place, int(rng.integers(1, 6)), catalogue.titles[item])
            for place, item in enumerate(items.tolist())
        ]
    path = tmp_path_factory.mktemp("data") / "log.csv"
    return write_csv(path, ("user", "item", "timestamp", "rating", "title"), rows)


@pytest.fixture
def rosepo(capsys: pytest.CaptureFixture[str]) -> Rosepo:
    """Run a command line in this process."""

    def command(*arguments: object) -> Done:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return command


@pytest.fixture
def train(rosepo: Rosepo, log: Path, model_folder: Path) -> Train:
    """Run `rosepo train` on the small log with the tiny model; what is given comes last, and so wins."""

    def command(*arguments: object) -> Done:
        parts = ("--dataset=table", f"--dataset.path={log}", f"--model={model_folder}")
        return rosepo("train", *parts, "--oracle=constant", "--sampler=uniform", *SMALL, *arguments)

    return command
