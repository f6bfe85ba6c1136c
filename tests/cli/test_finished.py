"""`rosepo compare` and `rosepo report` on runs that differ in their loss."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import numpy as np
import polars as pl
import pytest
from scipy import stats

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def runs(train, tmp_path_factory):
    """A finished run, and one beside it with another loss and more steps."""
    first = tmp_path_factory.mktemp("several") / "first"
    assert train("--run", first).code == 0
    other = first.parent / "other-loss"
    done = train("--run", other, "--loss=ipo", "--alignment.steps=6", "--alignment.learning_rate=0.05")
    assert done.code == 0, done.err
    return first, other


def test_compare_sets_models_side_by_side_and_tests_the_aligned_ones(rosepo, runs):
    done = rosepo("compare", *runs, "--metric", "ndcg@5", "--json")
    assert done.code == 0, done.err
    document = done.json
    assert document["metric"] == "ndcg@5"
    found = document["protocols"]["candidates-5"]
    # What both runs share stands there once.
    assert list(found["models"]) == ["popularity", "base", "sft", "aligned (first)", "aligned (other-loss)"]
    users = [pl.read_parquet(run / "evaluation" / "per_user.parquet").filter(model="aligned") for run in runs]
    first, second = (each["ndcg@5"].to_numpy() for each in users)
    assert found["models"]["aligned (other-loss)"]["value"] == pytest.approx(second.mean())
    (test,) = found["comparisons"]
    assert (test["model"], test["baseline"], test["users"]) == ("aligned (other-loss)", "aligned (first)", 24)
    assert test["difference"] == pytest.approx((second - first).mean())
    different = second - first
    assert test["p_wilcoxon"] == pytest.approx(stats.wilcoxon(different).pvalue if different.any() else 1.0)
    # One comparison: the correction changes nothing.
    assert test["p_holm"] == test["p_bootstrap"]


def test_compare_fits_a_terminal_of_80_columns(rosepo, runs):
    done = rosepo("compare", *runs)
    assert done.code == 0, done.err
    assert max(map(len, done.out.splitlines())) <= 80
    assert "NDCG@10" in done.out
    assert "less aligned (first)" in done.out
    assert "24 users; p by the paired bootstrap\n" in done.out


def test_more_runs_are_corrected_for(rosepo, runs, tmp_path):
    third = runs[0].parent / "copy"
    shutil.copytree(runs[1], third)
    document = rosepo("compare", *runs, third, "--json").json["protocols"]["candidates-5"]
    assert [each["model"] for each in document["comparisons"]] == ["aligned (other-loss)", "aligned (copy)"]
    raw, corrected = (np.array([each[key] for each in document["comparisons"]]) for key in ("p_bootstrap", "p_holm"))
    np.testing.assert_allclose(corrected, np.minimum(1, 2 * raw))
    shutil.rmtree(third)


def test_runs_that_differ_in_more_are_refused(rosepo, runs, train):
    seeded = runs[0].parent / "seeded"
    assert train("--run", seeded, "--seed=4").code == 0
    done = rosepo("compare", runs[0], seeded)
    assert done.code == 2
    assert done.err.splitlines()[-1] == (
        "error: runs 'first' and 'seeded' cannot be compared: they ranked different candidates; train both with the "
        "same seed"
    )
    fewer = runs[0].parent / "fewer"
    assert train("--run", fewer, "--evaluation.candidates=4").code == 0
    done = rosepo("compare", runs[0], fewer)
    assert done.code == 2
    assert "their protocols are candidates-5 and candidates-4" in done.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("compare", "{first}"), "name at least two runs; `rosepo evaluate {first}` shows one"),
        (("compare", "{first}", "{first}"), "{first} is named twice; name each run once"),
        (("compare", "{first}", "{other}", "--metric", "ndgc@10"), "did you mean 'ndcg@10'"),
        (("compare", "{first}", "{other}", "--metric", "gini@10"), "'gini@10' belongs to all lists together"),
        (("compare", "{first}", "nowhere"), "nowhere is no run folder: it has no run.json"),
        (("report", "{first}", "{other}"), "several runs in one report need a place: add --out FILE.html"),
        (("report", "{first}", "--out", "{first}/no/such.html"), "such.html cannot be written: No such file"),
    ],
)
def test_mistakes_are_one_clear_error(rosepo, runs, arguments, expected):
    names = {"first": runs[0], "other": runs[1]}
    done = rosepo(*(argument.format(**names) for argument in arguments))
    assert done.code == 2
    assert expected.format(**names) in done.err
    assert done.err.count("error: ") == 1


def test_a_model_that_rosepo_did_not_train_is_compared_but_has_no_report(rosepo, runs, log, model_folder, tmp_path):
    run = tmp_path / "evaluated"
    data = ("--dataset=table", f"--dataset.path={log}", "--dataset.history_length=8", "--evaluation.candidates=5")
    adapter = runs[0] / "sft"
    done = rosepo("evaluate", "--model", adapter, *data, "--model.dtype=float32", "--seed=3", "--run", run)
    assert done.code == 0, done.err
    compared = rosepo("compare", runs[0], run, "--json")
    assert compared.code == 0, compared.err
    (found,) = compared.json["protocols"].values()
    models = ["popularity", "base", "sft (evaluated)", "sft (first)", "aligned (first)"]
    assert sorted(found["models"]) == sorted(models)
    (difference,) = found["comparisons"]
    assert (difference["model"], difference["baseline"]) == ("sft (evaluated)", "aligned (first)")
    own = json.loads((runs[0] / "metrics.json").read_text())["protocols"]["candidates-5"]
    assert found["models"]["sft (evaluated)"]["value"] == pytest.approx(own["sft"]["ndcg@10"])
    assert difference["difference"] == pytest.approx(own["sft"]["ndcg@10"] - own["aligned"]["ndcg@10"])
    refused = rosepo("report", run)
    assert refused.code == 2
    assert refused.err == (
        f"error: {run} only evaluates a model (`rosepo evaluate --model`): a report is of runs that trained; `rosepo "
        "compare` takes it\n"
    )


def test_report_of_one_run_is_the_one_that_training_wrote(rosepo, runs, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in runs[0].rglob("*")}
    done = rosepo("report", runs[0], "--out", tmp_path / "again.html")
    assert done.code == 0, done.err
    assert done.out == f"report  {tmp_path / 'again.html'}\n"
    assert (tmp_path / "again.html").read_text() == (runs[0] / "report.html").read_text()
    assert {path: path.stat().st_mtime_ns for path in runs[0].rglob("*")} == before


def test_finished_runs_are_read_as_they_are_on_a_machine_of_another_type(rosepo, runs, tmp_path, monkeypatch):
    """What another machine's working dtype would change is not made anew."""
    before = {path: path.stat().st_mtime_ns for path in runs[0].parent.rglob("*")}
    compared = rosepo("compare", *runs, "--json").json
    monkeypatch.setattr("rosepo_core.engine.policy.working_dtype", lambda *_: "bfloat16")
    monkeypatch.setattr("rosepo_core.stages.session.__version__", "another")
    done = rosepo("report", runs[0], "--out", tmp_path / "again.html")
    assert (done.code, done.made) == (0, set()), done.err
    again = rosepo("compare", *runs, "--json")
    assert (again.code, again.made) == (0, set()), again.err
    assert again.json == compared
    assert {path: path.stat().st_mtime_ns for path in runs[0].parent.rglob("*")} == before


