"""Is a timeline-trained model as good as a chat-trained one, at equal pairs and at equal time?

    python -m benchmarks.timeline_against_chat [--arm NAME] [--one] [--users U] [--test-users T] [--folder F]

SmolLM2-135M with LoRA of rank 8: SFT on the last 20 training places of U MovieLens users, then DPO on the same
places with one uniform rejected title each (no oracle), then NDCG@10 over 20 persisted candidates of the same test
users, each model asked in the format it was trained in. Chat prompts list no candidates and show 20 titles, so a chat
example has more history than most of a timeline's. The arms:

    timeline      all places, one window a user
    chat-pairs    all places, one prompt each
    chat-time     a random part of the places in as many seconds of SFT and of alignment as `timeline` took
    untrained-*   the base model in either format

Learning rates are equal, and nothing is tuned for either. A step is one window (20 places) or four prompts. Seconds
are of training alone, reference log-probabilities included, and neither loading nor evaluation; nothing else may run
on the machine meanwhile.

Every stage of an arm is kept in F/ARM; `--one` does the next stage that is missing and stops. When all three trained
arms are there, benchmarks/results/timeline_against_chat.json is written and a table printed.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel

from benchmarks import material
from rosepo_core.api import Examples
from rosepo_core.contracts.ranking import rank_targets
from rosepo_core.contracts.records import Candidates
from rosepo_core.engine.scoring import score_items
from rosepo_core.engine.training import TrainingSettings, align_preferences, fine_tune
from rosepo_core.evaluation.candidates import draw_candidates, load_candidates, save_candidates
from rosepo_core.evaluation.statistics import bootstrap_interval
from rosepo_core.testing.toys import SilentReporter
from rosepo_metrics.accuracy import ndcg

RESULT = Path(__file__).parent / "results" / "timeline_against_chat.json"
ARMS = ("timeline", "chat-pairs", "chat-time", "untrained-timeline", "untrained-chat")
TRAINED = ARMS[:3]
PLACES = material.HISTORY
SFT_RATE, ALIGNMENT_RATE = 1e-3, 3e-4
BATCH = {"timeline": 1, "chat": 4}
"""Windows, or prompts, a step."""
PROBE_STEPS = 3
TOKEN_BUDGET = 1024


class Experiment:
    """What all arms share.

    Attributes:
        pairs: the training places, `PLACES` of each user.
        rejected: int32 [n, 1].
        test: examples to rank for.
        candidates: of each, persisted.
    """

    def __init__(self, folder: Path, users: int, test_users: int) -> None:
        settings = {"users": users, "test_users": test_users, "rates": [SFT_RATE, ALIGNMENT_RATE], "batch": BATCH}
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "settings.json"
        if path.exists() and json.loads(path.read_text()) != settings:
            raise SystemExit(f"{folder} has arms of other settings; name another --folder")
        path.write_text(json.dumps(settings))
        self.folder = folder
        split = material.split()
        self.pairs = material.examples(users, PLACES)
        self.rejected = material.rejected(self.pairs, 1)
        rng = np.random.default_rng(0)
        self.test = split.test.take(np.sort(rng.choice(len(split.test), test_users, replace=False)))
        if not (folder / "candidates").exists():
            (folder / "candidates").mkdir()
            save_candidates(draw_candidates(split, self.test, 20, seed=0), split, self.test, folder / "candidates")
        self.candidates: Candidates = load_candidates(folder / "candidates")

    def record(self, arm: str) -> dict[str, Any]:
        """What the arm's stages have written so far."""
        path = self.folder / arm / "record.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def keep(self, arm: str, **values: Any) -> None:
        (self.folder / arm).mkdir(exist_ok=True)
        text = json.dumps(self.record(arm) | values)
        (self.folder / arm / "record.json").write_text(text)


