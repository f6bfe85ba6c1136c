"""`python -m benchmarks.study` on a small log and a tiny model, and how answers follow from numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest

from benchmarks.study import __main__ as study
from benchmarks.study import answers, arms, plots, scaling
from benchmarks.study.outcomes import users_of

SIZE = """
[model]
name = "{model}"
dtype = "float32"

[sft]
steps = 2

[preferences]
max_per_user = 2

[alignment]
steps = 1

[evaluation]
candidates = 5
resamples = 500

[datasets.table]
dataset = {{ history_length = 8 }}
sft = {{ batch_size = 5 }}
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory, log, model_folder):
    folder = tmp_path_factory.mktemp("study")
    (folder / "size.toml").write_text(SIZE.format(model=model_folder))
    options = {
        "size": folder / "size.toml",
        "data": log.parent,
        "runs": folder / "runs",
        "results": folder / "results",
    }

    def run(*more):
        with pytest.MonkeyPatch.context() as patched:
            patched.setitem(arms.DATASETS, "table", log.name)
            given = [f"--{name}={path}" for name, path in options.items()]
            study.main([*given, "--datasets", "table", *more])
        return folder

    return run


def test_it_runs_once_and_says_what_is_missing(command, capsys):
    some = ("--arms", "dpo", "rosepo-self-hard", "--seeds", "2")
    folder = command(*some, "--minutes", "0.002")
    first = json.loads((folder / "results" / "study.json").read_text())
    assert first["missing"] == ["table-0-rosepo-self-hard", "table-1-dpo", "table-1-rosepo-self-hard"]
    command(*some)
    done = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/metrics.json")}
    assert len(done) == 4
    capsys.readouterr()
    command(*some)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert capsys.readouterr().err == ""

    result = json.loads((folder / "results" / "study.json").read_text())
    assert result["missing"] == []
    taught = {row["model"]: row for row in result["training"]}
    assert set(taught) == {"dpo", "rosepo-self-hard"}
    assert taught["dpo"]["pairs"] == 48
    # DPO needs no smoothing, so its runs train no oracle.
    assert taught["dpo"]["oracle AUC"] is None
    assert 0 < taught["rosepo-self-hard"]["oracle AUC"] < 1
    # DPO reads no smoothing factor, so none is asked for.
    assert taught["dpo"]["smoothing"] == 0 < taught["rosepo-self-hard"]["smoothing"] <= 0.45
    assert {(row["model"], row["seeds"]) for row in result["models"]} == {
        (model, 2) for model in ("popularity", "sasrec", "base", "sft", "dpo", "rosepo-self-hard")
    }
    asked = {(each["question"]["model"], each["question"]["baseline"]) for each in result["findings"]}
    assert asked == {
        *(("dpo", "sft"), ("rosepo-self-hard", "sft"), ("rosepo-self-hard", "dpo")),
        *(("sft", "sasrec"), ("rosepo-self-hard", "sasrec")),
    }
    text = (folder / "results" / "study.md").read_text()
    assert "Does preference optimization beat SFT?" in text
    assert "Not run" not in text
    page = (folder / "runs" / "report-table.html").read_text()
    assert "table-0-rosepo-self-hard" in page
    assert "table-1" not in page
    for picture in ("forest", "scatter"):
        assert "<svg" in (folder / "results" / f"study-{picture}.svg").read_text()


