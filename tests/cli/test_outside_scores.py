"""Scores out of a run and into one: `rosepo export --scores`, `rosepo evaluate --scores`, and pairs for TRL."""

from __future__ import annotations

import json
import shutil

import polars as pl
import pytest

PROTOCOL = "candidates-5"


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    return shutil.copytree(finished, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def table(run, rosepo, tmp_path_factory):
    """The scores of the aligned model."""
    file = tmp_path_factory.mktemp("tables") / "aligned.parquet"
    done = rosepo("export", run, "--scores", file, "--json")
    assert done.code == 0, done.err
    assert done.json == {"scores": 24 * 5}
    return pl.read_parquet(file)


def written(table, path):
    (table.write_csv if path.suffix == ".csv" else table.write_parquet)(path)
    return path


def test_exported_scores_are_those_of_the_row_by_the_ids_of_the_log(run, table):
    assert table.schema == {"user": pl.String, "item": pl.String, "score": pl.Float32}
    candidates = pl.read_parquet(run / "candidates" / "candidates.parquet")
    asked = {(row["user"], item) for row in candidates.iter_rows(named=True) for item in row["candidates"]}
    assert set(table.select("user", "item").iter_rows()) == asked
    users = pl.read_parquet(run / "evaluation" / "per_user.parquet").filter(model="aligned")
    for row in users.iter_rows(named=True):
        ranked = table.filter(user=row["user"]).sort("score", descending=True)
        assert ranked["item"].to_list() == row["items"]
        assert ranked["score"].to_list() == row["scores"]


def test_what_was_exported_gives_the_same_numbers_as_a_row_of_its_own(run, table, rosepo, tmp_path):
    before = json.loads((run / "metrics.json").read_text())
    assert rosepo("export", run, "--scores", tmp_path / "popularity.csv", "--model", "popularity").code == 0
    # More pairs than were asked, and in another order.
    more = pl.concat([table, table.with_columns(item=pl.lit("i0"))]).unique(["user", "item"], keep="first")
    mine = written(more.sample(fraction=1, shuffle=True, seed=1), tmp_path / "mine.parquet")
    done = rosepo("evaluate", run, "--scores", mine, "--scores", f"pop={tmp_path / 'popularity.csv'}", "--json")
    assert done.code == 0, done.err
    assert "trained" not in done.made
    metrics, intervals = (done.json["metrics"][key][PROTOCOL] for key in ("protocols", "intervals"))
    assert list(metrics) == ["popularity", "base", "sft", "aligned", "mine", "pop"]
    assert (metrics["mine"], intervals["mine"]) == (metrics["aligned"], intervals["aligned"])
    assert metrics["pop"] == metrics["popularity"]
    assert {name: metrics[name] for name in before["protocols"][PROTOCOL]} == before["protocols"][PROTOCOL]
    assert done.json["metrics"]["comparisons"] == before["comparisons"]
    assert "mine" in (run / "report.html").read_text()

    # The rows stay when the files are gone, with new metrics and in a report or a comparison, too.
    mine.unlink()
    done = rosepo("evaluate", run, "--metric=recall", "--protocol=catalogue", "--json")
    assert done.code == 0, done.err
    again = done.json["metrics"]["protocols"]
    assert again[PROTOCOL]["mine"] == again[PROTOCOL]["aligned"]
    assert {"recall@1"} <= again[PROTOCOL]["mine"].keys()
    assert list(again["catalogue"]) == ["popularity", "base", "sft", "aligned"]
    done = rosepo("export", run, "--scores", tmp_path / "again.parquet", "--model", "mine")
    assert done.code == 0, done.err
    assert_same(pl.read_parquet(tmp_path / "again.parquet"), table)

    done = rosepo("train", "--config", run / "config.toml", "--run", run, "--json")
    assert done.code == 0, done.err
    assert done.json["metrics"]["protocols"] == again

    # A name is not given twice.
    other = written(table.with_columns(score=-pl.col("score")), tmp_path / "other.parquet")
    done = rosepo("evaluate", run, "--scores", f"mine={other}")
    assert done.code == 2
    assert "has the row 'mine' from other scores: name this one otherwise" in done.err


def assert_same(one, other):
    assert one.sort("user", "item").equals(other.sort("user", "item"))


def test_the_rows_of_validation_users_do_not_come_from_the_scores_of_the_test(finished, table, rosepo, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    mine = written(table, tmp_path / "early.parquet")
    done = rosepo(
        *("evaluate", copy, "--scores", mine, "--ranking.score=fusion"),
        *(
            "--evaluation.part",
            '["test","validation"]',
            "--evaluation.negatives",
            '["uniform","popularity"]',
            "--json",
        ),
    )
    assert done.code == 0, done.err
    found = {protocol: "early" in models for protocol, models in done.json["metrics"]["protocols"].items()}
    assert found == {
        PROTOCOL: True,
        f"{PROTOCOL}-popularity": False,
        f"{PROTOCOL}-validation": False,
        f"{PROTOCOL}-popularity-validation": False,
    }
    assert f"under {PROTOCOL}-popularity, e.g. of the user 'u0'" in done.err


def bad(**changes):
    return lambda table: table.with_columns(**changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table[1:], "lacks 1 of 120 scores for 1 users under candidates-5, e.g. of the user 'u0' for"),
        (lambda table: table.filter(pl.col("user") != "u3"), "lacks 5 of 120 scores for 1 users"),
        (
            bad(user=pl.col("user").replace("u7", "u77")),
            "row 36: the user 'u77' is not in the run's log; did you mean",
        ),
        (bad(item=pl.lit("x")), "row 1: the item 'x' is not in the run's log"),
        (lambda table: pl.concat([table, table[:1]]), "rows 1 and 121 both have the user 'u0' and the item"),
        (bad(score=pl.lit(float("nan"))), "row 1: 'score' is nan, not a finite number"),
        (
            lambda table: table.rename({"score": "value"}),
            "it has 'user', 'item', 'value': rename one",
        ),
    ],
)
def test_files_that_cannot_be_meant(finished, table, rosepo, tmp_path, change, message):
    before = sorted(file.name for file in finished.iterdir())
    done = rosepo("evaluate", finished, "--scores", written(change(table), tmp_path / "bad.parquet"))
    assert done.code == 2
    assert message in done.err
    assert sorted(file.name for file in finished.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "RUN", "--scores", "gone.parquet"], "gone.parquet does not exist: name a file of scores"),
        (["evaluate", "RUN", "--scores", "oracle=x.csv"], "'oracle' cannot name a row of the table"),
        (["evaluate", "RUN", "--scores", "a/x.csv", "--scores", "b/x.csv"], "are both named 'x'"),
        (["evaluate", "--model", "m", "--scores", "x.csv"], "--scores adds rows to the tables of a finished run"),
        (["export", "RUN", "--scores", "x.txt"], "x.txt: the name must end in .parquet or .csv"),
        (
            ["export", "RUN", "--scores", "x.csv", "--model", "align"],
            "has no row 'align' under candidates-5; did you",
        ),
        (["export", "RUN", "--scores", "x.csv", "--protocol", "free"], "ranks no candidates under 'free'"),
        (["export", "RUN", "--pairs", "x.csv"], "x.csv: the name must end in .jsonl or .parquet"),
        (["export", "RUN", "--pairs", "x.jsonl", "--to", "x"], "--to and --pairs are commands of their own"),
        (["export", "RUN", "--pairs", "x.jsonl", "--push", "a/b"], "--push goes with --to DIR"),
    ],
)
def test_requests_that_cannot_be_meant(finished, rosepo, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = rosepo(*(finished if each == "RUN" else each for each in arguments))
    assert done.code == 2
    assert message in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.parquet"])
def test_pairs_as_trl_reads_them(finished, rosepo, tmp_path, name):
    done = rosepo("export", finished, "--pairs", tmp_path / "new" / name)
    assert done.code == 0, done.err
    file = tmp_path / "new" / name
    found = pl.read_parquet(file) if name.endswith("parquet") else pl.read_ndjson(file)
    kept = pl.read_parquet(finished / "preferences" / "pairs.parquet")
    assert found.equals(kept.select("prompt", "chosen", "rejected"))
    assert found.height == 72
    assert (found["chosen"] != found["rejected"]).all()
    done = rosepo("export", finished, "--pairs", file)
    assert (done.code, "exists: name a new file" in done.err) == (2, True)
