"""The memory of training, from a model's configuration alone: nothing is loaded.

The model is made on torch's meta device, where weights have shapes and no memory. What a training step keeps for its
backward pass cannot be seen there. It is estimated by the formula of Korthikanti et al. 2022 (arXiv 2205.05198,
equation 2), without its dropout masks and without attention weights, which the kernels here do not keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers.pytorch_utils import Conv1D

from rosepo_core.contracts.sections import SFTOptions
from rosepo_core.engine.head import LOGIT_BYTES
from rosepo_core.engine.quantization import BITS


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a model in training.

    Attributes:
        weights: bytes of the frozen or trained weights of the model itself, as they are kept in memory.
        adapters: bytes of the adapters, in float32.
        trained: number of trained weights.
        layer: bytes of the largest decoder layer, in the type of its products: what is gathered at a time where
            processes share weights.
        kept: bytes that a training step keeps per token.
        parameters: number of the model's weights, without adapters.
    """

    weights: int
    adapters: int
    trained: int
    layer: int
    kept: float
    parameters: int


def model_size(model: nn.Module, dtype: str, quantization: str, options: SFTOptions) -> ModelSize:
    """Sizes of a model, which may be on the meta device.

    Args:
        model: a causal language model of transformers, with an adapter if `options` train one.
        dtype: the type of its computations, ``"bfloat16"`` or ``"float32"``.
        quantization: ``"none"`` or ``"nf4"``.
        options: method and gradient checkpointing.
    """
    full = options.method == "full"
    wide = 4 if dtype == "float32" else 2
    bare: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    head = bare.get_output_embeddings()
    in_nf4 = {
        id(each.weight)
        for each in bare.modules()
        if quantization == "nf4" and isinstance(each, nn.Linear | Conv1D) and each is not head
    }
    weights = adapters = count = 0.0
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            adapters += 4 * parameter.numel()
            in_nf4.discard(id(parameter))
            continue
        count += parameter.numel()
        bits = BITS if id(parameter) in in_nf4 else 8 * (4 if full else wide)
        weights += parameter.numel() * bits / 8
    layers = [each for each in bare.modules() if isinstance(each, nn.ModuleList) and len(each)]
    blocks = max(layers, key=len, default=nn.ModuleList([bare]))
    largest = max(
        sum(each.numel() for name, each in block.named_parameters() if "lora_" not in name) for block in blocks
    )
    return ModelSize(
        weights=round(weights),
        adapters=round(adapters),
        trained=round(count if full else adapters / 4),
        layer=largest * wide,
        kept=_kept_bytes(bare, len(blocks), wide, options.gradient_checkpointing),
        parameters=round(count),
    )


def _kept_bytes(model: Any, layers: int, wide: int, checkpointing: bool) -> float:
    """Bytes that a training step keeps per token, estimated from the shape of the model.

    A layer keeps the inputs of its products: two norms with their inputs (4 h), queries, keys, values and the
    attention's result (2 q + 2 kv), and inside the gated feed-forward part its two branches and their product with
    the activation (4 f). With checkpointing a layer keeps its input (h), and one layer at a time everything.
    """
    text = model.config.get_text_config()
    hidden: int = text.hidden_size
    heads: int = getattr(text, "num_attention_heads", 1)
    width: int = getattr(text, "head_dim", None) or hidden // heads
    keys: int = getattr(text, "num_key_value_heads", None) or heads
    inner = next(
        (size for name in ("intermediate_size", "ffn_dim") if isinstance(size := getattr(text, name, None), int)),
        4 * hidden,
    )
    layer = wide * (4 * hidden + 2 * heads * width + 2 * keys * width + 4 * inner)
    return layers * wide * hidden + layer if checkpointing else layers * layer


def step_memory(size: ModelSize, tokens: int, processes: int) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Bytes of one process at the moment of highest use, by purpose: if it keeps the whole model, alone or under DDP;
    and if it keeps a share, under FSDP or ZeRO-3 (empty with one process).

    A gradient and Adam's two moments of each trained weight are float32. Under DDP every process keeps everything.
    Under FSDP or ZeRO-3 it keeps its share, and the weights of two layers in full, one in use and one on its way.

    Args:
        size: the model.
        tokens: tokens of the largest pass of one process, padding included.
        processes: how many train together.
    """
    whole = {
        "weights": size.weights,
        "adapters": size.adapters,
        "gradients": 4 * size.trained,
        "optimizer": 8 * size.trained,
        "activations": round(size.kept * tokens),
        "logits": LOGIT_BYTES,
    }
    if processes == 1:
        return whole, {}
    shared = {
        what: -(-each // processes) if what in ("weights", "adapters", "gradients", "optimizer") else each
        for what, each in whole.items()
    }
    return whole, {**shared, "gathered layers": 2 * size.layer}


def available_memory() -> int:
    """Bytes that a model may take here: of one GPU, if there is one, and otherwise those of the machine that are
    free."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    free = Path("/proc/meminfo")
    lines = free.read_text(encoding="utf-8").splitlines() if free.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 1 << 62)
