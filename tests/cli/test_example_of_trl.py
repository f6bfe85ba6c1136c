"""The example that trains with TRL's own DPOTrainer on the pairs of a run."""

from __future__ import annotations

import importlib.util
import math
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

import rosepo_core
from rosepo_core.engine.saved_template import load_template

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_with_trl.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("train_with_trl", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_trl_trains_on_the_tokens_and_reference_of_the_run(example, finished, tmp_path):
    config = tomllib.loads((finished / "config.toml").read_text()) | {"prompt": {"name": "chat"}, "loss": "dpo"}
    run = rosepo_core.train(config, tmp_path / "run", until="preferences").folder
    model = tmp_path / "model"
    trainer = example.train(run, model, max_steps=2, logging_steps=1, learning_rate=1e-3, bf16=False, use_cpu=True)

    pairs = pl.read_parquet(run / "preferences" / "pairs.parquet")
    seen = trainer.train_dataset
    assert len(seen) == pairs.height == 72
    template = load_template(run / "sft", AutoTokenizer.from_pretrained(run / "sft"))
    for side in ("chosen", "rejected"):
        ours = [template.response_ids[item].tolist() for item in pairs[f"{side}_item"]]
        assert [list(ids) for ids in seen[f"{side}_ids"]] == ours
        np.testing.assert_allclose(seen[f"ref_{side}_logps"], pairs[f"reference_{side}"], atol=1e-3)

    # Before the first step the model is its own reference.
    assert trainer.state.log_history[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    merged = example.AutoPeftModelForCausalLM.from_pretrained(run / "sft").merge_and_unload().state_dict()
    trained = load_file(model / "model.safetensors")
    assert any(not np.array_equal(merged[name], values) for name, values in trained.items())

    [table] = example.evaluate(config, model, tmp_path / "evaluated").evaluations
    assert list(table.models) == ["popularity", "model"]
    assert table.models["model"].metrics["ndcg@10"] > 0
    scores = load_file(tmp_path / "evaluated" / "scores-model" / "scores.safetensors")["scores"]
    assert scores.isfinite().all()
