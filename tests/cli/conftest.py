"""A log, a model and a command line that trains the one on the other in a second or two."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from rosepo_cli.app import run
from rosepo_core.contracts.records import Catalogue
from rosepo_core.store.artifacts import file_sum
from rosepo_core.store.marker import marker
from rosepo_core.store.sealed import sealed

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
    "--evaluation.resamples=500",
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
        """The one document on stdout."""
        return json.loads(self.out)

    @property
    def stages(self) -> dict[str, str]:
        """What each finished stage's line says after the stage."""
        lines = (line.split(maxsplit=1) for line in self.err.splitlines() if not line.startswith(" "))
        return {words[0]: words[1] for words in lines if len(words) == 2}

    @property
    def made(self) -> set[str]:
        """The stages that were done anew."""
        return {stage for stage, said in self.stages.items() if said.endswith(" s")}


Command = Callable[..., Done]


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
    pl.DataFrame(rows, schema=["user", "item", "timestamp", "rating", "title"], orient="row").write_csv(path)
    return path


@pytest.fixture(scope="session")
def rosepo() -> Command:
    """Run a command line in this process."""

    def command(*arguments: object) -> Done:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = run([str(argument) for argument in arguments])
        return Done(code, out.getvalue(), err.getvalue())

    return command


@pytest.fixture(scope="session")
def train(rosepo: Command, log: Path, model_folder: Path) -> Command:
    """Run `rosepo train` on the small log with the tiny model; what is given comes last, and so wins."""

    def command(*arguments: object) -> Done:
        parts = ("--dataset=table", f"--dataset.path={log}", f"--model={model_folder}", "--oracle=constant")
        named = any(str(argument).startswith("--sampler=") for argument in arguments)
        return rosepo("train", *parts, *(() if named else ("--sampler=uniform",)), *SMALL, *arguments)

    return command


@pytest.fixture
def as_a_stranger(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give the sums of a run, or of a model's folder, to what is in it now, as another user would: with another
    key."""

    def seal(folder: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setenv("ROSEPO_CACHE", str(tmp_path_factory.mktemp("stranger")))
            listed = {}
            for file in sorted(folder.rglob("manifest.json")):
                manifest = json.loads(file.read_text())
                whole = {name: file.parent / name for name in manifest["files"]}
                sums = {name: file_sum(path) for name, path in whole.items() if path.is_file()}
                file.unlink()
                file.write_text(sealed({**manifest, "files": {**manifest["files"], **sums}}))
                listed[file.relative_to(folder).as_posix()] = file_sum(file)
            if (folder / "run.json").exists():
                (folder / "run.json").unlink()
                tops = ("config.toml", "metrics.json", "plugins.json", "report.html")
                there = {name: file_sum(folder / name) for name in tops if (folder / name).exists()}
                (folder / "run.json").write_text(marker(there | listed))

    return seal


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, train: Command) -> Path:
    """A run that went through; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "runs" / "first"
    done = train("--run", folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="session")
def fused_arguments() -> tuple[str, ...]:
    """Arguments of a training whose models rank by every score."""
    return (
        *("--oracle=sasrec", "--oracle.max_epochs=2", "--ranking.score=fusion"),
        *("--evaluation.resamples=100", "--metric=hr", "--metric=ndcg"),
    )


@pytest.fixture(scope="session")
def fused(tmp_path_factory: pytest.TempPathFactory, train: Command, fused_arguments: tuple[str, ...]) -> Path:
    """A run whose models rank by every score; not to be changed."""
    folder = tmp_path_factory.mktemp("fused") / "run"
    done = train("--run", folder, *fused_arguments)
    assert done.code == 0, done.err
    return folder
