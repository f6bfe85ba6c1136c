"""A model without dropout gives the same values twice, and gradients, with and without gradient checkpointing."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from rosepo_core.engine.dropout import without_dropout

SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def llama():
    return LlamaForCausalLM(LlamaConfig(**SIZES, intermediate_size=16, attention_dropout=0.5))


def opt():
    """Drops in its attention, in its layers, and whole layers."""
    return OPTForCausalLM(
        OPTConfig(**SIZES, ffn_dim=16, word_embed_proj_dim=16, dropout=0.5, attention_dropout=0.5, layerdrop=0.9)
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("make", [llama, opt])
def test_what_is_trained_without_dropout_is_what_is_evaluated(make, checkpointing):
    torch.manual_seed(0)
    model = make()
    ids = torch.randint(0, 50, (2, 9))
    expected = model.eval()(ids).logits
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    assert (model(ids).logits - expected).abs().max() > 0.01
    without_dropout(model)
    found = model(ids).logits
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    trained = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert trained == {name for name, _ in model.named_parameters()}
    saved = sum(getattr(layer, "gradient_checkpointing", False) and layer.training for layer in model.modules())
    assert bool(saved) == checkpointing