@pytest.mark.parametrize(
    ("stage", "command"),
    [
        ("scores-sft", "rosepo evaluate {run}"),
        ("evaluation", "rosepo evaluate {run}"),
        ("candidates", "rosepo evaluate {run}"),
        ("oracle", "rosepo train --config {run}/config.toml --run {run}"),
    ],
)
def test_a_missing_stage_is_refused_with_the_command_that_makes_it(rosepo, runs, tmp_path, stage, command):
    run = shutil.copytree(runs[0], tmp_path / "run")
    shutil.rmtree(run / stage)
    for arguments in (("report", run), ("compare", runs[1], run)):
        done = rosepo(*arguments)
        assert done.code == 2
        assert done.err.splitlines()[-1] == (
            f"error: {run} has no finished stage '{stage}': finish the run with `{command.format(run=run)}`"
        )
        assert not (run / stage).exists()


def test_report_of_several_runs(rosepo, runs, tmp_path):
    assert rosepo("report", *runs, "--out", tmp_path / "both.html").code == 0
    page = (tmp_path / "both.html").read_text()
    assert set(re.findall(r'section id="([^"]+)"', page)) == {
        *("results-1", "users"),
        *(f"{section}-{run}" for section in ("training", "preferences", "time", "run") for run in (1, 2)),
    }
    assert "Aligned (other-loss)" in page
    assert "<script" not in page


def browse(page, width, folder):
    """The page as the browser leaves it, what it logged, and the hosts that were asked for anything, without those
    that the browser itself asks for updates."""
    log = folder / "net.json"
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"),
            *(
                "--allow-file-access-from-files",
                "--host-resolver-rules=MAP * ~NOTFOUND",
                "--virtual-time-budget=5000",
            ),
            *("--disable-background-networking", "--no-first-run", f"--user-data-dir={folder / 'profile'}"),
            *(f"--window-size={width},9000", f"--log-net-log={log}", f"file://{page}"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    hosts = set(re.findall(r'"url":"(?:https?|wss?)://([^/":]+)', log.read_text()))
    own = ("google.com", "googleapis.com", "gvt1.com")
    return done.stdout, done.stderr, {host for host in hosts if not host.endswith(own)}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_draws_the_report_without_complaint_and_asks_the_network_for_nothing(rosepo, runs, tmp_path, width):
    assert rosepo("report", *runs, "--out", tmp_path / "report.html").code == 0
    # A page of one's own around it measures it, as the report itself runs no script.
    frame = (
        f'<iframe id="report" src="report.html" style="width: {width}px; height: 9000px; border: 0"></iframe><script>'
        "report.onload = () => { const page = report.contentDocument; document.title = JSON.stringify(["
        "page.documentElement.scrollWidth, page.querySelectorAll('svg path').length, "
        "Math.min(...[...page.querySelectorAll('svg')].map(chart => chart.getBoundingClientRect().height))]) }"
        "</script>"
    )
    (tmp_path / "frame.html").write_text(f"<!doctype html><title>waiting</title>{frame}")
    (tmp_path / "asks.html").write_text("<!doctype html><title>asks</title><img src=http://images.example/x.png>")
    shown, logged, asked = browse(tmp_path / "frame.html", width, tmp_path)
    wide, paths, lowest = json.loads(re.search(r"<title>(.*?)</title>", shown).group(1))
    assert wide <= width
    assert paths >= 10
    assert lowest > 100
    assert "CONSOLE" not in logged
    assert asked == set()
    assert browse(tmp_path / "asks.html", width, tmp_path)[2] == {"images.example"}
