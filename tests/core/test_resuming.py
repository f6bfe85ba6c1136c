"""A training that is interrupted and goes on gives the bits of one that was not."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from rosepo_core.contracts.components import PreferenceLoss
from rosepo_core.contracts.records import Examples, Pairs, Sequences
from rosepo_core.engine.training import LogHistory, TrainingSettings, align_preferences, fine_tune
from rosepo_core.engine.training.validation import Validation
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.stages.aligned import preference_trees
from rosepo_core.store.partial import KEEPS_NOTHING, Partial, PartialFolder
from rosepo_core.testing import prompt_template

STEPS = 9
"""Two epochs and a step, see `trained`."""

SETTINGS = TrainingSettings(
    batch_size=2,
    gradient_accumulation_steps=2,
    token_budget=200,
    learning_rate=1e-2,
    steps=STEPS,
    warmup_ratio=0.3,
    weight_decay=0.01,
    seed=4,
)


class Ends:
    """Ends a training in some of its steps: as Ctrl-C does, or as a kill does, after which nothing can be saved."""

    def __init__(self, *steps: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.steps = steps
        self.seen: list[int] = []
        self._error = error

    def progress(self, done: int, total: int, unit: str) -> None:
        self.seen.append(done)
        if done in self.steps and self.seen[0] != done:
            raise self._error

    def note(self, message: str) -> None:
        raise AssertionError(message)


def size(model: Any) -> float:
    """A measure that finds the smallest adapter the best."""
    return -sum(weight.abs().sum().item() for name, weight in model.named_parameters() if "lora_B" in name)


class Training:
    """A training of the tiny model on 14 users: 7 batches, and so 4 steps an epoch, the last of one batch."""

    patience = 9

    def __init__(self, tiny_model: Any, tiny_tokenizer: Any, catalogue: Any, kind: str) -> None:
        rng = np.random.default_rng(7)
        items = np.concatenate([rng.permutation(40)[:5] for _ in range(14)]).astype(np.int32)
        self._sequences = Sequences(items, np.arange(0, 71, 5))
        self._template = prompt_template({"header": "Chosen:\n"}, tiny_tokenizer, catalogue, 5)
        self._model, self._kind = tiny_model, kind

    def __call__(
        self, reporter: Ends, partial: Partial = KEEPS_NOTHING, **changes: Any
    ) -> tuple[LogHistory, dict[str, list[float]]]:
        """The log and all weights."""
        settings, model = replace(SETTINGS, **changes), copy.deepcopy(self._model).train()
        torch.manual_seed(0)
        if self._kind != "full":
            adapter = LoraConfig(r=4, lora_dropout=0.3, target_modules="all-linear", task_type="CAUSAL_LM")
            model = get_peft_model(model, adapter)
        # What is drawn before a training differs from attempt to attempt.
        torch.rand(len(reporter.steps))
        if self._kind == "alignment":
            log = align_preferences(model, self._loss(), self._trees(), settings, reporter, partial=partial)
        else:
            sequences = self._template.sft_sequences(self._sequences)
            judged = Validation("size", size, every=2, patience=self.patience) if self._kind == "validated" else None
            log = fine_tune(model, sequences, settings, reporter, validation=judged, partial=partial)
        return log, {name: weight.flatten().tolist() for name, weight in model.named_parameters()}

    def _loss(self) -> PreferenceLoss:
        loss: PreferenceLoss = load_plugins().create("loss", "dpo", {})
        return loss

    def _trees(self) -> Any:
        user = np.arange(14, dtype=np.int32)
        examples = Examples.of(self._sequences, user, np.full(14, 4, dtype=np.int32))
        rejected = ((examples.target[:, None] + [[1, 2]]) % 40).astype(np.int32)
        flat = np.full((14, 2), -20, dtype=np.float32)
        return preference_trees(self._template, Pairs(examples, rejected, flat * 0, flat[:, 0], flat))


@pytest.fixture(params=["lora", "full", "validated", "alignment"])
def training(request: pytest.FixtureRequest, tiny_model: Any, tiny_tokenizer: Any, catalogue: Any) -> Training:
    return Training(tiny_model, tiny_tokenizer, catalogue, request.param)


def test_a_training_goes_on_after_any_step(training, tmp_path):
    expected = training(whole := Ends())
    assert whole.seen == list(range(1, STEPS + 1))
    # Within an epoch, at its end, right after that, and after the last step.
    stops = (2, 4, 5, STEPS)
    attempts = []
    for _ in stops:
        attempts.append(Ends(*stops))
        with pytest.raises(KeyboardInterrupt):
            training(attempts[-1], PartialFolder(tmp_path / "sft.partial", "f", minutes=10))
        assert [path.name for path in (tmp_path / "sft.partial").glob("c*")] == [
            f"checkpoint-{attempts[-1].seen[-1]}"
        ]
    assert [attempt.seen[-1] for attempt in attempts] == list(stops)
    # Each attempt begins by reporting where it goes on, and does no step again.
    assert [step for attempt in attempts for step in attempt.seen] == [1, 2, 2, 3, 4, 4, 5, 5, 6, 7, 8, 9]
    assert training(Ends(), PartialFolder(tmp_path / "sft.partial", "f", minutes=10)) == expected


def test_a_killed_process_goes_on_from_the_newest_checkpoint(training, tmp_path):
    expected = training(Ends())
    with pytest.raises(ZeroDivisionError):
        training(Ends(7, error=ZeroDivisionError), PartialFolder(tmp_path / "sft.partial", "f", minutes=0))
    rest = Ends()
    assert training(rest, PartialFolder(tmp_path / "sft.partial", "f", minutes=10)) == expected
    assert rest.seen == [6, 7, 8, 9]


def test_checkpoints_change_nothing_and_run_no_code(training, tmp_path):
    assert training(Ends(), PartialFolder(tmp_path / "sft.partial", "f", minutes=0)) == training(Ends())
    (checkpoint,) = (tmp_path / "sft.partial").glob("checkpoint-*")
    pickled = {path for path in checkpoint.iterdir() if path.suffix in (".pt", ".pth")}
    assert {path.suffix for path in set(checkpoint.iterdir()) - pickled} == {".json", ".safetensors"}
    from transformers.trainer_pt_utils import safe_globals

    with safe_globals():
        for path in pickled:
            torch.load(path, weights_only=True)


def test_a_training_that_is_over_before_its_last_step_takes_its_best_weights(
    tiny_model, tiny_tokenizer, catalogue, tmp_path
):
    training = Training(tiny_model, tiny_tokenizer, catalogue, "validated")
    training.patience = 2
    expected = training(whole := Ends())
    # The adapter grows from 0, so the weights before the first step are the best.
    assert whole.seen == [1, 2, 3, 4]
    assert not any(any(weight) for name, weight in expected[1].items() if "lora_B" in name)
    with pytest.raises(KeyboardInterrupt):
        training(Ends(4), PartialFolder(tmp_path / "sft.partial", "f", minutes=10))
    assert training(rest := Ends(), PartialFolder(tmp_path / "sft.partial", "f", minutes=10)) == expected
    assert rest.seen == []


def test_nobody_saves_outside_a_run(training, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        training(Ends(3))
    assert list(Path().iterdir()) == []
