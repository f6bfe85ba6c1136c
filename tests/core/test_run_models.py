"""Names in tables, and which of many rows small tables and charts show."""

from __future__ import annotations

import pytest

from rosepo_core.evaluation.run_models import (
    RowName,
    by_score_in_use,
    few_rows,
    in_order,
    main_rows,
    score_in_use,
)

FUSED = [
    *("popularity", "oracle", "oracle fusion", "base", "base mean", "base prior-corrected", "base fusion"),
    *("sft", "sft mean", "sft prior-corrected", "sft fusion"),
    *("aligned", "aligned mean", "aligned prior-corrected", "aligned fusion"),
]
PLAIN = ["popularity", "oracle", "base", "sft", "aligned"]
TWO_RUNS = [
    *("popularity", "base", "base mean", "aligned (a)", "aligned (runs/b fusion)"),
    *("aligned mean (a)", "aligned mean (runs/b fusion)"),
]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("aligned", ("aligned", "likelihood", "")),
        ("aligned fusion", ("aligned", "fusion", "")),
        ("aligned prior-corrected (runs/a)", ("aligned", "prior-corrected", " (runs/a)")),
        ("aligned (a fusion (b))", ("aligned", "likelihood", " (a fusion (b))")),
        ("my fine model mean (x)", ("my fine model", "mean", " (x)")),
        ("fusion", ("fusion", "likelihood", "")),
    ],
)
def test_parts_of_names(name, parts):
    found = RowName.of(name)
    assert (found.model, found.score, found.label) == parts
    assert found.own == parts[0] + parts[2]


def test_language_models_are_told_from_models_that_only_score():
    assert [name for name in PLAIN if RowName.of(name).writes] == ["base", "sft", "aligned"]
    assert RowName.of("any other model mean").writes


def test_with_one_score_every_row_is_shown():
    assert score_in_use(PLAIN) == "likelihood"
    assert by_score_in_use(PLAIN) == main_rows(PLAIN) == few_rows(PLAIN) == PLAIN


def test_with_all_scores_few_rows_are_shown():
    assert score_in_use(FUSED) == "fusion"
    assert by_score_in_use(FUSED) == ["popularity", "oracle fusion", "base fusion", "sft fusion", "aligned fusion"]
    assert main_rows(FUSED) == [name for name in FUSED if "mean" not in name and "prior" not in name]
    assert few_rows(FUSED) == ["popularity", "oracle", "aligned", "aligned fusion"]
    assert few_rows(FUSED[:-4]) == ["popularity", "oracle", "sft", "sft fusion"]


def test_of_several_runs_only_the_score_in_use_is_shown():
    assert by_score_in_use(TWO_RUNS) == [
        *("popularity", "base mean", "aligned mean (a)", "aligned mean (runs/b fusion)")
    ]
    assert few_rows(TWO_RUNS) == ["popularity", "aligned mean (a)", "aligned mean (runs/b fusion)"]


def test_models_of_no_run_are_all_shown():
    assert few_rows(["popularity", "mine", "mine mean"]) == ["popularity", "mine", "mine mean"]


def test_order():
    assert in_order(reversed(FUSED)) == FUSED
