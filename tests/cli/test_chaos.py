"""`make chaos`, with a few trials: killed runs go on, and end as runs that nobody killed."""

from __future__ import annotations

import json

from benchmarks import chaos


def test_killed_runs_go_on_and_end_equal(tmp_path):
    rows = list(chaos.trials(tmp_path, 1, 1, 1, processes=0, seed=0, stages=("sft",)))
    assert [(row.kind, row.tried, row.failures) for row in rows] == [
        ("SIGKILL at a random moment", 1, []),
        ("SIGTERM at a random moment", 1, []),
        ("Ctrl-C at a random moment", 0, []),
        ("SIGKILL at a file operation of SFT and its checkpoints", 1, []),
        ("SIGKILL of one of two processes", 0, []),
    ]
    assert rows[3].killed == 1


def test_what_differs_or_is_left_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(chaos, "finish", lambda *_: 0.0)
    work = chaos.Work((), tmp_path)
    run = tmp_path / "run"
    (run / "sft").mkdir(parents=True)
    (run / "metrics.json").write_text(json.dumps({"seconds": {"sft": 1.0}, "protocols": {}}))
    (run / "sft" / "adapter").write_bytes(b"weights")
    wanted = {"metrics.json": {"protocols": {}}, "sft/adapter": b"weights"}
    assert chaos.judged(work, run, wanted) is None
    assert chaos.judged(work, run, {**wanted, "sft/adapter": b"other"}) == "contents differ: ['sft/adapter']"
    assert chaos.judged(work, run, {**wanted, "log": b""}) == "files differ: ['log']"
    (run / "sft.partial").mkdir()
    assert chaos.judged(work, run, wanted) == "left: ['sft.partial']"
    row = chaos.Row("SIGKILL")
    row.add(True, "left: ['sft.partial']")
    row.add(False, None)
    assert chaos.table([row]).splitlines()[2:] == [
        "| SIGKILL | 2 | 1 | 1 |",
        "",
        "- SIGKILL: left: ['sft.partial']",
    ]
