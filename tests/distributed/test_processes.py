"""Two processes give what one gives, with DDP and FSDP, and end together. One pair of processes does all the work."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import trainings
from accelerate.commands.config.config_args import load_config_from_file
from polars.testing import assert_frame_equal
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file

from rosepo_cli.app import run
from rosepo_cli.signals import Signals
from rosepo_core import processes
from rosepo_core.contracts.errors import RequestError
from rosepo_core.engine.packing import CPU
from rosepo_core.engine.passes import Passes
from rosepo_core.engine.training.sharing import shared_passes, shares

HERE = Path(__file__).parent
START = """
import sys
from rosepo_core import processes
try:
    sys.exit(processes.start("work", sys.argv[1:], 2))
except processes.RosepoError as error:
    sys.exit(f"error: {error}")
"""


@pytest.fixture(scope="module")
def command(
    tmp_path_factory: pytest.TempPathFactory, catalogue: Any, tiny_model: Any, tiny_tokenizer: Any
) -> list[str]:
    """A training of a few steps, without dropout, whose masks would differ between processes."""
    folder = tmp_path_factory.mktemp("input")
    tiny_model.save_pretrained(folder / "tiny")
    tiny_tokenizer.save_pretrained(folder / "tiny")
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", catalogue.ids[item], 100 * user + place, catalogue.titles[item])
        for user in range(21)
        for place, item in enumerate(rng.permutation(len(catalogue))[: rng.integers(6, 10)].tolist())
    ]
    pl.DataFrame(rows, schema=["user", "item", "timestamp", "title"], orient="row").write_csv(folder / "log.csv")
    return [
        *("train", "--dataset=table", f"--dataset.path={folder / 'log.csv'}", f"--model={folder / 'tiny'}"),
        *("--oracle=constant", "--sampler=self-hard", "--sampler.temperature=1", "--model.dtype=float32"),
        *("--dataset.history_length=6", "--preferences.max_per_user=2", "--sft.lora_dropout=0"),
        *("--sft.steps=3", "--sft.batch_size=4", "--sft.learning_rate=0.01"),
        *("--alignment.steps=3", "--alignment.batch_size=4", "--alignment.learning_rate=0.01"),
        *("--evaluation.candidates=5", "--evaluation.resamples=100", "--evaluation.part=test"),
        *("--protocol=candidates", "--protocol=catalogue", "--protocol=free", "--seed=3"),
    ]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, command: list[str]) -> tuple[Path, Any]:
    """The folder with what two processes did, and how they ended."""
    folder = tmp_path_factory.mktemp("pair")
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE),
        "OMP_NUM_THREADS": "1",
        "ROSEPO_CACHE": str(folder / "cache"),
    }
    start = [sys.executable, "-c", START, str(folder), *command]
    ended = subprocess.run(start, env=environment, capture_output=True, text=True, timeout=400)
    return folder, ended


def in_one(command: list[str], folder: Path) -> str:
    """Run the command in this process, and return what it shows about its progress."""
    shown = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(shown):
        code = run([*command, "--run", str(folder)])
    assert code == 0, shown.getvalue()
    return shown.getvalue()


@pytest.fixture(scope="module")
def alone() -> dict[str, trainings.Result]:
    """What one process trains."""
    return {name: train() for name, train in trainings.TRAININGS.items()}


@pytest.mark.parametrize(
    "training",
    [*(f"ddp, {name}" for name in trainings.TRAININGS), *(f"fsdp, {name}" for name in trainings.SHARDED)],
)
def test_two_processes_train_as_one_does(pair, alone, training):
    folder, ended = pair
    assert (folder / f"{training}.json").exists(), ended.stderr
    log = json.loads((folder / f"{training}.json").read_text())
    weights = load_file(folder / f"{training}.safetensors")
    expected_log, expected = alone[training.partition(", ")[2]]
    # Products in bfloat16 are rounded in another way if a pass has other trees.
    tolerance = 1e-2 if "bfloat16" in training else 1e-5
    assert [entry.keys() for entry in log] == [entry.keys() for entry in expected_log]
    for entry, other in zip(log, expected_log, strict=True):
        assert entry == pytest.approx(other, rel=tolerance, abs=tolerance)
    assert weights.keys() == expected.keys()
    assert all(weight.dtype == expected[name].dtype for name, weight in weights.items())
    for name, weight in weights.items():
        # Adam makes steps of the same size from gradients that are nothing but rounding.
        np.testing.assert_allclose(weight, expected[name], rtol=0, atol=10 * tolerance)


def test_a_run_in_two_processes_is_that_of_one(pair, command, tmp_path):
    folder, ended = pair
    in_one(command, tmp_path / "run")
    two, one = folder / "two" / "run", tmp_path / "run"
    files = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    assert {path.relative_to(two) for path in two.rglob("*") if path.is_file()} == files, ended.stderr
    for name in sorted(files):
        if name.suffix == ".safetensors":
            found, expected = load_arrays(two / name), load_arrays(one / name)
            for key, array in expected.items():
                np.testing.assert_allclose(found[key], array, rtol=1e-5, atol=1e-5, err_msg=f"{name} {key}")
    for name in ("answers-aligned/answers.parquet", "evaluation/per_user.parquet"):
        assert_frame_equal(pl.read_parquet(two / name), pl.read_parquet(one / name))
    # Progress is shown by one of the two.
    assert ended.stderr.count("\nscores-aligned ") == 1


def test_a_sharded_model_is_saved_whole(pair, command, tmp_path):
    folder, ended = pair
    in_one([*command, *trainings.WHOLE_MODEL], tmp_path / "run")
    file = "sft/model.safetensors"
    assert (folder / "sharded" / "run" / file).exists(), ended.stderr
    found, expected = load_arrays(folder / "sharded" / "run" / file), load_arrays(tmp_path / "run" / file)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_allclose(found[name], weight, rtol=0, atol=1e-4, err_msg=name)


def test_a_rank_that_dies_ends_all_and_the_same_command_goes_on(pair, command):
    folder, ended = pair
    lines = ended.stderr.strip().splitlines()
    assert ended.returncode == 1
    assert lines[-1].startswith("error: rank 1 of 2 (process ")
    assert "was killed by SIGKILL" in lines[-1]
    assert not any(line.startswith(("error", "Traceback", "interrupted")) for line in lines[:-1])
    dead = folder / "dead" / "run"
    assert not (dead / "metrics.json").exists()
    shown = in_one(command, dead)
    assert re.search(r"^sft +reused from this run$", shown, re.MULTILINE)
    assert (dead / "metrics.json").exists()


def test_an_error_of_one_rank_reaches_both_and_different_work_is_noticed(pair):
    folder, _ = pair
    errors = [json.loads((folder / f"errors-{rank}.json").read_text()) for rank in range(2)]
    assert [failed for failed, _ in errors] == ["rank 0 failed alone"] * 2
    assert "rank 0 is at 'place 0', rank 1 at 'place 1'" in errors[0][1]
    assert "rank 1 is at 'place 1', rank 0 at 'place 0'" in errors[1][1]


def test_rank_0_decides_where_a_signal_ends_the_run(monkeypatch):
    """Another rank goes on until rank 0 has ended, and then ends, too."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    signals = Signals()
    with signals.watched():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signals.check()
    assert signals.exit_code == 143


