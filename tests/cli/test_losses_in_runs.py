"""Runs with losses that need less or more than the default one, and with sums of losses."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import polars as pl
import pytest

from rosepo_core.config import load_config
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.stages import oracle
from rosepo_core.stages.session import QuietReporter, Session
from rosepo_core.store.run_store import RunStore

QUICK = ("--metric=hr", "--evaluation.resamples=100")


def log_of(run):
    return json.loads((run / "aligned" / "log.json").read_text())


def test_a_loss_that_needs_neither_oracle_nor_reference_gets_none(train, rosepo, finished, tmp_path):
    """In the place of a run that had both."""
    run = shutil.copytree(finished, tmp_path / "runs" / "run")
    done = train("--run", run, *QUICK, "--loss=simpo", "--overwrite")
    assert done.code == 0, done.err
    assert not (run / "oracle").exists()
    assert not (run / "unfinished").exists()
    assert tomllib.loads((run / "config.toml").read_text())["loss"]["name"] == "simpo"
    pairs = pl.read_parquet(run / "preferences" / "pairs.parquet")
    for column in ("eps", "reference_chosen", "reference_rejected"):
        assert (pairs[column] == 0).all()
    log = log_of(run)
    # beta log pi / |y| of a model that has hardly learned.
    assert -20 < log[0]["rewards/chosen"] < 0
    tables = json.loads((run / "metrics.json").read_text())["protocols"]["candidates-5"]
    assert list(tables) == ["popularity", "base", "sft", "aligned"]
    assert "none: nothing asks it" in (run / "report.html").read_text()

    again = train("--run", run, *QUICK, "--loss=simpo")
    assert (again.code, again.made) == (0, set()), again.err
    said = rosepo("evaluate", run, "--ranking.score=fusion").err
    assert "has trained no oracle, because nothing in it asked one" in said
    assert """--ranking.features '["likelihood", "prior", "popularity"]'""" in said
    said = train("--run", run, *QUICK, "--loss=simpo", "--until=oracle").err
    assert "nothing in this run asks the oracle, so the run has no stage 'oracle'" in said


def test_whoever_asks_the_oracle_gets_it():
    registry = load_plugins()
    for overrides, needed in (
        ([("loss", "dpo")], False),
        ([("loss", "dpo"), ("loss.smoothing", "oracle")], True),
        ([("loss", "dpo"), ("loss.smoothing", "constant")], False),
        ([("loss", "sft"), ("loss", "rosepo=0.5")], True),
        ([("loss", "dpo"), ("sampler", "oracle-hard")], True),
        ([("loss", "dpo"), ("ranking.score", "fusion")], True),
        ([("loss", "dpo"), ("ranking.score", "fusion"), ("ranking.features", ["likelihood", "prior"])], False),
    ):
        config = load_config(None, overrides, registry)
        session = Session(config, RunStore(Path("no-run")), registry, QuietReporter())
        assert oracle.needed(session) == needed, overrides


def test_mismatched_titles_are_scored_and_kept(train, finished):
    run = finished.parent / "kto"
    done = train("--run", run, "--loss=kto", "--loss.beta=0.3", "--until=aligned", "--preferences.negatives=2")
    assert done.code == 0, done.err
    pairs = pl.read_parquet(run / "preferences" / "pairs.parquet")
    rows = pairs.unique(["user", "position"])
    # A random order of the targets: the same titles as often, and hardly any at home.
    assert sorted(rows["mismatched_item"]) == sorted(rows["chosen_item"])
    assert (rows["mismatched_item"] == rows["chosen_item"]).mean() < 0.5
    assert (rows["reference_mismatched"] < 0).all()
    log = log_of(run)
    # Policy and reference agree: (1 - sigmoid(0) + 1 - sigmoid(0)) / 2, and no rewards.
    assert log[0]["loss"] == pytest.approx(0.5, abs=1e-5)
    assert log[0]["rewards/chosen"] == pytest.approx(0, abs=1e-4)
    assert abs(log[-1]["loss"] - 0.5) > 1e-4
    again = train(
        *("--run", finished.parent / "kto-in-passes", "--loss=kto", "--loss.beta=0.3", "--until=aligned"),
        *("--preferences.negatives=2", "--alignment.token_budget=60", "--force=aligned"),
    )
    assert again.made == {"aligned"}
    other = log_of(finished.parent / "kto-in-passes")
    assert [entry["loss"] for entry in other] == pytest.approx([entry["loss"] for entry in log], abs=1e-4)


def test_a_sum_of_losses(train, finished):
    run = finished.parent / "sum"
    done = train("--run", run, "--loss=rosepo=1.0", "--loss=sft=0.1", "--until=aligned")
    assert done.code == 0, done.err
    written = tomllib.loads((run / "config.toml").read_text())["loss"]
    assert [(table["name"], table["weight"]) for table in written] == [("rosepo", 1.0), ("sft", 0.1)]
    # The pairs are those of the loss alone.
    assert done.made == {"aligned"}
    said = train("--run", finished, "--loss=rosepo", "--loss=sft").err
    assert "holds a finished run of another configuration (loss): choose another --run" in said
    for entry in log_of(run):
        assert entry["loss"] == pytest.approx(entry["loss/rosepo"] + 0.1 * entry["loss/sft"], abs=1e-5)


def test_rec_po_reads_the_ratings_of_the_log(train, rosepo, finished, log, model_folder, tmp_path):
    run = finished.parent / "rec-po"
    rejecting = ("--loss=rec-po", "--sampler=uniform", "--sampler.allow_seen=true", "--preferences.negatives=4")
    # All trees in the first step, so that its loss is the mean over all rows.
    done = train("--run", run, *rejecting, "--until=aligned", "--alignment.batch_size=100")
    assert done.code == 0, done.err
    pairs = pl.read_parquet(run / "preferences" / "pairs.parquet")
    assert pairs["chosen_rating"].is_between(1, 5).all()
    known = pairs.filter(pairs["rejected_rating"].is_not_nan())
    assert 0 < len(known) < len(pairs)
    assert known["rejected_rating"].is_between(1, 5).all()
    assert (pairs.filter(pairs["rejected_delay"].is_not_nan())["rejected_delay"] > 0).all()
    # At the reference, each row is log(1 + sum of exp(s_w / s_l)).
    stars, delay = pairs["rejected_rating"].fill_nan(3.0), pairs["rejected_delay"].fill_nan(10.0)
    lead = (pairs["chosen_rating"] / (stars / (1 + delay).sqrt())).exp()
    rows = pairs.with_columns(lead=lead).group_by("user", "position").agg(pl.col("lead").sum().log1p())
    assert log_of(run)[0]["loss"] == pytest.approx(rows["lead"].mean(), abs=1e-3)

    unrated = tmp_path / "unrated.csv"
    pl.read_csv(log).drop("rating").write_csv(unrated)
    done = train("--run", tmp_path / "run", *rejecting, f"--dataset.path={unrated}")
    assert done.code == 2
    assert "loss 'rec-po' reads ratings, and dataset 'table' has none" in done.err
    assert not (tmp_path / "run").exists()
