"""`rosepo` on examples that come split already: trained, evaluated on their own candidates, checked and planned."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from rosepo_core.contracts.records import Catalogue
from rosepo_core.evaluation.candidates import load_candidates
from rosepo_core.stages.split import load_split

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue) -> Path:
    """A folder as S-DPO's: 16 rows to train on, 4 for validation and 6 for the test, of 3 to 6 titles and six
    candidates."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("rows")
    for part, count in (("train", 16), ("val", 4), ("test", 6)):
        drawn = [rng.permutation(np.array(catalogue.titles, dtype=object)).tolist() for _ in range(count)]
        content = [
            {
                "historyList": "::".join(titles[6 : 9 + at % 4]),
                "itemList": sorted(titles[:6]),
                "trueSelection": titles[0],
            }
            for at, titles in enumerate(drawn)
        ]
        (folder / f"small-{part}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


ORACLE = ("--oracle=sasrec", "--oracle.layers=1", "--oracle.hidden_size=8", "--oracle.max_epochs=2")


@pytest.fixture(scope="module")
def train_given(train: Command, rows: Path) -> Command:
    """Run `rosepo train` on these rows."""
    return lambda *arguments: train("--dataset=s-dpo", f"--dataset.path={rows}", *ORACLE, *arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, train_given: Command) -> Path:
    folder = tmp_path_factory.mktemp("given") / "runs" / "first"
    done = train_given("--run", folder)
    assert done.code == 0, done.err
    assert "evaluation.candidates=5 is not used: the dataset gives each test example its candidates, 6" in " ".join(
        done.err.split()
    )
    return folder


def test_every_model_ranks_the_candidates_of_the_file(finished: Path, rows: Path) -> None:
    models = json.loads((finished / "metrics.json").read_text())["protocols"]["candidates-6"]
    assert list(models) == ["popularity", "oracle", "base", "sft", "aligned"]
    assert all(values["hr@10"] == 1 for values in models.values())

    published = json.loads((rows / "small-test.json").read_text())
    ranked = pl.read_parquet(finished / "candidates" / "candidates.parquet")
    assert ranked["user"].to_list() == [f"small-test:{number}" for number in range(1, 7)]
    assert [sorted(row) for row in ranked["candidates"]] == [sorted(row["itemList"]) for row in published]
    # The file's order says nothing of the target, and the seed's says nothing of the file's.
    assert ranked["candidates"].to_list() != [row["itemList"] for row in published]
    assert ranked["target_title"].to_list() == [row["trueSelection"] for row in published]


def test_nothing_that_is_held_out_is_trained_on(finished: Path) -> None:
    pairs = pl.read_parquet(finished / "preferences" / "pairs.parquet")
    split = load_split(finished / "split")
    assert {split.users[user] for user in pairs["user"]} == {f"small-train:{number}" for number in range(1, 17)}
    assert split.train.lengths[split.test.user].tolist() == [0] * 6
    assert split.catalogue.popularity.sum() == split.train.lengths.sum()


def test_the_report_says_that_the_split_was_given(finished: Path) -> None:
    assert tomllib.loads((finished / "config.toml").read_text())["split"]["strategy"] == "auto"
    card = (finished / "aligned" / "README.md").read_text()
    assert "**Split**: given" in card


def test_candidates_follow_the_users_that_are_tested_on(rosepo: Command, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "runs" / "copy")
    whole = load_candidates(run / "candidates")
    everyone = pl.read_parquet(run / "candidates" / "candidates.parquet")

    done = rosepo("evaluate", run, "--evaluation.max_users=2", "--json")

    assert done.code == 0, done.err
    assert not done.made & {"sft", "aligned", "split"}
    some = pl.read_parquet(run / "candidates" / "candidates.parquet")
    kept = [everyone["user"].to_list().index(user) for user in some["user"]]
    assert len(kept) == 2
    assert load_candidates(run / "candidates").items.tolist() == whole.items[kept].tolist()


def test_other_kinds_of_negatives_are_drawn_beside_the_given_candidates(
    rosepo: Command, finished: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "runs" / "run")
    done = rosepo("evaluate", run, '--evaluation.negatives=["uniform", "popularity"]', "--evaluation.candidates=4")
    assert done.code == 0, done.err
    assert list(json.loads((run / "metrics.json").read_text())["protocols"]) == [
        "candidates-6",
        "candidates-4-popularity",
    ]
    given, drawn = (
        pl.read_parquet(run / name / "candidates.parquet") for name in ("candidates", "candidates-popularity")
    )
    assert given["candidates"].list.len().unique().to_list() == [6]
    assert drawn["candidates"].list.len().unique().to_list() == [4]
    assert given["target"].to_list() == drawn["target"].to_list()


def test_what_contradicts_given_parts_is_turned_down_before_anything_is_trained(
    train_given: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"

    done = train_given("--run", run, "--split.strategy=temporal")

    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1].startswith(
        "error: split.strategy='temporal': dataset 's-dpo' comes split already, so leave it at 'auto'"
    )
    assert not run.exists()
    done = train_given("--run", run, "--dataset.k_core=5")
    assert (done.code, done.err.splitlines()[-1].split(";")[0]) == (2, "error: unknown option 'dataset.k_core'")


def test_data_check_sums_up_examples_in_80_columns(
    rosepo: Command, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    done = rosepo("data", "check", rows, "--dataset", "s-dpo")

    assert done.code == 0, done.err
    lines = {line.split("  ")[0]: line.split("  ", 1)[1].strip() for line in done.out.splitlines() if "  " in line}
    assert lines["examples"] == "26: train 16, validation 4, test 6"
    assert lines["candidates"] == "min 6, 25% 6, 50% 6, 75% 6, max 6"
    assert "users" not in lines
    assert max(map(len, done.out.splitlines())) <= 80
    summary = rosepo("data", "check", rows, "--dataset", "s-dpo", "--json").json
    assert summary["parts"] == {"train": 16, "validation": 4, "test": 6}


def test_a_dry_run_counts_what_a_run_would_train_on(train_given: Command, tmp_path: Path) -> None:
    done = train_given("--run", tmp_path / "run", "--dry-run", "--json")

    assert done.code == 0, done.err
    stages = {stage["stage"]: stage for stage in done.json["plan"]["stages"]}
    assert stages["sft"]["examples"] == 16
    # Base, SFT and aligned, six users, six candidates.
    assert stages["scores"]["examples"] == 3 * 6 * 6
    assert not (tmp_path / "run").exists()


def test_a_catalogue_that_changes_is_read_again(rosepo: Command, tmp_path: Path, model_folder: Path) -> None:
    titles = {str(item): f"Book {item}" for item in range(12)}
    content = [
        {"input": f'Read: "Book {at}", "Book {at + 1}", and?', "output": f'"Book {at + 2}"'} for at in range(10)
    ]
    file = tmp_path / "data" / "train.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))
    (file.parent / "id2name.json").write_text(json.dumps(titles))
    arguments = ("--dataset=sprec", f"--dataset.path={file}", f"--model={model_folder}", "--until=split")

    assert rosepo("train", *arguments, "--run", tmp_path / "run").made == {"dataset", "split"}
    assert rosepo("train", *arguments, "--run", tmp_path / "run").made == set()
    (file.parent / "id2name.json").write_text(json.dumps({**titles, "12": "Another book"}))
    assert rosepo("train", *arguments, "--run", tmp_path / "run").made == {"dataset", "split"}
    assert len(load_split(tmp_path / "run" / "split").catalogue) == 13
