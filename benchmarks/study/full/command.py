"""The study at full size: ``python -m benchmarks.study --size gpu``."""

from __future__ import annotations

import argparse
import contextlib
import tomllib
import warnings
from collections.abc import Sequence
from pathlib import Path

from benchmarks.study.full.budget import Budget
from benchmarks.study.full.cells import ARMS, DEFAULT_DATA, PLACES, SEEDS, SIZES, cells, config_of, place_data
from benchmarks.study.full.kept import Kept
from benchmarks.study.full.work import work
from benchmarks.tiny_model import tiny_model
from rosepo_core.contracts.errors import RequestError

ABOUT = """Which samplers, losses, oracles and references are good, at full size?

    python -m benchmarks.study --size gpu --minutes 9 [--runs FOLDER] [--data NAME=PATH ...]
    python -m benchmarks.study --size gpu --table [--runs FOLDER] [--results FOLDER]

One process makes one cell (data, seed, arm) after another, until the next is not expected to fit into the minutes,
and ends before they are over. The same command goes on with FOLDER, and with --trust on another machine. --table
makes tables and the picture of what is finished, without a GPU. --size tiny runs the same with a random model on a
processor.
"""


def main(arguments: Sequence[str], size: str, begun: float) -> None:
    """The command, without ``--size``. `begun`: when it began, by `time.monotonic`."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.study", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end before so many are over")
    parser.add_argument("--seeds", type=int, default=SEEDS if size == "gpu" else 1)
    parser.add_argument("--datasets", nargs="+", default=list(DEFAULT_DATA), choices=list(PLACES))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=PATH", help="where the files of data are")
    parser.add_argument("--model", help="a language model other than that of the size")
    parser.add_argument("--runs", type=Path, default=Path(f"runs/study-{size}"), help="the folder to go on with")
    parser.add_argument("--trust", action="store_true", help="the folder is yours, from another machine")
    parser.add_argument("--results", type=Path, help="where tables and picture go")
    parser.add_argument("--table", action="store_true", help="run nothing, only write tables and picture")
    given = parser.parse_args(arguments)
    kept = Kept(given.runs.resolve())
    if not given.table:
        # Libraries warn of each other's old names, a dozen lines for each cell.
        warnings.simplefilter("ignore", FutureWarning)
        try:
            run(given, size, kept, Budget(begun, given.minutes))
        except RequestError as error:
            raise SystemExit(str(error)) from None
        return
    # What draws is not there on every machine that trains.
    from benchmarks.study.full.results import write

    wanted = list(cells(given.datasets, given.seeds, given.arms))
    write(wanted, kept, given.results or given.runs / "results")


def run(given: argparse.Namespace, size: str, kept: Kept, time_given: Budget) -> None:
    """Work on the cells that are asked for."""
    sources = dict(PLACES)
    for name, _, path in (each.partition("=") for each in given.data):
        if name not in PLACES or not path:
            raise SystemExit(f"--data {name}={path}: give NAME=PATH, and one of the names {', '.join(PLACES)}")
        sources[name] = Path(path)
    settings = tomllib.loads(SIZES[size].read_text(encoding="utf-8"))
    kept.begin({"size": size, "settings": settings, "model": given.model}, trusts=given.trust)
    model = tiny_model(kept.folder / "model") if size == "tiny" and given.model is None else given.model
    # The working directory changes.
    model = str(Path(model).resolve()) if model and Path(model).exists() else model
    places = {name: path and path.resolve() for name, path in sources.items()}
    with contextlib.chdir(kept.folder):
        sections = {name: place_data(name, places[name], Path("data")) for name in given.datasets}
        for name in [name for name, section in sections.items() if section is None]:
            print(f"skipped: {name}, whose files are not at hand (--data {name}=PATH)", flush=True)
        there = {name: section for name, section in sections.items() if section is not None}
        if not there:
            raise SystemExit("no data is at hand: name its files, --data NAME=PATH")
        wanted = list(cells(list(there), given.seeds, given.arms))
        configs = {cell: config_of(cell, SIZES[size], there[cell.dataset], model) for cell in wanted}
        work(wanted, configs, Kept(Path()), time_given)
