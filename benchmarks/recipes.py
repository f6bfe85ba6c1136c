"""What the recipes in examples/recipes reach with SmolLM2-135M and minutes of training on one thread.

    python -m benchmarks.recipes [NAME ...] [--data ../shared/data] [--runs runs/recipes]

Each recipe runs with its own prompt, data, sampler, loss and evaluation protocol, and with the changes in `SIZES`: a
small model, few rows and steps, and rates at which so few steps move such a model. So its figures stand beside the
published ones (docs/recipes.md) to show that the protocols run, not to reproduce them.

The same command continues an interrupted run. Results go to benchmarks/results/recipes.json and recipes.md; recipes
that are not named keep theirs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.decision_rule import Progress
from rosepo_core import pipeline
from rosepo_core.config import load_config
from rosepo_core.report.display import model_title

RECIPES = Path(__file__).parents[1] / "examples" / "recipes"
RESULTS = Path(__file__).parent / "results"
AMAZON = "amazon-industrial/Industrial_and_Scientific"
SMALL = {
    "model": "smollm2-135m",
    "model.quantization": "none",
    "sft.gradient_checkpointing": False,
    # The first of one or two steps would have a rate of 0.
    "alignment.warmup_ratio": 0.0,
}
SIZES: Mapping[str, Mapping[str, Any]] = {
    # lastfm-val.json alone: parts are drawn from its rows.
    "s-dpo-lastfm": {
        "sft.steps": 4,
        "sft.batch_size": 8,
        "sft.learning_rate": 1e-3,
        "preferences.max_users": 8,
        "alignment.epochs": 1,
        "alignment.batch_size": 4,
        "alignment.learning_rate": 3e-4,
        "evaluation.max_users": 16,
    },
    # train.json alone: parts are drawn from its rows. Grounding would embed 4,058 titles.
    "sprec-goodreads": {
        "rounds": 1,
        "sft.max_users": 16,
        "sft.epochs": 1,
        "sft.batch_size": 8,
        "sft.learning_rate": 1e-3,
        "preferences.max_pairs": 4,
        "alignment.batch_size": 4,
        "alignment.learning_rate": 3e-4,
        "evaluation.ground": False,
        "evaluation.max_users": 12,
    },
    # The published validation rows to train on, because the training rows are not at hand; the published test rows.
    "minionerec-industrial": {
        "sft.steps": 3,
        "sft.batch_size": 8,
        "sft.patience": 0,
        "sft.validate_every": 50,
        "preferences.max_users": 4,
        "alignment.epochs": 1,
        "alignment.batch_size": 4,
        "evaluation.beams": 10,
        "evaluation.max_users": 8,
    },
}
"""What is changed of each recipe."""
FILES: Mapping[str, Mapping[str, str]] = {
    "s-dpo-lastfm": {"path": "lastfm-sdpo"},
    "sprec-goodreads": {"path": "goodreads-sprec"},
    "minionerec-industrial": {
        "path": f"{AMAZON}-valid.csv.gz",
        "test": f"{AMAZON}-test.csv.gz",
        "info": f"{AMAZON}-info.txt.gz",
    },
}
"""Options of the dataset: files below --data."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="NAME", help=", ".join(SIZES))
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="the folder of the publishers' files"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/recipes"))
    asked = parser.parse_args()
    if unknown := set(asked.recipes) - set(SIZES):
        parser.error(f"no recipe {', '.join(sorted(unknown))}; there are {', '.join(SIZES)}")
    file = RESULTS / "recipes.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for name in asked.recipes or SIZES:
        results[name] = measured(name, asked.data, asked.runs / name)
        file.write_text(json.dumps(results, indent=1) + "\n")
        print(section(name, results[name]))
        parts = [section(each, results[each]) for each in SIZES if each in results]
        (RESULTS / "recipes.md").write_text("# The recipes at a small size\n\n" + "\n".join(parts))


def measured(name: str, data: Path, folder: Path) -> dict[str, Any]:
    """Run a recipe, or read its finished run."""
    files = {f"dataset.{option}": data / path for option, path in FILES[name].items()}
    changed = {**SMALL, **SIZES[name]}
    given = [(key, str(value) if isinstance(value, Path) else value) for key, value in (files | changed).items()]
    config = load_config(RECIPES / f"{name}.toml", given)
    start = time.perf_counter()
    tables = pipeline.run(config, folder, Progress()).evaluations
    print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    # A finished run was made in the seconds of its stages, whenever that was.
    seconds = sum(json.loads(each.read_text())["seconds"] for each in folder.glob("*/manifest.json"))
    return {
        "command": f"python -m benchmarks.recipes {name}",
        "seconds": seconds,
        "users": len(tables[0].examples),
        "pairs": sum(pl.read_parquet(each).height for each in folder.glob("preferences*/pairs.parquet")),
        "seed": config.seed,
        "changed": changed,
        "protocols": {
            table.protocol: {
                model: {
                    metric: [value, *result.intervals.get(metric, ())] for metric, value in result.metrics.items()
                }
                for model, result in table.models.items()
            }
            for table in tables
        },
    }


def section(name: str, found: Mapping[str, Any]) -> str:
    """The results of one recipe in Markdown."""
    changes = ", ".join(f"`{key} = {json.dumps(value)}`" for key, value in found["changed"].items())
    lines = [
        f"## {name}",
        "",
        f"`{found['command']}`; {found['users']} test users, {found['pairs']} pairs, seed {found['seed']}, "
        f"{found['seconds'] / 60:.0f} minutes on one thread of a busy "
        f"machine. Changes to the recipe: {changes}.",
        "",
    ]
    for protocol, models in found["protocols"].items():
        metrics = list(dict.fromkeys(metric for values in models.values() for metric in values))
        lines += [f"| {' | '.join([protocol, *metrics])} |", f"| {' | '.join(['---'] * (1 + len(metrics)))} |"]
        for model, values in models.items():
            cells = [shown(values.get(metric)) for metric in metrics]
            lines.append(f"| {' | '.join([model_title(model), *cells])} |")
        lines.append("")
    return "\n".join(lines)


def shown(numbers: list[float | None] | None) -> str:
    """A value, with its 95 % interval over users if it has one; empty if the model has none."""
    if not numbers or numbers[0] is None:
        return ""
    value, *ends = numbers
    return f"{value:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if len(ends) == 2 else "")


if __name__ == "__main__":
    main()
