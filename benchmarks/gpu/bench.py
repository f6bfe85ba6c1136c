"""rosepo beside TRL and transformers on a GPU: the same MovieLens pairs, models of given shapes with random weights.

    python -m benchmarks.gpu.bench [--shapes 135m 1b] [--rows ROW ...] [--out FILE] [--limit SECONDS]

Rows:

- ``chat-k1``, ``chat-k15``: pairs a second in alignment, chat prompts with 20 candidates, K = 1 and 15.
- ``timeline-k1``: the same on timelines; the peer has chat prompts for the same pairs.
- ``sft-targets``: targets a second in SFT on timelines; the peer has one chat prompt a target.
- ``score-20``: users a second whose 20 candidates are scored; the peer reads one sequence a candidate.
- ``catalogue-top10``: users a second who get the ten most probable titles; the peer is `generate` with ten beams and
  a prefix function.

Peers run at the best of several batch sizes. The first `WARM_UP` steps of rosepo are left out: they measure passes,
compile and allocate. Training rows are measured without and, on a GPU, with compiled layers. A row that fails or
takes longer than its limit says so, and the next one begins. Results are printed as they come. Those of a GPU are
also written to benchmarks/results/gpu-CARD.json, or to the file that --out names.

Without a GPU only ``--shapes tiny`` makes sense: it shows that everything runs, and its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from benchmarks import material
from benchmarks.gpu.shapes import (
    DEVICE,
    SHAPES,
    Steps,
    adapted_model,
    bare_model,
    card,
    limited,
    peak,
    start_peak,
    synchronize,
)
from benchmarks.rows.catalogue import DictTrie, by_generate
from benchmarks.rows.scoring import in_one_pass
from rosepo_core.api import Examples
from rosepo_core.engine.decoding import Trunks, decode
from rosepo_core.engine.prompt_trees import prompt_trunks
from rosepo_core.engine.scoring import score_items
from rosepo_core.engine.title_trie import TitleTrie
from rosepo_core.engine.training import TrainingSettings, align_preferences, fine_tune
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.testing.toys import SilentReporter

ON_GPU = DEVICE == "cuda"
RESULTS = Path(__file__).parents[1] / "results"
LEARNING_RATE = 1e-5
WARM_UP, MEASURED = (5, 8) if ON_GPU else (1, 2)
"""Optimizer steps of rosepo's."""
PEER_WARM_UP, PEER_MEASURED = (2, 3) if ON_GPU else (0, 1)
TREES = 32 if ON_GPU else 2
"""Trees or windows in a step of rosepo's."""
PEER_BATCHES = (8, 16, 32, 64) if ON_GPU else (2,)
USERS = 256 if ON_GPU else 2
"""Users of the rows without training."""
CANDIDATES, TOP = 20, 10

Row = dict[str, Any]


def trained(model: Any, train: Callable[[TrainingSettings, Any], object], compiled: bool, batch: int) -> Row:
    """Seconds of an optimizer step of rosepo's, and the peak of memory."""
    steps = Steps()
    start_peak()
    settings = TrainingSettings(LEARNING_RATE, batch, steps=WARM_UP + MEASURED, compile=compiled)
    train(settings, steps)
    return {"seconds": statistics.median(steps.seconds[WARM_UP:]), "first_seconds": steps.seconds[0], "gib": peak()}


def variants(measure: Callable[[bool], Row], work: float, tokens: float) -> Row:
    """rosepo's numbers: the faster of without and, on a GPU, with compiled layers, and all of them."""
    every = {}
    for name, compiled in (("plain", False), *([("compiled", True)] if ON_GPU else [])):
        found = measure(compiled)
        every[name] = {**found, "rosepo": work / found["seconds"], "tokens_a_second": tokens / found["seconds"]}
        print(f"   rosepo {name}: {json.dumps(every[name])}", flush=True)
    best = max(every.values(), key=lambda each: each["rosepo"])
    return {"rosepo": best["rosepo"], "tokens_a_second": best["tokens_a_second"], "gib": best["gib"], "by": every}


def peer_options(folder: str) -> dict[str, Any]:
    """What both of TRL's configurations get."""
    return {
        "output_dir": folder,
        "bf16": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "learning_rate": LEARNING_RATE,
        "max_length": None,
        "per_device_train_batch_size": PEER_BATCHES[-1],
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": not ON_GPU,
    }


def peer_speeds(trainer: Any) -> dict[int, Row]:
    """Examples a second of a step of TRL's trainer, and the peak of memory, by batch size. Larger sizes than fit into
    memory are left out."""
    trainer.create_optimizer()
    trainer.model.train()
    # What `train` would set before its first step.
    trainer.current_gradient_accumulation_steps = 1
    found: dict[int, Row] = {}
    for size in PEER_BATCHES:
        trainer._train_batch_size = size

        def endless(size: int = size) -> Iterator[Mapping[str, Any]]:
            while True:
                for batch in trainer.get_train_dataloader():
                    if len(next(iter(batch.values()))) >= size:
                        yield batch

        batches, seconds = endless(), []
        start_peak()
        try:
            for _ in range(PEER_WARM_UP + PEER_MEASURED):
                synchronize()
                start = time.perf_counter()
                trainer.training_step(trainer.model, next(batches))
                torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
                trainer.optimizer.step()
                trainer.model.zero_grad()
                synchronize()
                seconds.append(time.perf_counter() - start)
        except torch.OutOfMemoryError:
            break
        found[size] = {"speed": size / statistics.median(seconds[PEER_WARM_UP:]), "gib": peak()}
        print(f"   TRL, batch {size}: {json.dumps(found[size])}", flush=True)
    return found