def test_work_is_divided_to_and_fro():
    assert [share.tolist() for share in shares([5, 1, 9, 3, 7], 2)] == [[1, 2, 3], [0, 4]]
    assert [share.tolist() for share in shares([4], 3)] == [[0], [], []]


def test_every_rank_makes_the_passes_of_the_one_with_most(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    passes = Passes(10, CPU, "sft.token_budget")
    # Shares: [10, 2] and [6, 5], each in passes of at most 10 tokens.
    of_ranks = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        members, packed, count = shared_passes([5, 10, 2, 6, 3], passes)
        of_ranks.append((sorted(sorted(each.tolist()) for each in members), packed, count))
    assert of_ranks == [([[1], [2, 4]], False, 2), ([[0], [3]], False, 2)]
    # One tree: nothing is left for rank 1, which makes one pass all the same.
    assert shared_passes([10], passes) == ([], False, 1)


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_number_of_processes_must_be_positive(monkeypatch, command, more):
    monkeypatch.setattr(processes, "start", None)
    err = io.StringIO()
    with redirect_stderr(err):
        assert run([*command, "--processes=0", *more]) == 2
    assert "'--processes': Input should be greater than or equal to 1" in err.getvalue()


def test_another_launcher_decides_the_number(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not processes.are_wanted(4)
    with pytest.raises(RequestError, match="has started 4 processes; leave --processes out"):
        processes.are_wanted(2)


@pytest.mark.parametrize("options", [("--processes", "3"), ("--processes=3",)])
def test_the_command_is_started_in_so_many_processes(monkeypatch, command, options):
    started = []
    monkeypatch.setattr(processes, "start", lambda *arguments: started.append(arguments) or 7)
    assert run([*command, *options]) == 7
    assert started == [("rosepo_cli", [*command, *options], 3)]


def test_a_plan_needs_one_process(monkeypatch, command, tmp_path):
    monkeypatch.setattr(processes, "start", None)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        assert run([*command, "--run", str(tmp_path / "run"), "--processes=2", "--dry-run"]) == 0


EXAMPLES = HERE.parents[1] / "examples" / "distributed"


@pytest.mark.parametrize(
    ("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp", "FSDP"), ("zero3", "DEEPSPEED")], ids=lambda each: each
)
def test_accelerate_reads_the_example_configurations(name, kind):
    config = load_config_from_file(str(EXAMPLES / f"{name}.yaml"))
    assert (config.distributed_type, config.mixed_precision, config.num_processes) == (kind, "no", 8)
    if name == "fsdp":
        # What the sharded trainings above were made with.
        named = {f"FSDP_{key.removeprefix('fsdp_').upper()}": str(value) for key, value in config.fsdp_config.items()}
        assert {key: named[key].lower() for key in trainings.FSDP} == {
            key: value.lower() for key, value in trainings.FSDP.items()
        }


def test_the_script_for_slurm_is_valid_bash():
    subprocess.run(["bash", "-n", str(EXAMPLES / "slurm.sh")], check=True)
