"""How a model runs is found out when it is loaded, and what nobody thought of is found by a test of it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from rosepo_core.engine import attention, preparation
from rosepo_core.engine.log_probs import log_probs
from rosepo_core.engine.preparation import prepared
from rosepo_core.engine.trees import TokenTree, TreeBatch

PROMPT = np.arange(5, 25, dtype=np.int32)
RESPONSES = [np.array([30, 31, 32], dtype=np.int32), np.array([33, 34], dtype=np.int32)]


@pytest.fixture(autouse=True)
def untested(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known from models before."""
    monkeypatch.setattr(preparation, "_TESTED", {})


def batch() -> TreeBatch:
    tree = TokenTree.grow(
        PROMPT,
        rows=np.arange(2),
        columns=np.zeros(2, np.int64),
        visible=np.array([20, 20]),
        lengths=np.array([3, 2]),
        targets=np.concatenate(RESPONSES),
        in_trunk=np.zeros(2, np.bool_),
    )
    return TreeBatch.of([tree], pad_token_id=0)


def plain(model: Any) -> torch.Tensor:
    found = []
    for response in RESPONSES:
        ids = torch.from_numpy(np.concatenate([PROMPT, response])).long()
        steps = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        found.append(steps[len(PROMPT) - 1 : -1].gather(1, ids[len(PROMPT) :, None]).sum())
    return torch.stack(found)


class Recurrent(torch.nn.Module):
    """A layer that no configuration tells of: adds to each token the mean of all that stand before it in its row."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        mean = hidden.cumsum(1) / torch.arange(1, hidden.shape[1] + 1)[None, :, None]
        result: torch.Tensor = self.inner(hidden + mean)
        return result


@torch.no_grad()
def test_a_layer_that_nobody_thought_of_runs_in_rows(tiny_model: Any) -> None:
    # Another test may have prepared the shared model, and a copy of it would count as prepared, too.
    model = type(tiny_model)(tiny_model.config).eval()
    model.model.layers[0].mlp = Recurrent(model.model.layers[0].mlp)
    expected = plain(model)
    found = prepared(model)
    assert not found.trees
    assert "log-probabilities were off by" in found.reason
    torch.testing.assert_close(log_probs(model, batch()), expected, atol=1e-4, rtol=0)


def gemma(window: int) -> Any:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.4,
        sliding_window=window,
        layer_types=["sliding_attention", "full_attention"],
    )
    return Gemma3ForCausalLM(config).eval()


@torch.no_grad()
def test_a_window_that_is_longer_than_any_test_is_tested_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepared(gemma(4096)).trees
    monkeypatch.setattr(preparation, "_TESTED", {})
    whole = TreeBatch.mask
    monkeypatch.setattr(TreeBatch, "mask", lambda self, rule, dtype: whole(self, None, dtype))
    model = gemma(4096)
    assert not prepared(model).trees
    assert model.config.sliding_window == 4096


@torch.no_grad()
def test_an_option_that_a_kernel_does_not_know_is_computed_by_the_models_own_code() -> None:
    query = torch.randn(1, 2, 3, 4)

    class Module(torch.nn.Module):
        is_causal = True
        num_key_value_groups = 1

    with pytest.raises(NotImplementedError, match="Module computes attention with softcap"):
        attention.attention(Module(), query, query, query, None, softcap=1.0)
    plainly = attention.attention(Module(), query, query, query, None, softcap=None, sliding_window=7)
    torch.testing.assert_close(
        plainly, torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True).transpose(1, 2)
    )


@torch.no_grad()
def test_numbers_that_are_none_say_nothing_about_trees(tiny_model: Any) -> None:
    model = copy.deepcopy(tiny_model)
    model.model.norm.weight.fill_(float("nan"))
    assert prepared(model).trees
