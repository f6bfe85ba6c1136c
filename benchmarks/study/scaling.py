"""How does the gap to SASRec close with training tokens, pairs, and rejected items that an oracle makes harder?

    python -m benchmarks.study.scaling [--minutes M] [--models NAME ...] [--table]

Runs on MovieLens-100K that differ from the study's mixture in one thing each, judged on validation users, so that
defaults may be chosen by it. Every run is one of runs/scaling, resumable as the study. Writes results/scaling.json,
scaling.md and scaling.svg, and RUNS/report-scaling.html with the same curve.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.study import outcomes, plots
from benchmarks.study.__main__ import RESULTS
from benchmarks.study.arms import ORACLE_HARD, POPULARITY, SELF_HARD, SEMANTIC, SIZE, UNCLIPPED, Cell, config_of
from rosepo_core import pipeline, train
from rosepo_core.evaluation.statistics import bootstrap_interval, holm, paired_test
from rosepo_core.stages.session import QuietReporter

MODELS = ("smollm2-135m",)
REFERENCE = "mixture"
RUNS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    REFERENCE: ("the study's size", {}),
    "sft-15": ("SFT steps", {"sft": {"steps": 15}}),
    "sft-240": ("SFT steps", {"sft": {"steps": 240}}),
    "users-8": ("users that pairs are made of", {"preferences": {"max_users": 8}}),
    "users-128": ("users that pairs are made of", {"preferences": {"max_users": 128}}),
    "negatives-4": ("rejected items a pair", {"preferences": {"negatives": 4}}),
    "uniform": ("rejected items", {"sampler": [{"name": "uniform"}]}),
    "self-hard": ("rejected items", {"sampler": [SELF_HARD]}),
    "semantic-similar": ("rejected items", {"sampler": [SEMANTIC]}),
    "popularity-aware": ("rejected items", {"sampler": [POPULARITY]}),
    "oracle-hard": ("rejected items", {"sampler": [ORACLE_HARD]}),
    "oracle-hard-unclipped": ("rejected items, factors up to 0.99", {"sampler": [ORACLE_HARD], "oracle": UNCLIPPED}),
    "oracle-hard-unclipped-users-128": (
        "the same, and users that pairs are made of",
        {"sampler": [ORACLE_HARD], "oracle": UNCLIPPED, "preferences": {"max_users": 128}},
    ),
    "beta-0.1": ("beta of the loss", {"loss": {"name": "rosepo", "beta": 0.1}}),
    "beta-0.3": ("beta of the loss", {"loss": {"name": "rosepo", "beta": 0.3}}),
    "rate-1e-3": ("learning rate of alignment", {"alignment": {"learning_rate": 1e-3}}),
    "rate-1e-4": ("learning rate of alignment", {"alignment": {"learning_rate": 1e-4}}),
    "teacher-4": (
        "uniform items, four a pair, factors up to 0.99",
        {"sampler": [{"name": "uniform"}], "oracle": UNCLIPPED, "preferences": {"negatives": 4}},
    ),
    "teacher-4-users-128": (
        "the same, and users that pairs are made of",
        {
            "sampler": [{"name": "uniform"}],
            "oracle": UNCLIPPED,
            "preferences": {"negatives": 4, "max_users": 128},
        },
    ),
}
"""What each run changes of `REFERENCE`, in words and as configuration."""


@dataclass(frozen=True)
class Step:
    """One run: a language model, and a key of `RUNS`."""

    model: str
    change: str

    @property
    def name(self) -> str:
        """The run folder's."""
        return f"{Path(self.model).name}-{self.change}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="language models, such as larger ones")
    parser.add_argument("--only", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--size", type=Path, default=SIZE)
    parser.add_argument("--dataset", default="movielens-100k")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--users", type=int, default=200, help="validation users")
    parser.add_argument("--runs", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="run nothing, only write the results")
    given = parser.parse_args(arguments)
    wanted = [Step(model, change) for model in given.models for change in given.only]
    start = time.monotonic()
    for step in wanted:
        if given.table or outcomes.finished(given.runs / step.name):
            continue
        if time.monotonic() - start > 60 * given.minutes:
            print(f"stopping before {step.name}", file=sys.stderr)
            break
        base = config_of(Cell(given.dataset, 0, "rosepo-mixture"), given.data, given.size)
        train(config(base, step, given.users), given.runs / step.name)
        print(f"{step.name}: at {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    write([step for step in wanted if outcomes.finished(given.runs / step.name)], given.runs, given.results)


def config(base: Mapping[str, Any], step: Step, users: int) -> dict[str, Any]:
    """The tables of a run: `base`, judged on validation users, with what the step changes."""
    tables = dict(base)
    changes = RUNS[step.change][1]
    judged = {"part": "validation", "max_users": users}
    for section, value in [("evaluation", judged), ("model", {"name": step.model}), *changes.items()]:
        own = section in ("model", "evaluation") or (isinstance(value, Mapping) and "name" not in value)
        tables[section] = {**tables.get(section, {}), **value} if own else value
    return tables


def write(steps: Sequence[Step], runs: Path, results: Path) -> None:
    """Table, curve and report of the finished runs."""
    if not steps:
        raise SystemExit(f"no run of the scaling study is finished in {runs}")
    users = {step: pl.read_parquet(runs / step.name / "evaluation" / "per_user.parquet") for step in steps}
    models = pl.DataFrame([row for step in steps for row in _models(step, users[step], runs / step.name)])
    differences = pl.DataFrame(_differences(users))
    results.mkdir(parents=True, exist_ok=True)
    document = {"models": models.to_dicts(), "differences": differences.to_dicts()}
    (results / "scaling.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    text = _markdown(models, differences)
    (results / "scaling.md").write_text(text, encoding="utf-8")
    plots.growth(models, results / "scaling.svg")
    print(text)
    pipeline.report([runs / step.name for step in steps], runs / "report-scaling.html", QuietReporter())


def _models(step: Step, users: pl.DataFrame, folder: Path) -> Iterator[dict[str, Any]]:
    """One row a model: what it was trained on, and its accuracy."""
    sft, alignment = (_tokens(folder / stage) for stage in ("sft", "aligned"))
    pairs = pl.read_parquet(folder / "preferences" / "pairs.parquet").height
    trained = {"sft": (sft, 0), "aligned": (sft + alignment, pairs)}
    for (model,), of in users.group_by("model", maintain_order=True):
        values = of["ndcg@10"].to_numpy()
        low, high = bootstrap_interval(values)
        tokens, made = trained.get(str(model), (0, 0))
        yield {
            "language model": step.model,
            "run": step.change,
            "model": model,
            "tokens": tokens,
            "pairs": made,
            "users": len(values),
            "hr@1": float(of["hr@1"].to_numpy().mean()),
            "ndcg@10": float(values.mean()),
            "low": float(low),
            "high": float(high),
        }


def _tokens(stage: Path) -> int:
    log = json.loads((stage / "log.json").read_text(encoding="utf-8"))
    return int(log[-1]["num_tokens"]) if log else 0


def _differences(users: Mapping[Step, pl.DataFrame]) -> list[dict[str, Any]]:
    """In NDCG@10, of the same users: each aligned model less its SFT model, and less the reference's aligned one;
    p corrected by Holm for all of them."""
    asked: list[tuple[Step, str, pl.DataFrame, pl.DataFrame]] = []
    for step, of in users.items():
        aligned = of.filter(model="aligned")
        asked.append((step, "its SFT model", aligned, of.filter(model="sft")))
        reference = Step(step.model, REFERENCE)
        if reference in users and step != reference:
            asked.append((step, REFERENCE, aligned, users[reference].filter(model="aligned")))
    tests = [paired_test(*(each.select("ndcg@10").to_numpy() for each in pair)) for _, _, *pair in asked]
    corrected = holm(np.array([test.p_bootstrap[0] for test in tests])).tolist()
    return [
        {
            "language model": step.model,
            "run": step.change,
            "less": less,
            "difference": float(test.difference[0]),
            "low": float(test.low[0]),
            "high": float(test.high[0]),
            "p_holm": p,
        }
        for (step, less, *_), test, p in zip(asked, tests, corrected, strict=True)
    ]


def _markdown(models: pl.DataFrame, differences: pl.DataFrame) -> str:
    lines = [
        "| run | what it changes | model | tokens trained on | pairs | HR@1 | NDCG@10 (95 %) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in models.unique(["model", "tokens", "pairs", "ndcg@10"], maintain_order=True).iter_rows(named=True):
        interval = f"{row['ndcg@10']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
        changes = RUNS[row["run"]][0]
        lines.append(
            f"| {row['run']} | {changes} | {row['model']} | {row['tokens']:,} | {row['pairs']:,} | {row['hr@1']:.3f} "
            f"| {interval} |"
        )
    lines += ["", "| aligned model of | less | NDCG@10 (95 %, paired) | p, Holm |", "| --- | --- | --- | --- |"]
    for row in differences.iter_rows(named=True):
        interval = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        lines.append(f"| {row['run']} | {row['less']} | {interval} | {row['p_holm']:.3f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
