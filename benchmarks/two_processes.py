"""Two trainings at once on one machine, with OpenMP threads that spin while they wait and with threads that sleep.

    python -m benchmarks.two_processes [--seconds=8] [--rounds=3] [--threads=N] [--out=FILE.md]

Each process makes training passes of the engine, forward and backward: token trees, LoRA, a random Llama of
SmolLM2-135M's width with six layers. It has as many threads as the machine has cores. `spinning` is what GNU OpenMP
does by default (300,000 turns before a thread sleeps), `passive` what rosepo sets (`rosepo_core.launch`). Processes
start their clocks together. Rounds alternate between the cases, so that other work on the machine meets all of them;
what is told are medians of tokens per second.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from datetime import date
from pathlib import Path

WAITING = {
    "spinning": {"GOMP_SPINCOUNT": "300000", "OMP_WAIT_POLICY": "ACTIVE"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}


def work(seconds: float) -> None:
    """In a process of its own: say when ready, wait for a line, train, print tokens per second."""
    import numpy as np
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from rosepo_core.engine.log_probs import log_probs
    from rosepo_core.engine.trees import TokenTree, TreeBatch

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=1024,
    )
    base = LlamaForCausalLM(config).requires_grad_(False)
    lora = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora).train()
    rng = np.random.default_rng(0)
    responses = np.full(8, 8)
    tree = TokenTree.grow(
        rng.integers(0, 8192, 192).astype(np.int32),
        rows=np.arange(8),
        columns=np.zeros(8, np.int64),
        visible=np.full(8, 192),
        lengths=responses,
        targets=rng.integers(0, 8192, 64).astype(np.int32),
        in_trunk=np.zeros(8, np.bool_),
    )
    batch = TreeBatch.of([tree] * 2, pad_token_id=0)

    def step() -> None:
        torch.autograd.backward(-log_probs(model, batch).sum())
        model.zero_grad()

    step()
    print("ready", flush=True)
    sys.stdin.readline()
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        step()
        steps += 1
    print(steps * batch.input_ids.numel() / (time.perf_counter() - start), flush=True)


def rates(processes: int, waiting: str, seconds: float, threads: int) -> list[float]:
    """Tokens per second of each of so many processes at once."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    environment = kept | {"OMP_NUM_THREADS": str(threads)} | WAITING[waiting]
    command = [sys.executable, "-m", "benchmarks.two_processes", "--worker", f"--seconds={seconds}"]
    workers = [
        subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(processes)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        return [float(worker.stdout.readline()) for worker in workers if worker.stdout is not None]
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait()


def table(found: dict[tuple[str, int], list[float]]) -> str:
    """Medians, and what each process of two has left of what one does without the other."""
    lines = [
        "| threads wait | one, tokens/s | each of two, tokens/s | share left |",
        "| --- | ---: | ---: | ---: |",
    ]
    for waiting in WAITING:
        alone, each = (statistics.median(found[waiting, processes]) for processes in (1, 2))
        lines.append(f"| {waiting} | {alone:,.0f} | {each:,.0f} | {each / alone:.2f} |")
    alone, each = (
        statistics.median(found["passive", processes]) / statistics.median(found["spinning", processes])
        for processes in (1, 2)
    )
    lines.append(f"| passive / spinning | {alone:.2f} x | {each:.2f} x | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each process")
    parser.add_argument("--out", type=Path, help="write the table here, too")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.seconds)
        return
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(options.rounds):
        for processes in (1, 2):
            for waiting in WAITING:
                found[waiting, processes] += rates(processes, waiting, options.seconds, options.threads)
    load = f"load of the machine over the last minute: {os.getloadavg()[0]:.1f} (about 2 is this benchmark's own)"
    command = shlex.join(["python", "-m", "benchmarks.two_processes", *sys.argv[1:]])
    text = (
        f"`{command}`, {date.today().isoformat()}, {os.cpu_count()} cores, {options.threads} threads a process, "
        f"{options.rounds} rounds; {load}\n\n{table(found)}\n"
    )
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