def test_all_arms_share_what_comes_before_they_part(command):
    folder = command("--seeds", "1")
    runs = {path.name: path for path in (folder / "runs").glob("table-0-*")}
    assert set(runs) == {f"table-0-{arm}" for arm in arms.ARMS}

    def different(stage):
        manifests = [run / stage / "manifest.json" for run in runs.values()]
        # A run whose loss needs no smoothing has no oracle.
        present = [path for path in manifests if stage != "oracle" or path.exists()]
        return len({json.loads(path.read_text())["fingerprint"] for path in present})

    assert [different(stage) for stage in ("sft", "candidates", "scores-sft", "oracle", "sampling", "aligned")] == [
        *(1, 1, 1, 3, 5, 8),
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(arms.DATASETS, "table", None)
        users = users_of(folder / "runs", arms.Cell("table", 0, "rosepo-self-hard"))
    aligned = users.filter(model="rosepo-self-hard")
    source = pl.read_parquet(runs["table-0-rosepo-self-hard"] / "evaluation" / "per_user.parquet")
    assert (
        aligned["ndcg@10"].to_list() == source.filter(model="aligned", protocol="candidates-5")["ndcg@10"].to_list()
    )


def test_without_its_files_a_dataset_is_missing_not_an_error(command, tmp_path):
    folder = command("--arms", "dpo", "--seeds", "1")
    with pytest.raises(SystemExit, match="no run of the study is finished"):
        command("--arms", "dpo", "--seeds", "1", "--data", str(tmp_path), "--runs", str(tmp_path / "runs"))
    assert (folder / "runs" / "table-0-dpo").is_dir()


@pytest.mark.parametrize(
    ("wanted", "low", "high", "p", "expected"),
    [
        ("higher", 0.01, 0.03, 0.01, "yes"),
        ("lower", 0.01, 0.03, 0.01, "no, the opposite"),
        ("lower", -0.03, -0.01, 0.01, "yes"),
        ("higher", 0.01, 0.03, 0.05, "not decided"),
        ("higher", -0.01, 0.03, 0.01, "not decided"),
        ("higher", 0.01, 0.03, math.nan, "not decided"),
    ],
)
def test_answers_follow_from_interval_and_corrected_p(wanted, low, high, p, expected):
    assert answers.answer(wanted, low, high, p) == expected


def rows(dataset, seed, model, values, bucket="cold: never"):
    users = [f"u{place}" for place in range(len(values))]
    table = {name: [0.0] * len(values) for name in answers.COLUMNS} | {"ndcg@10": values}
    return pl.DataFrame({"user": users, "target": users} | table).with_columns(
        dataset=pl.lit(dataset), seed=pl.lit(seed), model=pl.lit(model), bucket=pl.lit(bucket)
    )


def test_a_users_seeds_count_once():
    users = pl.concat(
        [
            rows("d", 0, "sft", [0.0, 0.2, 0.4]),
            rows("d", 0, "dpo", [0.5, 0.2, 0.6]),
            rows("d", 1, "sft", [0.1, 0.3]),
            rows("d", 1, "dpo", [0.4, 0.3]),
        ]
    )
    (found,) = answers.findings(users)
    # User 0: (0.5 + 0.3) / 2; user 1: 0; user 2: 0.2, in one seed only. Seed 0: 0.7 / 3; seed 1: 0.3 / 2.
    assert (found.users, found.seeds) == (3, 2)
    assert found.difference == pytest.approx((0.4 + 0.0 + 0.2) / 3)
    assert found.deviation == pytest.approx(abs(0.7 / 3 - 0.15) / math.sqrt(2))
    assert found.low >= 0
    assert found.answer == "not decided"


def test_targets_are_counted_in_their_bucket_alone():
    users = pl.concat(
        [
            *(
                rows("d", 0, model, [level] * 5, "cold: never")
                for model, level in (("sasrec", 0.1), (arms.REFERENCE, 0.6))
            ),
            *(
                rows("d", 0, model, [level] * 5, "popular: 50 and more").with_columns(pl.col("user") + "p")
                for model, level in (("sasrec", 0.9), (arms.REFERENCE, 0.5))
            ),
        ]
    )
    found = {each.question.bucket: each.difference for each in answers.findings(users)}
    assert found == pytest.approx({None: 0.05, "cold: never": 0.5, "popular: 50 and more": -0.4})
    few = answers.findings(users.filter(pl.col("user").is_in(["u0", "u1", "u0p", "u1p"])))
    assert [each.question.bucket for each in few] == [None], "a bucket of two users decides nothing"


def test_buckets_stand_side_by_side():
    users = pl.concat(
        [
            rows("d", 0, "sft", [0.2, 0.4], "rare: 1 to 4"),
            rows("d", 1, "sft", [0.6], "rare: 1 to 4"),
            rows("d", 0, "sasrec", [0.1, 0.3], "rare: 1 to 4"),
            rows("d", 0, "sft", [0.9], "cold: never").with_columns(user=pl.lit("other")),
            rows("d", 0, "dpo", [0.9], "cold: never").with_columns(user=pl.lit("other")),
        ]
    )
    table = answers.by_bucket(users)
    # Of sft user 0 had 0.2 and 0.6, user 1 had 0.4.
    assert table.rows() == [
        ("d", "cold: never", 1, None, pytest.approx(0.9)),
        ("d", "rare: 1 to 4", 2, pytest.approx(0.2), pytest.approx((0.4 + 0.4) / 2)),
    ]
    assert table.columns == ["dataset", "bucket", "users", "sasrec", "sft"]


def test_each_picture_of_the_forest_shows_its_own_data_alone(tmp_path):
    users = pl.concat(
        [
            rows(dataset, 0, model, [level, level + 0.1])
            for dataset, gain in (("first", 0.1), ("second", 0.3))
            for model, level in (("sft", 0.2), ("dpo", 0.2 + gain))
        ]
    )
    plots.forest(answers.findings(users), tmp_path / "forest.svg")
    picture = (tmp_path / "forest.svg").read_text()
    assert picture.count('aria-roledescription="point"') == 2


def test_clear_differences_are_decided_and_means_are_over_users():
    levels = np.linspace(0.1, 0.4, 40).tolist()
    users = pl.concat([rows("d", 0, "sft", levels), rows("d", 0, "dpo", [value + 0.1 for value in levels])])
    (found,) = answers.findings(users)
    assert found.answer == "yes"
    assert found.difference == pytest.approx(0.1)
    summary = answers.summary(users).filter(model="sft").row(0, named=True)
    assert summary["ndcg@10"] == pytest.approx(0.25)
    assert summary["users"] == 40
    assert summary["ndcg@10 low"] < 0.25 < summary["ndcg@10 high"]


def test_the_curve_is_of_validation_users_and_goes_on_where_it_stopped(command, model_folder, log, tmp_path, capsys):
    folder = command("--arms", "dpo", "--seeds", "1")
    options = {"size": folder / "size.toml", "data": log.parent, "runs": tmp_path / "runs", "results": tmp_path}
    given = [f"--{name}={path}" for name, path in options.items()]
    given += ["--dataset=table", f"--models={model_folder}", "--users=12"]
    only = ["--only", "mixture", "sft-15", "teacher-4"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(arms.DATASETS, "table", log.name)
        scaling.main([*given, "--only", "mixture", "sft-15"])
        capsys.readouterr()
        scaling.main([*given, *only])
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"{model_folder.name}-teacher-4"
    ]
    found = json.loads((tmp_path / "scaling.json").read_text())
    trained = {(row["run"], row["model"]): row for row in found["models"]}
    assert {row["users"] for row in found["models"]} == {12}
    assert {run for run, _ in trained} == {"mixture", "sft-15", "teacher-4"}
    assert trained["sft-15", "sft"]["tokens"] > trained["mixture", "sft"]["tokens"] > 0
    assert trained["teacher-4", "sft"]["tokens"] == trained["mixture", "sft"]["tokens"]
    assert trained["teacher-4", "aligned"]["pairs"] == 4 * trained["mixture", "aligned"]["pairs"]
    assert trained["mixture", "base"]["tokens"] == 0
    assert [(row["run"], row["less"]) for row in found["differences"]] == [
        ("mixture", "its SFT model"),
        ("sft-15", "its SFT model"),
        ("sft-15", "mixture"),
        ("teacher-4", "its SFT model"),
        ("teacher-4", "mixture"),
    ]
    first = found["differences"][0]
    assert first["difference"] == pytest.approx(
        trained["mixture", "aligned"]["ndcg@10"] - trained["mixture", "sft"]["ndcg@10"]
    )
    assert "<svg" in (tmp_path / "scaling.svg").read_text()
    page = (tmp_path / "runs" / "report-scaling.html").read_text()
    assert "NDCG@10 against training" in page
    assert "12 validation examples" in page
    # Runs of one SFT model have one column of it; what is not the same in all runs is told once a run.
    name = model_folder.name
    assert f"SFT ({name}-mixture)" in page
    assert f"SFT ({name}-sft-15)" in page
    assert f"SFT ({name}-teacher-4)" not in page
    assert page.count("<span>sft.steps = 15</span>") == 1
