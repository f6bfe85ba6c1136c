"""A finished run that is run again: what is refused, what is made anew, and what an interruption leaves."""

from __future__ import annotations

import json
import shutil
import tomllib

import polars as pl
import pytest

from rosepo_core.pipeline import STAGES
from rosepo_core.store.run_store import RunStore


def contents(run):
    """Every file of a run with its bytes, without what waits to be put in place."""
    return {
        name: path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and not (name := str(path.relative_to(run))).startswith((".", "unfinished/"))
    }


def fault(done):
    assert (done.code, done.out) == (2, "")
    return done.err.splitlines()[-1].removeprefix("error: ")


QUICK = ("--metric=hr", "--evaluation.resamples=100")


@pytest.fixture(scope="module")
def quick(train, finished, tmp_path_factory):
    """The finished run with little to measure; not to be changed."""
    run = shutil.copytree(finished, tmp_path_factory.mktemp("quick") / "run")
    done = train("--run", run, *QUICK, "--overwrite")
    assert (done.code, done.made) == (0, {"evaluation"}), done.err
    return run


@pytest.fixture
def run(quick, tmp_path):
    """A copy of it, with no run beside it."""
    return shutil.copytree(quick, tmp_path / "runs" / "copy")


@pytest.mark.parametrize("command", [(), ("--dry-run",), ("--until=sft",)], ids=["train", "dry run", "until"])
def test_a_finished_run_is_not_replaced_by_another_configuration(train, run, command):
    before = contents(run)
    said = fault(train("--run", run, *QUICK, "--loss=ipo", "--alignment.steps=2", *command))
    assert said == (
        f"{run} holds a finished run of another configuration (loss.name, loss.smoothing, alignment.steps): "
        "choose another --run, or replace it with --overwrite"
    )
    assert contents(run) == before
    # What changes no result makes no other configuration.
    assert train("--run", run, *QUICK, "--alignment.token_budget=100", *command).code == 0
    assert not (run / "unfinished").exists()


def test_a_run_that_was_evaluated_further_is_no_other_configuration(train, rosepo, run):
    further = ("--metric=ndcg", "--evaluation.ks=[3]", "--evaluation.part=validation")
    assert rosepo("evaluate", run, *further).code == 0
    before = {name: (run / name).read_bytes() for name in ("config.toml", "metrics.json")}
    for command in ((), ("--dry-run",)):
        done = train("--run", run, *QUICK, *command)
        assert (done.code, done.made) == (0, set()), done.err
    assert {name: (run / name).read_bytes() for name in before} == before
    # It is another one where the run has less than is asked for, or something else.
    assert "another configuration (metric)" in fault(train("--run", run, *QUICK, "--metric=mrr"))
    assert "another configuration (evaluation.candidates)" in fault(
        train("--run", run, *QUICK, "--evaluation.candidates=4")
    )


def test_a_run_is_replaced_on_demand(train, rosepo, run):
    done = train("--run", run, *QUICK, "--evaluation.candidates=4", "--overwrite")
    assert done.code == 0, done.err
    assert "aligned" not in done.made
    config = tomllib.loads((run / "config.toml").read_text())
    assert config["evaluation"]["candidates"] == 4
    assert list(json.loads((run / "metrics.json").read_text())["protocols"]) == ["candidates-4"]
    assert "candidates-4" in (run / "report.html").read_text()
    assert not (run / "unfinished").exists()


def test_a_stage_is_made_anew_on_demand_with_all_that_is_made_of_it(train, run):
    before = contents(run)
    done = train("--run", run, *QUICK, "--force=oracle")
    assert done.code == 0, done.err
    # The sampler is uniform and asks no oracle.
    assert done.made == {"oracle", "preferences", "aligned", "scores-oracle", "scores-aligned", "evaluation"}
    again = contents(run)
    assert {name for name in before if again[name] != before[name]} <= {
        *(f"{stage}/manifest.json" for stage in done.made),
        *("metrics.json", "report.html", "run.json"),
    }
    assert fault(train("--run", run, *QUICK, "--force=orcale")) == "unknown stage 'orcale'; did you mean 'oracle'?"


def test_evaluation_is_made_anew_with_what_it_asks_of_the_models(train, run):
    done = train("--run", run, *QUICK, "--force=evaluation")
    models = ("popularity", "oracle", "base", "sft", "aligned")
    assert done.made >= {"candidates", "evaluation", *(f"scores-{model}" for model in models)}
    assert "aligned" not in done.made


