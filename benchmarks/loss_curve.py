"""Does tree training follow TRL's loss curve? The same chat pairs in the same order through both trainers.

    python -m benchmarks.loss_curve [--pairs N] [--batch B] [--steps S] [--history H]

SmolLM2-135M in float32 with the same LoRA adapter, MovieLens prompts with 20 candidates, one rejected title a pair;
`align_preferences` against TRL's DPOTrainer, same AdamW, schedule and clipping, dropout off. The learning rate is
high, so that the loss leaves ln 2. Writes benchmarks/results/loss_curve.json and exits with 1 where a step's losses
are more than 1 % apart, or where the loss has not moved.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from trl import DPOConfig, DPOTrainer

from benchmarks import material
from rosepo_core.api import Examples, Ints
from rosepo_core.engine.attention import NAME as BLOCKS
from rosepo_core.engine.models import load_model
from rosepo_core.engine.training import TrainingSettings, align_preferences
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.testing import prompt_template
from rosepo_core.testing.toys import SilentReporter

RESULT = Path(__file__).parent / "results" / "loss_curve.json"
WITHIN = 0.01
MOVED = 0.5
BETA = 0.1
COMMON: dict[str, Any] = {
    "gradient_checkpointing": False,
    "learning_rate": 3e-4,
    "max_grad_norm": 1.0,
    "seed": 0,
    "weight_decay": 0.01,
}
WARMUP = 0.1
CURVES = ("loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "logps/chosen", "logps/rejected")


def adapted(attention: str) -> Any:
    """In float32 whatever the processor: bfloat16 rounds by more than what is asked here."""
    model: Any = load_model(material.MODEL, "float32", SilentReporter())[0]
    model.set_attn_implementation(attention)
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config).train()


def ours(
    chat: PromptTemplate, pairs: Examples, negatives: Ints, batch: int, steps: int
) -> tuple[list[int], list[dict[str, float]]]:
    """The length of each pair's tree, and the log."""
    model = adapted(BLOCKS)
    trees = material.trees(model, chat, pairs, negatives)
    log = align_preferences(
        model,
        material.dpo(),
        trees,
        TrainingSettings(batch_size=batch, token_budget=2048, steps=steps, warmup_ratio=WARMUP, **COMMON),
        SilentReporter(),
    )
    return [len(tree.tree.tokens) for tree in trees], log


def theirs(chat: PromptTemplate, pairs: Examples, negatives: Ints, batch: int, steps: int) -> list[dict[str, float]]:
    """TRL's log; of one seed, both trainers draw the same batches."""
    texts = chat.response_texts
    table = Dataset.from_dict(
        {
            "prompt": chat.prompt_texts(pairs, shared=True, candidates=material.lists(chat, pairs, negatives)),
            "chosen": [texts[item] for item in pairs.target.tolist()],
            "rejected": [texts[item] for item in negatives[:, 0].tolist()],
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = DPOTrainer(
            model=adapted("sdpa"),
            args=DPOConfig(
                output_dir=folder,
                beta=BETA,
                bf16=False,
                data_seed=0,
                dataloader_pin_memory=False,
                disable_tqdm=True,
                logging_steps=1,
                max_length=None,
                max_steps=steps,
                per_device_train_batch_size=batch,
                precompute_ref_log_probs=True,
                report_to="none",
                save_strategy="no",
                use_cpu=True,
                warmup_steps=WARMUP,
                **COMMON,
            ),
            train_dataset=table,
            processing_class=material.tokenizer(),
        )
        trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4, help="pairs a step")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--history", type=int, default=5, help="titles in a prompt at most")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    options = {"name": "chat", "titles": "short", "candidates": 20}
    chat = prompt_template(options, material.tokenizer(), material.split().catalogue, arguments.history)
    pairs = material.examples(arguments.pairs, 1)
    negatives = material.rejected(pairs, 1)
    assert material.dpo().beta == BETA

    start = time.perf_counter()
    lengths, mine = ours(chat, pairs, negatives, arguments.batch, arguments.steps)
    between = time.perf_counter()
    other = theirs(chat, pairs, negatives, arguments.batch, arguments.steps)
    seconds = {"rosepo": between - start, "trl": time.perf_counter() - between}
    apart = [abs(one["loss"] - two["loss"]) / two["loss"] for one, two in zip(mine, other, strict=True)]
    lowest = min(entry["loss"] for entry in other)
    ok = max(apart) <= WITHIN and lowest < MOVED
    result = {
        "work": f"{arguments.steps} steps of {arguments.batch} of {arguments.pairs} pairs, chat prompts with 20 "
        f"candidates and at most {arguments.history} titles, {sum(lengths) / len(lengths):.0f} tokens a pair's tree",
        "largest_relative_difference": max(apart),
        "allowed": WITHIN,
        "first_loss": other[0]["loss"],
        "lowest_loss": lowest,
        "steps": [
            {
                "step": step + 1,
                "relative_difference": difference,
                "rosepo": {name: one[name] for name in CURVES},
                "trl": {name: two[name] for name in CURVES},
            }
            for step, (difference, one, two) in enumerate(zip(apart, mine, other, strict=True))
        ],
        "versions": {name: version(name) for name in ("rosepo", "torch", "transformers", "trl", "peft")},
    }
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(
        f"{result['work']}; {seconds['rosepo']:.0f} s and TRL {seconds['trl']:.0f} s with preparation",
        file=sys.stderr,
    )
    print(
        f"{'ok' if ok else 'FAILED'}: losses at most {100 * max(apart):.4f} % apart over {len(apart)} steps "
        f"({100 * WITHIN:g} % allowed), from {other[0]['loss']:.4f} down to {lowest:.4f}"
    )
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
