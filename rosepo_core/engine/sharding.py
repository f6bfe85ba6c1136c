"""Models whose weights are spread over the processes of a run, by FSDP or DeepSpeed ZeRO-3."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

_OF_DEEPSPEED = "ds_tensor"
"""The attribute in which DeepSpeed keeps this process's part of a weight."""


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds only a part of the model's weights."""
    return any(isinstance(weight, DTensor) or _is_of_deepspeed(weight) for weight in model.parameters())


def local_part(weight: Tensor) -> Tensor:
    """What this process holds of a weight."""
    part: Tensor = weight.to_local() if isinstance(weight, DTensor) else getattr(weight, _OF_DEEPSPEED, weight)
    return part


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The whole weights of a sharded model, by name, on the processor. All ranks must call it. Where some weights are
    trained and others are not, as with an adapter, only the trained ones."""
    weights: dict[str, Tensor] = model.state_dict(keep_vars=True)
    if not all(weight.requires_grad for weight in model.parameters()):
        weights = {name: weight for name, weight in weights.items() if weight.requires_grad}
    # Tied weights stay one.
    whole = {id(weight): _whole(weight) for weight in weights.values()}
    return {name: whole[id(weight)] for name, weight in weights.items()}


@torch.no_grad()
def _whole(weight: Tensor) -> Tensor:
    if isinstance(weight, DTensor):
        return weight.full_tensor().cpu()
    if _is_of_deepspeed(weight):
        from deepspeed import zero

        with zero.GatheredParameters([weight]):
            return weight.cpu().clone()
    return weight.cpu()


def _is_of_deepspeed(weight: Tensor) -> bool:
    return hasattr(weight, _OF_DEEPSPEED)
