"""How long a large log takes to prepare, and how much memory, beside pandas and RecBole.

    python -m benchmarks.scale FOLDER [--interactions N ...] [--recbole PYTHON] [--repeat N]

FOLDER receives the logs (1 GB for 25 million interactions), which are made once: as Parquet shards in the order of
time, and as one CSV file in MovieLens's own order, by user and then by item. Each measurement has its own process.
A log of 25 million interactions has the shape of MovieLens-25M: 162,000 users with at least 20 interactions each,
62,000 items, popularity by Zipf's law. Other sizes have users in proportion. Prints a table for
benchmarks/results/scale.md; PYTHON is that of an environment with RecBole (benchmarks/rows/sasrec.py makes one).

Preparing means: read the log and the catalogue, 5-core, one interaction for each user and item, leave-one-out,
popularity in training, and files with all this. rosepo does it with its stages `dataset` and `split`, whose files
have check sums. RecBole only makes the examples of a sequential model in memory, and reads a file of its own format.
Seconds leave out the import of libraries; memory is the highest of the whole process.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

RESULTS = Path(__file__).parent / "results" / "scale.md"
MOVIELENS = 25_000_000
USERS, ITEMS = 162_000, 62_000
SHARDS = 8
FEWEST = 20
CORE = 5
YEARS = 20
ANNUAL = 365 * 86_400
FIRST = 820_454_400
"""1996-01-01 in seconds."""

_HEADS = ("Silent", "Broken", "Golden", "Last", "Hidden", "Crimson", "Endless", "Paper", "Winter", "Electric")
_NOUNS = ("River", "Promise", "Garden", "Empire", "Mirror", "Station", "Letter", "Harbour", "Machine", "Shadow")


def titles(count: int) -> list[str]:
    """Different titles of the length of films' titles, [count]."""
    return [
        f"The {_HEADS[number % 10]} {_NOUNS[number // 10 % 10]} of {_NOUNS[number // 100 % 10]} {number // 1000 + 1} "
        f"({1930 + number * 7 % 90})"
        for number in range(count)
    ]


