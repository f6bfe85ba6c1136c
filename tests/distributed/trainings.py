"""Small trainings, to be done in one process and in several."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from rosepo_core.api import LogProbs, PreferenceLoss
from rosepo_core.engine.preparation import prepared
from rosepo_core.engine.sharding import is_sharded, whole_weights
from rosepo_core.engine.training import PreferenceTree, TrainingSettings, align_preferences, fine_tune
from rosepo_core.engine.trees import TokenTree
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.stages.session import QuietReporter

VOCABULARY = 64
# A batch of 5 over two processes, in passes so small that one process has fewer of them than the other.
SETTINGS = TrainingSettings(learning_rate=0.01, batch_size=5, token_budget=48, steps=4, max_grad_norm=0.5, seed=3)

Result = tuple[list[dict[str, float]], dict[str, torch.Tensor]]


def model(method: str, dtype: torch.dtype = torch.float32) -> Any:
    """Two layers, all weights to be trained, or an adapter."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=method == "full",
    )
    found: Any = LlamaForCausalLM(config).to(dtype)
    if method == "lora":
        found = get_peft_model(found, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    prepared(found)
    return found.train()


def sequences() -> list[tuple[Any, Any]]:
    """12 sequences of 6 to 30 tokens, of which the latter part is a response."""
    rng = np.random.default_rng(1)
    found = []
    for length in rng.integers(6, 31, 12).tolist():
        labelled = np.arange(length) >= rng.integers(2, length - 1)
        found.append((rng.integers(0, VOCABULARY, length, dtype=np.int32), labelled))
    return found


def preferences() -> list[PreferenceTree]:
    """11 trees of one to three pairs, each with two rejected responses of three tokens; some slots are empty."""
    rng = np.random.default_rng(2)
    trees = []
    for number in range(11):
        pairs = 1 + number % 3
        rows, columns = np.divmod(np.arange(3 * pairs), 3)
        kept = ~((columns == 2) & (rows == 0) & (number % 4 == 1))
        rows, columns = rows[kept], columns[kept]
        tree = TokenTree.grow(
            rng.integers(0, VOCABULARY, 12, dtype=np.int32),
            rows=rows,
            columns=columns,
            visible=6 + 2 * rows,
            lengths=np.full(len(rows), 3),
            targets=rng.integers(0, VOCABULARY, 3 * len(rows), dtype=np.int32),
            in_trunk=np.zeros(len(rows), dtype=np.bool_),
        )
        eps = rng.uniform(0, 0.4, (pairs, 2)).astype(np.float32)
        trees.append(PreferenceTree(tree, eps, rng.normal(-12, 1, (pairs, 3)).astype(np.float32)))
    return trees


def _result(trained: Any, log: list[dict[str, float]]) -> Result:
    names = {name for name, weight in trained.named_parameters() if weight.requires_grad}
    weights = whole_weights(trained) if is_sharded(trained) else trained.state_dict()
    return log, {name: weights[name].float().contiguous().clone() for name in sorted(names)}


def fine_tuned(method: str, settings: TrainingSettings = SETTINGS) -> Result:
    trained = model(method)
    return _result(trained, fine_tune(trained, sequences(), settings, QuietReporter()))


class AgainstTheMean(PreferenceLoss):
    """Compares the margin of each pair with the mean margin of the step."""

    scope = "batch"

    def __call__(self, log_probs: LogProbs) -> torch.Tensor:
        margins = log_probs.chosen - log_probs.rejected[:, 0]
        return -torch.nn.functional.logsigmoid(0.1 * (margins - margins.mean()))


def aligned(method: str, loss: PreferenceLoss | None = None) -> Result:
    trained = model(method)
    loss = loss or load_plugins().create("loss", "rosepo", {})
    return _result(trained, align_preferences(trained, loss, preferences(), SETTINGS, QuietReporter()))


def mixed_precision() -> Result:
    """Full fine-tuning of float32 weights with products in bfloat16, over two batches a step."""
    return fine_tuned("full", replace(SETTINGS, products=torch.bfloat16, gradient_accumulation_steps=2, batch_size=3))


TRAININGS: dict[str, Callable[[], Result]] = {
    "fine-tuning, lora": lambda: fine_tuned("lora"),
    "fine-tuning, full": lambda: fine_tuned("full"),
    "alignment, lora": lambda: aligned("lora"),
    "alignment, full": lambda: aligned("full"),
    "a loss of the whole step, lora": lambda: aligned("lora", AgainstTheMean(AgainstTheMean.Options())),
    "bfloat16, full": mixed_precision,
}
SHARDED = ("fine-tuning, lora", "fine-tuning, full", "alignment, lora", "alignment, full")
"""The trainings that are also done with FSDP."""


WHOLE_MODEL = ("--sft.method=full", "--until=sft")
"""Options for a run that saves a whole model."""

FSDP = {
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
"""Settings of `examples/distributed/fsdp.yaml`, as `accelerate launch` passes them on."""


@contextmanager
def fully_sharded() -> Iterator[None]:
    """Train with FSDP inside the context. Accelerate shards on GPUs only, so it is told that these processes do."""
    settings = {"ACCELERATE_USE_FSDP": "true", **FSDP}
    begin = AcceleratorState.__init__

    def begin_sharded(self: AcceleratorState, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        if named.get("fsdp_plugin"):
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = named["fsdp_plugin"]

    os.environ.update(settings)
    AcceleratorState.__init__ = begin_sharded
    try:
        yield
    finally:
        AcceleratorState.__init__ = begin
        for name in settings:
            del os.environ[name]
