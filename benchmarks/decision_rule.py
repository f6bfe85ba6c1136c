"""By which score should a language model rank titles?

    python -m benchmarks.decision_rule [--dataset movielens-100k|amazon-industrial ...] [--users N] [--folder F]
        [--set KEY=VALUE ...] [--untrained] [--table]

Trains the quickstart's run on each data set with `ranking.score = "fusion"`: popularity, SASRec, and SmolLM2-135M
before and after SFT and after alignment, each by every score that it has, on the same 20 uniform candidates for each
test user. Without --users, all test users are ranked, which takes hours on two CPU cores; N users are drawn by the
seed. The weights of ``fusion`` are fitted on as many validation users. Each row is compared with SASRec user by user
(bootstrap; p with Holm's correction for all rows of the data set).

Runs are F/DATASET (default runs/decision-rule). The same command continues an interrupted run. Results go to
benchmarks/results/decision-rule.md and decision-rule.json. --untrained leaves SFT and alignment out. --table writes
the page again from the JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import amazon
from rosepo_core import pipeline
from rosepo_core.config import RunConfig, load_config
from rosepo_core.evaluation.ranked_models import before_training
from rosepo_core.evaluation.results import Evaluation
from rosepo_core.evaluation.statistics import holm, paired_test
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.report import outputs
from rosepo_core.report.display import model_title
from rosepo_core.stages import dataset as dataset_stage
from rosepo_core.stages import evaluation as evaluation_stage
from rosepo_core.stages import oracle, split
from rosepo_core.stages.session import QuietReporter, Session
from rosepo_core.store.run_store import RunStore

RESULTS = Path(__file__).parent / "results"
QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart.toml"
RUNS = Path("runs/decision-rule")
DATASETS: Mapping[str, Mapping[str, Any]] = {
    "movielens-100k": {},
    # Titles of 30 tokens; a year at their end is rare. Histories are as the data set was published.
    "amazon-industrial": {"dataset.history_length": 10, "prompt.titles": "full"},
}
BASELINE = "oracle"
SHOWN = ("ndcg@10", "hr@1")


class Progress(QuietReporter):
    """Prints each stage."""

    def stage_finished(self, artifact: Any) -> None:
        """The stage and its seconds."""
        print(f"  {artifact.stage:26} {'reused' if artifact.reused else f'{artifact.seconds:8.1f} s'}", flush=True)

    def note(self, message: str) -> None:
        """The note."""
        print(f"  note: {message}", flush=True)


def config_of(dataset: str, folder: Path, users: int | None, changed: Sequence[str]) -> RunConfig:
    """The run on a data set."""
    keys: list[tuple[str, Any]] = [("ranking.score", "fusion"), *DATASETS[dataset].items()]
    if dataset == "amazon-industrial":
        log = amazon.dataset(amazon.write_log(folder))
        keys = [("dataset", log.pop("name")), *((f"dataset.{key}", value) for key, value in log.items()), *keys]
    keys += [(key, value) for key, _, value in (each.partition("=") for each in changed)]
    config = load_config(QUICKSTART, keys)
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"max_users": users})})


def rows_of(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One row for each model by each score: means with intervals, and the difference to the baseline."""
    column = SHOWN[0]
    others = [name for name in evaluation.models if name != BASELINE]
    values = np.stack([evaluation.models[name].per_user[column] for name in others], axis=1)
    baseline = evaluation.models[BASELINE].per_user[column][:, None]
    test = paired_test(values, np.repeat(baseline, len(others), axis=1))
    adjusted = dict(zip(others, holm(test.p_bootstrap).tolist(), strict=True))
    rows = []
    for name, result in evaluation.models.items():
        row: dict[str, Any] = {"model": name}
        row |= {each: [result.metrics[each], *result.intervals[each]] for each in SHOWN}
        if name in adjusted:
            place = others.index(name)
            ends = (test.difference, test.low, test.high)
            row |= {"difference": [float(each[place]) for each in ends], "p_holm": adjusted[name]}
        rows.append(row)
    return rows


