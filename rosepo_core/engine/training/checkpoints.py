"""Checkpoints of a training, from which it goes on after an interruption as if there had been none.

They are checkpoints of transformers' `Trainer` with two differences: of the weights, only those that are trained are
saved; and what rosepo's trainer counts is saved, too. Everything is JSON, safetensors, or a file that torch loads
with ``weights_only``, which runs no code.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from rosepo_core import ranks
from rosepo_core.contracts.components import Reporter
from rosepo_core.engine.training.validation import KeepsBest
from rosepo_core.store.partial import KEEPS_NOTHING, Partial

WEIGHTS = "trained.safetensors"
BEST = "best.safetensors"
COUNTS = "counts.json"


class ResumableTrainer(Trainer):  # type: ignore[misc]
    """A trainer whose checkpoints are in the partial folder of a stage."""

    _partial: Partial = KEEPS_NOTHING
    _best: KeepsBest | None = None

    def counts(self) -> dict[str, Any]:
        """What a subclass counts, as JSON values, at the end of a step."""
        return {}

    def restore_counts(self, counts: dict[str, Any]) -> None:
        """Go on counting from what `counts` returned."""

    def train_or_go_on(self, reporter: Reporter, partial: Partial, best: KeepsBest | None = None) -> None:
        """Train from the beginning, or from the newest checkpoint.

        Args:
            reporter: receives the progress.
            partial: keeps the checkpoints. If weights are shared out to several processes (FSDP, DeepSpeed), there
                are none.
            best: judges the model during the training.
        """
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            self._partial = partial
        self._best = best
        if best is not None:
            self.add_callback(best)
        self.add_callback(_Steps(reporter, self._partial))
        # Rank 0 may already save the next one.
        found = ranks.told_by_first("the newest checkpoint", lambda: str(self._partial.checkpoint() or ""))
        if not found:
            self.train()
            return
        checkpoint = Path(found)
        counts = json.loads((checkpoint / COUNTS).read_text(encoding="utf-8"))
        if best is not None:
            best.restore(counts["validation"], load_file(checkpoint / BEST))
        if not counts["over"]:
            self.add_callback(_Counts(self, counts))
            self.train(resume_from_checkpoint=found)
            return
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self._load_from_checkpoint(found)
        self.callback_handler.on_train_end(self.args, self.state, self.control)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint in the partial folder; called by the trainer after it has logged the step."""
        random_states = self._random_states()
        if ranks.is_first():
            self._partial.save_checkpoint(self.state.global_step, lambda folder: self._write(folder, random_states))

    def _random_states(self) -> dict[str, bytes]:
        """The files with the state of all random generators, of all processes."""
        with tempfile.TemporaryDirectory() as own:
            self._save_rng_state(own)
            files = {path.name: np.frombuffer(path.read_bytes(), np.uint8) for path in Path(own).iterdir()}
        every = ranks.gathered(f"the random states of step {self.state.global_step}", files)
        return {name: content.tobytes() for found in every for name, content in found.items()}

    def _write(self, folder: Path, random_states: dict[str, bytes]) -> None:
        module = self.accelerator.unwrap_model(self.model)
        trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        save_file({name: weight.detach().contiguous() for name, weight in trained.items()}, folder / WEIGHTS)
        self._save_optimizer_and_scheduler(str(folder))
        for name, content in random_states.items():
            (folder / name).write_bytes(content)
        # The trainer's own way to write it sorts the keys of log entries.
        (folder / TRAINER_STATE_NAME).write_text(json.dumps(asdict(self.state)), encoding="utf-8")
        counts: dict[str, Any] = {
            "over": self.control.should_training_stop,
            # The loss since the last log entry.
            "loss": {
                "since": self._tr_loss.item(),
                "total": self._total_loss_scalar,
                "logged": self._globalstep_last_logged,
            },
            "own": self.counts(),
        }
        if self._best is not None:
            counts["validation"] = self._best.counts()
            save_file(dict(self._best.weights()), folder / BEST)
        (folder / COUNTS).write_text(json.dumps(counts), encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Take the trained weights from a checkpoint."""
        module = self.accelerator.unwrap_model(self.model if model is None else model)
        saved = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        with torch.no_grad():
            for name, weight in module.named_parameters():
                if weight.requires_grad:
                    weight.copy_(saved.pop(name))
        assert not saved


class _Counts(TrainerCallback):  # type: ignore[misc]
    """Restores what is counted, when the trainer has set its own counts to 0."""

    def __init__(self, trainer: ResumableTrainer, counts: dict[str, Any]) -> None:
        self._trainer = trainer
        self._counts = counts

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loss = self._counts["loss"]
        self._trainer._tr_loss += loss["since"]
        self._trainer._total_loss_scalar = loss["total"]
        self._trainer._globalstep_last_logged = loss["logged"]
        self._trainer.restore_counts(self._counts["own"])


class _Steps(TrainerCallback):  # type: ignore[misc]
    """Reports each step, and decides when a checkpoint is saved: when it is due, and when the reporter ends the work
    with KeyboardInterrupt. The exception is raised after the checkpoint is saved."""

    def __init__(self, reporter: Reporter, partial: Partial) -> None:
        self._reporter = reporter
        self._partial = partial
        self._interruption: KeyboardInterrupt | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step:
            self._reporter.progress(state.global_step, state.max_steps, "steps")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        try:
            self._reporter.progress(state.global_step, state.max_steps, "steps")
        except KeyboardInterrupt as interruption:
            self._interruption = interruption
        ends = self._interruption is not None
        # All ranks do what the first one wants.
        wanted = {"save": ends or self._partial.is_due, "end": ends}
        agreed = ranks.told_by_first(f"the end of step {state.global_step}", lambda: wanted)
        control.should_save = agreed["save"]
        if agreed["end"] and not ends:
            self._interruption = KeyboardInterrupt()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._interruption is not None:
            raise self._interruption
