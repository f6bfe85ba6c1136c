"""`rosepo calibrate`, and the confidence of recommendations: in Python, by command, in an export, by the server."""

from __future__ import annotations

import json
import shutil

import numpy as np
import polars as pl
import pytest
from scipy import special
from starlette.testclient import TestClient

import rosepo_core
from rosepo_core.contracts.errors import RequestError
from rosepo_core.evaluation.list_confidence import Lists, fit
from rosepo_core.serving.filters import Filter
from rosepo_core.serving.run_lists import RunLists
from rosepo_core.serving.web.app import create_app
from rosepo_core.serving.web.served_runs import ServedRuns
from rosepo_core.serving.web.service import Service
from rosepo_core.serving.web.settings import ServeSettings
from rosepo_core.stages.split import load_split
from rosepo_core.store.marker import marker
from rosepo_core.store.sealed import sealed

HISTORY = ["Quiet Rivers (1994)", "Night Train (1974)"]
TITLES = [part for title in HISTORY for part in ("--history", title)]
LONGEST = 15


@pytest.fixture(scope="module")
def calibrated(fused, rosepo, tmp_path_factory):
    """A run that is calibrated for every score; not to be changed."""
    folder = shutil.copytree(fused, tmp_path_factory.mktemp("calibrated") / "run")
    for score in ("likelihood", "mean", "prior-corrected", "fusion"):
        done = rosepo("calibrate", folder, "--score", score, "--k", LONGEST, "--json")
        assert done.code == 0, done.err
        assert f"lists of {LONGEST} for 24 validation users: about" in done.err
        assert done.json["calibration"]["users"] == 24
    return folder


def document(run, score):
    return json.loads((run / f"confidence-aligned-{score}" / "calibration.json").read_text())


def by_hand(known, mass, k):
    intercept, mass_weight, length_weight = known["parameters"]
    return special.expit(intercept + mass_weight * special.logit(mass) + length_weight * np.log(k))


@pytest.mark.parametrize("score", ["likelihood", "mean", "prior-corrected", "fusion"])
def test_the_confidence_of_each_score_by_hand(calibrated, score):
    """The mass is the sum of probabilities for likelihood, and otherwise the share of exp(score) among all titles."""
    recommender = rosepo_core.Recommender.load(calibrated, score=score)
    every = np.array([each.score for each in recommender.recommend(HISTORY, 40)], dtype=np.float64)
    total = 1.0 if score == "likelihood" else np.exp(every).sum()
    known = document(calibrated, score)
    for k in (1, 4, LONGEST):
        found = recommender.recommend(HISTORY, k)
        assert found.answered_by == "model"
        assert found.confidence == pytest.approx(by_hand(known, np.exp(every[:k]).sum() / total, k), abs=1e-4)
        low, high = found.interval
        assert 0 <= low <= found.confidence <= high <= 1
        if k < LONGEST:
            assert recommender.recommend(HISTORY, LONGEST).first(k).confidence == pytest.approx(found.confidence)
    # For longer lists, and for lists that are made in another way, there is none.
    assert recommender.recommend(HISTORY, LONGEST + 1).confidence is None
    assert "at most 15 items; ask for fewer, or calibrate with --k 16" in recommender.why_no_confidence(16)
    one_less = Filter(deny=[HISTORY[0]])
    assert recommender.recommend(HISTORY, 3, filter=one_less).confidence is None
    assert "leave the filter out" in recommender.why_no_confidence(3, filter=one_less)
    assert recommender.recommend(HISTORY, 3, filter=Filter()).confidence is not None


def test_it_is_fitted_on_the_lists_of_validation_users(calibrated):
    """What `recommend` says to each of their histories, and whether their next item is in it."""
    recommender = rosepo_core.Recommender.load(calibrated)
    validation = load_split(calibrated / "split").validation
    ids, masses, hits = recommender.catalogue.ids, [], []
    for user, position, target in zip(validation.user, validation.position, validation.target, strict=True):
        history = [ids[item] for item in validation.sequences[user][:position]]
        found = recommender.recommend(history, LONGEST, by="id")
        masses.append(np.log(np.cumsum(np.exp([each.score for each in found]))))
        hits.append(np.cumsum([each.item == ids[target] for each in found]) > 0)
    expected = fit(Lists(np.array(masses), np.array(hits), np.ones((24, LONGEST), dtype=bool)))
    assert document(calibrated, "fusion")["parameters"] == pytest.approx(expected.parameters, abs=1e-3)
    (longest,) = [each for each in document(calibrated, "fusion")["reliability"] if each["k"] == LONGEST]
    assert longest["rate"] == pytest.approx(np.mean([each[-1] for each in hits]))


