"""QLoRA: the frozen base model in 4 bits, adapters beside it in float32 (Dettmers et al. 2023, arXiv 2305.14314).

The weights of linear layers, all but the output layer, are kept in the type nf4, 64 at a time with a common scale,
and the scales in 8 bits (section 3 of the paper): 4.127 bits a weight. Each product restores its weights to bfloat16.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedConfig

from rosepo_core.contracts.errors import RequestError

SCALED, SCALES = 64, 256
"""Weights with a common scale, and scales with a common scale of their own."""

BITS = 4 + 8 / SCALED + 32 / (SCALED * SCALES)
"""Bits of a weight in nf4, its share of the scales included."""


def nf4_config() -> BitsAndBytesConfig:
    """What transformers is told about loading in nf4."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def check_quantizable(spec: str, config: PreTrainedConfig, from_gguf: bool) -> None:
    """Check that a model can be loaded in nf4.

    Args:
        spec: the model, as the user named it.
        config: its configuration.
        from_gguf: whether its weights come from a GGUF file.

    Raises:
        RequestError: it is quantized already, or bitsandbytes is not installed.
    """
    known = getattr(config, "quantization_config", None)
    if from_gguf or known is not None:
        kind = "a GGUF file" if from_gguf else f"quantized already ({_method(known)})"
        raise RequestError(
            f"model.quantization = 'nf4': {spec} is {kind}, and quantizing twice loses more: name the model's own "
            "weights in 16 or 32 bits, or leave model.quantization at 'none'"
        )
    if find_spec("bitsandbytes") is None:
        raise RequestError(
            "model.quantization = 'nf4' needs the package bitsandbytes: pip install 'rosepo[gpu]', or leave it at "
            "'none'"
        )


def _method(known: Any) -> str:
    found = known.get("quant_method") if isinstance(known, dict) else getattr(known, "quant_method", None)
    return str(getattr(found, "value", found) or "its configuration says so")


def size(parameter: torch.nn.Parameter) -> tuple[int, int, str]:
    """Number of weights, bytes with scales, and type of a parameter, which may be in nf4."""
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return parameter.numel(), parameter.numel() * parameter.element_size(), str(parameter.dtype)[len("torch.") :]
    scales = [state.absmax, *([state.state2.absmax] if state.nested else [])]
    stored = [parameter, *scales]
    return state.shape.numel(), sum(each.numel() * each.element_size() for each in stored), str(state.quant_type)
