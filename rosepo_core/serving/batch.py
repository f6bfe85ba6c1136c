"""Recommends for a file of histories: in blocks, each kept when it is done, in one process or several."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import RequestError, RosepoError
from rosepo_core.data.dialects import Dialect
from rosepo_core.data.table_files import TableContent, read_table
from rosepo_core.serving.fallbacks import Fallback
from rosepo_core.serving.filters import Filter
from rosepo_core.serving.recommender import OnUnknown, Recommended, Recommender
from rosepo_core.serving.title_index import By
from rosepo_core.store.files import write_bytes, write_text

BLOCK = 16
"""Histories in a block, which is what an interruption can lose. Larger ones would hardly be faster."""

COLUMNS = ("user", "item", "title", "history", "timestamp")
"""The columns of a file of histories."""

_SCHEMA = {
    "user": pl.String,
    "rank": pl.Int32,
    "item": pl.String,
    "title": pl.String,
    "score": pl.Float32,
    "new": pl.Boolean,
    "answered_by": pl.String,
    "confidence": pl.Float64,
}


@dataclass(frozen=True)
class Histories:
    """The histories of a file, one for each user.

    Attributes:
        users: the users, in the order of the file.
        items: the items of each, oldest first; `None` if these are users of the run's log.
        by: whether the items are titles or ids.
    """

    users: tuple[str, ...]
    items: tuple[tuple[str, ...], ...] | None
    by: By


@dataclass(frozen=True)
class Job:
    """What to recommend.

    Attributes:
        k: the number of items for each user.
        filter: which items are possible, by titles or ids as `by` says.
        by: whether `filter` and a column ``history`` name items by title or by id.
        on_unknown: what to do with items of histories that are not in the catalogue.
        threshold: the confidence below which `fallback` answers; `None` for no threshold.
        fallback: who answers then.
    """

    k: int
    filter: Filter
    by: By = "title"
    on_unknown: OnUnknown = "error"
    threshold: float | None = None
    fallback: Fallback = "popularity"


def read_histories(path: Path, by: By) -> Histories:
    """Read a file of histories: CSV, JSON, Parquet or Arrow. Its columns are one of these:

    - ``user`` and ``item`` (ids), or ``user`` and ``title``: one row for each item, oldest first within a user. If
      there is a column ``timestamp``, rows are sorted by it;
    - ``user`` and ``history``, a list for each user, oldest first; not in CSV;
    - ``user`` alone: users of the run's log.

    Args:
        path: the file.
        by: whether a column ``history`` holds titles or ids.

    Raises:
        RequestError: the file cannot be read, its columns are others, or a cell is empty; the message names file and
            row.
    """
    names = {key: f"the {key} of {path.name}" for key in ("path", "separator", "encoding", "quoting", "columns")}
    table = read_table(path, Dialect(None, None, None, None, names), lambda cell: cell in COLUMNS, lambda *_: None)
    frame = table.frame
    listed = [name for name in ("item", "title", "history") if name in frame.columns]
    if "user" not in frame.columns or len(listed) > 1:
        raise RequestError(
            f"{path} has the columns {', '.join(frame.columns)}: give 'user' and one of 'item' (ids), 'title' or "
            "'history' (lists), or 'user' alone for users of the log"
        )
    used = ["user", *listed]
    for name in used:
        if frame[name].null_count():
            row = int(frame[name].is_null().arg_true()[0])
            raise RequestError(f"{table.place(row)}: '{name}' is empty; fill it or leave the row out")
    if not listed:
        return Histories(tuple(frame["user"].cast(pl.String).unique(maintain_order=True)), None, by)
    if listed == ["history"]:
        return _of_lists(table, by)
    if "timestamp" in frame.columns:
        # Text tables hold text, which would sort 10 before 9.
        times = frame["timestamp"].cast(pl.String).str.strip_chars()
        numbers = times.cast(pl.Float64, strict=False)
        frame = frame.with_columns(timestamp=times if numbers.null_count() else numbers)
        frame = frame.sort("timestamp", maintain_order=True)
    grouped = frame.select(pl.col(used).cast(pl.String)).group_by("user", maintain_order=True).agg(pl.col(listed[0]))
    order = tuple(table.frame["user"].cast(pl.String).unique(maintain_order=True))
    by_user = dict(zip(grouped["user"], grouped[listed[0]].to_list(), strict=True))
    return Histories(order, tuple(tuple(by_user[user]) for user in order), "id" if listed == ["item"] else "title")


def _of_lists(table: TableContent, by: By) -> Histories:
    frame = table.frame
    if not isinstance(frame["history"].dtype, pl.List):
        raise RequestError(f"{table.path}: 'history' holds no lists; give one row for each item ('user' and 'item')")
    users = frame["user"].cast(pl.String)
    if users.is_duplicated().any():
        row = int(users.is_duplicated().arg_true()[-1])
        raise RequestError(f"{table.place(row)}: user '{users[row]}' is there twice; give each once")
    return Histories(
        tuple(users.to_list()), tuple(map(tuple, frame["history"].cast(pl.List(pl.String)).to_list())), by
    )


def recommend_to_file(
    load: Callable[[], Recommender],
    about: str,
    source: Path,
    target: Path,
    job: Job,
    *,
    processes: int = 1,
    reporter: Reporter,
) -> int:
    """Recommend for each user of a file, and write one row for each recommended item: ``user``, ``rank`` (from 1),
    ``item`` (its id), ``title``, ``score``, ``new`` (it has no training interaction), and for the whole list
    ``answered_by`` and ``confidence`` (see `Recommended`).

    All histories are checked before the work begins. Blocks that are done are kept in the folder ``<target>.parts``,
    and the same call goes on there after an interruption.

    Args:
        load: loads the recommender; each of several processes calls it, so it must be picklable.
        about: names the model, so that blocks of another one are not mixed with its own.
        source: the file, see `read_histories`.
        target: the Parquet file to write; it must not exist.
        job: what to recommend.
        processes: how many processes work at once. They share the processor cores, and each has a GPU of its own if
            there are any.
        reporter: receives progress.

    Returns:
        the number of users.

    Raises:
        RequestError: the request is wrong, or blocks of another request are there.
        RosepoError: a process was killed.
    """
    if target.suffix != ".parquet":
        raise RequestError(f"{target}: recommendations are written as Parquet; let the name end in .parquet")
    if target.exists():
        raise RequestError(f"{target} exists already, and nothing is written over it; name another file")
    if not target.parent.is_dir():
        raise RequestError(f"the folder {target.parent} does not exist; make it first")
    histories = read_histories(source, job.by)
    recommender = load()
    users, items = histories.users, _items(recommender, histories, job.on_unknown)
    job = replace(job, filter=_by_id(recommender, job), by="id", on_unknown="error")
    if job.threshold is not None:
        # Before the work begins, in each of the processes.
        recommender.check_threshold(job.threshold, job.fallback, job.k, job.filter)
    folder = target.with_name(f"{target.name}.parts")
    _begin(folder, _request(about, users, items, job))
    starts = range(0, len(users), BLOCK)
    left = [start for start in starts if not (folder / f"{start}.parquet").exists()]
    done = len(starts) - len(left)
    reporter.progress(min(done * BLOCK, len(users)), len(users), "users")
    work = {start: items[start : start + BLOCK] for start in left}
    if processes > 1 and len(left) > 1:
        del recommender  # each process loads its own
        found = _in_processes(load, work, job, min(processes, len(left)))
    else:
        found = ((start, _recommend(recommender, block, job)) for start, block in work.items())
    for start, rows in found:
        write_bytes(folder / f"{start}.parquet", _as_parquet(users[start : start + BLOCK], rows))
        done += 1
        reporter.progress(min(done * BLOCK, len(users)), len(users), "users")
    parts = [pl.read_parquet(folder / f"{start}.parquet", glob=False) for start in starts]
    buffer = BytesIO()
    pl.concat(parts).write_parquet(buffer)
    write_bytes(target, buffer.getvalue())
    shutil.rmtree(folder)
    return len(users)


def _items(recommender: Recommender, histories: Histories, on_unknown: OnUnknown) -> list[list[str]]:
    """The ids of each history."""
    found = []
    for row, user in enumerate(histories.users):
        try:
            if histories.items is None:
                found.append(recommender.history(user, "id"))
            else:
                found.append(recommender.ids_of(histories.items[row], by=histories.by, on_unknown=on_unknown))
        except RequestError as error:
            raise RequestError(str(error) if histories.items is None else f"user '{user}': {error}") from None
    return found


def _by_id(recommender: Recommender, job: Job) -> Filter:
    """The filter with ids."""
    allow = job.filter.allow
    return Filter(
        None if allow is None else recommender.candidate_ids(sorted(set(allow)), by=job.by),
        [] if not job.filter.deny else recommender.ids_of(sorted(set(job.filter.deny)), by=job.by),
        job.filter.having,
        job.filter.lacking,
    )


def _request(about: str, users: Sequence[str], items: Sequence[Sequence[str]], job: Job) -> str:
    """A text that is equal only for equal requests."""
    histories = hashlib.sha256(json.dumps([users, items], ensure_ascii=False).encode()).hexdigest()
    conditions = {
        "model": about,
        "histories": histories,
        "k": job.k,
        "threshold": job.threshold,
        "fallback": job.fallback,
        "allow": job.filter.allow,
        "deny": job.filter.deny,
        "having": {column: sorted(values) for column, values in sorted(job.filter.having.items())},
        "lacking": {column: sorted(values) for column, values in sorted(job.filter.lacking.items())},
    }
    return json.dumps(conditions, ensure_ascii=False, indent=1)


def _begin(folder: Path, request: str) -> None:
    """Make the folder of blocks, or go on with one of the same request."""
    note = folder / "request.json"
    if not folder.exists():
        folder.mkdir()
        write_text(note, request)
        return
    if not note.is_file() or note.read_text(encoding="utf-8") != request:
        raise RequestError(
            f"{folder} holds blocks of another request, which was interrupted: repeat that request, or remove the "
            "folder"
        )


def _as_parquet(users: Sequence[str], found: Sequence[Recommended]) -> bytes:
    rows = [
        (user, rank, each.item, each.title, each.score, each.new, of_user.answered_by, of_user.confidence)
        for user, of_user in zip(users, found, strict=True)
        for rank, each in enumerate(of_user, 1)
    ]
    buffer = BytesIO()
    pl.DataFrame(rows, schema=_SCHEMA, orient="row").write_parquet(buffer)
    return buffer.getvalue()


def _recommend(recommender: Recommender, histories: Sequence[Sequence[str]], job: Job) -> list[Recommended]:
    return recommender.recommend_many(
        histories, job.k, filter=job.filter, by=job.by, threshold=job.threshold, fallback=job.fallback
    )


# In one of several processes.

_loaded: list[tuple[Recommender, Job]] = []


def _in_processes(
    load: Callable[[], Recommender], work: Mapping[int, Sequence[Sequence[str]]], job: Job, processes: int
) -> Iterator[tuple[int, list[Recommended]]]:
    context = get_context("spawn")
    turn = context.Value("i", 0)
    with ProcessPoolExecutor(processes, context, _start, (load, job, processes, turn)) as pool:
        try:
            waiting = {pool.submit(_work, block): start for start, block in work.items()}
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool:
            raise RosepoError(
                f"one of the {processes} processes ended before its work was done, perhaps for lack of memory: what "
                "is done is kept; run the command again with fewer processes"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(load: Callable[[], Recommender], job: Job, processes: int, turn: Any) -> None:
    """Prepare this process: its share of the cores, its GPU, and its own model."""
    import torch

    # Ctrl-C reaches all processes of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with turn.get_lock():
        number = turn.value
        turn.value += 1
    if torch.cuda.device_count():
        torch.cuda.set_device(number % torch.cuda.device_count())
    else:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
    _loaded.append((load(), job))


def _work(histories: Sequence[Sequence[str]]) -> list[Recommended]:
    ((recommender, job),) = _loaded
    return _recommend(recommender, histories, job)