def test_the_command_shows_what_it_measured(calibrated, rosepo, tmp_path):
    run = shutil.copytree(calibrated, tmp_path / "run")
    shown = rosepo("calibrate", run, "--k", 12, "--users", 20).out
    assert "The confidence of lists of 1 to 12 titles of 'aligned' by fusion," in shown
    assert "calibrated on 20 of 24 validation users" in shown
    rows = [line.split() for line in shown.splitlines()]
    assert [row[0] for row in rows if len(row) == 5 and row[0].isdigit()] == ["1", "5", "10", "12"]
    assert max(map(len, (line for line in shown.splitlines() if "kept in" not in line))) <= 80
    assert document(run, "fusion")["longest"] == 12
    # It took the place of the other one, and the run is otherwise as it was.
    assert {path.name for path in run.iterdir()} == {path.name for path in calibrated.iterdir()}


def test_below_the_threshold_the_fallback_answers(calibrated, rosepo):
    recommender = rosepo_core.Recommender.load(calibrated)
    sure = recommender.recommend(HISTORY, 5)
    asked = [HISTORY, HISTORY[:1]]
    threshold = sure.confidence + 1e-6
    below = recommender.recommend(HISTORY, 5, threshold=threshold)
    assert (below.answered_by, below.confidence, below.interval) == ("popularity", sure.confidence, sure.interval)
    popularity = recommender.catalogue.popularity
    rest = [item for item, title in enumerate(recommender.titles) if title not in HISTORY]
    expected = sorted(rest, key=lambda item: -popularity[item])[:5]
    assert [each.score for each in below] == [popularity[item] for item in expected]
    assert not {each.title for each in below} & set(HISTORY)
    assert recommender.recommend(HISTORY, 5, threshold=sure.confidence - 1e-6) == sure

    by_oracle = recommender.recommend_many(asked, [5, 3], threshold=1.0, fallback="oracle")
    assert [each.answered_by for each in by_oracle] == ["oracle", "oracle"]
    lists = RunLists(calibrated)
    for found, history, k in zip(by_oracle, asked, (5, 3), strict=True):
        ids = recommender.ids_of(history)
        assert [each.item for each in found] == [each.item for each in lists.top("oracle", [ids], k)[0]]

    done = rosepo("recommend", calibrated, *TITLES, "--k", 5, "--threshold", threshold, "--json").json
    assert (done["answered_by"], done["ranked_by"]) == ("popularity", "fusion")
    assert done["confidence"] == pytest.approx(sure.confidence, abs=1e-6)
    assert done["confidence_interval"] == pytest.approx(sure.interval, abs=1e-6)
    assert [each["item"] for each in done["recommendations"]] == [each.item for each in below]
    shown = rosepo("recommend", calibrated, *TITLES, "--k", 5, "--threshold", threshold).out
    assert "so the most popular titles answered" in " ".join(shown.split())
    shown = rosepo("recommend", calibrated, *TITLES, "--k", 5).out
    assert f"confidence {sure.confidence:.0%} (" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.0}, "a threshold is a probability above 0 and at most 1, and 0 is none"),
        ({"threshold": 0.5, "fallback": "orakel"}, "unknown fallback 'orakel'; did you mean 'oracle'"),
        ({"threshold": 0.5, "k": 16}, "a threshold needs the confidence of the list: .* at most 15 items"),
        ({"threshold": 0.5, "filter": Filter(deny=HISTORY)}, "calibrated for lists without a filter"),
    ],
)
def test_thresholds_that_cannot_be_meant(calibrated, options, message):
    with pytest.raises(RequestError, match=message):
        rosepo_core.Recommender.load(calibrated).recommend(HISTORY, **options)


def test_without_a_calibration_there_is_no_number(fused, rosepo):
    done = rosepo("recommend", fused, *TITLES, "--json")
    assert (done.json["confidence"], done.json["confidence_interval"]) == (None, None)
    command = f"rosepo calibrate {fused} --stage aligned --score fusion"
    assert f"`{command}`" in done.json["why_no_confidence"]
    assert (
        f"no confidence: the confidence of these lists is not calibrated; `{command}`"
        in rosepo("recommend", fused, *TITLES).err
    )
    refused = rosepo("recommend", fused, *TITLES, "--threshold", 0.2)
    assert (refused.code, refused.out) == (2, "")
    assert f"a threshold needs the confidence of the list: {done.json['why_no_confidence']}" in refused.err


def test_what_it_was_made_from_must_be_the_same(calibrated, tmp_path, rosepo):
    run = shutil.copytree(calibrated, tmp_path / "run")
    manifest = json.loads((run / "fusion-aligned" / "manifest.json").read_text())
    (run / "fusion-aligned" / "manifest.json").write_text(sealed({**manifest, "fingerprint": "another"}))
    (run / "run.json").write_text(marker({}))
    recommender = rosepo_core.Recommender.load(run)
    assert recommender.recommend(HISTORY, 3).confidence is None
    why = recommender.why_no_confidence(3)
    assert "'fusion-aligned' was made anew after stage 'confidence-aligned-fusion'" in why
    assert f"rosepo calibrate {run} --stage aligned --score fusion" in why
    assert rosepo_core.Recommender.load(run, score="mean").recommend(HISTORY, 3).confidence is not None


