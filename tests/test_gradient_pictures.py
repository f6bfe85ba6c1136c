"""The pictures of the losses' gradients: the numbers that are drawn, by hand."""

from __future__ import annotations

import pytest

from docs_site.gradients import Curve, drawn, gradient_curve
from rosepo_core.plugins.registry import load_plugins


def curve_of(name: str, rejected: int = 1) -> Curve:
    return gradient_curve(load_plugins().create("loss", name, {}), rejected)


def at(curve: Curve, margin: float) -> tuple[float, float]:
    place = min(range(len(curve.margins)), key=lambda place: abs(curve.margins[place] - margin))
    assert curve.margins[place] == pytest.approx(margin, abs=1e-4)
    return curve.up[place], curve.down[place]


def test_dpo_pushes_both_titles_by_beta_times_its_doubt() -> None:
    """beta = 0.1: at margin 0 the push is 0.1 sigmoid(0) = 0.05; at margin 20 it is 0.1 / (1 + e^2) = 0.01192."""
    curve = curve_of("dpo")
    assert at(curve, 0) == pytest.approx((0.05, -0.05))
    assert at(curve, 20) == pytest.approx((0.0119203, -0.0119203), rel=1e-4)


def test_rosepo_pulls_back_beyond_what_the_oracle_believes() -> None:
    """eps = 0.2, beta = 0.1: the push is 0.1 (sigmoid(-Delta) - 0.2), which is 0 at Delta = log 4, margin 13.86."""
    curve = curve_of("rosepo")
    assert at(curve, 0) == pytest.approx((0.03, -0.03))
    assert at(curve, 13.5)[0] > 0 > at(curve, 14)[0]


def test_three_rejected_titles_share_the_push_on_the_chosen_one() -> None:
    """S-DPO, beta = 1, at margin 0: four titles are alike; the chosen one is pushed by 3/4, each other by 1/4."""
    assert at(curve_of("s-dpo", 3), 0) == pytest.approx((0.75, -0.25))


def test_sft_leaves_the_rejected_title_alone() -> None:
    """-log pi(w) / |w| with 8 tokens has the slope -1/8 everywhere."""
    assert at(curve_of("sft"), 0) == pytest.approx((0.125, 0.0))


def test_a_picture_has_one_point_for_each_margin_of_each_title() -> None:
    picture = drawn(Curve([-1.0, 0.0, 1.0], [1.0, 0.5, 0.0], [-1.0, -0.5, 0.0]))
    up, down = (part.split('"')[0].split() for part in picture.split('points="')[1:])
    assert len(up) == len(down) == 3
    assert up[-1] == down[-1]
