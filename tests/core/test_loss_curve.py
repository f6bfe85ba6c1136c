"""Many optimizer steps on token trees beside TRL's DPOTrainer on the same pairs as text, in the same order."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset as Table
from peft import LoraConfig, get_peft_model
from trl import DPOConfig, DPOTrainer

from rosepo_core.contracts.records import Examples, Pairs, Sequences
from rosepo_core.data.listed_candidates import draw_lists
from rosepo_core.engine.scoring import score_items
from rosepo_core.engine.training import TrainingSettings, align_preferences
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.stages.aligned import preference_trees
from rosepo_core.stages.session import QuietReporter
from rosepo_core.testing import prompt_template

BATCH, STEPS, BETA, WARMUP = 4, 30, 0.1, 0.1
COMMON = {"max_grad_norm": 1.0, "weight_decay": 0.01, "seed": 3}
CURVES = ("loss", "learning_rate", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")


@pytest.mark.parametrize(("method", "rate"), [("full", 1e-3), ("lora", 1e-2)])
def test_the_loss_curve_is_trls(tmp_path: Path, tiny_model, tiny_tokenizer, catalogue, method, rate):
    options = {"name": "chat", "instruction": "Go.", "question": "Next?", "candidates": 5}
    template = prompt_template(options, tiny_tokenizer, catalogue, 5)
    start = copy.deepcopy(tiny_model).train()
    if method == "lora":
        torch.manual_seed(0)
        start = get_peft_model(
            start, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    rng = np.random.default_rng(7)
    items = np.concatenate([rng.permutation(len(catalogue))[:6] for _ in range(5)]).astype(np.int32)
    # 20 pairs: the last four places of five users of six items.
    user, position = np.divmod(np.arange(20, dtype=np.int32), 4)
    examples = Examples.of(Sequences(items, np.arange(0, 31, 6)), user, position + 2)
    away = rng.integers(1, len(catalogue), (len(examples), 1))
    rejected = ((examples.target[:, None] + away) % len(catalogue)).astype(np.int32)
    responses = np.concatenate([examples.target[:, None], rejected], axis=1)

    theirs, ours = copy.deepcopy(start), copy.deepcopy(start)
    listed = draw_lists(examples, 5, len(catalogue), [0], rejected=rejected)
    reference = score_items(
        ours.eval(), template, examples, responses, 4096, QuietReporter(), shared=True, candidates=listed
    )
    eps = np.zeros(rejected.shape, np.float32)
    pairs = Pairs(examples, rejected, eps, reference[:, :1][:, 0], reference[:, 1:], listed)
    trees = preference_trees(template, pairs)
    assert len(trees) == len(examples)
    found = align_preferences(
        ours.train(),
        load_plugins().create("loss", "dpo", {"beta": BETA}),
        trees,
        TrainingSettings(
            batch_size=BATCH, token_budget=400, learning_rate=rate, steps=STEPS, warmup_ratio=WARMUP, **COMMON
        ),
        QuietReporter(),
    )

    texts = template.response_texts
    table = Table.from_dict(
        {
            "prompt": template.prompt_texts(examples, shared=True, candidates=listed),
            "chosen": [texts[item] for item in examples.target.tolist()],
            "rejected": [texts[item] for item in rejected[:, 0].tolist()],
        }
    )
    trainer = DPOTrainer(
        model=theirs,
        args=DPOConfig(
            output_dir=str(tmp_path),
            beta=BETA,
            bf16=False,
            data_seed=COMMON["seed"],
            disable_tqdm=True,
            gradient_checkpointing=False,
            learning_rate=rate,
            logging_steps=1,
            max_length=None,
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            precompute_ref_log_probs=True,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            warmup_steps=WARMUP,
            **COMMON,
        ),
        train_dataset=table,
        processing_class=tiny_tokenizer,
    )
    trainer.train()
    expected = [entry for entry in trainer.state.log_history if "loss" in entry]

    assert len(found) == len(expected) == STEPS
    assert expected[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert min(entry["loss"] for entry in expected) < 0.35, "the loss has hardly moved"
    for step, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one["loss"] == pytest.approx(other["loss"], rel=2e-3), step
        # Before the first step every margin is 0 up to rounding, and its sign means nothing.
        for name in CURVES if step else CURVES[:-1]:
            assert one[name] == pytest.approx(other[name], rel=2e-3, abs=2e-3), (step, name)
