"""The memory of training, from a configuration alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rosepo_core.contracts.sections import SFTOptions
from rosepo_core.engine.forecast import ModelSize, model_size, step_memory
from rosepo_core.engine.models import describe
from rosepo_core.engine.policy import PolicySlot
from rosepo_core.stages.session import QuietReporter


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("bfloat16", SFTOptions(lora_rank=4)),
        ("float32", SFTOptions(lora_rank=4, target_modules="q_proj,v_proj")),
        ("bfloat16", SFTOptions(method="full")),
    ],
)
def test_what_is_forecast_is_what_is_loaded(
    dtype: str, options: SFTOptions, tmp_path: Path, tiny_model: LlamaForCausalLM, tiny_tokenizer: object
) -> None:
    tiny_model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)  # type: ignore[attr-defined]
    slot = PolicySlot(str(tmp_path), dtype, QuietReporter())

    size = slot.size(options)

    model = slot.to_train(options, 0)
    assert size.weights + size.adapters == describe(model).bytes
    assert size.trained == describe(model).trainable


def test_an_eight_billion_model_by_hand() -> None:
    """Llama 3 8B: 32 layers, 4,096 wide, 32 heads over 8 of keys and values, 14,336 inside, 128,256 tokens."""
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    options = SFTOptions(gradient_checkpointing=True)
    in_layers = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14_336)
    rest = 2 * 128_256 * 4096 + 65 * 4096

    plain, small = (model_size(model, "bfloat16", each, options) for each in ("none", "nf4"))

    assert plain.parameters == in_layers + rest == 8_030_261_248
    assert plain.weights == 2 * (in_layers + rest)
    assert small.weights == pytest.approx(2 * rest + in_layers * (4.5 - 0.375 + 32 / 16_384) / 8)
    assert plain.layer == 2 * (in_layers // 32 + 2 * 4096)
    # Checkpointing keeps 32 inputs of layers, and one layer in full.
    assert plain.kept == 2 * (32 * 4096 + 4 * 4096 + 2 * 4096 + 2 * 1024 + 4 * 14_336)


def test_processes_keep_everything_or_a_share() -> None:
    size = ModelSize(weights=1000, adapters=40, trained=10, layer=100, kept=3.0, parameters=500)

    alone, nothing = step_memory(size, tokens=50, processes=1)
    whole, shared = step_memory(size, tokens=50, processes=4)

    logits = alone["logits"]
    assert alone == {
        "weights": 1000,
        "adapters": 40,
        "gradients": 40,
        "optimizer": 80,
        "activations": 150,
        "logits": logits,
    }
    assert nothing == {}
    assert whole == alone
    assert shared == {
        "weights": 250,
        "adapters": 10,
        "gradients": 10,
        "optimizer": 20,
        "activations": 150,
        "logits": logits,
        "gathered layers": 200,
    }
