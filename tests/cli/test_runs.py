"""`rosepo runs`: what is in a folder of runs."""

from __future__ import annotations

import json
import shutil

import pytest

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
    assert damaged["state"].startswith("metrics.json cannot be read")
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
