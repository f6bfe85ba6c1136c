"""Where the numbers of a training go: RUN/metrics.jsonl, and trackers."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rosepo_core.config import load_config
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Sequences
from rosepo_core.engine.training import Tracking, TrainingSettings, fine_tune
from rosepo_core.engine.training.tracking import check_trackers
from rosepo_core.stages.session import QuietReporter
from rosepo_core.store.metric_lines import MetricLines
from rosepo_core.testing import prompt_template

RECORDER = """
    class _Variable:
        def get(self):
            return None

    class context_vars:
        current_space_id = current_project = _Variable()

    __version__ = "1.0"
    told = []

    class _Config(dict):
        def update(self, values, allow_val_change):
            super().update(values)

    config = _Config()

    def init(**options):
        told.append(("init", options["project"], options["name"]))

    def log(values):
        told.append(("log", values))

    def finish():
        told.append(("finish",))
"""


@pytest.fixture
def trained(tiny_model, tiny_tokenizer, catalogue):
    """Three steps of SFT, tracked as asked; the log."""

    def train(tracking: Tracking) -> list[dict[str, float]]:
        template = prompt_template({}, tiny_tokenizer, catalogue, 5)
        sequences = template.sft_sequences(Sequences(np.arange(12, dtype=np.int32), np.array([0, 6, 12])))
        settings = TrainingSettings(learning_rate=1e-3, batch_size=2, token_budget=512, steps=3)
        return fine_tune(copy.deepcopy(tiny_model).train(), sequences, settings, QuietReporter(), tracking)

    return train


def read(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_each_logged_step_is_a_line(trained, tmp_path):
    """Also where an earlier process was killed in the middle of a line, and had made other steps."""
    before = '{"stage": "prior", "step": 9, "loss": 1.0}\n{"stage": "sft", "step": 1, "loss": 5.0}\n'
    (tmp_path / "metrics.jsonl").write_text(before + '{"stage": "sft", "st')
    log = trained(Tracking(tmp_path, "sft"))
    assert len(log) == 3
    assert read(tmp_path) == [{"stage": "prior", "step": 9, "loss": 1.0}, *({"stage": "sft"} | each for each in log)]


def test_a_training_that_goes_on_keeps_the_lines_up_to_its_step(tmp_path):
    lines = MetricLines(tmp_path / "metrics.jsonl", "sft")
    for step in (1, 2, 3):
        lines.add(step, {"loss": float(step), "grad_norm": float("inf")})
    lines.begin(2)
    assert [(line["step"], line["loss"], line["grad_norm"]) for line in read(tmp_path)] == [
        (1, 1, None),
        (2, 2, None),
    ]


def test_a_tracker_gets_the_numbers(trained, tmp_path, install):
    install("trackio", "1.0", "trackio", RECORDER)
    import trackio

    run = tmp_path / "my-run"
    run.mkdir()
    log = trained(Tracking(run, "sft", ["trackio"]))
    assert trackio.told[0] == ("init", "rosepo", "my-run-sft")
    logged = [event[1] for event in trackio.told if event[0] == "log"]
    assert [each["train/loss"] for each in logged[:3]] == [entry["loss"] for entry in log]
    assert [each["train/global_step"] for each in logged[:3]] == [1, 2, 3]
    assert trackio.told[-1] == ("finish",)


def test_wandb_asks_for_nothing(monkeypatch, tmp_path, install):
    install("wandb", "1.0", "wandb", "finished = []\ndef finish(): finished.append(True)")
    import wandb

    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    tracking = Tracking(tmp_path, "sft", ["wandb"])
    with tracking.going_on():
        assert (os.environ["WANDB_MODE"], os.environ["WANDB_DIR"]) == ("offline", str(tmp_path))
    assert "WANDB_MODE" not in os.environ
    assert wandb.finished == [True]
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password x\n")
    with tracking.going_on():
        assert "WANDB_MODE" not in os.environ
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    with tracking.going_on():
        assert os.environ["WANDB_PROJECT"] == "mine"


def test_a_missing_tracker_is_named(monkeypatch):
    monkeypatch.setattr("rosepo_core.engine.training.tracking.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"^--track mlflow needs the package mlflow: pip install mlflow$"):
        check_trackers(["mlflow"])


def test_trackers_change_no_result():
    plain, tracked = load_config(None), load_config(None, [("track", "tensorboard")])
    assert tracked.track == ("tensorboard",)
    assert plain.that_decides() == tracked.that_decides()
    assert load_config(None, [("track", ["wandb", "mlflow"])]).track == ("wandb", "mlflow")
    with pytest.raises(RequestError, match="option 'track"):
        load_config(None, [("track", "wandbb")])
