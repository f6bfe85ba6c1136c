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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.study import outcomes, plots
from benchmarks.study.__main__ import RESULTS
from benchmarks.study.arms import POPULARITY, ROSEPO, SELF_HARD, SEMANTIC, SIZE, Cell, config_of
from rosepo_core import align, pipeline
from rosepo_core.stages.session import QuietReporter
from rosepo_core.statistics import bootstrap_interval, holm, paired_test

MODELS = ("smollm2-135m",)
REFERENCE = "mixture"
UNCLIPPED = {"name": "sasrec", "max_flip": 0.99}
ORACLE_HARD = {"name": "oracle-hard", "pool": 20}
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
    "teacher-4": (
        "uniform items, four a pair, factors up to 0.99",
        {"sampler": [{"name": "uniform"}], "oracle": UNCLIPPED, "preferences": {"negatives": 4}},
    ),
}
"""What each run changes of `REFERENCE`, in words and as configuration."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="language models, such as larger ones")
    parser.add_argument("--only", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--size", type=Path, default=SIZE)
    parser.add_argument("--users", type=int, default=200, help="validation users")
    parser.add_argument("--runs", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="run nothing, only write the results")
    given = parser.parse_args(arguments)
    wanted = {
        f"{Path(model).name}-{name}": config(model, RUNS[name][1], given.size, given.users)
        for model in given.models
        for name in given.only
    }
    start = time.monotonic()
    for name, tables in wanted.items():
        if given.table or outcomes.finished(given.runs / name):
            continue
        if time.monotonic() - start > 60 * given.minutes:
            print(f"stopping before {name}", file=sys.stderr)
            break
        align(tables, given.runs / name)
        print(f"{name}: at {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    write([name for name in wanted if outcomes.finished(given.runs / name)], given.runs, given.results)


def config(model: str, changes: Mapping[str, Any], size: Path, users: int) -> dict[str, Any]:
    """The tables of a run: the study's mixture under seed 0, judged on validation users, with `changes`."""
    tables = config_of(Cell("movielens-100k", 0, "rosepo-mixture"), Path(), size)
    tables = tables | {"loss": ROSEPO, "model": {**tables.get("model", {}), "name": model}}
    tables["evaluation"] = {**tables["evaluation"], "part": "validation", "max_users": users}
    for section, value in changes.items():
        merged = isinstance(value, Mapping) and "name" not in value
        tables[section] = {**tables.get(section, {}), **value} if merged else value
    return tables


def write(names: Sequence[str], runs: Path, results: Path) -> None:
    """Table, curve and report of the finished runs."""
    if not names:
        raise SystemExit(f"no run of the scaling study is finished in {runs}")
    found = [found for name in names for found in _of_run(name, runs)]
    table = pl.DataFrame(found, infer_schema_length=None)
    results.mkdir(parents=True, exist_ok=True)
    tested = _differences(names, runs)
    text = _markdown(table, tested)
    document = {"models": table.to_dicts(), "differences": tested.to_dicts()}
    text_json = json.dumps(document, indent=1, allow_nan=False)
    (results / "scaling.json").write_text(text_json + "\n", encoding="utf-8")
    (results / "scaling.md").write_text(text, encoding="utf-8")
    plots.growth(table, results / "scaling.svg")
    print(text)
    pipeline.report([runs / name for name in names], runs / "report-scaling.html", QuietReporter())


def _users(name: str, runs: Path) -> pl.DataFrame:
    return pl.read_parquet(runs / name / "evaluation" / "per_user.parquet")


def _of_run(name: str, runs: Path) -> list[dict[str, Any]]:
    """One row a model: what it was trained on, and NDCG@10 with its interval."""
    tokens = {}
    for stage in ("sft", "aligned"):
        log = json.loads((runs / name / stage / "log.json").read_text(encoding="utf-8"))
        tokens[stage] = int(log[-1]["num_tokens"]) if log else 0
    pairs = pl.read_parquet(runs / name / "preferences" / "pairs.parquet").height
    trained = {"sft": (tokens["sft"], 0), "aligned": (tokens["sft"] + tokens["aligned"], pairs)}
    rows = []
    for (model,), users in _users(name, runs).group_by("model", maintain_order=True):
        values = users["ndcg@10"].to_numpy()
        low, high = bootstrap_interval(values)
        count, made = trained.get(str(model), (0, 0))
        rows.append(
            {"run": name, "model": model, "tokens": count, "pairs": made, "users": len(values)}
            | {"hr@1": float(users["hr@1"].mean()), "ndcg@10": float(values.mean())}  # type: ignore[arg-type]
            | {"low": float(low), "high": float(high)}
        )
    return rows


def _differences(names: Sequence[str], runs: Path) -> pl.DataFrame:
    """Each run's aligned model less its own SFT model, and less the aligned model of the reference run, in NDCG@10;
    Holm over all of them."""
    values = {
        (name, model): _users(name, runs).filter(model=model)["ndcg@10"].to_numpy()
        for name in names
        for model in ("sft", "aligned")
    }
    pairs = [((name, "aligned"), (name, "sft")) for name in names]
    for name in names:
        reference = name.partition(RUN_OF(name))[0] + REFERENCE
        if reference in names and name != reference:
            pairs.append(((name, "aligned"), (reference, "aligned")))
    tests = [paired_test(values[one][:, None], values[other][:, None]) for one, other in pairs]
    adjusted = holm(np.array([test.p_bootstrap[0] for test in tests]))
    return pl.DataFrame(
        [
            {"run": one[0], "less": "its SFT" if other[1] == "sft" else other[0]}
            | {"difference": float(test.difference[0]), "low": float(test.low[0]), "high": float(test.high[0])}
            | {"p_holm": float(p)}
            for (one, other), test, p in zip(pairs, tests, adjusted.tolist(), strict=True)
        ]
    )
