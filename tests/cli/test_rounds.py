"""`rosepo train --rounds`: SFT and alignment in turn, with rejected items drawn again from the current model."""

from __future__ import annotations

from pathlib import Path

import pytest

ARGUMENTS = ("--sampler=self-hard", "--loss=dpo", "--sft.max_users=12", "--preferences.max_users=10")
LATER = ("sampling", "sft", "reference", "preferences")


@pytest.fixture(scope="module")
def three(tmp_path_factory, train) -> Path:
    """A finished run of three rounds; not to be changed."""
    folder = tmp_path_factory.mktemp("rounds") / "runs" / "three"
    done = train("--run", folder, "--rounds=3", *ARGUMENTS)
    assert done.code == 0, done.err
    stages = [
        *("dataset", "split", "candidates", "sft", "sampling", "reference", "preferences", "round-1-aligned"),
        *(f"round-2-{name}" for name in LATER),
        "round-2-aligned",
        *(f"round-3-{name}" for name in LATER),
        "aligned",
    ]
    assert list(done.stages)[: len(stages)] == stages
    return folder


@pytest.mark.parametrize("value", ["0", "-2"])
def test_a_run_has_at_least_one_round(train, tmp_path, value):
    done = train("--run", tmp_path / "run", f"--rounds={value}")
    assert done.code == 2
    assert done.err.splitlines() == [f"error: option 'rounds' = {value}: input should be greater than or equal to 1"]
    assert not (tmp_path / "run").exists()
