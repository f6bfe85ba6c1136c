"""What should training learn: tokens or choices, at which rate, and compared with which reference?

    python -m benchmarks.training_objectives --dataset movielens|amazon [--part grid|references] [--tokens T]
        [--users U] [--candidates C] [--rates R ...] [--betas B ...] [--negatives K]
        [--folder F] [--results FILE]

SmolLM2-135M with LoRA of rank 16 and timelines, judged on *validation* targets of U users among C uniform candidates.

- `grid`: SFT on T tokens of random users, by objective and learning rate. A step of `tokens` has four windows, and a
  step of `choice` one tree, so that steps have about as many tokens. Equal tokens are equal time, not equal targets:
  each target of `choice` brings K more titles.
- `references`: one SFT model (`tokens`, at the first rate), and DPO on the same pairs with each
  `alignment.reference`.

Every model is ranked by log p(title | history), by its mean over tokens, and by its difference from log p(title),
once under the model itself and once under the base model, which is what `choice` trains (times beta; a guess among
K + 1 titles has the loss log(K + 1)). The drift of the prior shows what a model forgets: mean |log p - log p of base|
over the candidates' titles, and their correlation.

Every model's numbers are kept in F/DATASET, and only missing ones are made. The results of all data sets in F are
written to results/training-objectives.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import amazon, material
from rosepo_core.contracts.ranking import rank_targets
from rosepo_core.contracts.records import Examples, Floats, Ints, Pairs, Sequences, Split
from rosepo_core.contracts.sections import SFTOptions, SplitOptions
from rosepo_core.data.filters import filter_corpus
from rosepo_core.data.splitting import split_corpus
from rosepo_core.data.unseen_items import draw_unseen
from rosepo_core.engine.choice_loss import ChoiceLoss, ChoiceOptions
from rosepo_core.engine.policy import PolicySlot
from rosepo_core.engine.prompt_trees import prompt_trees
from rosepo_core.engine.scoring import score_items
from rosepo_core.engine.training import LogHistory, TrainingSettings, align_preferences, fine_tune
from rosepo_core.evaluation.candidates import draw_candidates
from rosepo_core.evaluation.statistics import bootstrap_interval, paired_test
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.stages.aligned import preference_trees
from rosepo_core.stages.prior import every_title
from rosepo_core.stages.sft import choice_pairs
from rosepo_core.testing import prompt_template
from rosepo_core.testing.toys import SilentReporter
from rosepo_metrics.accuracy import ndcg

RESULT = Path(__file__).parent / "results" / "training-objectives.md"
HISTORY = {"movielens": 20, "amazon": 10}
RATES = (1e-3, 3e-4, 1e-4)
ALIGNMENT_RATE = 3e-4
LAST_PLACES = 5
"""Pairs are made of so many latest targets of a user."""
SCORES = ("likelihood", "mean", "own prior", "base prior")
BATCH = {"tokens": 4, "choice": 1, "pairs": 1}
TOKEN_BUDGET = 1024
QUIET = SilentReporter()

Record = dict[str, Any]


def load_split(dataset: str, folder: Path) -> Split:
    """The data set, leave-one-out."""
    if dataset == "movielens":
        return material.split()
    options = amazon.dataset(amazon.write_log(folder))
    source = load_plugins().create("dataset", options.pop("name"), options)
    return split_corpus(filter_corpus(source.load(QUIET), source.options), SplitOptions())


class Experiment:
    """What all models share.

    Attributes:
        validation: the examples to rank for.
        candidates: of each, the target among them.
        titles: the items in `candidates`, each once, int32 [m].
    """

    def __init__(self, dataset: str, folder: Path, sizes: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "sizes.json"
        if path.exists() and json.loads(path.read_text()) != sizes:
            raise SystemExit(f"{folder} has models of other sizes; name another --folder")
        path.write_text(json.dumps(sizes))
        self.folder, self.sizes = folder, sizes
        self.split = load_split(dataset, folder)
        self.policy = PolicySlot(material.MODEL, "auto", QUIET)
        self.template = prompt_template(
            {"name": "timeline", "titles": "short"},
            self.policy.tokenizer,
            self.split.catalogue,
            HISTORY[dataset],
        )
        offered = self.split.validation
        chosen = np.random.default_rng(0).choice(len(offered), sizes["users"], replace=False)
        self.validation = offered.take(np.sort(chosen))
        self.candidates = draw_candidates(self.split, self.validation, sizes["candidates"], seed=0)
        self.titles = np.unique(self.candidates.items)

    @property
    def records(self) -> dict[str, Record]:
        """The models so far, by name."""
        path = self.folder / "records.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def keep(self, name: str, make: Callable[[], Record]) -> None:
        """Make the record of a model, if it is missing."""
        records = self.records
        if name in records:
            return
        wall, cpu = time.perf_counter(), time.process_time()
        record = make()
        record |= {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        (self.folder / "records.json").write_text(json.dumps(records | {name: record}))
        print(f"{name}: {record['seconds']:.0f} s, {record['cpu']:.0f} s of CPU", flush=True)

    def prior(self, model: Any, items: Ints) -> Floats:
        """log p(title) of some items, float32 [all items]; NaN for the others."""
        place, _ = every_title(1)
        found = np.full(len(self.split.catalogue), np.nan, dtype=np.float32)
        found[items] = score_items(model.eval(), self.template, place, items[None], TOKEN_BUDGET, QUIET)[0]
        return found

    @cached_property
    def base_prior(self) -> Floats:
        """`prior` of the base model, for the candidates."""
        path = self.folder / "base-prior.npy"
        if not path.exists():
            np.save(path, self.prior(self.policy.base(), self.titles))
        found: Floats = np.load(path)
        return found

    def judged(self, load: Callable[[], Any]) -> Record:
        """The numbers of a model."""
        base = self.base_prior
        items, model = self.candidates.items, load()
        own = self.prior(model, self.titles)
        scores = score_items(model, self.template, self.validation, items, TOKEN_BUDGET, QUIET)
        lengths = self.template.response_lengths[items]
        by = dict(zip(SCORES, (scores, scores / lengths, scores - own[items], scores - base[items]), strict=True))
        rows, column = np.arange(len(items)), self.candidates.target_column
        return {
            "ndcg": {name: ndcg(rank_targets(each, column), 10).tolist() for name, each in by.items()},
            "loss of targets": float(-scores[rows, column].sum() / lengths[rows, column].sum()),
            "drift": float(np.abs(own - base)[self.titles].mean()),
            "correlation": float(np.corrcoef(own[self.titles], base[self.titles])[0, 1]),
        }

    def only(self, user: int) -> Sequences:
        """The training sequences, all but one user's empty."""
        train = self.split.train
        return train.prefix(np.where(np.arange(len(train)) == user, train.lengths, 0))

    def users(self) -> list[int]:
        """The users with two training interactions or more, in random order."""
        return np.random.default_rng(1).permutation(np.flatnonzero(self.split.train.lengths >= 2)).tolist()

    def sequences(self) -> list[tuple[Ints, Any]]:
        """SFT sequences of as many users as fit into the tokens."""
        found: list[tuple[Ints, Any]] = []
        for user in self.users():
            if sum(len(ids) for ids, _ in found) >= self.sizes["tokens"]:
                break
            found += self.template.sft_sequences(self.only(user))
        return found

    def with_others(self, k: int, last: int | None) -> tuple[Examples, Ints]:
        """The targets, or the `last` ones, of as many users as fit into the tokens, and `k` uniform items beside
        each, int32 [n, k]."""
        train, seen = self.split.train, self.split.train_seen
        user, position, others, tokens = [], [], [], 0
        for number in self.users():
            if tokens >= self.sizes["tokens"]:
                break
            examples = self.template.sft_examples(self.only(number))
            examples = examples.take(np.arange(len(examples))[-last if last else None :])
            sampled = draw_unseen(seen, examples.user, k, np.random.default_rng([2, number])).astype(np.int32)
            responses = np.concatenate([examples.target[:, None], sampled], axis=1)
            tokens += sum(map(len, prompt_trees(self.template, examples, responses, shared=True)))
            user.append(examples.user)
            position.append(examples.position)
            others.append(sampled)
        return Examples.of(train, np.concatenate(user), np.concatenate(position)), np.concatenate(others)

    def tuned(self, objective: str, rate: float, *, beta: float = 1.0, keep: Path | None = None) -> Record:
        """SFT from the base model; `beta` is of choices."""
        options = SFTOptions()
        if objective == "tokens":
            sequences = self.sequences()
            model = self.policy.to_train(options, 0)
            log = fine_tune(model, sequences, settings(objective, rate), QUIET)
            targets = int(sum(int((ids[mask] == self.template.terminator).sum()) for ids, mask in sequences))
        else:
            examples, sampled = self.with_others(self.sizes["negatives"], None)
            prior = self.prior(self.policy.base(), np.unique([*examples.target, *sampled.ravel()]))
            pairs = choice_pairs(examples, sampled, prior)
            targets, model = len(examples), self.policy.to_train(options, 0)
            log = self.aligned(model, ChoiceLoss(ChoiceOptions(beta=beta)), pairs, objective, rate)
        if keep is not None:
            self.policy.save(keep)
        return {"objective": objective, "rate": rate, "targets": targets, **_of_log(log)} | self.judged(model.eval)

    def compared(self, reference: str, sft: Path) -> Record:
        """DPO from the SFT model."""
        examples, rejected = self.with_others(1, LAST_PLACES)
        responses = np.concatenate([examples.target[:, None], rejected], axis=1)
        model, against = self.policy.trained(sft), np.zeros(responses.shape, dtype=np.float32)
        if reference == "sft":
            against = score_items(model, self.template, examples, responses, TOKEN_BUDGET, QUIET, shared=True)
        elif reference == "prior":
            against = self.prior(model, np.unique(responses))[responses]
        pairs = Pairs(examples, rejected, np.zeros(rejected.shape, np.float32), against[:, 0], against[:, 1:])
        model = self.policy.to_continue(sft)
        log = self.aligned(model, material.dpo(), pairs, "pairs", ALIGNMENT_RATE)
        return {"reference": reference, "targets": len(examples), **_of_log(log)} | self.judged(model.eval)

    def aligned(self, model: Any, loss: Any, pairs: Pairs, what: str, rate: float) -> LogHistory:
        trees = preference_trees(self.template, pairs)
        return align_preferences(model, loss, trees, settings(what, rate), QUIET)


