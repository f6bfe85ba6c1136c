"""The table of speed and memory: each row runs rosepo and its peer in turn and says how far apart they are.

    python -m benchmarks.bench [--quick] [--only NAME ...]

Every row has a process of its own under this one. Writes benchmarks/results/cpu.json and cpu.md; rows that are
not run keep what the file has of them.
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

RESULTS = Path(__file__).parent / "results"
TRAINING = "benchmarks.rows.training"
ROWS: dict[str, list[str]] = {
    "chat-k1": [TRAINING, "chat-k1"],
    "chat-k15": [TRAINING, "chat-k15"],
    "timeline-k1": [TRAINING, "timeline-k1"],
    "sft-targets": [TRAINING, "sft-targets"],
    "memory-k1": ["benchmarks.rows.memory"],
    "score-20": ["benchmarks.rows.scoring"],
    "catalogue-top10": ["benchmarks.rows.catalogue"],
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
        floor = "" if row.get("floor_ratio") is None else f"{row['floor_ratio']:.2f} x"
        goal = f"{'≤' if row['name'] in AT_MOST else '≥'} {row['target']:g} x"
        unit = row.get("unit", "")
        lines.append(
            f"| {row['name']} | {row['work']} | {row['rosepo']:.4g} {unit} | {row['peer']:.4g} {unit} "
            f"| {row['peer_name']} | {row['ratio']:.2f} x | {goal} | {floor} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one measurement a row: does it run at all?")
    parser.add_argument("--only", nargs="*", choices=list(ROWS), help="run these rows")
    parser.add_argument("--peer-batches", default="4,8,16", help="batch sizes of the peer to choose the best from")
    arguments = parser.parse_args()
    path = RESULTS / "cpu.json"
    found = {row["name"]: row for row in json.loads(path.read_text())["rows"]} if path.exists() else {}
    failed = []
    for name in arguments.only or ROWS:
        command = [sys.executable, "-m", *ROWS[name], f"--peer-batches={arguments.peer_batches}"]
        command += ["--quick"] if arguments.quick else []
        print(f"{name} ...", file=sys.stderr, flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            failed.append(name)
            continue
        found[name] = json.loads(done.stdout.splitlines()[-1]) | {"measured": date.today().isoformat()}
        rows = [found[known] for known in ROWS if known in found]
        if not arguments.quick:
            RESULTS.mkdir(exist_ok=True)
            versions = {package: installed(package) for package in PACKAGES} | {
                "python": sys.version.split()[0],
                "dtype": DTYPE,
                "instructions": torch.backends.cpu.get_cpu_capability(),
                "threads": torch.get_num_threads(),
            }
            path.write_text(json.dumps({"rows": rows, "versions": versions}, indent=1) + "\n", encoding="utf-8")
            (RESULTS / "cpu.md").write_text(table(rows), encoding="utf-8")
    print(table([found[known] for known in ROWS if known in found]))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
