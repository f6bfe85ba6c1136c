"""Attention in blocks, beside the plain formula softmax(q k' / sqrt(d) + mask) v."""

import pytest
import torch

from rosepo_core.engine.blocks import BLOCK, block_attention


def plainly(query, key, value, mask, scaling):
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = query @ key.transpose(2, 3) * scaling
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return (scores.softmax(-1) @ value).transpose(1, 2)


def drawn(length, keys, batch=2, groups=3):
    generator = torch.Generator().manual_seed(length * 1000 + keys)

    def tensor(heads, tokens):
        made = torch.randn(batch, tokens, heads, 8, generator=generator, dtype=torch.float64)
        return made.transpose(1, 2).requires_grad_()

    return tensor(2 * groups, length), tensor(groups, keys), tensor(groups, keys)


def holes(length):
    """Each token sees itself, the first and some of the others before it."""
    generator = torch.Generator().manual_seed(length)
    kept = torch.rand(2, 1, length, length, generator=generator) < 0.5
    kept[..., 0] = True
    return (kept | torch.eye(length, dtype=torch.bool)).tril()


def compare(query, key, value, mask, plain_mask, scaling=None):
    expected = plainly(query, key, value, plain_mask, scaling or 8**-0.5)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = block_attention(query, key, value, mask, scaling)
    torch.testing.assert_close(found, expected)
    parts = (query, key, value)
    torch.testing.assert_close(
        torch.autograd.grad(found, parts, weights), torch.autograd.grad(expected, parts, weights)
    )
    with torch.no_grad():
        torch.testing.assert_close(block_attention(query, key, value, mask, scaling), expected)


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_masks_of_both_kinds_give_the_plain_formula_and_its_gradients(length):
    mask = holes(length)
    additive = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -torch.inf)
    compare(*drawn(length, length), mask, mask)
    compare(*drawn(length, length), additive, mask, scaling=0.7)


def test_without_a_mask_it_is_causal_also_behind_a_cache():
    compare(*drawn(BLOCK + 3, BLOCK + 3), None, torch.ones(BLOCK + 3, BLOCK + 3, dtype=torch.bool).tril())
    compare(*drawn(2, 5), None, torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=torch.bool))


def test_behind_a_cache_the_keys_may_stand_in_any_order():
    mask = torch.rand(2, 1, BLOCK + 9, BLOCK + 40, generator=torch.Generator().manual_seed(3)) < 0.5
    mask[..., -1] = True
    compare(*drawn(BLOCK + 9, BLOCK + 40), mask, mask)


def test_a_row_that_sees_nothing_is_finite():
    mask = torch.ones(2, 1, 3, 3, dtype=torch.bool).tril()
    mask[:, :, 1] = False
    found = block_attention(*drawn(3, 3), mask, None)
    assert torch.isfinite(found).all()


def test_values_may_be_wider_than_keys():
    query, key, _ = drawn(BLOCK + 2, BLOCK + 2)
    value = torch.randn(2, 3, BLOCK + 2, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    compare(query, key, value.requires_grad_(), None, torch.ones(BLOCK + 2, BLOCK + 2, dtype=torch.bool).tril())


def test_autocast_computes_in_its_own_type_forward_and_backward():
    query, key, value = (tensor.detach().float().requires_grad_() for tensor in drawn(BLOCK + 2, BLOCK + 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = block_attention(query, key, value.bfloat16(), None, None)
    assert found.dtype == torch.bfloat16
    found.float().square().sum().backward()
    expected = plainly(query, key, value, torch.ones(BLOCK + 2, BLOCK + 2, dtype=torch.bool).tril(), 8**-0.5)
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)
    assert query.grad is not None
    assert query.grad.isfinite().all()
