"""What is settled before torch and the trainers are imported, and that nothing is reported to anyone."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
from huggingface_hub import constants
from huggingface_hub.utils import _telemetry

from rosepo_core.contracts.records import Sequences
from rosepo_core.engine.training import TrainingSettings, align_preferences, fine_tune
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.stages.aligned import preference_trees
from rosepo_core.stages.session import QuietReporter
from rosepo_core.testing import prompt_template

PROGRAM = """
import json, os, sys
before = set(sys.modules)
import MODULE
assert not {"torch", "huggingface_hub", "transformers"} & set(sys.modules)
print(json.dumps(dict(os.environ)))
"""


def environment_after(module: str, **given: str) -> dict[str, str]:
    """The variables in a fresh interpreter that has imported `module`."""
    kept = {"PATH", "HOME", "PYTHONPATH", "VIRTUAL_ENV"}
    start = {name: value for name, value in os.environ.items() if name in kept} | given
    program = PROGRAM.replace("MODULE", module)
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=start)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_the_command_line_settles_it_before_torch_is_imported():
    found = environment_after("rosepo_cli.app")
    assert found["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert found["OMP_WAIT_POLICY"] == "PASSIVE"
    assert found["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_what_the_user_has_set_stays_but_telemetry_never_does():
    found = environment_after("rosepo_core.api", OMP_WAIT_POLICY="ACTIVE", HF_HUB_DISABLE_TELEMETRY="0")
    assert found["OMP_WAIT_POLICY"] == "ACTIVE"
    assert found["HF_HUB_DISABLE_TELEMETRY"] == "1"


def train(model: Any, tokenizer: Any, catalogue: Any) -> None:
    """One step of SFT, one of alignment."""
    template = prompt_template({}, tokenizer, catalogue, 5)
    sequences = Sequences(np.arange(4, dtype=np.int32), np.array([0, 4]))
    settings = TrainingSettings(batch_size=1, token_budget=512, learning_rate=1e-3, steps=1)
    fine_tune(model, template.sft_sequences(sequences), settings, QuietReporter())
    from rosepo_core.contracts.records import Examples, Pairs

    examples = Examples.of(sequences, np.array([0], dtype=np.int32), np.array([3], dtype=np.int32))
    nothing = np.zeros((1, 1), dtype=np.float32)
    pairs = Pairs(examples, np.array([[9]], dtype=np.int32), nothing, nothing[:, 0], nothing)
    loss = load_plugins().create("loss", "dpo", {})
    align_preferences(model, loss, preference_trees(template, pairs), settings, QuietReporter())


def test_training_sends_no_telemetry(monkeypatch, tiny_model, tiny_tokenizer, catalogue):
    """Not even where a library that was imported before rosepo has left it switched on."""
    sent: list[Any] = []
    monkeypatch.setattr(_telemetry, "_start_telemetry_thread", lambda: None)
    monkeypatch.setattr(_telemetry._TELEMETRY_QUEUE, "put", sent.append)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.delenv("CI", raising=False)
    train(copy.deepcopy(tiny_model).train(), tiny_tokenizer, catalogue)
    assert sent == []
    _telemetry.send_telemetry("heard")
    assert len(sent) == 1, "the test would not hear a report"
