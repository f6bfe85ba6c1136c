"""Repeatable work: the same bits each time on the same machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Inside the context, torch uses deterministic algorithms only, and no TF32 in products of float32.

    A GPU adds numbers in the order in which its threads finish. So equal runs differ in their last bits, and training
    makes the difference larger. On a CPU the algorithms are always deterministic. cuBLAS also needs
    ``CUBLAS_WORKSPACE_CONFIG``, see `rosepo_core.launch`.

    Args:
        wanted: if false, nothing changes.

    Raises:
        RuntimeError: raised by torch inside the context, if an operation has no deterministic algorithm.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    precision = torch.get_float32_matmul_precision()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = benchmark
