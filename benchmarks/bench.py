"""The table of speed and memory: each row runs rosepo and its peer in turn and says how far apart they are.

    python -m benchmarks.bench [--quick] [--only NAME ...]

Every row has a process of its own under this one. Writes benchmarks/results/cpu.json, and the table between the marks
`<!-- bench -->` and `<!-- /bench -->` of docs/speed.md from it; rows that are not run, or fail, keep what the file
has of them. With --quick both files are left alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.material import DTYPE

RESULTS = Path(__file__).parent / "results" / "cpu.json"
PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
MARKS = ("<!-- bench -->\n", "<!-- /bench -->")
TRAINING = "benchmarks.rows.training"
ROWS: dict[str, list[str]] = {
    "chat-k1": [TRAINING, "chat-k1"],
    "chat-k15": [TRAINING, "chat-k15"],
    "timeline-k1": [TRAINING, "timeline-k1"],
    "sft-targets": [TRAINING, "sft-targets"],
    "memory-k1": ["benchmarks.rows.memory"],
    "score-20": ["benchmarks.rows.scoring"],
    "catalogue-top10": ["benchmarks.rows.catalogue"],
    "sasrec": ["benchmarks.rows.sasrec"],
    "linear": ["benchmarks.rows.linear"],
}
AT_MOST = ("memory-k1", "linear")
PACKAGES = ("rosepo", "torch", "transformers", "trl", "peft", "accelerate", "datasets")


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| row | work | rosepo | peer | | ratio | goal | above the floor |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        floor = "" if row["floor_ratio"] is None else f"{row['floor_ratio']:.2f} x"
        goal = f"{'≤' if row['name'] in AT_MOST else '≥'} {row['target']:g} x"
        bound = "at least " if row.get("lower_bound") else ""
        unit = row["unit"]
        lines.append(
            f"| {row['name']} | {row['work']} | {row['rosepo']:.4g} {unit} | {row['peer']:.4g} {unit} "
            f"| {row['peer_name']} | {bound}{row['ratio']:.2f} x | {goal} | {floor} |"
        )
    counts = ", ".join(f"{row['name']} {row['measurements']}" for row in rows)
    return "\n".join([*lines, "", f"Medians of measurements taken in turn: {counts}."]) + "\n"


def with_table(text: str, rows: list[dict[str, Any]]) -> str:
    """`text` with the table of `rows` between its marks."""
    before, opening, rest = text.partition(MARKS[0])
    _, closing, after = rest.partition(MARKS[1])
    if not opening or not closing:
        raise SystemExit(f"{PAGE} has no lines {MARKS[0].strip()} and {MARKS[1]} to write the table between")
    return before + opening + table(rows) + closing + after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one measurement a row: does it run at all?")
    parser.add_argument("--only", nargs="*", choices=list(ROWS), help="run these rows")
    parser.add_argument("--peer-batches", default="4,8,16", help="batch sizes of the peer to choose the best from")
    arguments = parser.parse_args()
    found = {row["name"]: row for row in json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]}
    failed = []
    for name in arguments.only or ROWS:
        # The same peer on the same prompts: its best batch size is known.
        of_chat = found.get("chat-k1", {}).get("peer_batch") if name == "chat-k15" else None
        command = [sys.executable, "-m", *ROWS[name], f"--peer-batches={of_chat or arguments.peer_batches}"]
        command += ["--quick"] if arguments.quick else []
        print(f"{name} ...", file=sys.stderr, flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            failed.append(name)
            continue
        found[name] = json.loads(done.stdout.splitlines()[-1]) | {"measured": date.today().isoformat()}
        rows = [found[known] for known in ROWS if known in found]
        if not arguments.quick:
            versions = {package: installed(package) for package in PACKAGES} | {
                "python": sys.version.split()[0],
                "dtype": DTYPE,
                "instructions": torch.backends.cpu.get_cpu_capability(),
                "threads": torch.get_num_threads(),
            }
            for row in rows:
                versions |= row.get("peer_versions", {})
            RESULTS.write_text(json.dumps({"rows": rows, "versions": versions}, indent=1) + "\n", encoding="utf-8")
            PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")
    print(table([found[known] for known in ROWS if known in found]))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
