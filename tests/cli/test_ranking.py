"""`ranking.score`: each model by each score in the tables of a run, and a fit that never sees test users."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SCORED = [
    *("popularity", "oracle", "oracle fusion", "base", "base mean", "base prior-corrected", "base fusion"),
    *("sft", "sft mean", "sft prior-corrected", "sft fusion"),
    *("aligned", "aligned mean", "aligned prior-corrected", "aligned fusion"),
]


@pytest.fixture(scope="module")
def fused(tmp_path_factory, train) -> Path:
    """A run whose models rank by every score."""
    folder = tmp_path_factory.mktemp("fused") / "run"
    done = train("--run", folder, "--oracle=sasrec", "--oracle.max_epochs=2", "--ranking.score=fusion")
    assert done.code == 0, done.err
    return folder


def test_the_table_has_each_model_by_each_score(fused):
    document = json.loads((fused / "metrics.json").read_text())
    assert list(document["protocols"]["candidates-5"]) == SCORED
