"""The table of speed in docs/speed.md is the one that `make bench` made of its results."""

from __future__ import annotations

import json

import pytest

from benchmarks.bench import PAGE, RESULTS, ROWS, with_table

KEYS = {"name", "work", "unit", "rosepo", "peer", "peer_name", "ratio", "target", "floor_ratio", "measurements"}
ROW = {
    "name": "sasrec",
    "work": "training",
    "unit": "s",
    "rosepo": 2.0,
    "peer": 150.04,
    "peer_name": "a peer",
    "ratio": 75.0,
    "target": 50,
    "floor_ratio": None,
    "measurements": 3,
    "lower_bound": True,
}


def test_the_page_has_the_table_of_the_results():
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    assert with_table(text, results["rows"]) == text
    assert {row["name"] for row in results["rows"]} <= set(ROWS)
    assert all(row.keys() >= KEYS for row in results["rows"])
    assert {"rosepo", "torch", "trl"} <= results["versions"].keys()


def test_a_table_takes_the_place_of_the_one_before():
    text = with_table("Before.\n<!-- bench -->\n| old |\n<!-- /bench -->\nAfter.\n", [ROW])
    assert text == (
        "Before.\n<!-- bench -->\n"
        "| row | work | rosepo | peer | | ratio | goal | above the floor |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| sasrec | training | 2 s | 150 s | a peer | at least 75.00 x | ≥ 50 x |  |\n"
        "\nMedians of measurements taken in turn: sasrec 3.\n"
        "<!-- /bench -->\nAfter.\n"
    )
    assert with_table(text, [ROW]) == text


def test_a_page_without_marks_is_refused():
    with pytest.raises(SystemExit, match="has no lines <!-- bench -->"):
        with_table("Before.\n", [ROW])