def beside(mine: Row, peers: dict[int, Row], pairs: float | None = None) -> Row:
    """A row with the peer's best batch size. `pairs` of rosepo's step: the memory of a peer's batch of as many."""
    if not peers:
        return {**mine, "error": "the peer's smallest batch does not fit into memory"}
    best = max(peers, key=lambda size: peers[size]["speed"])
    row = {**mine, "peer": peers[best]["speed"], "peer_batch": best, "peer_gib": peers[best]["gib"]}
    row["ratio"] = mine["rosepo"] / row["peer"]
    equal = peers.get(round(pairs)) if pairs is not None else None
    if equal is not None and equal["gib"]:
        row["memory_at_equal_pairs"] = mine["gib"] / equal["gib"]
    return row


def preference_row(
    shape: str, ours: PromptTemplate, theirs: PromptTemplate, pairs: Examples, k: int, peers: dict[int, Row] | None
) -> tuple[Row, dict[int, Row]]:
    """Alignment on trees beside DPOTrainer pair by pair. `peers` are speeds that are known already."""
    negatives = material.rejected(pairs, k)
    model = adapted_model(shape)
    grown = material.trees(model, ours, pairs, negatives)
    del model
    work = len(pairs) * k * TREES / len(grown)
    tokens = sum(len(tree.tree) for tree in grown) / len(grown) * TREES

    def measure(compiled: bool) -> Row:
        model = adapted_model(shape)
        return trained(
            model,
            lambda settings, steps: align_preferences(model, material.dpo(), grown, settings, steps),
            compiled,
            TREES,
        )

    mine = variants(measure, work, tokens)
    if peers is None:
        # Some of the pairs: the peer computes the reference of all that it gets.
        few = pairs.take(np.random.default_rng(2).permutation(len(pairs))[: 2 * max(PEER_BATCHES)])
        texts, rejected = theirs.response_texts, material.rejected(few, 1)
        listed = material.lists(theirs, few, rejected)
        table = Dataset.from_dict(
            {
                "prompt": theirs.prompt_texts(few, shared=True, candidates=listed),
                "chosen": [texts[item] for item in few.target.tolist()],
                "rejected": [texts[item] for item in rejected[:, 0].tolist()],
            }
        )
        with tempfile.TemporaryDirectory() as folder:
            peers = peer_speeds(
                DPOTrainer(
                    model=adapted_model(shape),
                    args=DPOConfig(beta=0.1, precompute_ref_log_probs=True, **peer_options(folder)),
                    train_dataset=table,
                    processing_class=material.tokenizer(),
                )
            )
    return beside(mine, peers, work if k == 1 and ours is theirs else None), peers


