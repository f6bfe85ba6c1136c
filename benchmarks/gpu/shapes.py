"""What the GPU benchmarks have in common: models of a given shape with random weights, clocks, and limits of time."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
    },
    "135m": {
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
    },
    "1b": {
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
    },
}
"""`tiny` shows that everything runs, also without a GPU. The others are those of SmolLM2-135M and Llama-3.2-1B, both
with SmolLM2's vocabulary."""

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32


def card() -> str:
    """The name of the GPU, or ``cpu``."""
    return torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"


def bare_model(shape: str) -> Any:
    """A model with random weights, without gradients. Weights do not matter for speed."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
        attn_implementation="sdpa",
        **SHAPES[shape],
    )
    return LlamaForCausalLM(config).to(DTYPE).to(DEVICE).eval().requires_grad_(False)


def adapted_model(shape: str) -> Any:
    """The same model with a new adapter of rank 8 on all linear layers, to train."""
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(bare_model(shape), config).train()


def synchronize() -> None:
    """Wait until the GPU has done all its work."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def start_peak() -> None:
    """Count the peak of memory from here on."""
    # Trainers refer to themselves, and keep a model until they are collected.
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak() -> float:
    """The most memory that was in use since `start_peak`, in GiB; 0 without a GPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if DEVICE == "cuda" else 0.0


class Steps:
    """A reporter that keeps the seconds of each optimizer step."""

    def __init__(self) -> None:
        synchronize()
        self.seconds: list[float] = []
        self._start = time.perf_counter()

    def progress(self, done: int, total: int, unit: str) -> None:
        """A step is done."""
        synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self._start)
        self._start = now

    def note(self, message: str) -> None:
        """Show what rosepo notes."""
        print(f"   note: {message}", flush=True)


class OutOfTimeError(Exception):
    """A part of a benchmark took longer than it may."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Inside the context, `OutOfTimeError` is raised after this time, between two calls into torch."""

    def stop(*_: object) -> None:
        raise OutOfTimeError(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