def test_another_catalogue_has_none_until_it_is_calibrated(calibrated, tmp_path, rosepo):
    run = shutil.copytree(calibrated, tmp_path / "run")
    recommender = rosepo_core.Recommender.load(run)
    added = recommender.with_items(pl.DataFrame({"item": ["n1"], "title": ["A New Film (2026)"]}))
    assert added.recommend(HISTORY, 3).confidence is None
    why = "the catalogue has changed since the confidence was calibrated; `rosepo calibrate"
    assert why in added.why_no_confidence()
    assert recommender.recommend(HISTORY, 3).confidence is not None
    assert rosepo("catalogue", "update", run, "--retire", "i0").code == 0
    assert rosepo_core.Recommender.load(run).recommend(HISTORY, 3).confidence is None
    assert rosepo("calibrate", run, "--k", LONGEST).code == 0
    found = rosepo_core.Recommender.load(run).recommend(HISTORY, 10, threshold=1.0)
    assert found.answered_by == "popularity"
    assert "i0" not in {each.item for each in found}


def test_it_travels_with_an_export(calibrated, tmp_path, rosepo):
    done = rosepo("export", calibrated, "--to", tmp_path / "export", "--score", "likelihood")
    assert done.code == 0, done.err
    expected = rosepo_core.Recommender.load(calibrated, score="likelihood").recommend(HISTORY, 5)
    exported = rosepo_core.Recommender.load(tmp_path / "export")
    found = exported.recommend(HISTORY, 5, threshold=expected.confidence / 2)
    assert found.confidence == pytest.approx(expected.confidence, abs=1e-4)
    assert found.interval == pytest.approx(expected.interval, abs=1e-4)
    with pytest.raises(RequestError, match="there is no oracle beside this model; take the fallback 'popularity'"):
        exported.recommend(HISTORY, 5, threshold=0.5, fallback="oracle")
    # The model's own folder in the run does not have it.
    why = rosepo_core.Recommender.load(calibrated / "aligned").why_no_confidence()
    assert why.endswith("calibrate its run (`rosepo calibrate RUN`) and export it anew")


def test_a_file_of_histories(calibrated, tmp_path, rosepo):
    (tmp_path / "users.csv").write_text("user\nu1\nu2\nu3\n")
    recommender = rosepo_core.Recommender.load(calibrated)
    expected = [recommender.recommend(recommender.history(user), 4) for user in ("u1", "u2", "u3")]
    threshold = sorted(each.confidence for each in expected)[1]
    to = tmp_path / "found.parquet"
    done = rosepo(
        *("recommend", calibrated, "--from", tmp_path / "users.csv", "--to", to, "--k", 4),
        *("--threshold", threshold, "--fallback", "oracle"),
    )
    assert done.code == 0, done.err
    found = pl.read_parquet(to)
    assert found.filter(rank=1)["confidence"].to_list() == pytest.approx([each.confidence for each in expected])
    answered = ["oracle" if each.confidence < threshold else "model" for each in expected]
    assert found["answered_by"].to_list() == [by for by in answered for _ in range(4)]
    assert sorted(set(answered)) == ["model", "oracle"]
    refused = rosepo(
        *("recommend", calibrated, "--from", tmp_path / "users.csv", "--to", tmp_path / "more.parquet"),
        *("--k", 16, "--threshold", threshold),
    )
    assert refused.code == 2
    assert "at most 15 items" in refused.err
    assert not list(tmp_path.glob("more*"))


def test_the_server_answers_with_it(calibrated, fused):
    recommender = rosepo_core.Recommender.load(calibrated)
    runs = ServedRuns({"run": calibrated, "plain": fused}, rosepo_core.Recommender.load, RunLists)
    service = Service(runs, ServeSettings(batch_wait=0.0, hosts=("testserver",)))
    client = TestClient(create_app(service))
    expected = recommender.recommend(HISTORY, 5)
    found = client.post("/recommend", json={"history": HISTORY, "k": 5}).json()
    assert found["answered_by"] == "model"
    assert found["confidence"] == pytest.approx(expected.confidence, abs=1e-4)
    assert found["confidence_interval"] == pytest.approx(expected.interval, abs=1e-4)
    below = {"history": HISTORY, "k": 5, "threshold": 1.0}
    found = client.post("/recommend", json=below).json()
    popular = recommender.recommend(HISTORY, 5, threshold=1.0)
    assert (found["answered_by"], found["ranked_by"]) == ("popularity", "fusion")
    assert [each["item"] for each in found["recommendations"]] == [each.item for each in popular]
    refused = client.post("/recommend", json={**below, "run": "plain"})
    assert refused.status_code == 422
    assert "rosepo calibrate" in refused.json()["error"]["message"]
    assert client.post("/recommend", json={**below, "threshold": 1.5}).status_code == 422

    ids = recommender.ids_of(HISTORY)
    listed = client.post("/page/list", json={"run": "run", "model": "fusion", "history": ids, "k": 12, "shown": 5})
    service.stop()
    assert len(listed.json()["items"]) == 12
    assert listed.json()["confidence"] == pytest.approx(expected.confidence, abs=1e-4)