def test_a_change_that_is_interrupted_in_any_stage_leaves_the_run_as_it_was(
    train, rosepo, run, log, tmp_path, monkeypatch
):
    """The folder is copied at the end of each stage, as a kill at that moment would leave it."""
    before = contents(run)
    changed = tmp_path / "changed.csv"
    pl.read_csv(log).head(-20).write_csv(changed)
    change = (*QUICK, f"--dataset.path={changed}", "--overwrite")
    kills = tmp_path / "kills"
    make = RunStore.make

    def interrupted(self, stage, wanted, inputs, build, **options):
        def copied(folder):
            seconds = build(folder)
            shutil.copytree(run, kills / stage)
            if stage == "evaluation":
                raise KeyboardInterrupt
            return seconds

        return make(self, stage, wanted, inputs, copied, **options)

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "make", interrupted)
        done = train("--run", run, *change)
    assert (done.code, done.err.splitlines()[-2]) == (
        130,
        "interrupted; what is done is kept, and the same command goes on:",
    )
    assert {kill.name for kill in kills.iterdir()} >= set(STAGES)
    for left in (run, *kills.iterdir()):
        assert contents(left) == before, left

    kill = kills / "evaluation"
    # The process that owned it is gone: what has its number now started at another time.
    owner = json.loads((kill / ".lock").read_text())
    (kill / ".lock").write_text(json.dumps({**owner, "started": "1"}))
    assert rosepo("evaluate", kill, "--json").json["metrics"] == json.loads(before["metrics.json"])
    assert rosepo("report", kill, "--out", tmp_path / "report.html").code == 0
    assert rosepo("recommend", kill, "--history=Bluebird (1940)").code == 0
    assert contents(kill)["aligned/README.md"] == before["aligned/README.md"]
    done = train("--run", kill, *change)
    assert (done.code, done.made) == (0, {"evaluation"}), done.err
    assert tomllib.loads((kill / "config.toml").read_text())["dataset"]["path"] == str(changed)
    after = contents(kill)
    assert after.keys() == before.keys()
    for name in (
        "metrics.json",
        "metrics.jsonl",
        "report.html",
        "aligned/README.md",
        "aligned/adapter_model.safetensors",
    ):
        assert after[name] != before[name]
    assert sorted(path.name for path in kill.iterdir()) == sorted({name.partition("/")[0] for name in before})


def test_a_metric_that_raises_leaves_the_run_and_its_configuration_as_they_were(rosepo, run, monkeypatch):
    before = contents(run)

    def broken(*_):
        raise ZeroDivisionError("of nobody")

    monkeypatch.setattr("rosepo_metrics.accuracy.MRR.measure", broken)
    done = rosepo("evaluate", run, "--metric=mrr", "--evaluation.candidates=4")
    assert done.code == 1
    assert contents(run) == before


def test_a_damaged_weight_is_never_used(rosepo, train, run, log, tmp_path):
    adapter = run / "aligned" / "adapter_model.safetensors"
    content = bytearray(adapter.read_bytes())
    content[-1] ^= 1
    adapter.unlink()
    adapter.write_bytes(content)
    said = (
        f"{adapter} is damaged: its SHA-256 is not the one in manifest.json: make it anew with `rosepo train "
        f"--config {run}/config.toml --run {run}`"
    )
    assert fault(rosepo("recommend", run, "--history=Bluebird (1940)")) == said
    assert fault(rosepo("evaluate", run)) == said
    assert fault(rosepo("report", run)) == said
    assert fault(rosepo("compare", run, shutil.copytree(run, run.parent / "other"))) == said
    shutil.rmtree(run.parent / "other")
    evaluated = ("--dataset=table", f"--dataset.path={log}", "--run", tmp_path / "evaluated")
    assert fault(rosepo("evaluate", "--model", run / "aligned", *evaluated)).startswith(f"{adapter} is damaged: its ")
    done = train("--run", run, *QUICK)
    assert (done.code, done.made) == (0, {"aligned"})
    assert f"{adapter} is damaged" in " ".join(done.err.split())
    assert rosepo("recommend", run, "--history=Bluebird (1940)").code == 0


def test_a_project_is_not_taken_for_a_run(train, tmp_path):
    (tmp_path / "config.toml").write_text("mine = true\n")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "notes.txt").write_text("mine")
    said = fault(train("--run", tmp_path))
    assert said == f"{tmp_path} exists and is no run folder (it has no run.json): choose another --run"
    assert contents(tmp_path) == {"config.toml": b"mine = true\n", "evaluation/notes.txt": b"mine"}
