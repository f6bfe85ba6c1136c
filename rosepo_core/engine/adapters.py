"""LoRA layers without the small operations around them, in training and in scoring.

PEFT computes an adapter beside its layer: casts, a dropout, two thin products, a scaling and a sum. Each of these
reads or writes a whole activation, and all results are kept for the backward pass. Here a layer and its adapter are
one function: the thin products are added directly to the layer's output and gradient. Only the input and its
projection to the adapter's rank are kept. Mathematics and parameters are the same, for any LoRA without dropout (Hu
et al. 2021, arXiv 2106.09685).
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor
from torch.nn.functional import linear


class _LowRankLinear(torch.autograd.Function):
    """A linear layer and its adapter. Arrays with the adapter's rank as one dimension have the tokens along their
    rows. The order of each thin product is the fast one, up to six times as fast as the other
    (`benchmarks/training_throughput.py`)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor) -> Tensor:
        """X [t, in], weight [out, in], bias [out], down [r, in], up [out, r] -> [t, out]."""
        narrow = down @ x.T
        ctx.save_for_backward(x, weight, down, up, narrow)
        return linear(x, weight, bias).addmm_(narrow.T, up.T)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, down and up; the weight is frozen."""
        (gradient,) = gradients
        x, weight, down, up, narrow = ctx.saved_tensors
        of_narrow = up.T.contiguous() @ gradient.T
        of_x = (gradient @ weight).addmm_(of_narrow.T, down) if ctx.needs_input_grad[0] else None
        return of_x, None, None, of_narrow @ x, (narrow @ gradient).T


def fuse_adapters(model: torch.nn.Module) -> None:
    """Permanently let every LoRA layer of `model` run as one function if its adapter is plain.

    The layer checks this at each call, so adapters can be trained, switched off or merged as before.
    """
    for layer in model.modules():
        if isinstance(layer, Linear):
            layer.forward = MethodType(_forward, layer)


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if args or kwargs or not _is_plain(layer):
        as_peft: Tensor = type(layer).forward(layer, x, *args, **kwargs)
        return as_peft
    name, base = layer.active_adapters[0], layer.base_layer
    down = layer.lora_A[name].weight.to(x.dtype)
    up = (layer.lora_B[name].weight * layer.scaling[name]).to(x.dtype)
    flat: Tensor = _LowRankLinear.apply(x.flatten(0, -2), base.weight, base.bias, down, up)  # type: ignore[no-untyped-call]
    return flat.view(*x.shape[:-1], len(base.weight))


def _is_plain(layer: Any) -> bool:
    """Whether the adapter is only two products beside a frozen layer."""
    if len(layer.active_adapters) != 1 or layer.merged or layer.disable_adapters:
        return False
    name, base = layer.active_adapters[0], layer.base_layer
    if name not in layer.lora_A or type(base) is not torch.nn.Linear:
        return False
    dropout = layer.lora_dropout[name]
    return (
        not any(parameter.requires_grad for parameter in base.parameters())
        # DoRA, KaSA and others use the same class of layer with another forward pass.
        and name not in layer.lora_variant
        and not layer.lora_bias.get(name, False)
        and (isinstance(dropout, torch.nn.Identity) or dropout.p == 0 or not dropout.training)
    )
