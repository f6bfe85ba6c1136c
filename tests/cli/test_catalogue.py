"""`rosepo catalogue`: what a run recommends changes, and what it was trained with does not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import rosepo_core
from rosepo_core.serving.export import golden
from rosepo_core.serving.run_lists import RunLists
from rosepo_core.serving.sources import ModelSource
from rosepo_core.serving.web.served_runs import ServedRuns
from rosepo_core.store.artifacts import content_sums
from rosepo_core.testing import SilentReporter

NEW = "Harvest Moon Over Trieste (2026)"
CHANGES = "catalogue_changes.parquet"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def items(tmp_path: Path) -> Path:
    path = tmp_path / "items.csv"
    path.write_text(
        f"item,title,retired\nn1,{NEW},\ni3,Harvest Moon II (1996),\ni6,,true\ni8,Paper Kites (1993),no\n"
    )
    return path


def test_an_update_changes_what_is_recommended_and_nothing_else(rosepo: Any, run: Path, items: Path) -> None:
    before = content_sums(run)
    dry = rosepo("catalogue", "update", run, items, "--dry-run", "--json")
    assert dry.code == 0, dry.err
    assert content_sums(run) == before
    done = rosepo("catalogue", "update", run, items, "--json").json
    expected = {
        "folder": str(run),
        "unchanged": 1,
        "items": 40,
        "trained": 40,
        "added": {"n1": NEW},
        "renamed": {"i3": {"from": "Harvest Moon (1996)", "to": "Harvest Moon II (1996)"}},
        "described": [],
        "retired": ["i6"],
        "restored": [],
    }
    assert dry.json == expected | {"dry_run": True}
    assert done == expected | {"dry_run": False}
    after = content_sums(run)
    assert after.pop(CHANGES)
    assert after == before
    found = rosepo("recommend", run, "--history", NEW, "--k", 50, "--json").json["recommendations"]
    assert {each["item"] for each in found} == {f"i{number}" for number in range(40)} - {"i6"}
    ranked = rosepo("recommend", run, "--history", "Harvest Moon II (1996)", "--candidate", NEW, "--json").json
    assert [(each["title"], each["new"]) for each in ranked["recommendations"]] == [(NEW, True)]
    shown = rosepo("recommend", run, "--history", "Harvest Moon II (1996)", "--candidate", NEW)
    assert f"{NEW}  new" in shown.out


def test_what_a_catalogue_has(rosepo: Any, run: Path, items: Path) -> None:
    assert rosepo("catalogue", "show", run).out == (
        "40 items can be recommended: 40 of the training, 0 added, 0 retired\n"
    )
    shown = rosepo("catalogue", "update", run, items).out
    assert shown == (
        "40 items can be recommended: 40 of the training, 1 added, 1 retired\n\n"
        f"added 1\n  n1  {NEW}\n\nrenamed 1\n  i3  Harvest Moon (1996)  ->  Harvest Moon II (1996)\n\n"
        "retired 1\n  i6  Quiet Rivers\n\nunchanged 1\n"
    )
    assert rosepo("catalogue", "update", run, "--retire", "n1", "--retire", "i6", "--json").json["unchanged"] == 1
    left = rosepo("catalogue", "show", run, "--json").json
    assert (left["items"], left["retired"]) == (39, ["i6"])
    items.write_text("item\n" + "".join(f"i{number}\n" for number in range(6)))
    left = rosepo("catalogue", "update", run, items, "--all-items", "--json").json
    assert (left["items"], len(left["retired"])) == (6, 33)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ("item,title\ni0,\nn1,quiet rivers\n", [], "items.csv row 3: the title 'quiet rivers' is that of item 'i6'"),
        ("item,title\nn1,\n", [], "items.csv row 2: item 'n1' is not in the catalogue and has no title"),
        ("item,retired\n" + "".join(f"i{n},yes\n" for n in range(40)), [], "all items would be retired"),
        ("item,title\ni0,A\n", ["--retire", "i99"], "item 'i99' is not in the catalogue"),
        (None, [], "name a file of items, or items to retire"),
        (None, ["--all-items", "--retire", "i1"], "name a file of items"),
    ],
)
def test_nothing_is_half_done(rosepo, finished, tmp_path, rows, options, message):
    given = []
    if rows is not None:
        given = [tmp_path / "items.csv"]
        given[0].write_text(rows)
    done = rosepo("catalogue", "update", finished, *given, *options)
    assert (done.code, message in done.err) == (2, True), done.err
    assert not (finished / CHANGES).exists()
    aligned = rosepo("catalogue", "update", finished / "aligned", "--retire", "i1")
    assert (aligned.code, f"name {finished}" in aligned.err) == (2, True), aligned.err


def test_a_damaged_file_says_what_to_do(rosepo: Any, run: Path) -> None:
    (run / CHANGES).write_text("nothing")
    done = rosepo("catalogue", "show", run)
    assert (done.code, "remove it for the catalogue of the training" in done.err) == (2, True), done.err


def test_an_export_takes_the_changes_along_and_can_be_updated(
    rosepo: Any, run: Path, items: Path, tmp_path: Path
) -> None:
    assert rosepo("catalogue", "update", run, items).code == 0
    to = tmp_path / "export"
    done = rosepo("export", run, "--to", to)
    assert done.code == 0, done.err
    assert rosepo("catalogue", "show", to, "--json").json == rosepo("catalogue", "show", run, "--json").json
    assert rosepo("catalogue", "update", to, "--retire", "i4").code == 0
    # The golden prompts are about the model, whatever its catalogue has become.
    assert golden.check(to, SilentReporter()) < 0.005
    assert len(ModelSource(to, SilentReporter(), as_trained=True).in_use.items) == 40
    ids = [each.item for each in rosepo_core.Recommender.load(to).recommend(["n1"], 50, by="id")]
    assert sorted(ids) == sorted({f"i{number}" for number in range(40)} - {"i4", "i6"})


def test_a_server_takes_changes_when_it_loads_again(rosepo: Any, run: Path, items: Path) -> None:
    runs = ServedRuns({"a": run}, rosepo_core.Recommender.load, RunLists)
    old = runs.get("a")
    assert rosepo("catalogue", "update", run, items).code == 0
    assert "n1" not in old.numbers
    [new] = runs.reload()
    assert new.numbers["n1"] == 40
    assert new.lists is not None
    # The page's lists of all models have the new titles, and the retired item is in none.
    for name in ("aligned", "sft"):
        found = new.lists.top(name, [["i6", "n1"]], 50)[0]
        assert {each.item for each in found} == {f"i{number}" for number in range(40)} - {"i6"}
        marks = {each.item: each.new for each in new.lists.top(name, [["i0"]], 50)[0]}
        assert (marks["n1"], marks["i1"]) == (True, not new.recommender.catalogue.popularity[1])
    # A question that was asked before the change is answered from the old catalogue.
    expected = {*old.recommender.titles} - {"The Lighthouse Keeper (1995)"}
    assert {each.title for each in old.recommender.recommend(["i0"], 50, by="id")} == expected
