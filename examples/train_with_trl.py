"""Align with TRL's own DPOTrainer on the pairs of a run, and evaluate the model with rosepo.

`rosepo_core.train` fine-tunes a model and makes the pairs; `python examples/train_with_trl.py` does it small. The
prompt is `chat` because its responses end with the token with which TRL ends every response.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rosepo_core  # before torch, see docs/how-to/embed.md

# isort: split
from datasets import Dataset
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer

from rosepo_core.config import read_config
from rosepo_core.pipeline import Run, evaluate_model
from rosepo_core.serving.export.tables import read_pairs
from rosepo_core.stages.session import QuietReporter

CONFIG = {
    "dataset": "movielens-100k",
    "model": {"name": "smollm2-135m", "dtype": "float32"},
    "prompt": {"name": "chat", "titles": "short"},
    "sft": {"steps": 10},
    "sampler": "uniform",
    "loss": "dpo",
    "preferences": {"max_users": 8, "max_per_user": 10},
    "evaluation": {"max_users": 20},
}


def train(run: Path, out: Path, **options: Any) -> DPOTrainer:
    """Train the SFT model of a run with TRL on the run's pairs, and save it with its prompts in `out`."""
    sft = AutoPeftModelForCausalLM.from_pretrained(run / "sft").merge_and_unload()
    trainer = DPOTrainer(
        model=sft.requires_grad_(True),  # PEFT has frozen the weights into which it merged the adapter.
        args=DPOConfig(str(out), beta=0.1, precompute_ref_log_probs=True, report_to="none", **options),
        train_dataset=Dataset.from_polars(read_pairs(run)),
        processing_class=AutoTokenizer.from_pretrained(run / "sft"),
    )
    trainer.train()
    trainer.save_model(str(out))
    for file in ("prompt_template.json", "title_trie.safetensors", "catalogue.parquet"):
        shutil.copy(run / "sft" / file, out)
    return trainer


def evaluate(config: Mapping[str, Any], model: Path, run: Path) -> Run:
    """What `rosepo evaluate --model MODEL --run RUN` does."""
    settings = read_config({**config, "model": {**config["model"], "name": str(model)}})
    return evaluate_model(settings, run, QuietReporter())


if __name__ == "__main__":
    made = rosepo_core.train(CONFIG, "runs/for-trl", until="preferences").folder
    train(made, Path("runs/trl-model"), max_steps=5, learning_rate=1e-6, bf16=False)
    for table in evaluate(CONFIG, Path("runs/trl-model"), Path("runs/trl-evaluated")).evaluations:
        for name, result in table.models.items():
            print(f"{name:<12} NDCG@10 {result.metrics['ndcg@10']:.3f}")
