"""Rows chat-k1, chat-k15, timeline-k1 and sft-targets: optimizer steps on the same pairs or targets.

    python -m benchmarks.rows.training [--quick] [--peer-batches=4,8,16] [NAME ...]

rosepo trains through `align_preferences` and `fine_tune`, as `rosepo train` does. After each of its optimizer steps
the peer's trainer makes one, in a process of its own, on the same base with the same adapter, so that both see the
machine alike and neither the other's settings.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from benchmarks import material
from benchmarks.rows.memory import high_water
from rosepo_core.api import Examples, Ints
from rosepo_core.engine.training import TrainingSettings, align_preferences, fine_tune
from rosepo_core.prompts.template import PromptTemplate

_GIVEN = [argument.partition("=")[2] for argument in sys.argv if argument.startswith("--peer-batches=")]
BATCHES = tuple(int(size) for size in (_GIVEN[-1] if _GIVEN else "4,8,16").split(","))
LEARNING_RATE = 1e-5
MEMORY = 0.95 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
"""MiB."""


def settings(batch: int, steps: int) -> TrainingSettings:
    """Of rosepo's steps, in SFT and in alignment."""
    return TrainingSettings(LEARNING_RATE, batch, "auto", steps=steps)


class Stepper:
    """A trainer of TRL's that makes one optimizer step when asked."""

    def __init__(self, trainer: Any) -> None:
        trainer.create_optimizer()
        trainer.model.train()
        # What `train` would set before its first step.
        trainer.current_gradient_accumulation_steps = 1
        self._trainer = trainer
        self._batches: Iterator[Any] = iter(())

    def choose(self, size: int) -> None:
        self.size = self._trainer._train_batch_size = size
        self._batches = self._endless()

    def _endless(self) -> Iterator[Any]:
        while True:
            for batch in self._trainer.get_train_dataloader():
                if len(next(iter(batch.values()))) >= self.size:
                    yield batch

    def step(self) -> float:
        """Examples per second of one step: batch, forward, backward, clipping and optimizer."""
        start = time.perf_counter()
        self._trainer.training_step(self._trainer.model, next(self._batches))
        torch.nn.utils.clip_grad_norm_(self._trainer.model.parameters(), 1.0)
        self._trainer.optimizer.step()
        self._trainer.model.zero_grad()
        return self.size / (time.perf_counter() - start)


def serve(make: Callable[[str], Any], sizes: tuple[int, ...], pipe: Connection) -> None:
    """Choose the fastest batch size among those that fit into memory, send it, then send the speed of a step whenever
    something comes."""
    with tempfile.TemporaryDirectory() as folder:
        stepper = Stepper(make(folder))
        before = high_water()
        stepper.choose(sizes[0])
        stepper.step()
        speeds: dict[int, float] = {}
        for size in sizes:
            # A step that does not fit would end the process, and with it the row.
            if before + size * (high_water() - before) / max(speeds, default=size) > MEMORY:
                break
            stepper.choose(size)
            speeds[size] = stepper.step()
        stepper.choose(max(speeds, key=speeds.__getitem__))
        pipe.send(stepper.size)
        while pipe.recv():
            pipe.send(stepper.step())


class Peer:
    """A trainer of TRL's in a process of its own, where nothing of rosepo's is set, the allocator least of all."""

    def __init__(self, make: Callable[[str], Any], sizes: tuple[int, ...]) -> None:
        """`make` is a function of a module, with its arguments bound: it gives the trainer, given a folder."""
        self._pipe, other = get_context("spawn").Pipe()
        self._process = get_context("spawn").Process(target=serve, args=(make, sizes, other), daemon=True)
        self._process.start()
        other.close()
        self.size: int = self._pipe.recv()

    def step(self) -> float:
        """Examples per second of one step."""
        self._pipe.send(True)
        speed: float = self._pipe.recv()
        return speed


class Turns:
    """A reporter that lets the peer make a step after each of rosepo's, and keeps both times; the first step warms
    up."""

    def __init__(self, peer: Callable[[], float], floor: Callable[[], None]) -> None:
        self.seconds: list[float] = []
        self.theirs: list[float] = []
        self._peer, self._floor = peer, floor
        self._start = time.perf_counter()

    def progress(self, done: int, total: int, unit: str) -> None:
        if done > 1:
            self.seconds.append(time.perf_counter() - self._start)
            self.theirs.append(self._peer())
            self._floor()
        self._start = time.perf_counter()

    def note(self, message: str) -> None:
        pass


def _options(folder: str, batch: int) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "per_device_train_batch_size": batch,
        "gradient_checkpointing": False,
        "bf16": False,
        "max_length": None,
        "learning_rate": LEARNING_RATE,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
    }


def dpo_peer(
    prompts: PromptTemplate, pairs: Examples, negatives: Ints, folder: str, batch: int, **options: Any
) -> Any:
    """TRL's DPOTrainer on one negative a pair, reference precomputed; `options` are of its `DPOConfig`."""
    texts = prompts.response_texts
    eos = prompts.response_ids[0][-1] == material.tokenizer().eos_token_id
    assert eos, "chat responses end as TRL's do"
    table = Dataset.from_dict(
        {
            "prompt": prompts.prompt_texts(pairs, shared=True, candidates=material.lists(prompts, pairs, negatives)),
            "chosen": [texts[item] for item in pairs.target.tolist()],
            "rejected": [texts[item] for item in negatives[:, 0].tolist()],
        }
    )
    return DPOTrainer(
        model=material.peer_model(),
        args=DPOConfig(beta=0.1, precompute_ref_log_probs=True, **_options(folder, batch), **options),
        train_dataset=table,
        processing_class=material.tokenizer(),
    )


