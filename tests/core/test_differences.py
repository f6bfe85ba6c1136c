"""Which settings of runs differ, as a reader sees them."""

from __future__ import annotations

from rosepo_core.report.differences import differing

FIRST = """
seed = 0
[loss]
name = "rosepo"
beta = 1.0
[[sampler]]
name = "self-hard"
weight = 1.0
[sft]
steps = 60
"""
SECOND = """
seed = 0
[loss]
name = "ipo"
[[sampler]]
name = "uniform"
[[sampler]]
name = "popularity-aware"
power = 0.5
[sft]
steps = 60
"""


def test_only_what_differs_is_told_and_what_a_run_lacks_is_left_out() -> None:
    assert differing({"one": FIRST, "two": SECOND, "bare": ""}) == {
        "one": {"loss.name": "rosepo", "loss.beta": "1.0", "sampler": "self-hard (weight = 1.0)"},
        "two": {"loss.name": "ipo", "sampler": "uniform, popularity-aware (power = 0.5)"},
    }


def test_equal_runs_differ_in_nothing() -> None:
    assert differing({"one": FIRST, "two": FIRST}) == {"one": {}, "two": {}}


def test_the_options_of_what_most_runs_have_are_not_told_again_and_again() -> None:
    most, other = '[oracle]\nname = "sasrec"\nlayers = 2\n', '[oracle]\nname = "constant"\nvalue = 0.1\n'
    assert differing({"one": most, "two": most, "three": other}) == {
        "one": {"oracle.name": "sasrec"},
        "two": {"oracle.name": "sasrec"},
        "three": {"oracle.name": "constant", "oracle.value": "0.1"},
    }
