"""What is fused for speed gives the values and gradients of the plain operations."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.testing import assert_close

from rosepo_core.engine import head
from rosepo_core.engine.adapters import fuse_adapters


def adapted(**options: Any) -> Any:
    """Two layers, the first with a bias, under adapters that are not zero."""
    torch.manual_seed(1)
    base = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 7, bias=False))
    config = LoraConfig(target_modules=["0", "2"], init_lora_weights=False, **options)
    return get_peft_model(base, config).train()


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2)).requires_grad_()


def passed(model: Any, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """What comes out, and the gradients of a weighted sum of it."""
    x.grad = None
    model.zero_grad()
    out = model(x)
    (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    assert x.grad is not None
    grown = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return out.detach(), {"x": x.grad.clone()} | {name: gradient.clone() for name, gradient in grown.items()}


def fused(model: Any) -> list[bool]:
    """Which of the two layers compute as one function: PEFT's own code would call the adapter's first matrix."""
    layers = model.base_model.model[0], model.base_model.model[2]
    called = []
    hooks = [
        layer.lora_A["default"].register_forward_hook(lambda module, *_: called.append(module)) for layer in layers
    ]
    model(inputs(5, 12))
    for hook in hooks:
        hook.remove()
    return [layer.lora_A["default"] not in called for layer in layers]


@pytest.mark.parametrize("shape", [(5, 12), (2, 3, 12), (0, 12)])
@pytest.mark.parametrize(
    "options",
    [
        {"r": 1, "lora_alpha": 3},
        {"r": 4, "lora_alpha": 8},
        {"r": 16, "lora_alpha": 5},
        {"r": 4, "lora_alpha": 8, "use_rslora": True},
        {"r": 2, "rank_pattern": {"0": 6}, "alpha_pattern": {"2": 11}},
    ],
)
def test_fused_adapters_give_pefts_values_and_gradients(options, shape):
    model, x = adapted(**options), inputs(*shape)
    expected, expected_gradients = passed(model, x)
    fuse_adapters(model)
    assert fused(model) == [True, True]
    found, gradients = passed(model, x)
    assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    assert len(gradients) == 5, "x and two matrices a layer"
    for name, gradient in gradients.items():
        assert_close(
            gradient, expected_gradients[name], atol=1e-5, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_fused_adapters_of_a_language_model(tiny_model):
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(3)
    model = get_peft_model(copy.deepcopy(tiny_model), config).train()
    ids = torch.randint(0, model.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(4))

    def losses() -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    expected, expected_gradients = losses()
    fuse_adapters(model)
    found, gradients = losses()
    assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert len(gradients) == 2 * 2 * 7, "two matrices in each of seven projections of two layers"
    for name, gradient in gradients.items():
        assert_close(gradient, expected_gradients[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"lora_dropout": 0.5}, [False, False]),
        ({"use_dora": True}, [False, False]),
        # The adapter's own bias, or the layer's, is trained: the second layer has neither.
        ({"lora_bias": True, "target_modules": ["0"]}, [False]),
        ({"bias": "lora_only"}, [False, True]),
    ],
)
def test_adapters_that_are_more_than_two_products_stay_as_they_are(options, expected):
    if "target_modules" in options:
        torch.manual_seed(1)
        base = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 7, bias=False))
        model = get_peft_model(base, LoraConfig(init_lora_weights=False, **options)).train()
    else:
        model = adapted(**options)
    x = inputs(5, 12)
    torch.manual_seed(5)
    plain, plain_gradients = passed(model, x)
    fuse_adapters(model)
    torch.manual_seed(5)
    found, gradients = passed(model, x)
    assert_close(found, plain, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == plain_gradients.keys()
    for name, gradient in gradients.items():
        assert_close(gradient, plain_gradients[name], atol=1e-5, rtol=1e-5)


def test_a_fused_layer_follows_what_is_done_to_its_adapter():
    model, x = adapted(r=4, lora_dropout=0.5).eval(), inputs(5, 12)
    with torch.no_grad():
        expected = model(x)
        with model.disable_adapter():
            off = model(x)
        fuse_adapters(model)
        assert_close(model(x), expected)
        with model.disable_adapter():
            assert_close(model(x), off, atol=0, rtol=0)
        # Dropout is PEFT's affair.
        torch.manual_seed(5)
        dropped = model.train()(x)
        torch.manual_seed(5)
        assert_close(model(x), dropped, atol=0, rtol=0)
        assert (dropped - expected).abs().max() > 0.1
        model.eval().merge_adapter()
        assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
        copied = copy.deepcopy(model)
        copied.unmerge_adapter()
        assert_close(copied(x), expected, atol=1e-5, rtol=1e-5)
        assert copied.base_model.model[0].forward.__self__ is copied.base_model.model[0]


@pytest.mark.parametrize(("states", "targets"), [(0, 0), (1, 1), (5, 3), (3, 40), (300, 300)])
@pytest.mark.parametrize("block", [7, 61, 256])
def test_the_frozen_head_gives_log_softmax_and_its_gradient(monkeypatch, states, targets, block):
    """Whether the vocabulary of 61 is one tile or nine, and whether a state has no target, one or many."""
    monkeypatch.setattr(head, "BLOCK", block)
    monkeypatch.setattr(head, "LOGITS_IN_CACHE", 1)
    generator = torch.Generator().manual_seed(states)
    hidden = torch.randn(states, 16, generator=generator).requires_grad_()
    weight = torch.randn(61, 16, generator=generator)
    tokens = torch.randint(0, 61, (targets,), generator=generator)
    place = torch.randint(0, max(1, states), (targets,), generator=generator)
    of_each = torch.randn(targets, generator=generator)

    expected = (hidden @ weight.T).log_softmax(-1)[place, tokens]
    (expected_gradient,) = torch.autograd.grad(expected, hidden, of_each)
    found = head.frozen_head_log_probs(hidden, weight, tokens, place)
    (gradient,) = torch.autograd.grad(found, hidden, of_each)
    assert found.dtype == torch.float32
    assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert_close(head.frozen_head_log_probs(hidden, weight, tokens, place), expected, atol=1e-5, rtol=1e-5)


def test_the_frozen_head_is_exact_where_softmax_would_overflow(monkeypatch):
    monkeypatch.setattr(head, "BLOCK", 1)
    monkeypatch.setattr(head, "LOGITS_IN_CACHE", 1)
    hidden = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    found = head.frozen_head_log_probs(hidden, torch.eye(2), torch.tensor([0, 0]), torch.tensor([0, 1]))
    found.sum().backward()
    assert found.tolist() == [0.0, -200.0]
    assert hidden.grad is not None
    assert hidden.grad.tolist() == [[0.0, 0.0], [1.0, -1.0]]


def test_the_frozen_head_in_bfloat16_is_as_exact_as_its_products(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(6, 16, generator=generator).bfloat16().requires_grad_()
    weight = torch.randn(700, 16, generator=generator).bfloat16()
    tokens, place = torch.arange(0, 600, 100), torch.arange(6)
    monkeypatch.setattr(head, "LOGITS_IN_CACHE", 1)
    found = head.frozen_head_log_probs(hidden, weight, tokens, place)
    found.sum().backward()
    exact = hidden.detach().float().requires_grad_()
    expected = (exact @ weight.float().T).log_softmax(-1)[place, tokens]
    expected.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16
    # Three digits: a bfloat16 has eight bits.
    assert_close(found, expected, atol=0.05, rtol=0.01)
    assert_close(hidden.grad.float(), exact.grad, atol=0.05, rtol=0.02)
