"""A training step that runs out of memory, and a training with compiled layers."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from rosepo_core.contracts.errors import RosepoError
from rosepo_core.engine.preparation import prepared
from rosepo_core.engine.regions import LONG, CompiledLayers, pays
from rosepo_core.engine.training import PreferenceTree, TrainingSettings, align_preferences, fine_tune
from rosepo_core.engine.trees import TokenTree
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.testing.toys import SilentReporter

QUIET = SilentReporter()
DRAW = np.random.default_rng(0)
# Each in a pass of 30 tokens, four in one of 120.
SEQUENCES = [(DRAW.integers(5, 300, 31, dtype=np.int32), np.arange(31) > 20) for _ in range(16)]


class Filling(torch.nn.Module):
    """A layer that has memory for so many tokens after its first passes."""

    def __init__(self, inner: torch.nn.Module, most: int, spared: int) -> None:
        super().__init__()
        self.inner, self.most, self.spared = inner, most, spared
        self.passes: list[int] = []

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        tokens = hidden.shape[:-1].numel()
        self.passes.append(tokens)
        if tokens > self.most and len(self.passes) > self.spared:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        result: torch.Tensor = self.inner(hidden)
        return result


def preference_trees() -> list[PreferenceTree]:
    """Trees of 30 tokens with a chosen, a rejected and a mismatched response."""
    made = []
    for _ in range(8):
        tree = TokenTree.grow(
            DRAW.integers(5, 300, 15, dtype=np.int32),
            rows=np.zeros(3, np.int64),
            columns=np.arange(3),
            visible=np.full(3, 15),
            lengths=np.full(3, 6),
            targets=DRAW.integers(5, 300, 18, dtype=np.int32),
            in_trunk=np.zeros(3, np.bool_),
        )
        made.append(PreferenceTree(tree, np.zeros((1, 1), np.float32), np.full((1, 3), -30.0, np.float32)))
    return made


PAIRS = preference_trees()


def trained(
    tiny_model: Any, most: int, spared: int, *, of_pairs: bool = False, **settings: Any
) -> tuple[list[Any], list[Any], list[int]]:
    """Log, trained weights, and the tokens of each pass."""
    model = copy.deepcopy(tiny_model)
    layer = model.model.layers[1].mlp = Filling(model.model.layers[1].mlp, 10**6, 0)
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_dropout=0.0, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    assert prepared(model).trees
    layer.most, layer.spared, layer.passes = most, spared, []
    of_all = {"batch_size": 4, "token_budget": 120, "budget_key": "sft.token_budget", "learning_rate": 1e-2}
    whole = TrainingSettings(**{**of_all, **settings})
    if of_pairs:
        # Its loss is one of the whole optimizer step, which is computed before the passes with gradients.
        log = align_preferences(model, load_plugins().create("loss", "kto", {"beta": 0.5}), PAIRS, whole, QUIET)
    else:
        log = fine_tune(model, SEQUENCES, whole, QUIET)
    return log, [each.detach() for each in model.parameters() if each.requires_grad], layer.passes


@pytest.mark.parametrize(
    ("settings", "spared", "expected"),
    [
        # The first step fails, and is repeated in two passes; so are all others.
        ({"steps": 2}, 0, [120, 60, 60, 60, 60]),
        # The second batch of a step fails: the first is repeated for its gradients.
        ({"steps": 1, "gradient_accumulation_steps": 2}, 1, [120, 120, 60, 60, 60, 60]),
        # The second pass of a batch fails, when the first has left its gradients.
        ({"steps": 1, "batch_size": 8}, 1, [120, 120, 60, 60, 60, 60]),
        # A loss of the whole step: it is computed anew, too, where it fails in itself or later.
        ({"steps": 1, "of_pairs": True}, 0, [120, 60, 60, 60, 60]),
        ({"steps": 1, "of_pairs": True}, 1, [120, 120, 60, 60, 60, 60]),
        (
            {"steps": 1, "of_pairs": True, "gradient_accumulation_steps": 2},
            3,
            [120, 120, 120, 120, *[60] * 8],
        ),
    ],
)
def test_a_step_that_ran_out_of_memory_gives_the_same_in_smaller_passes(
    tiny_model: Any, settings: dict[str, Any], spared: int, expected: list[int]
) -> None:
    plain = trained(tiny_model, 10**6, 0, **settings)
    log, weights, passes = trained(tiny_model, 60, spared, **settings)
    assert passes == expected
    assert set(plain[2]) == {120}
    for mine, other in zip(weights, plain[1], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
    assert len(log) == settings["steps"]
    for mine, other in zip(log, plain[0], strict=True):
        assert mine == pytest.approx(other, rel=1e-4)


def test_a_training_without_memory_for_half_the_budget_says_what_to_set(tiny_model: Any) -> None:
    with pytest.raises(RosepoError) as error:
        trained(tiny_model, 20, 0, steps=1)
    assert str(error.value) == "out of memory in passes of 60 tokens: set sft.token_budget to 30 or less"


def test_layers_are_compiled_where_the_work_is_long_enough() -> None:
    assert [pays("auto", device, LONG) for device in ("cpu", "cuda")] == [False, True]
    assert not pays("auto", "cuda", LONG / 2)
    assert pays(True, "cpu", 0)
    assert not pays(False, "cuda", LONG)


def test_compiled_layers_compute_the_same_and_leave_the_model_as_it_was(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trained(tiny_model, 10**6, 0, steps=1)
    built = []

    class Traced(CompiledLayers):
        """Without the compiler's last stage, which takes minutes on a CPU."""

        def __init__(self, model: torch.nn.Module) -> None:
            names = set(model.state_dict())
            super().__init__(model, backend=self._graph)
            assert set(model.state_dict()) == names

        @staticmethod
        def _graph(graph: torch.fx.GraphModule, inputs: Any) -> Any:
            built.append(graph)
            return graph

    monkeypatch.setattr("rosepo_core.engine.training.running.CompiledLayers", Traced)
    log, weights, _ = trained(tiny_model, 10**6, 0, steps=1, compile=True)
    assert built, "nothing was compiled"
    for mine, other in zip(weights, plain[1], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
    assert log[0] == pytest.approx(plain[0][0], rel=1e-4)
