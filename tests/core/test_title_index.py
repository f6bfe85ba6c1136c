"""Titles that are not written as in the catalogue."""

from __future__ import annotations

import pytest

from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.serving.title_index import TitleIndex

TITLES = (
    "Toy Story (1995)",
    "Toy Story 2 (1999)",
    "Matrix, The (1999)",
    "Godfather, The (1972)",
    "Godfather: Part II, The (1974)",
    "Seven (Se7en) (1995)",
)


@pytest.fixture(scope="module")
def index() -> TitleIndex:
    return TitleIndex(TITLES)


@pytest.mark.parametrize(
    ("written", "first"),
    [
        ("the matrix", "Matrix, The (1999)"),
        ("Toy Storry (1995)", "Toy Story (1995)"),
        ("godfather part ii", "Godfather: Part II, The (1974)"),
        ("se7en", "Seven (Se7en) (1995)"),
    ],
)
def test_the_closest_title_comes_first(index, written, first):
    assert index.close(written, 3)[0].title == first


def test_similarity_is_the_mean_of_two_ratios(index):
    # Against "godfather the": token_sort_ratio = 2 * 9 / (9 + 13) = 81.8; token_set_ratio = 100, as all words of
    # "godfather" are in it.
    (best, *_) = index.close("Godfather", 1)
    assert best.item == 3
    assert best.similarity == pytest.approx((2 * 9 / 22 * 100 + 100) / 2)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("the matrix", "Matrix, The (1999)"),
        ("Toy Storry 2", "Toy Story 2 (1999)"),
        ("Godfather - Part II (1974)", "Godfather: Part II, The (1974)"),
        # Another year or another number is another film.
        ("Toy Storry (1996)", None),
        ("Toy Storry 3", None),
        # Both Godfathers are close.
        ("Godfathr", None),
        ("Solaris", None),
        ("...", None),
    ],
)
def test_a_title_is_taken_only_without_doubt(index, written, meant):
    found = index.meant(written)
    assert (found and found.title) == meant


def test_the_error_has_the_closest_titles(index):
    with pytest.raises(RequestError) as raised:
        index.find("Godfathr, The")
    assert str(raised.value).startswith(
        "title 'Godfathr, The' is not in the run's catalogue; did you mean 'Godfather, The (1972)' or "
    )
    with pytest.raises(RequestError) as raised:
        index.find("Solaris")
    assert str(raised.value) == "title 'Solaris' is not in the run's catalogue"


def test_names_that_are_close():
    assert nearest("selfhard", ["uniform", "self-hard", "in-batch"]) == "; did you mean 'self-hard'?"
    assert nearest("UNIFORM", ["uniform", "self-hard"]) == "; did you mean 'uniform'?"
    assert nearest("xyz", ["uniform", "self-hard"]) == "; known: self-hard, uniform"
    assert nearest("x", []) == ""
