"""Oracles that need no training loop: popularity, item-based neighbours, and the scores of another recommender."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.optimize import brentq

from rosepo_core.api import (
    Catalogue,
    Examples,
    OracleContext,
    Places,
    RequestError,
    SeenItems,
    Sequences,
    SmoothingOracle,
    Split,
)
from rosepo_core.config import load_config, read_config
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.testing import SilentReporter, toy_split
from rosepo_oracles.ensemble import fit_weights

ITEMS = ("alien", "brazil", "casablanca", "dune")


def log_of(*users: list[int], items: int = 4) -> Split:
    """Sequences that are for training as a whole; nothing is held out."""
    sequences = Sequences(
        np.array([item for user in users for item in user], dtype=np.int32),
        np.cumsum([0, *map(len, users)], dtype=np.int64),
    )
    none = Examples.of(sequences, np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32))
    names = (*ITEMS, *map(str, range(items)))[:items]
    counts = np.bincount(sequences.items, minlength=items).astype(np.int64)
    return Split(
        users=tuple(f"user {number}" for number in range(len(users))),
        catalogue=Catalogue(names, names, counts, pl.DataFrame()),
        train=sequences,
        validation=none,
        test=none,
        seen=SeenItems.of(sequences, items),
    )


def fitted(name: str, split: Split, **options: Any) -> tuple[Any, dict[str, float], list[str]]:
    oracle: SmoothingOracle = load_plugins().create("oracle", name, options)
    reporter = SilentReporter()
    shown = oracle.fit(split, OracleContext(np.random.default_rng(0), 0, reporter))
    return oracle, dict(shown), reporter.notes


def scores_of(oracle: Any, sequences: Sequences, user: int, position: int, items: int = 4) -> list[float]:
    place = Places(sequences, np.array([user], dtype=np.int32), np.array([position], dtype=np.int32))
    found: list[float] = oracle.score(place, np.arange(items, dtype=np.int32)[None])[0].tolist()
    return found


# Counts of 3, 1, 0 and 1.
THREE = ([0, 1], [0, 3], [0])


def test_popularity_scores_and_flips_by_hand() -> None:
    """At temperature 1 the odds of 1 (count 1) over 0 (count 3) are (1 + 1) / (1 + 3), so the flip is 1/3; the other
    way round it is 2/3, which is cut to 0.45."""
    split = log_of(*THREE)
    oracle, shown, _ = fitted("popularity", split)
    assert shown == {"temperature": 1.0}
    assert scores_of(oracle, split.train, 1, 1) == pytest.approx(np.log([4, 2, 1, 2]))
    places = Places(split.train, np.array([0, 0], dtype=np.int32), np.array([0, 0], dtype=np.int32))
    chosen, rejected = np.array([0, 1], dtype=np.int32), np.array([[1, -1], [0, 2]], dtype=np.int32)
    assert oracle.flip_probability(places, chosen, rejected).ravel() == pytest.approx([1 / 3, 0, 0.45, 1 / 3])
    assert oracle.preference_probability(places, chosen, rejected)[1, 0] == pytest.approx(2 / 3)


def test_options_of_every_oracle_that_scores() -> None:
    """A temperature of 2 halves log-odds of log 2: sqrt(2) / (1 + sqrt(2)) is the odds' probability."""
    split = toy_split()
    _, fits, _ = fitted("popularity", split)
    _, taken, _ = fitted("popularity", split, calibration="none")
    assert fits["temperature"] >= fits["temperature_held_out"] != 1
    assert taken["temperature"] == 1
    assert taken["temperature_held_out"] == fits["temperature_held_out"]

    small = log_of(*THREE)
    oracle, shown, _ = fitted("popularity", small, temperature=2.0, max_flip=0.99)
    assert shown["temperature"] == 2
    place = Places(small.train, np.array([0], dtype=np.int32), np.array([0], dtype=np.int32))
    flip = oracle.flip_probability(place, np.array([1], dtype=np.int32), np.array([[0]], dtype=np.int32))
    assert flip[0, 0] == pytest.approx(np.sqrt(2) / (1 + np.sqrt(2)))
    with pytest.raises(RequestError, match=r"oracle\.calibration"):
        fitted("popularity", split, calibration="isotonic")


