"""In which type of number a language model is held and computed: bfloat16 or float32, never float16.

float16 overflows in training and needs its loss scaled. bfloat16 needs half of float32's memory; whether its products
are faster depends on the processor and is measured.
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
"""Most multiplications in the product that is timed: a few milliseconds."""

ROUNDS = 3
_HALF = {"bfloat16", "float16", "BF16", "F16"}


def working_dtype(folder: Path, config: Any, wanted: str) -> str:
    """``"bfloat16"`` or ``"float32"``: the type of a model's weights in memory, known before they are loaded.

    Args:
        folder: the model's.
        config: of transformers, the model's.
        wanted: one of these two; or ``"auto"``, which is bfloat16 for a model that was saved in bfloat16 or float16
            where `bfloat16_pays`, and float32 otherwise.
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
    """Whether products in bfloat16 are faster here than in float32.

    On a GPU it is taken as given. On a CPU a layer's product is timed in both, [tokens, width] x [width, inner], with
    fewer columns where it would take long. Processors with instructions for bfloat16 are two times as fast in it or
    more, those without were six times as slow (AVX2): the two cases are too far apart for noise to mix them up.
    """
    if torch.cuda.is_available():
        return True
    columns = min(inner, max(64, PRODUCTS // (TOKENS * width)))
    pairs = {
        dtype: (torch.ones(TOKENS, width, dtype=dtype), torch.ones(columns, width, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    best = dict.fromkeys(pairs, float("inf"))
    # The first round makes what the libraries keep for later ones. Types alternate, so that other work on the machine
    # slows both down.
    for _ in range(1 + ROUNDS):
        for dtype, (states, weight) in pairs.items():
            start = time.perf_counter()
            torch.nn.functional.linear(states, weight)
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return best[torch.bfloat16] < best[torch.float32]


def autocast(model: torch.nn.Module, dtype: torch.dtype | None) -> torch.autocast:
    """A context in which products of float32 weights are computed in `dtype`; `None` changes nothing."""
    device = next(model.parameters()).device.type
    return torch.autocast(device, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def _first_dtype(folder: Path) -> str:
    """Of the weights in `folder`, as safetensors write it; empty where there are none."""
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as weights:
            header = json.loads(weights.read(int.from_bytes(weights.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__" and entry["dtype"].lstrip("B").startswith("F"):
                return str(entry["dtype"])
    return ""