def _users_items(lengths: np.ndarray, items: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """For each user so many different items, drawn by Zipf's law: user and item of each interaction, int32."""
    weights = np.cumsum(1 / np.arange(1, items + 1))
    weights /= weights[-1]
    renamed = rng.permutation(items)
    users, chosen = [], []
    for start in range(0, len(lengths), 10_000):
        wanted = lengths[start : start + 10_000]
        keys = np.zeros(0, dtype=np.int64)
        missing = wanted
        while missing.any():
            user = np.repeat(np.arange(len(wanted)), missing + missing // 2)
            item = np.searchsorted(weights, rng.random(len(user)))
            keys = np.concatenate([keys, user * items + np.minimum(item, items - 1)])
            keys = keys[np.sort(pl.Series(keys).arg_unique().to_numpy())]
            # Of what is too much, the first draws stay; the order by user is stable.
            keys = keys[np.argsort(keys // items, kind="stable")]
            counts = np.bincount(keys // items, minlength=len(wanted))
            place = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
            keys = keys[place < np.repeat(wanted, counts)]
            missing = wanted - np.minimum(counts, wanted)
        users.append((keys // items + start).astype(np.int32))
        chosen.append(renamed[keys % items].astype(np.int32))
    return np.concatenate(users), np.concatenate(chosen)


def make(folder: Path, interactions: int, items: int) -> None:
    """Write catalogue.csv, log.csv and log/part-N.parquet into `folder`, which must not exist."""
    rng = np.random.default_rng(0)
    users = max(1, round(USERS * interactions / MOVIELENS))
    activity = rng.lognormal(0, 1.2, users)
    spare = interactions - FEWEST * users
    lengths = np.minimum(FEWEST + (activity / activity.sum() * spare).astype(np.int64), items // 4)
    lengths[np.argsort(lengths)[: interactions - lengths.sum()]] += 1
    user, item = _users_items(lengths, items, rng)
    # A person rates for weeks, at some time in twenty years.
    start = rng.integers(FIRST, FIRST + YEARS * ANNUAL, users)
    timestamp = start[user] + rng.exponential(ANNUAL / 8, len(user)).astype(np.int64)
    rating = rng.integers(1, 11, len(user)) / 2
    log = pl.DataFrame({"userId": user + 1, "movieId": item + 1, "rating": rating, "timestamp": timestamp})
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "log").mkdir(parents=True)
    pl.DataFrame({"movieId": np.arange(1, items + 1), "title": titles(items)}).write_csv(partial / "catalogue.csv")
    order = np.lexsort((item, user))
    with (partial / "log.csv").open("wb") as csv:
        for begin in range(0, len(order), 5_000_000):
            log[order[begin : begin + 5_000_000]].write_csv(csv, include_header=begin == 0)
    order = np.argsort(timestamp, kind="stable")
    for number, rows in enumerate(np.array_split(order, SHARDS)):
        log[rows].write_parquet(partial / "log" / f"part-{number}.parquet")
    partial.rename(folder)


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float]) -> dict[str, float]:
    """Seconds by the clock and of the processors."""
    return {"seconds": time.perf_counter() - start[0], "cpu": time.process_time() - start[1]}


def rosepo(log: Path, catalogue: Path, out: Path) -> dict[str, float]:
    """The stages `dataset` and `split`, as `rosepo train --until split` runs them. Returns `_since`."""
    from rosepo_core.config import load_config
    from rosepo_core.plugins.registry import load_plugins
    from rosepo_core.stages import dataset, split
    from rosepo_core.stages.session import QuietReporter, Session
    from rosepo_core.store.run_store import RunStore

    registry = load_plugins()
    options = [("dataset", "table"), ("dataset.path", str(log)), ("dataset.catalogue", str(catalogue))]
    config = load_config(None, [*options, ("dataset.k_core", str(CORE))], registry)
    start = _now()
    store = RunStore(out)
    with store.working(""):
        session = Session(config, store, registry, QuietReporter())
        split.stage(session, dataset.stage(session))
    return _since(start)


def pandas(log: Path, catalogue: Path, out: Path) -> dict[str, float]:
    """The same with pandas, as one writes it. Returns `_since`."""
    import pandas as pd

    start = _now()
    rows = pd.read_parquet(log) if log.is_dir() else pd.read_csv(log)
    films = pd.read_csv(catalogue)
    rows = rows[rows["movieId"].isin(films["movieId"])]
    rows = rows.sort_values(["userId", "timestamp"], kind="stable")
    rows = rows.drop_duplicates(["userId", "movieId"], keep="last")
    before = 0
    while before != len(rows):
        before = len(rows)
        rows = rows[rows.groupby("userId")["movieId"].transform("size") >= CORE]
        rows = rows[rows.groupby("movieId")["userId"].transform("size") >= CORE]
    films = films[films["movieId"].isin(rows["movieId"])].reset_index(drop=True)
    item = pd.Series(films.index, index=films["movieId"])
    rows["item"] = rows["movieId"].map(item)
    rows["user"] = pd.factorize(rows["userId"])[0]
    back = rows.groupby("user").cumcount(ascending=False)
    films["popularity"] = rows[back >= 2]["item"].value_counts().reindex(films.index, fill_value=0)
    histories = rows.groupby("user")["item"].agg(list)
    out.mkdir(parents=True)
    rows.to_parquet(out / "log.parquet")
    films.to_parquet(out / "catalogue.parquet")
    histories.to_frame().to_parquet(out / "histories.parquet")
    for name, place in (("test", 0), ("validation", 1)):
        rows[back == place][["user", "item"]].to_parquet(out / f"{name}.parquet")
    return _since(start)


def catalogue(items: int) -> dict[str, float]:
    """The trie of a catalogue's titles, and uniform candidates for 100,000 users. Returns seconds of each."""
    from rosepo_core.contracts.records import Catalogue, Examples, SeenItems, Sequences, Split
    from rosepo_core.engine.title_trie import TitleTrie
    from rosepo_core.evaluation.candidates import draw_candidates

    rng = np.random.default_rng(0)
    names = titles(items)
    # Words stand for tokens: as many to a title, and as often shared, as a tokenizer's.
    words: dict[str, int] = {}
    responses = [
        np.array([words.setdefault(word, len(words)) for word in name.split()], dtype=np.int32) for name in names
    ]
    start = time.perf_counter()
    TitleTrie.of(responses, names)
    trie = time.perf_counter() - start
    users, length = 100_000, 50
    sequences = Sequences(
        rng.integers(0, items, users * length, dtype=np.int32), np.arange(users + 1, dtype=np.int64) * length
    )
    everyone = np.arange(users, dtype=np.int32)
    test = Examples.of(sequences, everyone, np.full(users, length - 1, np.int32))
    known = Catalogue(tuple(map(str, range(items))), tuple(names), np.zeros(items, np.int64), pl.DataFrame())
    start = time.perf_counter()
    split = Split(tuple(map(str, everyone)), known, sequences, test, test, SeenItems.of(sequences, items))
    draw_candidates(split, test, 20, 0)
    return {"trie": trie, "candidates": time.perf_counter() - start}


WAYS = {"rosepo": rosepo, "pandas": pandas}
FORMATS = {"parquet": "log", "csv": "log.csv"}


def _measured(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def _write_for_recbole(material: Path) -> Path:
    folder = material / "recbole"
    folder.mkdir(exist_ok=True)
    names = {"userId": "user_id:token", "movieId": "item_id:token", "timestamp": "timestamp:float"}
    columns = [pl.col(name).alias(alias) for name, alias in names.items()]
    pl.scan_csv(material / "log.csv").select(columns).sink_csv(folder / "recbole.inter", separator="\t")
    return folder


def _row(what: str, interactions: int, form: str, found: list[dict[str, Any]]) -> str:
    seconds, cpu = (statistics.median(each.get(key, 0.0) for each in found) for key in ("seconds", "cpu"))
    peak = max(each["peak"] for each in found) / 1e9
    return f"| {what} | {interactions:,} | {form} | {seconds:.1f} | {cpu:.1f} | {peak:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="receives the logs")
    parser.add_argument("--interactions", type=int, nargs="+", default=[MOVIELENS])
    parser.add_argument("--recbole", help="the Python of an environment with RecBole")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--measure", nargs=3, metavar=("WAY", "FORMAT", "N"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        _measure(arguments.folder, *arguments.measure)
        return
    myself = [sys.executable, "-m", "benchmarks.scale", str(arguments.folder), "--measure"]
    print("| | interactions | file | seconds | of processors | GB |\n| --- | --- | --- | --- | --- | --- |")
    for interactions in arguments.interactions:
        material = arguments.folder / f"{interactions}-{ITEMS}"
        if not material.exists():
            make(material, interactions, ITEMS)
        for form in FORMATS:
            for way in WAYS:
                found = [_measured([*myself, way, form, str(interactions)]) for _ in range(arguments.repeat)]
                print(_row(way, interactions, form, found), flush=True)
        if arguments.recbole:
            script = str(Path(__file__).parent / "peers" / "recbole_preparation.py")
            command = [arguments.recbole, script, str(_write_for_recbole(material)), str(CORE)]
            print(_row("RecBole", interactions, "its own", [_measured(command)]), flush=True)
    found = _measured([*myself, "catalogue", "", "1000000"])
    print(
        f"\nA million titles: trie {found['trie']:.1f} s, candidates of 100,000 users {found['candidates']:.1f} s, "
        f"{found['peak'] / 1e9:.2f} GB"
    )


def _measure(folder: Path, way: str, form: str, count: str) -> None:
    measured: dict[str, float]
    if way == "catalogue":
        measured = catalogue(int(count))
    else:
        material, out = folder / f"{count}-{ITEMS}", folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        measured = WAYS[way](material / FORMATS[form], material / "catalogue.csv", out)
        shutil.rmtree(out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**measured, "peak": peak}))


if __name__ == "__main__":
    main()
