"""`rosepo sweep` with the tiny model: what it finds, that it goes on as if never interrupted, and its errors."""

from __future__ import annotations

import json
import tomllib

import pytest

from rosepo_cli.progress import ConsoleReporter
from rosepo_core.contracts.errors import RequestError
from rosepo_core.sweep.space import Choices, Range, combinations, parse_space
from tests.cli.conftest import SMALL

pytest.importorskip("optuna")

OVER = ("--over", "alignment.learning_rate=1e-4..1e-1:log", "--over", "loss=dpo,ipo")


@pytest.fixture(scope="module")
def sweep(rosepo, log, model_folder):
    def command(folder, *arguments):
        parts = ("--dataset=table", f"--dataset.path={log}", f"--model={model_folder}", "--oracle=constant")
        # A key that is searched must not be given.
        searched = {str(argument).partition("=")[0] for argument in arguments}
        small = [option for option in SMALL if option.partition("=")[0].removeprefix("--") not in searched]
        return rosepo("sweep", *parts, "--sampler=uniform", "--metric=ndcg", *small, "--run", folder, *arguments)

    return command


@pytest.fixture(scope="module")
def done(sweep, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps") / "first"
    result = sweep(folder, *OVER, "--trials=3")
    assert result.code == 0, result.err
    return folder, result


def found(folder):
    return json.loads((folder / "sweep.json").read_text())


def test_a_sweep_is_judged_on_validation_and_shares_its_stages(done):
    folder, result = done
    document = found(folder)
    assert [trial["state"] for trial in document["trials"]] == ["complete"] * 3
    for trial in document["trials"]:
        metrics = json.loads((folder / trial["run"] / "metrics.json").read_text())["protocols"]
        assert list(metrics) == ["candidates-5-validation"]
        assert metrics["candidates-5-validation"]["aligned"]["ndcg@10"] == pytest.approx(trial["value"])
        assert 1e-4 <= trial["params"]["alignment.learning_rate"] <= 1e-1
        assert trial["params"]["loss"] in ("dpo", "ipo")
    best = max(document["trials"], key=lambda trial: trial["value"])
    assert document["best"] == best["number"]
    # SFT is made once.
    lines = [line for line in result.err.splitlines() if line.startswith("sft ")]
    assert [line.endswith(" s") for line in lines] == [True, False, False]
    config = tomllib.loads((folder / "best.toml").read_text())
    assert config["evaluation"]["part"] == ["test"]
    assert config["loss"]["name"] == best["params"]["loss"]
    assert config["alignment"]["learning_rate"] == best["params"]["alignment.learning_rate"]
    assert "no trial is ended early, because nothing is validated during training" in result.err
    assert f"rosepo train --config {folder / 'best.toml'} --run {folder / 'best'}" in result.out
    page = (folder / "report.html").read_text()
    assert "http" not in page.replace("Content-Security-Policy", "").replace("http-equiv", "")
    assert page.count("<svg") == 3
    assert all(trial["run"] in page for trial in document["trials"])


def test_a_sweep_that_was_interrupted_finds_the_same(done, sweep, tmp_path, monkeypatch):
    folder, before = tmp_path / "again", found(done[0])
    finished = ConsoleReporter.stage_finished

    def interrupted(self, artifact):
        finished(self, artifact)
        if artifact.stage == "preferences" and len(list(folder.glob("trial-*"))) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ConsoleReporter, "stage_finished", interrupted)
        stopped = sweep(folder, *OVER, "--trials=3")
    assert stopped.code == 130
    assert "the same command goes on" in stopped.err
    assert [trial["state"] for trial in found(folder)["trials"]] == ["complete"]
    again = sweep(folder, *OVER, "--trials=3", "--json")
    assert again.code == 0, again.err
    assert found(folder) == before
    assert again.json["best"] == before["best"]
    # Nothing is left to do.
    assert sweep(folder, *OVER, "--trials=3").made == set()
    other = sweep(folder, "--over", "alignment.learning_rate=1e-4..1e-2:log", "--over", "loss=dpo,ipo")
    assert (other.code, other.out) == (2, "")
    assert "holds a sweep with another search space (alignment.learning_rate: 0.0001..0.1:log there" in other.err
    longer = sweep(folder, *OVER, "--alignment.steps=4")
    assert "holds a sweep with another configuration (alignment: " in longer.err
    assert found(folder) == before


def test_hopeless_trials_end_early_and_the_whole_of_a_small_space_is_tried(sweep, tmp_path, monkeypatch):
    import rosepo_core.stages.validation as validation

    # The second and the third trial are worse in step 1 than the first, which is free.
    values = iter([0.1, 0.5, 0.6, 0.7, 0.1, 0.2, 0.1, 0.3])
    monkeypatch.setattr(validation, "ndcg", lambda *_: next(values))
    folder = tmp_path / "small"
    patience = ("--sft.patience=5", "--sft.validate_every=1", "--ranking.score=prior-corrected")
    shown = sweep(folder, "--over", "sft.learning_rate=1e-3,1e-2,3e-2", "--trials=9", *patience)
    assert shown.code == 0, shown.err
    trials = found(folder)["trials"]
    assert [trial["state"] for trial in trials] == ["complete", "pruned", "pruned"]
    assert sorted(trial["params"]["sft.learning_rate"] for trial in trials) == ["1e-2", "1e-3", "3e-2"]
    assert [trial["points"] for trial in trials[1:]] == [[[0, 0.1], [1, 0.2]], [[0, 0.1], [1, 0.3]]]
    assert list(folder.rglob("*.partial")) == []
    assert "ended early" in shown.out
    metrics = json.loads((folder / trials[0]["run"] / "metrics.json").read_text())["protocols"]
    row = metrics["candidates-5-validation"]["aligned prior-corrected"]
    assert trials[0]["value"] == pytest.approx(row["ndcg@10"])


