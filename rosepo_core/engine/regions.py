"""Decoder layers compiled one by one ("regional compilation"), for long trainings on a GPU.

All layers of a kind share one compiled function, so compiling takes as long as for one layer. The small operations
between the matrix products (normalization, rotations, activations, adapters) are then a few kernels instead of many.
Modules and the names of their weights stay as they are, so a model is saved as before, and adapters are compiled with
the layers that they are on.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

LONG = 600.0
"""Seconds of work from which compiling is expected to pay on a GPU. Compiling takes about a minute there: a guess, it
was not measured."""


class CompiledLayers(AbstractContextManager[None]):
    """A context in which the layers of a model are compiled; outside, they are as before.

    Only passes over trees may be inside: compiled layers know nothing of other layouts (`engine.attention`). Several
    threads must not be inside with the same model. What cannot be compiled runs as before.
    """

    def __init__(self, model: nn.Module, **options: Any) -> None:
        """This compiles nothing yet: a layer is compiled in its first pass.

        Args:
            model: a causal language model of transformers, with or without PEFT adapters.
            options: of `torch.compile`.
        """
        self._layers = [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]
        self._compiled = []
        for layer in self._layers:
            layer.compile(dynamic=True, **options)
            self._compiled.append(layer._compiled_call_impl)
            layer._compiled_call_impl = None
        # An error of the compiler is no error of the run.
        self._forgiving = torch._dynamo.config.patch(suppress_errors=True)

    def __enter__(self) -> None:
        self._forgiving.__enter__()
        for layer, compiled in zip(self._layers, self._compiled, strict=True):
            layer._compiled_call_impl = compiled

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for layer in self._layers:
            layer._compiled_call_impl = None
        self._forgiving.__exit__(kind, error, trace)


def pays(wanted: bool | str, device: str, seconds: float) -> bool:
    """Whether to compile.

    Args:
        wanted: ``model.compile`` of the configuration: true, false or ``"auto"``.
        device: the type of the device (``"cpu"``, ``"cuda"``).
        seconds: how long the work is expected to take.
    """
    return wanted is True or (wanted == "auto" and device == "cuda" and seconds >= LONG)
