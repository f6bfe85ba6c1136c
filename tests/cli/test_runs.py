"""`rosepo runs`: what is in a folder of runs."""

from __future__ import annotations

import json
import shutil

import pytest

from rosepo_core.contracts.errors import RequestError
from rosepo_core.evaluation.main_table import read_main_tables
from rosepo_core.run_list import list_runs


@pytest.fixture
def folder(finished, tmp_path):
    """A finished run, a run that ended after SFT, one whose tables are damaged, and a folder that is no run."""
    for name in ("done", "half", "damaged"):
        shutil.copytree(finished, tmp_path / name)
    for stage in ("oracle", "sampling", "reference", "preferences", "aligned", "evaluation"):
        shutil.rmtree(tmp_path / "half" / stage, ignore_errors=True)
    (tmp_path / "damaged" / "metrics.json").write_text("{")
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_each_run_has_a_line_with_its_state_and_result(folder, rosepo, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    table = json.loads((folder / "done" / "metrics.json").read_text())["protocols"]["candidates-5"]
    damaged, done, half = rosepo("runs", folder, "--json").json
    assert (done["state"], done["row"], done["protocol"]) == ("evaluated", "aligned", "candidates-5")
    assert done["value"] == table["aligned"][done["column"]]
    assert done["method"] == "uniform constant rosepo"
    assert (half["state"], half["value"]) == ("up to sft", None)
    assert damaged["state"].startswith("metrics.json is damaged")
    shown = rosepo("runs", folder)
    assert (shown.code, shown.err) == (0, "")
    assert max(map(len, shown.out.splitlines())) <= 80
    assert f"aligned {done['column']}" in " ".join(shown.out.split())


def test_a_run_lists_itself_and_a_missing_folder_is_named(folder, rosepo):
    assert [run.folder for run in list_runs(folder / "done")] == [folder / "done"]
    done = rosepo("runs", folder / "nowhere")
    assert (done.code, done.out) == (2, "")
    assert f"there is no folder {folder / 'nowhere'}" in done.err
    assert rosepo("runs", folder / "notes").out == f"there are no runs in {folder / 'notes'}\n"


def test_of_one_run_the_main_metric_has_intervals(finished, rosepo, tmp_path, monkeypatch, as_a_stranger):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    rows = {
        "popularity": (0.5, [0.25, 0.75]),
        "aligned": (0.6, [0.4, 0.8]),
        "aligned fusion": (0.7, [0.55, 0.85]),
    }
    content = json.loads((run / "metrics.json").read_text())
    content["protocols"] = {
        "candidates-5": {name: {"hr@1": 0, "ndcg@10": value} for name, (value, _) in rows.items()}
    }
    content["intervals"] = {"candidates-5": {name: {"ndcg@10": ends} for name, (_, ends) in rows.items()}}
    (run / "metrics.json").write_text(json.dumps(content))
    as_a_stranger(run)
    monkeypatch.setenv("COLUMNS", "80")
    shown = rosepo("runs", run)
    assert (shown.code, shown.err) == (0, "")
    assert [line.rstrip() for line in shown.out.splitlines()[-4:]] == [
        "NDCG@10 with 95 % intervals, candidates-5",
        "                 likelihood           fusion",
        "popularity  0.500 .250\N{EN DASH}.750",
        "aligned     0.600 .400\N{EN DASH}.800  0.700 .550\N{EN DASH}.850",
    ]


def test_a_table_that_was_changed_is_not_read(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    assert [table.protocol for table in read_main_tables(run)] == ["candidates-5"]
    with (run / "metrics.json").open("a") as file:
        file.write(" ")
    with pytest.raises(RequestError, match=r"metrics\.json is damaged or was changed"):
        read_main_tables(run)
