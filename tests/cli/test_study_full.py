"""`python -m benchmarks.study --size tiny`: the study at full size, with a small log and a tiny model."""

from __future__ import annotations

import json
import shutil
import time

import polars as pl
import pytest

from benchmarks.study import __main__ as study
from benchmarks.study.arms import Cell
from benchmarks.study.full import cells, questions
from benchmarks.study.full.budget import RESERVE, Budget, Forecast, OutOfTime, fitting
from benchmarks.study.full.kept import Kept
from benchmarks.study.full.work import Stages

FIRST, SECOND = Cell("table", 0, "rosepo"), Cell("table", 0, "sft-term")


@pytest.fixture(scope="module")
def command(log, model_folder):
    def run(folder, *more):
        given = [f"--runs={folder}", f"--model={model_folder}", "--datasets", "table", "--seeds=1"]
        study.main(["--size=tiny", *given, f"--data=table={log}", "--arms", FIRST.arm, SECOND.arm, *more])

    return run


@pytest.fixture(scope="module")
def cut(command, tmp_path_factory):
    """The folder of a call whose time was over in the second cell, in the middle of alignment's scores."""
    folder = tmp_path_factory.mktemp("study") / "there"
    before = Stages.stage_finished

    def over(stages, artifact):
        before(stages, artifact)
        if artifact.stage == "aligned" and (Kept(folder).is_finished(FIRST)):
            raise OutOfTime

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Stages, "stage_finished", over)
        command(folder)
    return folder


def test_a_cell_that_is_cut_off_leaves_what_is_finished(cut):
    kept = Kept(cut)
    assert kept.is_finished(FIRST)
    assert not kept.is_finished(SECOND)
    # What all arms share is kept for the second; the large rest of the first is not.
    there = {path.name for path in kept.run(FIRST).iterdir() if path.is_dir()}
    assert {"split", "sft", "oracle", "scores-sft", "scores-base"} <= there
    assert not {"aligned", "evaluation"} & there
    assert not list(cut.glob("runs/*/*.partial"))
    assert not list(cut.glob("runs/*/.lock"))
    adapter = json.loads((cut / "adapters" / FIRST.name / "adapter_config.json").read_text())
    assert adapter["peft_type"] == "LORA"


def test_what_is_kept_is_what_the_run_measured(cut):
    users = Kept(cut).users([FIRST])
    measured = json.loads((Kept(cut).run(FIRST) / "metrics.json").read_text())["protocols"]
    for part, protocol in (("test", "candidates-5"), ("validation", "candidates-5-validation")):
        for model, score, name in (
            ("rosepo", "fusion", "aligned fusion"),
            ("sft", "likelihood", "sft"),
            ("base", "prior-corrected", "base prior-corrected"),
            ("sasrec", "own", "oracle"),
            ("popularity", "own", "popularity"),
        ):
            mine = users.filter(part=part, model=model, score=score)
            assert mine.height == 24
            assert mine["ndcg@10"].mean() == pytest.approx(measured[protocol][name]["ndcg@10"])
    assert set(users["length"]) == {"up to 9", "10 to 49"}