def test_item_knn_by_hand() -> None:
    """Users 01, 01, 02, 3 of items 0 to 3. Item 0 has three users, item 1 two (both of 0), item 2 one (of 0).
    Cosines: 0 and 1: 2 / sqrt(6); 0 and 2: 1 / sqrt(3). With shrinkage 1: 2 / (sqrt(6) + 1), 1 / (sqrt(3) + 1)."""
    split = log_of([0, 1], [1, 0], [0, 2], [3])
    near, far = 2 / (np.sqrt(6) + 1), 1 / (np.sqrt(3) + 1)
    plain = {"shrinkage": 1.0, "normalize": False}

    oracle, shown, _ = fitted("item-knn", split, **plain)
    assert shown["neighbours"] == 1  # 0 has two, 1 and 2 have one, 3 has none
    asked = log_of([1, 2, 0, 3]).train
    assert scores_of(oracle, asked, 0, 0) == [0, 0, 0, 0]
    assert scores_of(oracle, asked, 0, 1) == pytest.approx([near, 0, 0, 0])
    assert scores_of(oracle, asked, 0, 2) == pytest.approx([near + far, 0, 0, 0])
    assert scores_of(oracle, asked, 0, 4) == pytest.approx([near + far, near, far, 0])

    one, _, _ = fitted("item-knn", split, neighbours=1, **plain)  # item 1 is nearer to 0 than item 2 is
    assert scores_of(one, asked, 0, 4) == pytest.approx([near + far, near, 0, 0])

    normal, _, _ = fitted("item-knn", split, shrinkage=1.0)
    assert scores_of(normal, asked, 0, 4) == pytest.approx([2, near / (near + far), far / (near + far), 0])

    twice = log_of([1, 1, 1]).train
    assert scores_of(oracle, twice, 0, 3) == pytest.approx([near, 0, 0, 0])