class Arm:
    def __init__(self, name: str, experiment: Experiment) -> None:
        self.name, self.all = name, experiment
        self.kind = "timeline" if "timeline" in name else "chat"
        self.template = material.template(self.kind)

    @property
    def folder(self) -> Path:
        return self.all.folder / self.name

    @cached_property
    def order(self) -> np.ndarray[Any, Any]:
        """The places in the order in which an arm of limited time takes them."""
        return np.random.default_rng(3).permutation(len(self.all.pairs))

    def stages(self) -> dict[str, Callable[[], None]]:
        """By what they leave in the arm's record."""
        if self.name.startswith("untrained"):
            return {"ndcg": self.evaluate}
        return {"sft_seconds": self.tune, "alignment_seconds": self.align, "ndcg": self.evaluate}

    def tune(self) -> None:
        model = material.adapted_model()
        if self.name == "chat-time":
            allowed = self.all.record("timeline")["sft_seconds"]
            count = self._fitting(allowed, lambda rows: self._tune(material.adapted_model(), rows))
        else:
            count = len(self.all.pairs)
        rows = self.order[:count]
        seconds = self._tune(model, rows)
        model.save_pretrained(self.folder / "sft")
        self.all.keep(self.name, sft_seconds=seconds, sft_places=count)

    def align(self) -> None:
        if self.name == "chat-time":
            allowed = self.all.record("timeline")["alignment_seconds"]
            count = self._fitting(allowed, lambda rows: self._align(self._load("sft", True), rows))
        else:
            count = len(self.all.pairs)
        model = self._load("sft", True)
        seconds = self._align(model, self.order[:count])
        model.save_pretrained(self.folder / "aligned")
        self.all.keep(self.name, alignment_seconds=seconds, pairs=count)

    def evaluate(self) -> None:
        trained = (self.folder / "aligned").exists()
        model = self._load("aligned", False) if trained else material.bare_model()
        items, test = self.all.candidates.items, self.all.test
        scores = score_items(model.eval(), self.template, test, items, 4096, SilentReporter())
        ranks = rank_targets(scores, self.all.candidates.target_column)
        self.all.keep(self.name, ndcg=ndcg(ranks, 10).tolist())

    def _load(self, stage: str, trainable: bool) -> Any:
        base = material.bare_model()
        return PeftModel.from_pretrained(base, str(self.folder / stage), is_trainable=trainable)

    def _fitting(self, seconds: float, context: Callable[[np.ndarray[Any, Any]], float]) -> int:
        """How many places can be trained on in so many seconds, rounded up to a whole step."""
        batch = BATCH[self.kind]
        taken = context(self.order[-PROBE_STEPS * batch :])
        steps = math.ceil(seconds / taken * PROBE_STEPS)
        return min(max(steps, 1) * batch, len(self.order))

    def _tune(self, model: Any, rows: np.ndarray[Any, Any]) -> float:
        """Seconds of SFT."""
        sequences = self._sft_sequences(self.all.pairs.take(np.sort(rows)))
        start = time.perf_counter()
        fine_tune(
            model.train(),
            sequences,
            # A warm-up would take the first of the few steps that an arm of limited time has.
            TrainingSettings(SFT_RATE, BATCH[self.kind], TOKEN_BUDGET),
            SilentReporter(),
        )
        return time.perf_counter() - start

    def _sft_sequences(self, places: Examples) -> list[tuple[Any, Any]]:
        if self.kind == "timeline":
            users = np.unique(places.user)
            lengths = places.sequences.lengths
            kept = places.sequences.prefix(np.where(np.isin(np.arange(len(lengths)), users), lengths, 0))
            windows = self.template.sft_sequences(kept)
            # A user's last window: one item for context, then the places.
            per_user = -(-(lengths[users] - 1) // PLACES)
            assert per_user.sum() == len(windows), "a window was cut"
            return [windows[last - 1] for last in per_user.cumsum()]
        prompts = self.template.prompts(places)
        responses = [self.template.response_ids[item] for item in places.target.tolist()]
        return [
            (np.concatenate([prompt, response]), np.arange(len(prompt) + len(response)) >= len(prompt))
            for prompt, response in zip(prompts, responses, strict=True)
        ]

    def _align(self, model: Any, rows: np.ndarray[Any, Any]) -> float:
        """Seconds of reference log-probabilities and preference optimization."""
        chosen = np.sort(rows)
        start = time.perf_counter()
        trees = material.trees(model, self.template, self.all.pairs.take(chosen), self.all.rejected[chosen])
        align_preferences(
            model.train(),
            material.dpo(),
            trees,
            TrainingSettings(ALIGNMENT_RATE, BATCH[self.kind], TOKEN_BUDGET),
            SilentReporter(),
        )
        return time.perf_counter() - start


def interval(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    """95 % interval of the mean, BCa bootstrap over users."""
    low, high = bootstrap_interval(values)
    return float(low), float(high)


def compare(experiment: Experiment) -> dict[str, Any]:
    """All arms that are done, and by how much `timeline` is ahead of the chats."""
    records = {arm: experiment.record(arm) for arm in ARMS}
    done = {arm: record for arm, record in records.items() if "ndcg" in record}
    arms = {}
    for arm, record in done.items():
        values = np.array(record["ndcg"])
        arms[arm] = {
            **{name: value for name, value in record.items() if name != "ndcg"},
            "seconds": record.get("sft_seconds", 0.0) + record.get("alignment_seconds", 0.0),
            "ndcg@10": float(values.mean()),
            "interval": interval(values),
        }
    timeline = np.array(done["timeline"]["ndcg"])
    ahead = {}
    for arm in TRAINED[1:]:
        difference = timeline - np.array(done[arm]["ndcg"])
        ahead[arm] = {"difference": float(difference.mean()), "interval": interval(difference)}
    return {
        "users": len(np.unique(experiment.pairs.user)),
        "places": len(experiment.pairs),
        "test_users": len(experiment.test),
        "candidates": experiment.candidates.items.shape[1],
        "arms": arms,
        "timeline_minus": ahead,
        "versions": {name: version(name) for name in ("rosepo", "torch", "transformers", "trl", "peft")}
        | {"dtype": material.DTYPE, "threads": torch.get_num_threads()},
    }


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| model | SFT targets | pairs | training | NDCG@10 (95 %) | timeline minus this (95 %, paired) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, arm in result["arms"].items():
        low, high = arm["interval"]
        ahead = result["timeline_minus"].get(name)
        apart = (
            "" if ahead is None else "{:+.3f} ({:+.3f} to {:+.3f})".format(ahead["difference"], *ahead["interval"])
        )
        lines.append(
            f"| {name} | {arm.get('sft_places', 0)} | {arm.get('pairs', 0)} | {arm['seconds']:.0f} s "
            f"| {arm['ndcg@10']:.3f} ({low:.3f} to {high:.3f}) | {apart} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=ARMS, action="append", help="this arm; all if not given")
    parser.add_argument("--one", action="store_true", help="do one missing stage at most")
    parser.add_argument("--users", type=int, default=12)
    parser.add_argument("--test-users", type=int, default=150)
    parser.add_argument("--folder", type=Path, default=Path("runs/timeline_against_chat"))
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    experiment = Experiment(arguments.folder, arguments.users, arguments.test_users)
    for name in arguments.arm or ARMS:
        arm = Arm(name, experiment)
        for leaves, stage in arm.stages().items():
            if leaves in experiment.record(name):
                continue
            start = time.perf_counter()
            stage()
            print(f"{name}: {leaves}, {time.perf_counter() - start:.0f} s in all", flush=True)
            if arguments.one:
                return
    if all("ndcg" in experiment.record(arm) for arm in TRAINED):
        result = compare(experiment)
        arguments.output.parent.mkdir(exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(table(result))


if __name__ == "__main__":
    main()
