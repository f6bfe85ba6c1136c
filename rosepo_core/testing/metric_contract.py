"""Tests for every metric, as a class to inherit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import polars as pl

from rosepo_core.contracts.components import Metric
from rosepo_core.contracts.outcome import Outcome
from rosepo_core.contracts.ranking import UNRANKED, Ranks
from rosepo_core.contracts.records import Bools, Doubles
from rosepo_core.testing.component_contract import ComponentContract
from rosepo_core.testing.toys import toy_outcomes


class MetricContract(ComponentContract):
    """Tests for every metric."""

    kind = "metric"

    def measure(self, options: Mapping[str, Any], outcome: Outcome) -> Mapping[str, Doubles | float]:
        """The metric's values, after a check of their shapes and range."""
        metric = cast(Metric, self.make(options))
        about = metric.about
        found = metric.measure(outcome)
        for cut_off, value in found.items():
            assert re.fullmatch(r"(@[1-9]\d*)?", cut_off), f"'{cut_off}' is neither empty nor a cut-off like '@10'"
            array = np.asarray(value)
            assert array.dtype.kind == "f", f"{array.dtype} values"
            assert array.shape in ((), (len(outcome),)), f"shape {array.shape} for {len(outcome)} users"
            assert not np.isinf(array).any(), "infinite values; NaN says that a metric does not apply"
            known = array[~np.isnan(array)]
            assert ((known >= about.low - 1e-9) & (known <= about.high + 1e-9)).all(), f"out of range: {known}"
        return found

    def outcomes(self, options: Mapping[str, Any]) -> Mapping[str, Outcome]:
        """The toy outcomes with the data that the metric needs, and without other optional data."""
        needs = cast(Metric, self.make(options)).needs
        bare = {
            name: replace(
                outcome,
                title_embeddings=outcome.title_embeddings if "title-embeddings" in needs else None,
                answered=outcome.answered if "answers" in needs else None,
                catalogue=outcome.catalogue
                if "genres" in needs
                else replace(outcome.catalogue, attributes=pl.DataFrame()),
            )
            for name, outcome in toy_outcomes().items()
        }
        return {name: outcome for name, outcome in bare.items() if all(outcome.offers(need) for need in needs)}

    def test_says_how_it_is_to_be_read(self, options: Mapping[str, Any]) -> None:
        """It has a title, a heading and a range, and its docstring has formula and source."""
        metric = cast(Metric, self.make(options))
        assert metric.about.title.strip()
        assert metric.about.group.strip()
        assert metric.about.low < metric.about.high
        assert "Range" in (type(metric).__doc__ or ""), "the docstring does not say the range"

    def test_values(self, options: Mapping[str, Any]) -> None:
        """It measures something under every protocol, and uses only the data in `needs`."""
        outcomes = self.outcomes(options)
        assert outcomes, "no outcome offers what it needs"
        for outcome in outcomes.values():
            found = self.measure(options, outcome)
            assert found, "nothing is measured"
            assert any((~np.isnan(value)).any() for value in found.values()), "nothing but NaN"

    def test_the_order_of_users_does_not_count(self, options: Mapping[str, Any]) -> None:
        """In another order of users, values move with their users, and a number for all lists stays the same."""
        for outcome in self.outcomes(options).values():
            order = np.random.default_rng(0).permutation(len(outcome))
            before, after = self.measure(options, outcome), self.measure(options, outcome.take(order))
            assert before.keys() == after.keys()
            for cut_off, value in before.items():
                array = np.asarray(value)
                np.testing.assert_allclose(after[cut_off], array[order] if array.ndim else array, atol=1e-6)

    def test_a_users_value_is_their_own(self, options: Mapping[str, Any]) -> None:
        """A user's value does not depend on other users."""
        for outcome in self.outcomes(options).values():
            some = np.arange(0, len(outcome), 3)
            whole, part = self.measure(options, outcome), self.measure(options, outcome.take(some))
            for cut_off, value in whole.items():
                if np.ndim(value):
                    np.testing.assert_allclose(part[cut_off], np.asarray(value)[some], atol=1e-6)

    def test_empty_lists(self, options: Mapping[str, Any]) -> None:
        """It also works for a model without any item in its answers."""
        outcome = self.outcomes(options).get("written")
        if outcome is not None:
            everyone = np.ones(len(outcome), dtype=np.bool_)
            self.measure(options, silenced(outcome, everyone))
            if outcome.answered is not None:
                self.measure(options, replace(silenced(outcome, everyone), answered=outcome.answered))

    def test_to_give_no_answer_does_not_pay(self, options: Mapping[str, Any]) -> None:
        """If lower is better, a user whose list has no item gets the worst value that the metric declares, or NaN if
        that is infinite, and a number for all lists is NaN if no list has an item."""
        about = cast(Metric, self.make(options)).about
        outcome = self.outcomes(options).get("written")
        if about.direction != "lower" or outcome is None:
            return
        silent = np.arange(len(outcome)) % 2 == 0
        before = self.measure(options, outcome)
        for cut_off, value in self.measure(options, silenced(outcome, silent)).items():
            if np.ndim(value):
                # A metric that does not apply to a user, whatever is recommended, need not apply now.
                applies = silent & ~np.isnan(before[cut_off])
                worst = about.high if np.isfinite(about.high) else np.nan
                np.testing.assert_array_equal(np.asarray(value)[applies], worst)
                others = np.asarray(value)[silent & ~applies]
                assert (np.isnan(others) | (others == about.high)).all(), "an empty list has a good value"
        for value in self.measure(options, silenced(outcome, np.ones_like(silent))).values():
            if not np.ndim(value):
                assert np.isnan(value), "lists without any item have a value"


def silenced(outcome: Outcome, rows: Bools) -> Outcome:
    """The outcome, with the lists of some rows emptied of items and answers."""
    return replace(
        outcome,
        top=np.where(rows[:, None], -1, outcome.top),
        ranks=Ranks(
            np.where(rows[:, None], UNRANKED, outcome.ranks.above), np.where(rows[:, None], 0, outcome.ranks.tied)
        ),
        answered=None if outcome.answered is None else outcome.answered & ~rows[:, None],
    )
