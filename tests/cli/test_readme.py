"""What the README and the how-tos show: code does what it says, and commands run one after another."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from rosepo_core.api import PreferenceLoss
from rosepo_core.testing import random_log_probs

Command = Callable[..., Any]

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HOW_TOS = (
    *("swap-a-part", "compare-runs", "evaluate", "several-seeds", "recommend", "own-data", "export"),
    *("live-catalogue", "sweep"),
)
"""The how-tos with commands, in the order in which they are run: some use what others make."""


def python_block(containing: str) -> str:
    [block] = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if containing in block]
    return block


def test_the_loss_of_the_readme_reads_every_rejected_title() -> None:
    """Two pairs with two slots each, the second of the second pair empty. Rewards: chosen 0.5 and 0, rejected 0, 1
    and 0.25: 1 - 0.5 + 0 = 0.5 and 1 - 0.5 + 1 = 1.5 have the mean 1; 1 - 0 + 0.25 = 1.25 stands alone."""
    names: dict[str, type[PreferenceLoss]] = {}
    exec(python_block("class UnitMargin"), names)
    hinge = names["UnitMargin"]
    log_probs = replace(
        random_log_probs(n=2, k=2),
        chosen=torch.tensor([-1.5, -3.0]),
        reference_chosen=torch.tensor([-2.0, -3.0]),
        rejected=torch.tensor([[-4.0, -3.0], [-2.75, -100.0]]),
        reference_rejected=torch.tensor([[-4.0, -4.0], [-3.0, 0.0]]),
        valid=torch.tensor([[True, True], [True, False]]),
    )
    assert hinge(hinge.Options())(log_probs).tolist() == pytest.approx([1.0, 1.25])


SIZES = (
    *("--model.dtype=float32", "--sft.steps=1", "--preferences.max_users=4", "--preferences.max_per_user=2"),
    *("--alignment.steps=1", "--evaluation.max_users=6", "--evaluation.candidates=5", "--evaluation.resamples=100"),
)
"""What makes a training a matter of a second; the commands are those of the pages but for this."""


def commands() -> list[list[str]]:
    """The command lines of the README and the how-tos, as they stand there: of `rosepo`, in indented blocks. One that
    stands on several pages is run once."""
    pages = [README, *((ROOT / "docs" / "how-to" / f"{name}.md").read_text(encoding="utf-8") for name in HOW_TOS)]
    lines = [line for page in pages for line in re.findall(r"^    (?:\.venv/bin/)?rosepo (.*)$", page, re.M)]
    return [shlex.split(line) for line in dict.fromkeys(lines)]


def test_every_how_to_with_commands_is_run() -> None:
    # A server runs until it is stopped, and has tests of its own.
    with_commands = {
        page.stem
        for page in (ROOT / "docs" / "how-to").glob("*.md")
        if re.search(r"rosepo (?!serve )", _blocks(page).replace("'rosepo[serve]'", ""))
    }
    assert with_commands == set(HOW_TOS)


def _blocks(page: Path) -> str:
    return "\n".join(re.findall(r"^    \S.*$", page.read_text(encoding="utf-8"), re.M))


@pytest.fixture
def project(tmp_path: Path, log: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the commands name, invented and small; MovieLens and SmolLM2 are stood in for, too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").mkdir()
    for name in ("quickstart.toml", "one_file_loss.py"):
        shutil.copy(Path(__file__).parents[2] / "examples" / name, tmp_path / "examples")
    films = ["Toy Story (1995)", "Aladdin (1992)", *(f"Film {number} (1990)" for number in range(30))]
    rng = np.random.default_rng(0)
    rows = [
        (f"{user}", f"i{item}", 5.0, 100 * user + place)
        for user in range(48)
        for place, item in enumerate(rng.permutation(len(films))[:9].tolist())
    ]
    interactions = pl.DataFrame(rows, ["user", "item", "rating", "timestamp"], orient="row")
    genres = [["Comedy"] if place % 2 else ["Drama"] for place in range(len(films))]
    catalogue = pl.DataFrame({"item": [f"i{item}" for item in range(len(films))], "title": films, "genres": genres})
    interactions.write_csv(tmp_path / "log.csv")
    catalogue.drop("genres").write_csv(tmp_path / "items.csv")
    (tmp_path / "new-items.csv").write_text(
        "item,title,retired\nn1,A Film of Today (2026),\ni3,Film 1 the Long Version (1990),\ni4,,true\n"
    )
    (tmp_path / "histories.csv").write_text("user,title\nann,Aladdin (1992)\nben,Film 3 (1990)\n")
    monkeypatch.setattr("rosepo_datasets.movielens.fetch_wheel", lambda *_: None)
    monkeypatch.setattr("rosepo_datasets.movielens._from_wheel", lambda _: (interactions, catalogue))
    monkeypatch.setattr("rosepo_core.engine.models._packaged", lambda *_: model_folder)
    (tmp_path / "goodreads").mkdir()
    (tmp_path / "goodreads" / "train.json").write_text(
        json.dumps(
            [
                {"input": f'Read: "{films[row]}", "{films[row + 1]}", now?', "output": f'"{films[row + 2]}"'}
                for row in range(20)
            ]
        )
    )
    (tmp_path / "lastfm").mkdir()
    (tmp_path / "lastfm" / "train.json").write_text(
        json.dumps(
            [
                {
                    "historyList": "::".join(films[row : row + 2]),
                    "itemList": films[row + 2 : row + 7],
                    "trueSelection": films[row + 2],
                }
                for row in range(20)
            ]
        )
    )
    return tmp_path


def test_the_commands_of_the_readme_and_the_how_tos_run_in_their_order(rosepo: Command, project: Path) -> None:
    asked = commands()
    assert len(asked) > 15
    for command in asked:
        sizes: tuple[str, ...] = ()
        if command[0] in ("train", "sweep"):
            sizes = (*SIZES, *(() if "constant" in command else ("--oracle.max_epochs=1",)))
        elif "--model" in command:
            sizes = SIZES[:1] + SIZES[5:]
        elif command[0] == "calibrate":
            # Of 24 films that are not in a history: about half of the lists hold the next one.
            sizes = ("--k", "12")
        done = rosepo(*command, *sizes)
        assert done.code == 0, f"rosepo {shlex.join(command)}: {done.err}"
    left = {"runs/demo/report.html", "runs/five/seeds.json", "runs/five/report.html", "both.html"}
    assert [each for each in left if not (project / each).is_file()] == []
