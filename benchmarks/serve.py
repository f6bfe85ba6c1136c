"""Asks `rosepo serve` as many clients do, and as one alone. `python -m benchmarks.serve RUN` needs a finished run.

It starts the server in a process of its own, asks one request at a time for a while, and then lets many clients ask
for minutes. It fails if an answer is an error other than a deliberate 503, or if memory grows. The server's process
may use all cores that this process may; `taskset -c 0,1` gives it two. The table goes into
benchmarks/results/serve.md and docs/how-to/serve.md.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import pages

PAGES = (Path(__file__).parent / "results" / "serve.md", Path(__file__).parents[1] / "docs" / "how-to" / "serve.md")
MARK = "serve"
PARTS = 10
"""How often memory is looked at, in equal distances."""
GROWTH = 1.1
"""How much more memory there may be at the end than after the first part of the time."""


@dataclass
class Load:
    """What some clients saw.

    Attributes:
        clients: how many asked at once.
        seconds: how long they asked.
        waits: seconds until each answer that was given.
        statuses: number of answers by HTTP status.
        batch: the mean number of questions that were answered together.
    """

    clients: int
    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    batch: float = 1.0

    @property
    def rate(self) -> float:
        """Answers in a second."""
        return len(self.waits) / self.seconds

    def wait(self, percent: float) -> float:
        """A percentile of the waits, in seconds."""
        return float(np.percentile(self.waits, percent)) if self.waits else float("nan")


class Client:
    """Asks a server over one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, path: str, body: Any = None) -> tuple[int, str, http.client.HTTPMessage]:
        data = None if body is None else json.dumps(body)
        self._connection.request("GET" if body is None else "POST", path, data, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers

    def metric(self, name: str) -> float:
        lines = self.ask("/metrics")[1].splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


@contextmanager
def server(arguments: list[str]) -> Iterator[int]:
    """The port of a server that lives inside the context."""
    command = [sys.executable, "-m", "rosepo_cli", "serve", *arguments, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if line.startswith("serving"):
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield int(line.rpartition(":")[2])
                break
        else:
            raise SystemExit("the server has not started")
    finally:
        process.terminate()
        process.wait(60)


def histories(port: int, length: int) -> list[list[str]]:
    """Histories of popular items, each drawn on its own."""
    items = [each["item"] for each in json.loads(Client(port).ask("/items?limit=100")[1])["items"]]
    rng = random.Random(0)
    return [rng.sample(items, min(length, len(items) // 2)) for _ in range(997)]


def asked(port: int, asks: list[list[str]], k: int, clients: int, seconds: float) -> Load:
    """Let clients ask, each its next request when the last is answered."""
    load, lock, ends = Load(clients), threading.Lock(), time.monotonic() + seconds

    def client(number: int) -> None:
        connection, place = Client(port), number
        while time.monotonic() < ends:
            started = time.monotonic()
            body = {"history": asks[place % len(asks)], "by": "id", "k": k}
            status, _, headers = connection.ask("/recommend", body)
            with lock:
                load.statuses[status] += 1
                if status == 200:
                    load.waits.append(time.monotonic() - started)
            if status == 503:
                time.sleep(float(headers["Retry-After"]))
                connection = Client(port)
            place += clients

    started = time.monotonic()
    # The server closes a connection that is idle for seconds, so each look has one of its own.
    before = [Client(port).metric(f"rosepo_batch_size_{part}") for part in ("sum", "count")]
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.seconds = time.monotonic() - started
    after = [Client(port).metric(f"rosepo_batch_size_{part}") for part in ("sum", "count")]
    load.batch = (after[0] - before[0]) / max(1.0, after[1] - before[1])
    return load


@dataclass(frozen=True)
class Finding:
    """The result.

    Attributes:
        alone: one client, one request at a time.
        many: all clients.
        memory: resident bytes of the server after each tenth of the time.
    """

    alone: Load
    many: Load
    memory: tuple[float, ...]

    @property
    def faults(self) -> list[str]:
        """What went wrong."""
        bad = {
            status: n for status, n in (self.alone.statuses + self.many.statuses).items() if status not in (200, 503)
        }
        found = [f"{count} answers {status}" for status, count in bad.items()]
        if self.memory[-1] > GROWTH * self.memory[0]:
            found.append("memory grew")
        return found

    def document(self) -> dict[str, Any]:
        """All figures, for programs."""
        loads = {
            name: {
                "clients": load.clients,
                "seconds": load.seconds,
                "answers": len(load.waits),
                "refused": load.statuses[503],
                "per_second": load.rate,
                "p50": load.wait(50),
                "p95": load.wait(95),
                "batch": load.batch,
            }
            for name, load in (("alone", self.alone), ("many", self.many))
        }
        return {**loads, "ratio": self.many.rate / self.alone.rate, "memory": self.memory, "faults": self.faults}


def measured(arguments: list[str], *, clients: int, seconds: float, alone: float, length: int, k: int) -> Finding:
    """Start a server and ask it."""
    with server(arguments) as port:
        asks = histories(port, length)
        asked(port, asks[:1], k, 1, 0.1)  # the first request prepares the trie
        one = asked(port, asks, k, 1, alone)
        memory: list[float] = []

        def look() -> None:
            for _ in range(PARTS):
                time.sleep(seconds / PARTS)
                memory.append(Client(port).metric("process_resident_memory_bytes"))

        looking = threading.Thread(target=look)
        looking.start()
        many = asked(port, asks, k, clients, seconds)
        looking.join()
    return Finding(one, many, tuple(memory))


def page(finding: Finding, command: str, cores: int, note: str = "") -> str:
    """The result as Markdown. `note` is a sentence about the circumstances."""
    rows = [
        f"| {load.clients} | {load.seconds:.0f} | {len(load.waits)} | {load.statuses[503]} | {load.rate:.2f} | "
        f"{load.wait(50):.2f} | {load.wait(95):.2f} | {load.batch:.1f} |"
        for load in (finding.alone, finding.many)
    ]
    memory = ", ".join(f"{each / 2**20:,.0f}" for each in finding.memory)
    return "\n".join(
        [
            f"`{command}`, on {cores} core{'s' * (cores > 1)}:",
            "",
            "| clients | seconds | answers | 503 | answers/s | p50 (s) | p95 (s) | questions in a batch |",
            "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            "",
            f"{finding.many.rate / finding.alone.rate:.1f} times the answers of one request at a time. Memory after "
            f"each tenth of the time, in MiB: {memory}. Errors: {', '.join(finding.faults) or 'none'}."
            f"{f' {note}' * bool(note)}",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long many clients ask")
    parser.add_argument("--alone", type=float, default=60.0, help="how long one client asks")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--history", type=int, default=10, help="items of a history")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--score", default="likelihood")
    parser.add_argument("--note", default="", help="a sentence about the circumstances, for the table")
    chosen = parser.parse_args()
    arguments = [str(chosen.run), "--score", chosen.score, "--timeout", "120"]
    finding = measured(
        arguments,
        clients=chosen.clients,
        seconds=chosen.seconds,
        alone=chosen.alone,
        length=chosen.history,
        k=chosen.k,
    )
    given = [word for word in sys.argv[1:] if word not in (str(chosen.run), "--note", chosen.note)]
    words = ["python", "-m", "benchmarks.serve", *given, "RUN"]
    for file in PAGES:
        pages.put(file, MARK, page(finding, " ".join(words), len(os.sched_getaffinity(0)), chosen.note))
    print(json.dumps(finding.document()))
    if finding.faults:
        raise SystemExit("; ".join(finding.faults))


if __name__ == "__main__":
    main()
