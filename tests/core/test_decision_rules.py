"""Decision rules by hand. The example is that of docs/ranking.md, whose tables are read from there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rosepo_core.evaluation.conditional_logit import ConditionalLogit
from rosepo_core.evaluation.decision_rules import (
    DecisionRule,
    feature_names,
    needed_models,
    ranked_name,
    shown_scores,
)

PAGE = (Path(__file__).parents[2] / "docs" / "ranking.md").read_text(encoding="utf-8")
FEATURES = ("likelihood", "prior", "popularity")
# Weights of 0.5, -0.5 and 0.8, each times a standard deviation.
LOGIT = ConditionalLogit(FEATURES, (10.0, 8.0, 2.0), (5.0, -4.0, 1.6), (0.0,) * 3, (0.0,) * 3, 100)
INF = np.float32(-np.inf)


def tables():
    """The tables in the section of the example: rows of cells, the head first."""
    section = PAGE.split("## An example by hand\n")[1].split("\n## ")[0]
    blocks = [block.splitlines() for block in section.split("\n\n") if block.startswith("|")]
    return [
        [[cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")] for line in (lines[0], *lines[2:])]
        for lines in blocks
    ]


GIVEN, SCORES, ORDERS = tables()
TITLES = [row[0] for row in GIVEN[1:]]
TOKENS, LIKELIHOOD, PRIOR, INTERACTIONS = np.array([[float(cell) for cell in row[1:]] for row in GIVEN[1:]]).T
ITEMS = np.arange(3, dtype=np.int32)[None]


def rule(score, features=FEATURES, logit=LOGIT):
    return DecisionRule(
        "aligned",
        score,
        INTERACTIONS.astype(np.int64),
        TOKENS.astype(np.int64),
        PRIOR.astype(np.float32),
        features if score == "fusion" else (),
        logit if score == "fusion" else None,
    )


RAW = {"aligned": LIKELIHOOD.astype(np.float32)[None]}


def test_the_example_has_the_numbers_that_are_worked_out_here():
    assert LIKELIHOOD.tolist() == [-10, -18, -24]
    assert PRIOR.tolist() == [-9, -22, -26]
    assert INTERACTIONS.tolist() == [99, 9, 0]
    scores = rule("fusion").scores(ITEMS, RAW)[0]
    sums = [-5 + 4.5 + 0.8 * 4.60517, -9 + 11 + 0.8 * 2.302585, -12 + 13 + 0.0]
    weights = np.exp(sums)
    np.testing.assert_allclose(np.exp(scores), weights / weights.sum(), rtol=1e-4)


@pytest.mark.parametrize("score", ["likelihood", "mean", "prior-corrected"])
def test_each_score_is_that_of_the_page(score):
    column = SCORES[0].index(score)
    found = rule(score).scores(ITEMS, RAW)
    assert found.dtype == np.float32
    assert [f"{value:.3f}" for value in found[0]] == [row[column] for row in SCORES[1:]]


def test_sums_and_probabilities_of_fusion_are_those_of_the_page():
    scores = rule("fusion").scores(ITEMS, RAW)[0].astype(np.float64)
    assert [f"{value:.3f}" for value in np.exp(scores)] == [row[5] for row in SCORES[1:]]
    assert np.exp(scores).sum() == pytest.approx(1)
    sums = rule("fusion").values(ITEMS, RAW, FEATURES)[0] @ LOGIT.per_unit
    assert [f"{value:.3f}" for value in sums] == [row[4] for row in SCORES[1:]]


@pytest.mark.parametrize("score", ["likelihood", "mean", "prior-corrected", "fusion"])
def test_orders_are_those_of_the_page(score):
    column = ORDERS[0].index(score)
    order = np.argsort(-rule(score).scores(ITEMS, RAW)[0])
    assert [TITLES[place] for place in order] == [row[column] for row in ORDERS[1:]]


@pytest.mark.parametrize("score", ["likelihood", "mean", "prior-corrected", "fusion"])
def test_empty_slots_have_no_score_and_change_no_other(score):
    items = np.array([[1, -1, 0], [2, 1, 0]], dtype=np.int32)
    raw = {"aligned": np.array([[-18, INF, -10], [-24, -18, -10]], dtype=np.float32)}
    found = rule(score).scores(items, raw)
    assert found[0, 1] == INF
    if score == "fusion":
        # The two titles alone.
        assert np.exp(found[0, [0, 2]]).tolist() == pytest.approx([0.6346 / 0.963, 0.3286 / 0.963], abs=1e-3)
    else:
        assert found[0, 0] == found[1, 1]
        assert found[0, 2] == found[1, 2]


def test_the_order_of_features_does_not_matter():
    turned = ConditionalLogit(FEATURES[::-1], (2.0, 8.0, 10.0), (1.6, -4.0, 5.0), (0.0,) * 3, (0.0,) * 3, 100)
    found = rule("fusion", FEATURES[::-1], turned).scores(ITEMS, RAW)
    np.testing.assert_allclose(found, rule("fusion").scores(ITEMS, RAW), rtol=1e-5)


def test_a_feature_that_was_left_out_of_the_fit_is_not_used():
    alone = ConditionalLogit(("likelihood",), (10.0,), (10.0,), (0.0,), (0.0,), 100, (("prior", "a reason"),))
    found = rule("fusion", FEATURES, alone).scores(ITEMS, RAW)
    np.testing.assert_allclose(found[0], LIKELIHOOD - np.log(np.exp(LIKELIHOOD).sum()), rtol=1e-5)


def test_scores_of_other_models_are_features():
    logit = ConditionalLogit(("likelihood", "oracle"), (1.0, 1.0), (1.0, 3.0), (0.0,) * 2, (0.0,) * 2, 100)
    fusion = rule("fusion", ("likelihood", "oracle"), logit)
    assert fusion.models == ("aligned", "oracle")
    raw = RAW | {"oracle": np.array([[0.0, 4.0, 5.0]], dtype=np.float32)}
    # -10 + 0, -18 + 12 and -24 + 15.
    found = fusion.scores(ITEMS, raw)[0]
    np.testing.assert_allclose(found - found[0], [0, 4, 1], atol=1e-5)


def test_features_of_each_model():
    features = ("likelihood", "prior", "popularity", "oracle", "sft")
    assert feature_names(features, "aligned", writes=True) == features
    assert feature_names(features, "sft", writes=True) == ("likelihood", "prior", "popularity", "oracle")
    assert feature_names(features, "oracle", writes=False) == ("popularity", "oracle")
    assert needed_models(features, "aligned") == ("aligned", "oracle", "sft")
    assert needed_models(("popularity", "oracle"), "oracle") == ("oracle",)


def test_names_and_shown_scores():
    assert [ranked_name("aligned", score) for score in shown_scores("prior-corrected")] == [
        *("aligned", "aligned mean", "aligned prior-corrected")
    ]
    assert shown_scores("likelihood") == ("likelihood",)
    assert rule("fusion").name == "aligned fusion"
    assert rule("mean").models == ("aligned",)
