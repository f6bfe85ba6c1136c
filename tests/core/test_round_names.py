"""What the stages and models of rounds are called."""

from __future__ import annotations

import pytest

from rosepo_core.evaluation.run_models import (
    compared_models,
    in_order,
    language_models,
    last_language_model,
    models_of,
    run_model,
)
from rosepo_core.report.display import model_styles, model_title
from rosepo_core.stages import STAGES
from rosepo_core.stages.rounds import Round, other_name, stages_of, work_of


def test_one_round_has_the_stages_of_a_run_without_rounds():
    assert stages_of(1) == STAGES
    only = Round(1, 1)
    assert (only.settings, only.purpose("sampling"), only.seed(7)) == ({}, "sampling", 7)


def test_later_rounds_have_stages_of_their_own_and_the_last_model_is_aligned():
    assert stages_of(3) == (
        *("dataset", "split", "sft", "oracle", "sampling", "reference", "preferences", "round-1-aligned"),
        *("round-2-sampling", "round-2-sft", "round-2-reference", "round-2-preferences", "round-2-aligned"),
        *("round-3-sampling", "round-3-sft", "round-3-reference", "round-3-preferences", "aligned"),
        "evaluation",
    )


def test_each_round_has_random_numbers_of_its_own():
    rounds = [Round(number, 4) for number in range(1, 5)]
    assert len({each.purpose("sampling") for each in rounds}) == 4
    assert len({each.seed(0) for each in rounds}) == 4
    assert Round(2, 4).seed(0) == Round(2, 9).seed(0) != Round(2, 4).seed(1)


@pytest.mark.parametrize(
    ("stage", "work", "other"),
    [
        ("sft", "sft", None),
        ("round-2-sft", "sft", None),
        ("prior-round-2-sft", "prior-sft", None),
        ("round-2-aligned", "aligned", "aligned"),
        ("aligned", "aligned", "round-3-aligned"),
        ("scores-round-1-aligned-popularity", "scores-aligned-popularity", "scores-aligned-popularity"),
        ("fusion-aligned", "fusion-aligned", "fusion-round-3-aligned"),
    ],
)
def test_a_stage_does_the_same_whatever_its_round_is(stage, work, other):
    assert (work_of(stage), other_name(stage, 3)) == (work, other)


def test_models_of_rounds_stand_between_sft_and_aligned():
    assert models_of(1) == ("popularity", "oracle", "base", "sft", "aligned")
    assert models_of(3)[3:] == ("sft", "round-1-aligned", "round-2-aligned", "aligned")
    assert language_models(2) == ("aligned", "round-1-aligned", "sft", "base")
    mixed = ["mine", "aligned", "round-10-aligned", "round-9-aligned fusion", "round-9-aligned", "sft"]
    assert in_order(mixed) == [
        *("sft", "round-9-aligned", "round-9-aligned fusion", "round-10-aligned", "aligned", "mine")
    ]
    assert last_language_model(["popularity", "sft", "round-1-aligned", "round-2-aligned"]) == "round-2-aligned"
    assert [run_model(name) for name in ("round-0-aligned", "round-1-sft", "aligned-2")] == [None, None, None]


def test_each_model_is_compared_with_the_one_before_and_the_last_with_sft_too():
    names = ["base", "sft", "round-1-aligned", "round-2-aligned", "aligned"]
    assert compared_models(names) == [
        ("sft", "base"),
        ("round-1-aligned", "sft"),
        ("round-2-aligned", "round-1-aligned"),
        ("aligned", "sft"),
        ("aligned", "round-2-aligned"),
    ]
    assert compared_models(["base", "sft", "aligned"]) == [("sft", "base"), ("aligned", "sft")]


def test_models_of_rounds_have_titles_and_colours_of_their_own():
    names = ["sft", "round-1-aligned", "round-2-aligned", "aligned"]
    assert [model_title(name) for name in names] == ["SFT", "Round 1", "Round 2", "Aligned"]
    assert list(model_styles(names).values()) == ["teal", "violet", "cyan", "rose"]
    assert model_title("round-2-aligned fusion (runs/a)") == "Round 2 fusion (runs/a)"
