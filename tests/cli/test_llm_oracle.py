"""Runs whose pairs are smoothed by the SFT model's own preference."""

from __future__ import annotations

import json
import shutil

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from rosepo_core.contracts.records import Places, Sequences
from rosepo_core.stages import oracle_model
from rosepo_core.stages.oracle_model import KnownScores

TEMPERATURE = 20.0
"""The margins of the tiny model are far apart and often wrong, so its calibrated flips are all at the limit."""

ASKED = (
    *("--oracle=llm", "--oracle.calibration_users=6", "--oracle.calibration_items=2"),
    *(f"--oracle.temperature={TEMPERATURE}", "--metric=hr"),
)


def pairs_of(run):
    return pl.read_parquet(run / "preferences" / "pairs.parquet")


def flips(rejected, chosen):
    return np.minimum(1 / (1 + np.exp((chosen - rejected) / TEMPERATURE)), 0.45)


@pytest.fixture(scope="module")
def smoothed(tmp_path_factory, train):
    run = tmp_path_factory.mktemp("llm") / "runs" / "run"
    done = train("--run", run, *ASKED, "--until=oracle")
    assert done.code == 0, done.err
    # Pairs and test candidates are scored by the stages that score them anyway.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle_model, "title_model", None)
        done = train("--run", run, *ASKED)
    assert done.code == 0, done.err
    return run


def test_flips_come_from_the_log_probabilities_of_both_titles(smoothed):
    pairs = pairs_of(smoothed)
    expected = flips(pairs["reference_rejected"], pairs["reference_chosen"])
    assert pairs["eps"].to_numpy() == pytest.approx(np.asarray(expected), abs=1e-5)
    assert 0 < pairs["eps"].min() < pairs["eps"].max()


def test_it_has_no_row_and_its_quality_is_that_of_the_scores_of_sft(smoothed):
    document = json.loads((smoothed / "metrics.json").read_text())
    assert list(document["protocols"]["candidates-5"]) == ["popularity", "base", "sft", "aligned"]
    scores = load_file(smoothed / "scores-sft" / "scores.safetensors")
    drawn = pl.read_parquet(smoothed / "candidates" / "candidates.parquet")
    values, target = scores["scores"], drawn["target_column"].to_numpy()
    rows = np.arange(len(values))
    found = load_file(smoothed / "scores-oracle" / "flips.safetensors")
    asked_once = ~found["outcomes"]
    own = values[rows, target][:, None]
    others = np.array([np.delete(row, column) for row, column in zip(values, target, strict=True)])
    expected = 1 / (1 + np.exp((own - others) / TEMPERATURE))
    assert found["flips"][asked_once] == pytest.approx(expected[np.isfinite(others)], abs=1e-5)


def test_it_depends_on_the_sft_model_and_costs_others_nothing(train, smoothed, finished, tmp_path):
    inputs = json.loads((smoothed / "oracle" / "manifest.json").read_text())["inputs"]
    assert list(inputs) == ["split", "sft"]
    assert list(json.loads((finished / "oracle" / "manifest.json").read_text())["inputs"]) == ["split"]

    run = shutil.copytree(smoothed, tmp_path / "runs" / "run")
    done = train("--run", run, *ASKED, "--sft.steps=2", "--until=oracle", "--overwrite")
    assert {"sft", "oracle"} <= done.made


def test_without_a_reference_the_pairs_are_scored_for_the_oracle_alone(train, smoothed, tmp_path):
    run = shutil.copytree(smoothed, tmp_path / "runs" / "run")
    arguments = ("--run", run, *ASKED, "--alignment.reference=none", "--overwrite")
    plan = train(*arguments, "--dry-run", "--json").json["plan"]["stages"]
    rows = {row["stage"]: row for row in plan}
    assert rows["preferences"]["tokens"] > 0
    # 6 users, at two places each, a target and two other titles.
    assert (rows["oracle"]["examples"], rows["oracle"]["unit"]) == (2 * 6 * 3, "titles")
    done = train(*arguments, "--until=preferences")
    assert done.code == 0, done.err
    with_reference, without = pairs_of(smoothed), pairs_of(run / "unfinished")
    assert (without["reference_chosen"] == 0).all()
    assert without["eps"].to_numpy() == pytest.approx(with_reference["eps"].to_numpy(), abs=1e-4)


def test_the_prior_of_the_titles_can_be_taken_out(train, smoothed, tmp_path):
    run = shutil.copytree(smoothed, tmp_path / "runs" / "run")
    corrected = ("--oracle.score=prior-corrected", "--until=preferences", "--overwrite")
    done = train("--run", run, *ASKED, *corrected)
    assert done.code == 0, done.err
    new = run / "unfinished"
    prior = load_file(new / "prior-sft" / "prior.safetensors")["log_probs"]
    pairs = pairs_of(new)
    chosen = pairs["reference_chosen"].to_numpy() - prior[pairs["chosen_item"].to_numpy()]
    rejected = pairs["reference_rejected"].to_numpy() - prior[pairs["rejected_item"].to_numpy()]
    assert pairs["eps"].to_numpy() == pytest.approx(flips(rejected, chosen), abs=1e-5)


def test_rankings_do_without_it(train, rosepo, smoothed, tmp_path):
    """Also pools of a large catalogue, for which other oracles rank every title."""
    run = shutil.copytree(smoothed, tmp_path / "runs" / "run")
    ranked = ("--ranking.score=fusion", "--ranking.pool=5", "--protocol=catalogue")
    done = rosepo("evaluate", run, *ranked)
    assert done.code == 0, done.err
    assert "fusion leaves oracle out: no such model ranks here" in done.err
    done = rosepo("recommend", run, "--history=Copper Sun (1968)", "--json")
    assert (done.code, len(done.json["recommendations"])) == (0, 10), done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--prompt=chat", "--prompt.candidates=5"), "oracle 'llm' needs the probability of each title on its own"),
        (("--sampler=oracle-hard",), "oracle 'llm' ranks nothing"),
    ],
)
def test_what_it_cannot_do(train, tmp_path, arguments, said):
    done = train("--run", tmp_path / "run", *ASKED, *arguments)
    assert (done.code, said in done.err) == (2, True), done.err


def test_it_is_no_part_of_an_ensemble(train, tmp_path):
    done = train("--run", tmp_path / "run", "--oracle=ensemble", "--oracle.oracles=llm,popularity")
    assert (done.code, "oracle 'llm' asks the language model" in done.err) == (2, True), done.err


def test_known_scores():
    """Two places of one user; what is asked of others, or of other titles, is not known."""
    sequences = Sequences(np.array([4, 5, 6, 7], dtype=np.int32), np.array([0, 3, 4], dtype=np.int64))

    def at(user, position):
        return Places(sequences, np.array(user, dtype=np.int32), np.array(position, dtype=np.int32))

    known = KnownScores(
        at([0, 0], [2, 1]),
        np.array([[1, 2], [3, -1]], dtype=np.int32),
        np.array([[-1, -2], [-3, -np.inf]], dtype=np.float32),
    )
    found = known.look_up(at([0, 0, 1], [1, 2, 2]), np.array([[3, 1], [2, -1], [1, 2]], dtype=np.int32))
    np.testing.assert_array_equal(found, [[-3, np.nan], [-2, -np.inf], [np.nan, np.nan]])
