"""`make chaos`, with a few trials: killed runs go on, and end as runs that nobody killed."""

from __future__ import annotations

from benchmarks import chaos


def test_killed_runs_go_on_and_end_equal(tmp_path):
    rows = list(chaos.trials(tmp_path, moments=1, signals=2, operations=1, processes=0, seed=0))
    assert [(row.kind, row.tried, row.failures) for row in rows] == [
        ("SIGKILL at a random moment", 1, []),
        ("SIGTERM at a random moment", 1, []),
        ("Ctrl-C at a random moment", 1, []),
        ("SIGKILL at a file operation of SFT and its checkpoints", 1, []),
        ("SIGKILL at a file operation of the evaluation", 1, []),
        ("SIGKILL of one of two processes", 0, []),
    ]
    assert sum(row.killed for row in rows) >= 2


def test_what_differs_is_found(tmp_path):
    work = chaos.tiny_work(tmp_path)
    wanted = {"sft/adapter.safetensors": b"other", "metrics.json": {}}
    run = tmp_path / "one" / "run"
    run.parent.mkdir()
    failure = chaos.judged(work, run, wanted)
    assert failure is not None
    assert failure.startswith("files differ")