def settings(what: str, rate: float) -> TrainingSettings:
    """The settings of the trainers."""
    return TrainingSettings(rate, BATCH[what], TOKEN_BUDGET, warmup_ratio=0.1)


def _of_log(log: LogHistory) -> Record:
    """Tokens, steps, and the loss at both ends, as means over a quarter of the steps."""
    losses = [entry["loss"] for entry in log]
    quarter = max(1, len(losses) // 4)
    return {
        "tokens": log[-1]["num_tokens"],
        "steps": len(log),
        "first": float(np.mean(losses[:quarter])),
        "last": float(np.mean(losses[-quarter:])),
    }


def markdown(dataset: str, sizes: Mapping[str, Any], records: Mapping[str, Record]) -> str:
    """The tables of a data set."""
    cpu, clock = (sum(each[name] for each in records.values()) / 60 for name in ("cpu", "seconds"))
    lines = [
        f"## {dataset}",
        "",
        f"{sizes['users']} validation users, {sizes['candidates']} candidates, {sizes['tokens']:,} tokens of "
        f"training, {sizes['negatives']} sampled titles a choice; {cpu:.0f} minutes of CPU in one thread, "
        f"{clock:.0f} minutes by the clock.",
        "",
        f"| model | targets | steps | loss, first and last quarter | NDCG@10 by {' | by '.join(SCORES)} "
        "| loss of validation targets, a token | drift of the prior, nats a title | its correlation | CPU |",
        "| --- |" + " ---: |" * (8 + len(SCORES) - 1),
    ]
    for name, each in records.items():
        trained = (
            f"{each['targets']} | {each['steps']} | {each['first']:.3f}, {each['last']:.3f}"
            if "steps" in each
            else "| |"
        )
        accuracy = " | ".join(_with_interval(np.array(each["ndcg"][score])) for score in SCORES)
        lines.append(
            f"| {name} | {trained} | {accuracy} | {each['loss of targets']:.3f} | {each['drift']:.2f} "
            f"| {each['correlation']:.3f} | {each['cpu']:.0f} s |"
        )
    apart = list(_differences(records))
    if apart:
        lines += ["", f"| NDCG@10 of | less | by {' | by '.join(SCORES)} |", "| --- | --- |" + " --- |" * len(SCORES)]
        lines += apart
    return "\n".join(lines) + "\n"


def _with_interval(values: Floats) -> str:
    low, high = bootstrap_interval(values)
    return f"{values.mean():.3f} ({float(low):.3f} to {float(high):.3f})"


def _differences(records: Mapping[str, Record]) -> Sequence[str]:
    """Of the same users: each SFT model less the base model, and each aligned one less that with the SFT model as
    reference; a star where the 95 % interval leaves 0 out."""
    rows = []
    for name, each in records.items():
        less = "reference sft" if "reference" in each else "base"
        if name == less or less not in records:
            continue
        cells = []
        for score in SCORES:
            test = paired_test(*(np.array(records[of]["ndcg"][score])[:, None] for of in (name, less)))
            low, high = float(test.low[0]), float(test.high[0])
            star = "*" if low > 0 or high < 0 else ""
            cells.append(f"{float(test.difference[0]):+.3f} ({low:+.3f} to {high:+.3f}){star}")
        rows.append(f"| {name} | {less} | {' | '.join(cells)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=list(HISTORY), required=True)
    parser.add_argument("--part", choices=["grid", "references"], help="both if not given")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=60)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--negatives", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--betas", type=float, nargs="+", default=[0.1, 1.0], help="of choices")
    parser.add_argument("--folder", type=Path, default=Path("runs/training-objectives"))
    parser.add_argument("--results", type=Path, default=RESULT)
    given = parser.parse_args()
    sizes = {name: getattr(given, name) for name in ("tokens", "users", "candidates", "negatives")}
    experiment = Experiment(given.dataset, given.folder / given.dataset, sizes)
    experiment.keep("base", lambda: experiment.judged(experiment.policy.base))
    if given.part != "references":
        for rate in given.rates:
            experiment.keep(f"tokens at {rate:g}", lambda r=rate: experiment.tuned("tokens", r))
            for beta in given.betas:
                name = f"choice at {rate:g}, beta {beta:g}"
                experiment.keep(name, lambda r=rate, b=beta: experiment.tuned("choice", r, beta=b))
    if given.part != "grid":
        sft = experiment.folder / "sft"
        experiment.keep(f"sft at {given.rates[0]:g}", lambda: experiment.tuned("tokens", given.rates[0], keep=sft))
        for reference in ("sft", "prior", "none"):
            experiment.keep(f"reference {reference}", lambda r=reference: experiment.compared(r, sft))
    parts = []
    for path in sorted(given.folder.glob("*/records.json")):
        made = json.loads((path.parent / "sizes.json").read_text())
        parts.append(markdown(path.parent.name, made, json.loads(path.read_text())))
    given.results.write_text("\n".join(parts), encoding="utf-8")
    print("\n".join(parts))


if __name__ == "__main__":
    main()