def test_a_forecast_writes_nothing_and_fits_80_columns(sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    dry = sweep(tmp_path / "dry", *OVER, "--dry-run", "--trials=3")
    assert dry.code == 0, dry.err
    lines = dry.out.splitlines()
    assert lines[:3] == [
        "3 trials, judged by ndcg@10 of aligned, candidates-validation",
        "  alignment.learning_rate = 0.0001..0.1:log",
        "  loss = dpo,ipo",
    ]
    assert max(map(len, lines)) <= 80
    assert not (tmp_path / "dry").exists()


def test_a_training_that_diverges_is_a_failed_trial(sweep, tmp_path):
    over = ("--over", "alignment.max_grad_norm=0,1", "--alignment.learning_rate=1e30", "--trials=2")
    failed = sweep(tmp_path / "failed", *over)
    assert (failed.code, failed.out) == (1, "")
    assert "error: all 2 trials failed; the first: training failed" in failed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say what to search, e.g. --over alignment.learning_rate=1e-6..1e-4:log"),
        (("--over", "loss.beta"), "--over loss.beta: write KEY=VALUES"),
        (("--over", "loss.beta=0.5"), "one value leaves nothing to search"),
        (("--over", "loss.beta=a..b"), "a range is between two numbers"),
        (("--over", "loss.beta=0.5..0.1"), "the first number must be below the second"),
        (("--over", "loss.beta=0..1:log"), "a range with :log must be above 0"),
        (("--over", "loss.beta=0..1:often"), "':often' is neither :log nor a step"),
        (("--over", "loss.beta=0..1"), "--over loss.beta=0..1: option 'loss.beta' = 0: "),
        (("--over", "sft.lora_rank=1.0..2.0"), "option 'sft.lora_rank'"),
        (("--over", "loss.gama=0.1..1"), "unknown option 'loss.gama'"),
        ((*OVER, "--over", "loss.gama=0.1..1"), "--over loss.gama=0.1..1: unknown option 'loss.gama'"),
        (("--over", "loss=dpo,nothing"), "--over loss=dpo,nothing: "),
        (("--over", "loss=dpo,ipo", "--loss=dpo"), "'loss' is given, and --over searches it"),
        (("--over", "loss=dpo,ipo", "--over", "loss.name=nca,exo"), "'loss' is there twice"),
        (("--over", "evaluation.candidates=5,6"), "must be the same in all trials"),
        (("--over", "seed=1..5"), "must be the same in all trials"),
        (("--over", "sft.token_budget=512,1024"), "'sft.token_budget' changes no result here"),
        ((*OVER, "--by=hr@10"), "the run has no metric 'hr'"),
        ((*OVER, "--by=ndcg@3"), "--by ndcg@3: the run has ndcg@5, ndcg@10"),
        ((*OVER, "--row=aligne"), "did you mean 'aligned'"),
        ((*OVER, "--row=aligned fusion"), "set ranking.score to 'fusion'"),
        ((*OVER, "--under=catalogue"), "the run has no such protocol"),
        ((*OVER, "--trials=0"), "--trials 0: say how many to run"),
    ],
)
def test_a_wrong_request_is_one_error(sweep, tmp_path, arguments, message):
    wrong = sweep(tmp_path / "wrong", *arguments)
    assert (wrong.code, wrong.out) == (2, "")
    assert message in wrong.err
    assert len(wrong.err.splitlines()) <= 2
    assert not (tmp_path / "wrong").exists()


def test_a_folder_with_something_else_is_left_alone(sweep, finished, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert "holds no sweep (no sweep.json)" in sweep(tmp_path, *OVER).err
    assert "is a run" in sweep(finished, *OVER).err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_notation_of_spaces():
    space = parse_space(["sft.lora-rank=8..32:8", "loss.beta=0.05..0.5", 'ranking.features=["a","b"],["a"]'])
    assert space == {
        "sft.lora_rank": Range(8, 32, step=8),
        "loss.beta": Range(0.05, 0.5),
        "ranking.features": Choices(('["a","b"]', '["a"]')),
    }
    assert [str(each) for each in space.values()] == ["8..32:8", "0.05..0.5", '["a","b"],["a"]']
    assert combinations(space) is None
    both = combinations(parse_space(["a=1..7:3", "b=x,y"]))
    assert both is not None
    assert [tuple(each.values()) for each in both] == [(1, "x"), (1, "y"), (4, "x"), (4, "y"), (7, "x"), (7, "y")]
    with pytest.raises(RequestError, match="a value is there twice"):
        parse_space(["loss=dpo,dpo"])