def test_it_goes_on_elsewhere_and_makes_tables_and_a_picture(cut, command, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "elsewhere"
    shutil.copytree(cut, folder)
    # Another machine has another key.
    monkeypatch.setenv("ROSEPO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SystemExit, match="if it is yours, add --trust"):
        command(folder)
    capsys.readouterr()
    command(folder, "--trust")
    said = capsys.readouterr().out
    assert "1 of 1 cells are expected to fit" in said
    assert "2 of 2 cells are finished; left: none" in said
    about = Kept(folder).about(SECOND)
    # SFT and oracle are those of the first cell.
    assert about["shared"] is None
    assert not {"sft", "oracle", "scores-sft"} & about["stages"].keys()
    # Nothing is left to do, so no run is needed.
    assert not list((folder / "runs").iterdir())
    command(folder)
    assert "every cell is finished" in capsys.readouterr().out

    command(folder, "--table", f"--results={tmp_path}", "--arms", FIRST.arm, SECOND.arm, "dpo")
    result = json.loads((tmp_path / "study-tiny.json").read_text())
    assert result["missing"] == ["table-0-dpo"]
    models = {row["model"]: row for row in result["models"]}
    assert {"popularity", "sasrec", "sasrec by fusion", "base by mean", "sft-term by likelihood"} <= models.keys()
    users = Kept(folder).users([SECOND]).filter(part="test", score="fusion")
    assert models["sft-term by fusion"]["ndcg@10"] == pytest.approx(users["ndcg@10"].mean())
    asked = {(each["question"]["model"], each["question"]["baseline"]) for each in result["findings"]}
    assert {("sft-term by likelihood", "rosepo by likelihood"), ("rosepo by fusion", "sasrec by fusion")} <= asked
    assert {row["group"] for row in result["groups"]["length"]} <= {"up to 9", "10 to 49"}
    text = (tmp_path / "study-tiny.md").read_text()
    assert "its numbers mean nothing" in text
    assert "Not run, 1 cells: table-0-dpo." in text
    assert "<svg" in (tmp_path / "study-tiny.svg").read_text()


def test_a_folder_of_another_study_is_left_alone(cut, command, log, model_folder):
    with pytest.raises(SystemExit, match="holds a study with another size"):
        study.main(["--size=gpu", f"--runs={cut}", f"--model={model_folder}"])


def test_data_that_is_not_at_hand_is_said(tmp_path, capsys):
    given = [f"--runs={tmp_path / 'runs'}", "--datasets", "sprec", f"--data=sprec={tmp_path / 'nowhere'}"]
    with pytest.raises(SystemExit, match="no data is at hand"):
        study.main(["--size=tiny", "--model=none", *given])
    assert "skipped: sprec" in capsys.readouterr().out


def test_arms_differ_from_the_reference_in_what_they_name():
    def tables(arm):
        cell = Cell("movielens-100k", 0, arm)
        return cells.config_of(cell, cells.SIZES["gpu"], {"name": "movielens-100k"}, None).that_decides()

    reference = tables("rosepo")
    assert reference["sft"]["patience"] == 3
    assert reference["preferences"]["max_users"] is None
    differ = {arm: {key for key, value in tables(arm).items() if value != reference.get(key)} for arm in cells.ARMS}
    assert differ == {
        "rosepo": set(),
        "dpo": {"loss"},
        "reference-prior": {"alignment"},
        "mixture": {"sampler"},
        "oracle-hard": {"sampler", "oracle"},
        "uniform-4": {"sampler", "oracle", "preferences"},
        "semantic-similar": {"sampler"},
        "popularity-aware": {"sampler"},
        "s-dpo-4": {"sampler", "loss", "preferences"},
        "simpo": {"loss"},
        "ipo": {"loss"},
        "beta-0.1": {"loss"},
        "sft-term": {"loss"},
        "rounds-2": {"rounds"},
    }


def test_seeds_come_one_after_the_other():
    order = [(each.seed, each.dataset, each.arm) for each in cells.cells(["a", "b"], 2, ["dpo", "ipo"])]
    assert order[:4] == [(0, "a", "dpo"), (0, "a", "ipo"), (0, "b", "dpo"), (0, "b", "ipo")]
    assert [seed for seed, _, _ in order] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_the_clock_ends_work_as_ctrl_c_does():
    budget = Budget(time.monotonic(), (RESERVE + 0.1) / 60)
    with pytest.raises(KeyboardInterrupt), budget.limited():
        time.sleep(30)
    # Afterwards it is quiet.
    time.sleep(0.01)
    with pytest.raises(OutOfTime), budget.limited():
        pytest.fail("there is no time left")


def test_what_fits_follows_from_what_was_measured():
    forecast = Forecast(shared=40.0, own=10.0)
    wanted = list(cells.cells(["d"], 2, ["rosepo", "uniform-4", "dpo"]))
    # 40 + 10, then 5 titles instead of 2: 25, then 10, and 50 for the next seed.
    assert fitting(wanted, {"d": forecast}, set(), 84.0) == 2
    assert fitting(wanted, {"d": forecast}, set(), 85.0) == 3
    assert fitting(wanted, {"d": forecast}, set(), 135.0) == 4
    # The reference took twice as long as expected, and what all share half of it.
    forecast.learn(wanted[0], 20.0, 20.0)
    assert forecast.of(wanted[1], first=False) == pytest.approx(50.0)
    assert forecast.of(wanted[3], first=True) == pytest.approx(40.0)
    forecast.learn(wanted[1], 30.0, None)
    assert forecast.of(wanted[1], first=False) == pytest.approx(30.0)


def test_the_best_is_chosen_on_validation_and_shown_on_the_test():
    def rows(part, model, score, values):
        users = [f"u{place}" for place in range(len(values))]
        table = {"user": users, "target": users, "ndcg@10": values, "hr@1": values, "hr@10": values}
        return pl.DataFrame(table).with_columns(
            dataset=pl.lit("d"),
            seed=pl.lit(0),
            part=pl.lit(part),
            model=pl.lit(model),
            score=pl.lit(score),
            bucket=pl.lit("cold: never"),
            length=pl.lit("up to 9"),
        )

    users = pl.concat(
        [
            rows("validation", "dpo", "fusion", [0.4, 0.6]),
            rows("validation", "ipo", "fusion", [0.3, 0.5]),
            # No arm: it is not chosen.
            rows("validation", "sasrec", "own", [0.9, 0.9]),
            rows("test", "dpo", "fusion", [0.1, 0.3]),
            rows("test", "ipo", "fusion", [0.5, 0.7]),
            rows("test", "sasrec", "own", [0.4, 0.6]),
        ]
    )
    found, best = questions.rows_of(users)
    assert best == {"d": "dpo by fusion"}
    means = questions.means(found)
    assert dict(means.select("model", "ndcg@10").iter_rows()) == pytest.approx(
        {"dpo by fusion": 0.2, "ipo by fusion": 0.6, "sasrec": 0.5, questions.BEST: 0.2}
    )
    assert questions.means(found, "bucket").is_empty(), "a group of two users says nothing"