def table_of(found: Mapping[str, Any]) -> str:
    """The results of one data set in Markdown."""
    lines = [
        f"## {found['dataset']}",
        "",
        f"`{found['command']}`; {found['users']:,} test users, {found['fitted']:,} validation users behind the "
        f"fusions; {found['settings']}.",
        "",
        "| score | NDCG@10 | HR@1 | NDCG@10 less SASRec | p (Holm) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in found["rows"]:
        means = [f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in (row[each] for each in SHOWN)]
        less = ["", ""]
        if "difference" in row:
            mean, low, high = row["difference"]
            less = [f"{mean:+.3f} ({low:+.3f} to {high:+.3f})", f"{row['p_holm']:.3f}"]
        lines.append(f"| {' | '.join([model_title(row['model']), *means, *less])} |")
    lines += ["", "Weights per standard deviation within a user's candidates:", ""]
    for name, logit in found["fusions"].items():
        weights = ", ".join(
            f"{feature} {weight:+.2f} ({low:+.2f} to {high:+.2f})"
            for feature, weight, low, high in zip(
                *(logit[key] for key in ("features", "weights", "low", "high")), strict=True
            )
        )
        lines.append(f"- {model_title(name)}: {weights}")
    return "\n".join([*lines, ""])


def untrained(config: RunConfig, folder: Path) -> Evaluation:
    """The table of popularity, the oracle and the base model."""
    store = RunStore(folder)
    session = Session(config, store, load_plugins(), Progress())
    with store.working(config.to_toml(), pipeline.STAGES):
        held_out = split.stage(session, dataset_stage.stage(session))
        candidates = evaluation_stage.draw_candidates(session, held_out)
        smoothing = oracle.stage(session, held_out)
        models = before_training(session, held_out, smoothing)
        (table,) = evaluation_stage.stage(session, held_out, candidates, models, smoothing)
        outputs.write_tables(session, [table])
    return table


def measured(dataset: str, config: RunConfig, folder: Path, command: str, *, trained: bool) -> dict[str, Any]:
    """Run a data set, or read its finished run."""
    start = time.perf_counter()
    evaluation = pipeline.run(config, folder, Progress()).evaluations[0] if trained else untrained(config, folder)
    print(f"{dataset}: {time.perf_counter() - start:.0f} s", flush=True)
    fusions = json.loads((folder / "metrics.json").read_text())["fusions"][evaluation.protocol]
    pairs = config.preferences
    training = (
        f"SFT of {config.sft.steps} steps of {config.sft.batch_size} timelines at a rate of "
        f"{config.sft.learning_rate:g}, then pairs of {pairs.max_users} users, at most {pairs.max_per_user} each"
    )
    return {
        "dataset": dataset,
        "command": command,
        "users": len(evaluation.examples),
        "fitted": max(each["users"] for each in fusions.values()),
        "settings": f"{training if trained else 'the language model is not trained'}; seed {config.seed}",
        "rows": rows_of(evaluation),
        "fusions": fusions,
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", action="append", choices=list(DATASETS))
    parser.add_argument("--users", type=int)
    parser.add_argument("--folder", type=Path, default=RUNS)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--untrained", action="store_true")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    file = RESULTS / "decision-rule.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for dataset in asked.dataset or list(DATASETS):
        if not asked.table:
            users = [] if asked.users is None else ["--users", str(asked.users)]
            sets = [part for each in asked.set for part in ("--set", each)]
            sets += ["--untrained"] if asked.untrained else []
            command = " ".join(["python -m benchmarks.decision_rule --dataset", dataset, *users, *sets])
            config = config_of(dataset, asked.folder, asked.users, asked.set)
            name = f"{dataset}-untrained" if asked.untrained else dataset
            results[name] = measured(name, config, asked.folder / name, command, trained=not asked.untrained)
            file.write_text(json.dumps(results, indent=1) + "\n")
            print(table_of(results[name]))
    parts = [table_of(results[name]) for name in sorted(results)]
    (RESULTS / "decision-rule.md").write_text("# By which score to rank\n\n" + "\n".join(parts))


if __name__ == "__main__":
    main()
