"""Accuracy by popularity of the target, worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rosepo_core.evaluation import buckets
from rosepo_core.evaluation.buckets import bucket_names, by_popularity


def test_buckets_begin_where_they_say() -> None:
    assert bucket_names(np.array([0, 1, 4, 5, 49, 50, 10_000])) == [
        "cold: never",
        "rare: 1 to 4",
        "rare: 1 to 4",
        "some: 5 to 49",
        "some: 5 to 49",
        "popular: 50 and more",
        "popular: 50 and more",
    ]


def test_means_are_over_the_users_of_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items 0 to 3 were chosen 0, 2, 60 and 3 times; of six users two have item 1 as their target, one 3, two 2 and
    one 0, who are too few."""
    monkeypatch.setattr(buckets, "FEWEST_USERS", 2)
    values = np.array([1.0, 0.0, 0.5, 0.2, 0.4, 1.0])
    evaluation: Any = SimpleNamespace(
        examples=SimpleNamespace(target=np.array([1, 1, 3, 2, 2, 0])),
        models={
            "sft": SimpleNamespace(per_user={"ndcg@10": values}),
            "aligned": SimpleNamespace(per_user={"ndcg@10": values / 2}),
        },
    )

    found = by_popularity(evaluation, np.array([0, 2, 60, 3]), "ndcg@10")

    assert [(each.name, each.users) for each in found] == [
        ("all", 6),
        ("rare: 1 to 4", 3),
        ("popular: 50 and more", 2),
    ]
    means = [{model: ends[0] for model, ends in each.means.items()} for each in found]
    assert means[0] == {"sft": pytest.approx(3.1 / 6), "aligned": pytest.approx(3.1 / 12)}
    assert means[1] == {"sft": pytest.approx(0.5), "aligned": pytest.approx(0.25)}
    assert means[2] == {"sft": pytest.approx(0.3), "aligned": pytest.approx(0.15)}
    for each in found:
        for mean, low, high in each.means.values():
            assert low <= mean <= high