class Bench:
    """The rows of one shape."""

    def __init__(self, shape: str) -> None:
        self._shape = shape
        self._chat_peers: dict[int, Row] | None = None

    def _chat(self, k: int) -> Row:
        chat = material.template("chat", candidates=CANDIDATES)
        pairs = material.examples(max(PEER_BATCHES), 2)
        row, self._chat_peers = preference_row(self._shape, chat, chat, pairs, k, self._chat_peers)
        return row

    def chat_k1(self) -> Row:
        """See the head of this file."""
        return self._chat(1)

    def chat_k15(self) -> Row:
        """See the head of this file."""
        return self._chat(15)

    def timeline_k1(self) -> Row:
        """See the head of this file."""
        pairs = material.examples(2 * TREES, material.LAST_PLACES)
        timeline, chat = material.template("timeline"), material.template("chat")
        return preference_row(self._shape, timeline, chat, pairs, 1, None)[0]

    def sft_targets(self) -> Row:
        """See the head of this file."""
        timeline, chat = material.template("timeline"), material.template("chat")
        sequences = material.split().train
        users = material.examples(2 * TREES, 1).user
        kept = sequences.prefix(np.where(np.isin(np.arange(len(sequences)), users), sequences.lengths, 0))
        ours = timeline.sft_sequences(kept)

        def measure(compiled: bool) -> Row:
            model = adapted_model(self._shape)
            return trained(model, lambda settings, steps: fine_tune(model, ours, settings, steps), compiled, TREES)

        tokens = TREES * sum(len(ids) for ids, _ in ours) / len(ours)
        mine = variants(measure, TREES * kept.lengths.sum() / len(ours), tokens)
        pairs = material.examples(max(PEER_BATCHES), 2)
        table = Dataset.from_dict(
            {
                "prompt": chat.prompt_texts(pairs),
                "completion": [chat.response_texts[item] for item in pairs.target.tolist()],
            }
        )
        with tempfile.TemporaryDirectory() as folder:
            peers = peer_speeds(
                SFTTrainer(
                    model=adapted_model(self._shape),
                    args=SFTConfig(**peer_options(folder)),
                    train_dataset=table,
                    processing_class=material.tokenizer(),
                )
            )
        return beside(mine, peers)

    def score_20(self) -> Row:
        """See the head of this file."""
        prompts, model = material.template("timeline"), bare_model(self._shape)
        test = _test_users()
        items = np.random.default_rng(0).integers(0, len(material.split().catalogue), (len(test), CANDIDATES))
        items = items.astype(np.int32)

        def ours() -> None:
            score_items(model, prompts, test, items, "auto", SilentReporter())

        mine, peer = asked(ours, len(test)), bare_model(self._shape)
        peers = {}
        for users in (1, 4, 16) if ON_GPU else (1,):
            few = test.take(np.arange(min(4 * users, len(test))))

            def theirs(few: Examples = few, users: int = users) -> None:
                for start in range(0, len(few), users):
                    some = np.arange(start, min(start + users, len(few)))
                    in_one_pass(peer, prompts, few.take(some), items[some])

            found = asked(theirs, len(few))
            peers[users * CANDIDATES] = {"speed": found["rosepo"], "gib": found["gib"]}
            print(f"   one sequence a candidate, {users * CANDIDATES} a pass: {json.dumps(found)}", flush=True)
        return beside(mine, peers)

    def catalogue_top10(self) -> Row:
        """See the head of this file."""
        prompts, model = material.template("timeline"), bare_model(self._shape)
        test = _test_users()
        trie = TitleTrie.of(prompts.response_ids)
        dictionaries = DictTrie(prompts.response_ids, prompts.terminator)

        def ours() -> None:
            trunks = Trunks(*prompt_trunks(prompts, test))
            decode(model, trunks, trie, TOP, reporter=SilentReporter(), token_budget="auto", beams=TOP)

        mine, peer = asked(ours, len(test)), bare_model(self._shape)
        peers = {}
        for users in (8, 32) if ON_GPU else (1,):
            few = test.take(np.arange(min(users, len(test))))

            def theirs(few: Examples = few, users: int = users) -> None:
                by_generate(peer, prompts, dictionaries, few, users)

            found = asked(theirs, len(few))
            peers[users] = {"speed": found["rosepo"], "gib": found["gib"]}
            print(f"   generate, {users} users a pass: {json.dumps(found)}", flush=True)
        return beside(mine, peers)


ROWS: dict[str, Callable[[Bench], Row]] = {
    "chat-k1": Bench.chat_k1,
    "chat-k15": Bench.chat_k15,
    "timeline-k1": Bench.timeline_k1,
    "sft-targets": Bench.sft_targets,
    "score-20": Bench.score_20,
    "catalogue-top10": Bench.catalogue_top10,
}


def asked(work: Callable[[], object], users: int) -> Row:
    """Users a second, after one round that warms up."""
    seconds = []
    start_peak()
    for _ in range(1 + (3 if ON_GPU else 1)):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        seconds.append(time.perf_counter() - start)
    return {"rosepo": users / statistics.median(seconds[1:]), "gib": peak()}


def _test_users() -> Examples:
    test = material.split().test
    return test.take(np.sort(np.random.default_rng(0).choice(len(test), USERS, replace=False)))


def measured(shapes: Sequence[str], rows: Sequence[str], limit: float) -> Iterator[Row]:
    """The rows, one after another. None ends the benchmark."""
    for shape in shapes:
        bench = Bench(shape)
        for name in rows:
            print(f"{shape} {name} ...", flush=True)
            start = time.perf_counter()
            try:
                with limited(limit):
                    row = ROWS[name](bench)
            except Exception as error:
                traceback.print_exc()
                row = {"error": f"{type(error).__name__}: {error}"[:300]}
            yield {"shape": shape, "row": name, **row, "took": time.perf_counter() - start}
            if ON_GPU:
                torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["135m", "1b"] if ON_GPU else ["tiny"])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--limit", type=float, default=90.0, help="seconds that a row may take")
    parser.add_argument("--out", type=Path, help="the file for the results")
    arguments = parser.parse_args()
    name = "".join(each if each.isalnum() else "-" for each in card().lower())
    out = arguments.out or (RESULTS / f"gpu-{name}.json" if ON_GPU else None)
    packages = ("rosepo", "torch", "transformers", "trl", "peft", "accelerate")
    disable_progress_bars()
    warnings.simplefilter("ignore", FutureWarning)
    rows: list[Row] = []
    for row in measured(arguments.shapes, arguments.rows, arguments.limit):
        print(json.dumps(row), flush=True)
        rows.append(row)
        if out is not None:
            # After each row: the machine may be gone before the last.
            found = {"card": card(), "versions": {each: version(each) for each in packages}, "rows": rows}
            out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if out is not None:
        print(f"written to {out}", flush=True)


if __name__ == "__main__":
    main()