def sft_peer(prompts: PromptTemplate, pairs: Examples, folder: str, batch: int) -> Any:
    """TRL's SFTTrainer on one chat prompt a target."""
    table = Dataset.from_dict(
        {
            "prompt": prompts.prompt_texts(pairs),
            "completion": [prompts.response_texts[item] for item in pairs.target.tolist()],
        }
    )
    return SFTTrainer(
        model=material.peer_model(),
        args=SFTConfig(**_options(folder, batch)),
        train_dataset=table,
        processing_class=material.tokenizer(),
    )


def preference_row(
    name: str, quick: bool, *, work: str, target: float, ours: PromptTemplate, theirs: PromptTemplate, **size: int
) -> dict[str, Any]:
    """rosepo on trees against DPOTrainer pair by pair.

    `size` has users, places (targets a user), k (rejected a target) and batch (rosepo's trees a step).
    """
    rounds = 1 if quick else 5
    pairs = material.examples(size["users"], size["places"])
    negatives = material.rejected(pairs, size["k"])
    model = material.adapted_model()
    grown = material.trees(model, ours, pairs, negatives)
    few = pairs.take(np.random.default_rng(2).permutation(len(pairs))[:16])
    # The peer's pairs are some of ours: it needs minutes for what takes rosepo seconds.
    of_peer = partial(dpo_peer, theirs, few, material.rejected(few, 1), batch=BATCHES[-1])
    peer = Peer(of_peer, BATCHES[:1] if quick else BATCHES)
    floor = material.Floor(model, backward=True)
    turns = Turns(peer.step, floor.measure)
    align_preferences(model, material.dpo(), grown, settings(size["batch"], rounds + 1), turns)
    per_step = len(negatives) * size["k"] * size["batch"] / len(grown)
    tokens = sum(len(tree.tree) for tree in grown) / len(grown) * size["batch"]
    states = sum(len(np.unique(tree.tree.parents)) for tree in grown) / len(grown) * size["batch"]
    return material.row(
        name,
        work,
        "pairs/s",
        ours=[per_step / seconds for seconds in turns.seconds],
        theirs=turns.theirs,
        peer_name=f"TRL DPOTrainer, batch {peer.size}",
        target=target,
        floor=per_step / floor.seconds(tokens, states),
        note=f"{tokens:.0f} tokens and {per_step:.0f} pairs a step of rosepo's",
    ) | {"peer_batch": peer.size}


def chat_k1(quick: bool) -> dict[str, Any]:
    chat = material.template("chat", candidates=20)
    work = "chat prompts with 20 candidates, K = 1"
    return preference_row(
        "chat-k1", quick, work=work, target=4.5, ours=chat, theirs=chat, users=16, places=2, k=1, batch=8
    )


def chat_k15(quick: bool) -> dict[str, Any]:
    chat = material.template("chat", candidates=20)
    work = "chat prompts with 20 candidates, K = 15"
    return preference_row(
        "chat-k15", quick, work=work, target=40, ours=chat, theirs=chat, users=16, places=2, k=15, batch=8
    )


def timeline_k1(quick: bool) -> dict[str, Any]:
    work = "timelines, K = 1; the peer has chat prompts without candidates for the same pairs"
    return preference_row(
        "timeline-k1",
        quick,
        work=work,
        target=40,
        ours=material.template("timeline"),
        theirs=material.template("chat"),
        users=24,
        places=material.LAST_PLACES,
        k=1,
        batch=6,
    )


def sft_targets(quick: bool) -> dict[str, Any]:
    rounds = 1 if quick else 5
    sequences = material.split().train
    users = material.examples(32, 1).user
    kept = sequences.prefix(np.where(np.isin(np.arange(len(sequences)), users), sequences.lengths, 0))
    timeline, chat = material.template("timeline"), material.template("chat")
    ours = timeline.sft_sequences(kept)
    pairs = material.examples(8, 4)
    model = material.adapted_model()
    peer = Peer(partial(sft_peer, chat, pairs, batch=BATCHES[-1]), BATCHES[:1] if quick else BATCHES)
    floor = material.Floor(model, backward=True)
    turns = Turns(peer.step, floor.measure)
    fine_tune(model, ours, settings(8, rounds + 1), turns)
    targets = 8 * kept.lengths.sum() / len(ours)
    tokens = 8 * sum(len(ids) for ids, _ in ours) / len(ours)
    states = 8 * sum(int(labelled.sum()) for _, labelled in ours) / len(ours)
    return material.row(
        "sft-targets",
        "SFT on timelines; the peer has one chat prompt a target",
        "targets/s",
        ours=[targets / seconds for seconds in turns.seconds],
        theirs=turns.theirs,
        peer_name=f"TRL SFTTrainer, batch {peer.size}",
        target=15,
        floor=targets / floor.seconds(tokens, states),
        note=f"{tokens:.0f} tokens and {targets:.0f} targets a step of rosepo's",
    )


ROWS = {"chat-k1": chat_k1, "chat-k15": chat_k15, "timeline-k1": timeline_k1, "sft-targets": sft_targets}


if __name__ == "__main__":
    wanted = [argument for argument in sys.argv[1:] if argument in ROWS] or list(ROWS)
    for wanted_name in wanted:
        print(json.dumps(ROWS[wanted_name]("--quick" in sys.argv)))
