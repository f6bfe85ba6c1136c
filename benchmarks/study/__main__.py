"""Which of the paper's claims hold here? Eight arms from the same fine-tuned model, beside SASRec and popularity.

    python -m benchmarks.study [--minutes M] [--seeds 3] [--datasets NAME ...] [--arms NAME ...] [--table]
    python -m benchmarks.study --size gpu --minutes 9        (at full size: see --size gpu --help)

Every arm and seed of a dataset is a run of its own in runs/study; what they share (fine-tuning, oracle, rejected
items, scores) is made once. An interrupted study goes on where it stopped. With --minutes no run is begun that would
probably end later. Writes results/study.json, study.md and two pictures from all runs that are finished, and says
what is missing; --table does only that. Of each dataset's first seed RUNS/report-DATASET.html shows all arms.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from benchmarks.study import BEGUN, answers, outcomes, tables
from benchmarks.study.arms import ARMS, DATASETS, SIZE, Cell, cells, config_of
from rosepo_core import pipeline, train
from rosepo_core.stages.session import QuietReporter

FULL_SIZES = ("gpu", "tiny")
RESULTS = Path(__file__).parents[1] / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    sizes = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    sizes.add_argument("--size", default="cpu")
    size, others = sizes.parse_known_args(words)
    if size.size in FULL_SIZES:
        from benchmarks.study.full import command

        # Of a command, the import of its libraries counts, too.
        command.main(others, size.size, BEGUN if arguments is None else time.monotonic())
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=list(DATASETS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument(
        "--size", type=_size, default=SIZE, metavar="cpu|gpu|tiny|FILE", help="what arms have in common"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="the folder of the datasets' folders"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/study"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="run nothing, only write the results")
    given = parser.parse_args(words)
    wanted = list(cells(given.datasets, given.seeds, given.arms))
    if not given.table:
        work(wanted, given.runs, given.data, given.size, given.minutes)
    write(wanted, given.runs, given.size, given.results)
    if not given.table:
        report(wanted, given.runs)


def _size(text: str) -> Path:
    return SIZE if text == "cpu" else Path(text)


def work(wanted: Sequence[Cell], runs: Path, data: Path, size: Path, minutes: float) -> None:
    """Make the runs that are not finished, as far as time allows and their data is there."""
    start, longest = time.monotonic(), 0.0
    for cell in wanted:
        folder = DATASETS[cell.dataset]
        if outcomes.finished(runs / cell.name) or (folder is not None and not (data / folder).exists()):
            continue
        begun = time.monotonic()
        if begun - start + longest > 60 * minutes:
            print(f"stopping before {cell.name}: it may take {longest:.0f} s", file=sys.stderr)
            return
        train(config_of(cell, data, size), runs / cell.name)
        seconds = time.monotonic() - begun
        longest = max(longest, seconds)
        print(f"{cell.name}: {seconds:.0f} s", file=sys.stderr, flush=True)


def report(wanted: Sequence[Cell], runs: Path) -> None:
    """One report a dataset, of the arms of the first seed: other seeds have other users."""
    for dataset in dict.fromkeys(cell.dataset for cell in wanted):
        folders = [runs / cell.name for cell in wanted if (cell.dataset, cell.seed) == (dataset, 0)]
        folders = [folder for folder in folders if outcomes.finished(folder)]
        if folders:
            pipeline.report(folders, runs / f"report-{dataset}.html", QuietReporter())


def write(wanted: Sequence[Cell], runs: Path, size: Path, results: Path) -> None:
    """The results of what is finished."""
    # A machine that only trains needs nothing that draws.
    from benchmarks.study import plots

    done = [cell for cell in wanted if outcomes.finished(runs / cell.name)]
    if not done:
        raise SystemExit(f"no run of the study is finished in {runs}")
    missing = [cell for cell in wanted if cell not in done]
    users = pl.concat([outcomes.users_of(runs, cell) for cell in done], how="diagonal")
    summary, buckets, found = answers.summary(users), answers.by_bucket(users), answers.findings(users)
    trained = pl.DataFrame([outcomes.training_of(runs, cell) for cell in done]).group_by(
        "dataset", "model", maintain_order=True
    )
    training = trained.agg(pl.all().mean())
    results.mkdir(parents=True, exist_ok=True)
    text = tables.markdown(summary, buckets, found, training, missing)
    config = tomllib.loads(size.read_text(encoding="utf-8"))
    document = tables.document(summary, buckets, found, training, missing, config)
    (results / "study.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (results / "study.md").write_text(text, encoding="utf-8")
    plots.forest(found, results / "study-forest.svg")
    plots.scatter(summary, results / "study-scatter.svg")
    print(text)


if __name__ == "__main__":
    main()
