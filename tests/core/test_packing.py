"""Passes that cost least, by hand and against every other grouping."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rosepo_core.engine.packing import CPU, GPU, PassCost, pack, pack_in_rows, price


def held(lengths: list[int], budget: int, cost: PassCost) -> list[list[int]]:
    return [each.tolist() for each in pack(lengths, budget, cost)]


def test_padding_is_worth_a_pass_where_it_costs_less_than_one() -> None:
    # One pass for all three costs 10 + 90, two (30 | 12 12) cost 20 + 54.
    assert held([12, 30, 12], 1000, PassCost(fixed=10)) == [[1], [0, 2]]
    # The 36 padded tokens are now less than a pass: 40 + 90 against 80 + 54.
    assert held([12, 30, 12], 1000, PassCost(fixed=40)) == [[1, 0, 2]]
    # Attention pays for the square of the longest: 40 + 90 + 270 against 80 + 54 + 90 + 28.8.
    assert held([12, 30, 12], 1000, PassCost(fixed=40, square=0.1)) == [[1], [0, 2]]
    # Of equal costs (6 + 90 and 12 + 84) the one pass wins.
    assert held([30, 30, 24], 1000, PassCost(fixed=6)) == [[0, 1, 2]]


def test_a_pass_keeps_to_the_budget_with_padding_counted() -> None:
    assert held([10, 30, 29, 30, 70, 10, 10], 60, CPU) == [[4], [1, 3], [2], [0, 5, 6]]
    # Three passes are needed in any case, and the short ones share one.
    assert held([10, 30, 29, 30, 70, 10, 10], 120, GPU) == [[4], [1, 3, 2], [0, 5, 6]]
    assert pack([], 60) == []


def test_a_gpu_reads_a_step_of_windows_in_one_pass_and_a_cpu_pads_little() -> None:
    lengths = np.random.default_rng(0).integers(40, 250, 32)
    assert len(pack(lengths, 32_768, GPU)) == 1
    passes = pack(lengths, 1024, CPU)
    padded = sum(len(each) * lengths[each].max() for each in passes)
    assert padded < 1.05 * lengths.sum()


def groupings(count: int) -> Iterator[list[list[int]]]:
    """Every partition of range(count)."""
    if not count:
        yield []
        return
    for rest in groupings(count - 1):
        yield [*rest, [count - 1]]
        for place in range(len(rest)):
            yield [*rest[:place], [*rest[place], count - 1], *rest[place + 1 :]]


@given(
    lengths=st.lists(st.integers(1, 40), max_size=6),
    budget=st.integers(1, 120),
    fixed=st.integers(0, 60),
    square=st.sampled_from([0.0, 0.05]),
)
@settings(max_examples=60, deadline=None)
def test_no_grouping_within_the_budget_costs_less(lengths: list[int], budget: int, fixed: int, square: float) -> None:
    def price(passes: list[list[int]]) -> float:
        total = 0.0
        for each in passes:
            width = max(lengths[index] for index in each)
            if len(each) > 1 and len(each) * width > budget:
                return float("inf")
            total += fixed + len(each) * (width + square * width**2)
        return total

    found = held(lengths, budget, PassCost(float(fixed), 1.0, square))
    assert sorted(index for each in found for index in each) == list(range(len(lengths)))
    assert price(found) == pytest.approx(min(map(price, groupings(len(lengths)))))
    longest = [lengths[each[0]] for each in found]
    assert longest == sorted(longest, reverse=True)


def test_in_long_rows_only_the_sum_counts() -> None:
    lengths = np.array([10, 30, 29, 30, 70, 10, 10])
    rows = pack_in_rows(lengths, 90)
    assert [each.tolist() for each in rows] == [[4], [1, 3, 2], [0, 5, 6]]
    cost = PassCost(fixed=7.0, token=2.0, square=0.01)
    squares = 70**2 + 2 * 30**2 + 29**2 + 3 * 10**2
    assert price(lengths, rows, cost, in_rows=True) == pytest.approx(3 * 7 + 2 * 189 + 0.01 * squares)
    # Padded, the 29 counts as 30.
    assert price(lengths, rows, cost, in_rows=False) == pytest.approx(
        3 * 7 + 2 * 190 + 0.01 * (squares + 30**2 - 29**2)
    )
    assert pack_in_rows([], 90) == []
