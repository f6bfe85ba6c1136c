"""The switch for runs that repeat bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rosepo_core.config import load_config, read_config
from rosepo_core.contracts.errors import RequestError
from rosepo_core.engine.determinism import deterministic


def switches() -> tuple[Any, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.benchmark,
    )


def test_the_switch_is_set_and_reset(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.set_float32_matmul_precision("high")
    try:
        before = switches()
        with deterministic(False):
            assert switches() == before
        with deterministic(True):
            assert switches() == (True, "highest", False)
        assert switches() == before
        with pytest.raises(ZeroDivisionError), deterministic(True):
            _ = 1 / 0
        assert switches() == before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_the_key_stands_beside_the_seed():
    assert read_config({}).deterministic is False
    config = load_config(None, [("deterministic", "true"), ("seed", "4")])
    assert (config.deterministic, config.seed) == (True, 4)
    assert config.to_toml().startswith("seed = 4\ndeterministic = true\n")
    with pytest.raises(RequestError, match=r"unknown option 'deterministic\.on'; did you mean 'deterministic'"):
        load_config(None, [("deterministic.on", "true")])
    with pytest.raises(RequestError, match="option 'deterministic' = 'often'"):
        load_config(None, [("deterministic", "often")])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CPU repeats itself anyway")
def test_gradients_on_a_gpu_repeat_bit_for_bit():
    """Many rows added to a few, in float32: whose turn it is decides the last bits."""
    values = torch.randn(100_000, 8, generator=torch.Generator().manual_seed(0)).cuda()
    places = torch.arange(100_000, device="cuda") % 3
    with deterministic(True):
        first, *others = (torch.zeros(3, 8, device="cuda").index_add(0, places, values) for _ in range(10))
    assert all(torch.equal(first, other) for other in others)
