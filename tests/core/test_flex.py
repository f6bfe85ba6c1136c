"""Long rows of trees with FlexAttention, beside padded trees with dense masks. On a CPU it has no backward pass."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

from rosepo_core.engine.flex import BLOCK, block_mask, dense
from rosepo_core.engine.log_probs import log_probs
from rosepo_core.engine.preparation import prepared
from rosepo_core.engine.trees import TokenTree, TreeBatch

SIZE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.4,
    "sliding_window": 9,
}


def trees() -> list[TokenTree]:
    """Trunks with branches at several places, more tokens in all than a block has."""
    draw = np.random.default_rng(0)
    made = []
    for trunk in (70, 1, 40, 33):
        visible = np.sort(draw.integers(1, trunk + 1, 5))
        lengths = draw.integers(1, 7, 5)
        made.append(
            TokenTree.grow(
                draw.integers(0, 61, trunk, dtype=np.int32),
                rows=np.arange(5),
                columns=np.zeros(5, np.int64),
                visible=visible,
                lengths=lengths,
                targets=draw.integers(0, 61, lengths.sum(), dtype=np.int32),
                in_trunk=np.zeros(5, np.bool_),
            )
        )
    return made


def windowed(sequence: Any, head: Any, query: Any, key: Any) -> Any:
    return (key <= query) & (query - key < 9)


@pytest.mark.parametrize("rule", [None, windowed])
@pytest.mark.parametrize("packed", [False, True])
def test_the_mask_of_blocks_is_the_dense_mask(rule: Any, packed: bool) -> None:
    grown = trees()
    batch = TreeBatch.of(grown, 0, packed=packed)
    mask = block_mask(batch.enter, batch.leave, batch.position_ids, rule)
    found = dense(mask)[:, 0]
    depth = batch.position_ids
    expected = batch.sees()
    if rule is not None:
        expected = expected & windowed(None, None, depth[:, :, None], depth[:, None, :])
    assert torch.equal(found, expected)
    assert found.any(-1).all()

    if packed:
        # In the one row, each tree has its own mask and sees nothing of the others.
        alone = torch.zeros_like(expected[0])
        start = 0
        for tree in grown:
            one = TreeBatch.of([tree], 0)
            own = one.sees()[0]
            if rule is not None:
                own = own & windowed(None, None, one.position_ids[0, :, None], one.position_ids[0, None, :])
            alone[start : start + len(tree), start : start + len(tree)] = own
            start += len(tree)
        assert torch.equal(found[0, :start, :start], alone[:start, :start])
        assert batch.input_ids.shape == (1, 2 * BLOCK)

    # Blocks that are left out have nothing to see, and whole blocks have no gap.
    query, key, value = torch.randn(3, len(found), 2, found.shape[1], 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        flex_attention(query, key, value, block_mask=mask),
        torch.nn.functional.scaled_dot_product_attention(query, key, value, found[:, None]),
    )
    listed = torch.zeros(len(found), *([-(-found.shape[1] // BLOCK)] * 2), dtype=torch.int32)
    for numbers, indices in ((mask.kv_num_blocks, mask.kv_indices), (mask.full_kv_num_blocks, mask.full_kv_indices)):
        if numbers is None:
            continue
        for row, column in np.ndindex(*listed.shape[:2]):
            listed[row, column, indices[row, 0, column, : numbers[row, 0, column]].long()] += 1
    assert listed.max() == 1


def model_of(kind: str, tiny_model: Any) -> Any:
    torch.manual_seed(0)
    if kind == "full attention":
        return copy.deepcopy(tiny_model)
    layers = ["sliding_attention", "full_attention"]
    if kind == "sliding windows":
        return Gemma3ForCausalLM(Gemma3TextConfig(**SIZE, layer_types=layers)).eval()
    # FlexAttention is not told of the cap, so another kernel takes these layers.
    return Gemma2ForCausalLM(Gemma2Config(**SIZE, layer_types=layers, attn_logit_softcapping=2.0)).eval()


@pytest.mark.parametrize("kind", ["full attention", "sliding windows", "capped scores"])
@torch.no_grad()
def test_log_probabilities_in_one_long_row_are_those_of_padded_trees(kind: str, tiny_model: Any) -> None:
    model = model_of(kind, tiny_model)
    assert prepared(model).trees
    expected = log_probs(model, TreeBatch.of(trees(), 0))
    found = log_probs(model, TreeBatch.of(trees(), 0, packed=True))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