@pytest.mark.parametrize("normalize", [False, True])
def test_item_knn_equals_a_slow_literal_version(normalize: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops over items and users, as the formula is written; blocks of 7 items and of 3 places."""
    monkeypatch.setattr("rosepo_oracles.item_knn.ITEMS_PER_BLOCK", 7)
    monkeypatch.setattr("rosepo_oracles.item_knn.SCORES_PER_BLOCK", 3 * 40)
    split = toy_split()
    items = len(split.catalogue)
    baskets = [set(split.train[user].tolist()) for user in range(len(split.train))]
    kept: list[dict[int, float]] = []
    for j in range(items):
        similar = {}
        for i in range(items):
            both = sum(i in basket and j in basket for basket in baskets)
            if i != j and both:
                alone = [sum(item in basket for basket in baskets) for item in (i, j)]
                similar[i] = both / ((alone[0] * alone[1]) ** 0.5 + 2.0)
        best = sorted(similar, key=lambda i: (-similar[i], i))[:5]
        total = sum(similar[i] for i in best) if normalize else 1.0
        kept.append({i: similar[i] / total for i in best})

    oracle, _, _ = fitted("item-knn", split, neighbours=5, shrinkage=2.0, normalize=normalize)
    everything = np.tile(np.arange(items, dtype=np.int32), (len(split.test), 1))
    found = oracle.score(split.test, everything)
    for row, (user, position) in enumerate(zip(split.test.user, split.test.position, strict=True)):
        history = set(split.test.sequences[user][:position].tolist())
        expected = [sum(kept[j].get(i, 0.0) for j in history) for i in range(items)]
        np.testing.assert_allclose(found[row], expected, rtol=1e-5)


TABLE = "user,item,score\nuser 0,alien,2.5\nuser 0,dune,-1\nuser 1,brazil,7\n"


def written(tmp_path: Path, text: str, name: str = "scores.csv") -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_scores_are_those_of_the_file_and_the_lowest_for_the_rest(tmp_path: Path) -> None:
    split = log_of([0], [1], [2])
    oracle, shown, _ = fitted("scores", split, path=written(tmp_path, TABLE), missing="lowest")
    assert shown["coverage"] == 3 / 12
    assert [scores_of(oracle, split.train, user, 0) for user in range(3)] == [
        [2.5, -1, -1, -1],
        [7, 7, 7, 7],
        [0, 0, 0, 0],
    ]
    again = load_plugins().create("oracle", "scores", {"path": "gone.csv", "missing": "lowest"})
    again.restore(oracle.state())
    assert scores_of(again, split.train, 0, 0) == [2.5, -1, -1, -1]
    someone = Places(split.train, np.array([0], dtype=np.int32), np.array([1], dtype=np.int32), of_split=False)
    assert oracle.score(someone, np.array([[0, 3, -1]], dtype=np.int32)).tolist() == [[0, 0, -np.inf]]


def test_scores_of_a_whole_parquet_file_need_no_option(tmp_path: Path) -> None:
    """Whole numbers are ids as well; other columns and the order of rows do not matter."""
    split = log_of([0], [1])
    numbered = Split(
        users=("7", "8"),
        catalogue=Catalogue(("1", "2", "3", "4"), ITEMS, split.catalogue.popularity, pl.DataFrame()),
        train=split.train,
        validation=split.validation,
        test=split.test,
        seen=split.seen,
    )
    pairs = [(user, item) for item in (4, 2, 3, 1) for user in (8, 7)]
    table = pl.DataFrame({"u": [u for u, _ in pairs], "i": [i for _, i in pairs], "why": "x"})
    table = table.with_columns(s=pl.col("u") * 10 + pl.col("i"))
    table.write_parquet(tmp_path / "scores.parquet")
    options = {"path": str(tmp_path / "scores.parquet"), "user": "u", "item": "i", "score": "s"}
    oracle, shown, notes = fitted("scores", numbered, **options)
    assert (shown["coverage"], notes) == (1, [])
    assert [scores_of(oracle, split.train, user, 0) for user in (0, 1)] == [[71, 72, 73, 74], [81, 82, 83, 84]]
    assert [path.name for path in oracle.files()] == ["scores.parquet"]
    someone = Places(split.train, np.array([0], dtype=np.int32), np.array([1], dtype=np.int32), of_split=False)
    with pytest.raises(RequestError, match="none for a history: recommend by another score"):
        oracle.score(someone, np.zeros((1, 1), dtype=np.int32))


def test_rows_of_unknown_users_and_items_are_counted(tmp_path: Path) -> None:
    path = written(tmp_path, TABLE + "user 9,alien,1\nuser 0,zorro,1\n")
    _, _, notes = fitted("scores", log_of([0], [1]), path=path, missing="lowest")
    assert notes == ["scores.csv: 2 of 5 rows have a user or an item that the log does not have, and are not used"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TABLE, "lacks 5 of 8 scores, e.g. of the user 'user 0' for the item 'brazil': add them, or set"),
        ("user,item,rank\na,b,1\n", r"scores\.csv: no column is called 'score'.*oracle\.score"),
        (TABLE + "user 1,dune,high\n", r"scores\.csv row 5: 'score' is 'high', not a finite number"),
        (TABLE + "user 1,dune,nan\n", r"scores\.csv row 5: 'score' is 'nan', not a finite number"),
        (TABLE + ",dune,1\n", r"scores\.csv row 5: 'user' is empty"),
        (TABLE + "user 0,alien,1\n", r"rows 2 and 5 both have the user 'user 0' and the item 'alien': keep one"),
        (
            "user,item,score\n0,alien,1\n",
            "no row has a user and an item of the log; row 2 has the user '0' and the item 'alien', the log has "
            "'user 0' and 'alien'",
        ),
        ("user,item,score\n", r"scores\.csv \(oracle\.path\) has no rows"),
        ("user,item,score\na,b,1,2,3\n", r"scores\.csv: .*; correct it or save it again"),
    ],
)
def test_a_wrong_file_of_scores_is_named_with_row_and_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        fitted("scores", log_of([0], [1]), path=written(tmp_path, text))


def test_a_file_of_scores_that_is_not_there_or_is_no_table(tmp_path: Path) -> None:
    for name, message in (("gone.csv", "does not exist"), ("scores.xlsx", "must end in .parquet, .csv or .tsv")):
        with pytest.raises(RequestError, match=message):
            fitted("scores", log_of([0], [1]), path=str(tmp_path / name))
    with pytest.raises(RequestError, match=r"bad\.parquet: .*correct it or save it again"):
        fitted("scores", log_of([0], [1]), path=written(tmp_path, "no parquet", "bad.parquet"))


def test_an_ensemble_is_the_weighted_sum_of_its_oracles() -> None:
    split = toy_split()
    oracle, shown, _ = fitted(
        "ensemble", split, oracles="item-knn, popularity", settings={"item-knn": {"shrinkage": 3}}
    )
    near, _, _ = fitted("item-knn", split, shrinkage=3)
    popular, _, _ = fitted("popularity", split)
    everything = np.tile(np.arange(40, dtype=np.int32), (len(split.test), 1))
    weights = shown["item-knn: weight"], shown["popularity: weight"]
    assert 0 not in weights
    expected = weights[0] * near.score(split.test, everything) + weights[1] * popular.score(split.test, everything)
    np.testing.assert_allclose(oracle.score(split.test, everything), expected, rtol=1e-4, atol=1e-5)
    assert shown["item-knn: neighbours"] > 0
    assert [type(part).__name__ for part in oracle.parts()] == ["ItemKNN", "Popularity"]


def test_weights_by_hand() -> None:
    """One score, 1 for one item and 0 for the other; three of four users choose the item with 1. Standardized, the
    items differ by d = sqrt(2), and without a penalty exp(w d) would be 3. With it, w = 4 (3/4 - p) d, where p =
    sigmoid(w d). The second score is the same for both items, and the third place of each user is empty."""
    scores = np.zeros((4, 3, 2))
    scores[:3, 0, 0], scores[3, 1, 0] = 1, 1
    scores[:, :, 1] = np.arange(4)[:, None]
    offered = np.array([[True, True, False]] * 4)
    weights = fit_weights(scores, offered)
    gap = np.sqrt(2)
    standard = brentq(lambda w: 4 * (0.75 - 1 / (1 + np.exp(-w * gap))) * gap - w, 0, 2)
    assert weights == pytest.approx([standard * gap, 0], abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"oracles": ["popularity", "constant"]}, "oracle 'constant' ranks nothing, so it can be no part"),
        ({"oracles": ["item-knm"]}, "no oracle is called 'item-knm'; did you mean 'item-knn'"),
        ({"settings": {"scores": {}}}, "oracle.settings.scores: oracle.oracles does not name 'scores'"),
        (
            {"oracles": ["item-knn"], "settings": {"item-knn": {"k": 3}}},
            r"unknown option 'oracle\.settings\.item-knn\.k'",
        ),
    ],
)
def test_a_wrong_ensemble(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        fitted("ensemble", toy_split(), **options)


def test_an_ensemble_survives_its_configuration_file(tmp_path: Path) -> None:
    """Also the options of its oracles, whose names have a hyphen."""
    settings = {"item-knn": {"shrinkage": 3.0}}
    config = read_config({"oracle": {"name": "ensemble", "oracles": ["item-knn"], "settings": settings}})
    (tmp_path / "config.toml").write_text(config.to_toml())
    assert load_config(tmp_path / "config.toml").oracle.options.settings == settings
