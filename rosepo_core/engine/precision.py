"""The number type of a language model's weights and computations: bfloat16 or float32, never float16.

float16 overflows in training and needs loss scaling. bfloat16 needs half of the memory of float32. Whether its
products are faster depends on the processor, and is measured.
"""

from __future__ import annotations

import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch

TOKENS = 128
PRODUCTS = 10**8
"""Largest number of multiplications in the timed product, which takes a few milliseconds."""

ROUNDS = 3
_HALF = {"bfloat16", "float16", "BF16", "F16"}


def working_dtype(folder: Path, config: Any, wanted: str) -> str:
    """``"bfloat16"`` or ``"float32"``: the type of a model's weights in memory. The weights need not be loaded for
    this.

    Args:
        folder: the model's folder.
        config: the model's configuration, of transformers.
        wanted: one of the two types; or ``"auto"``, which means bfloat16 if the model was saved in bfloat16 or
            float16 and `bfloat16_pays`, and float32 otherwise.
    """
    if wanted != "auto":
        return wanted
    text = config.get_text_config()
    saved = config.dtype or text.dtype
    half = str(saved).removeprefix("torch.") in _HALF if saved is not None else _first_dtype(folder) in _HALF
    width: int = text.hidden_size
    inner = next(
        (size for name in ("intermediate_size", "ffn_dim") if isinstance(size := getattr(text, name, None), int)),
        4 * width,
    )
    return "bfloat16" if half and bfloat16_pays(width, inner) else "float32"


@cache
def bfloat16_pays(width: int, inner: int) -> bool:
    """Whether products in bfloat16 are faster on this machine than in float32.

    For a GPU the answer is always yes. On a CPU, the product of a layer, [tokens, width] x [width, inner], is timed
    in both types, with fewer columns if it would take long. With bfloat16 instructions a processor is at least twice
    as fast in bfloat16; without them it was six times slower (AVX2). So noise cannot reverse the result.
    """
    if torch.cuda.is_available():
        return True
    columns = min(inner, max(64, PRODUCTS // (TOKENS * width)))
    pairs = {
        dtype: (torch.ones(TOKENS, width, dtype=dtype), torch.ones(columns, width, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    best = dict.fromkeys(pairs, float("inf"))
    # In the first round, the libraries set up things that they keep. Types alternate, so that other work on the
    # machine slows both down.
    for _ in range(1 + ROUNDS):
        for dtype, (states, weight) in pairs.items():
            start = time.perf_counter()
            torch.nn.functional.linear(states, weight)
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return best[torch.bfloat16] < best[torch.float32]


def autocast(model: torch.nn.Module, dtype: torch.dtype | None) -> torch.autocast:
    """A context in which products with float32 weights are computed in `dtype`; `None` changes nothing."""
    device = next(model.parameters()).device.type
    return torch.autocast(device, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def _first_dtype(folder: Path) -> str:
    """The type of the first weights in `folder`, as safetensors write it; empty if there are none."""
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as weights:
            header = json.loads(weights.read(int.from_bytes(weights.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__" and entry["dtype"].lstrip("B").startswith("F"):
                return str(entry["dtype"])
    return ""
