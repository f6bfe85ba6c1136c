"""The command line itself: help, exit codes, tracebacks on request, clean streams."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rosepo_core.plugins.registry import KINDS

ROSEPO = Path(sys.executable).parent / "rosepo"
COMMANDS = (
    [],
    ["train"],
    ["evaluate"],
    ["recommend"],
    ["plugins"],
    ["plugins", "list"],
    ["plugins", "show"],
    ["data"],
    ["data", "check"],
    ["doctor"],
    ["options"],
    ["runs"],
    ["clean"],
    ["sweep"],
)


def process(*arguments):
    return subprocess.run(
        [ROSEPO, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_fits_80_columns(rosepo, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    done = rosepo(*command, "--help")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith(f"Usage: {' '.join(['rosepo', *command])} ")
    assert max(map(len, lines)) <= 80


def test_help_names_every_command_and_cuts_off_no_sentence(rosepo, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = rosepo("--help").out
    assert {"train", "evaluate", "recommend", "plugins", "data", "doctor"} <= set(
        re.findall(r"^  (\w+) ", shown, re.M)
    )
    assert "..." not in shown.partition("Commands:")[2]


@pytest.mark.parametrize("command", [[], ["plugins"], ["data"]])
def test_no_command_shows_the_help(rosepo, command):
    done = rosepo(*command)
    assert done.code == 2
    assert "Usage: rosepo" in done.out + done.err
    assert "error:" not in done.err


def test_a_failure_is_exit_code_1_and_says_where_to_look(train, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("of seven by nothing")

    monkeypatch.setattr("rosepo_core.stages.dataset.stage", fail)
    done = train("--run", tmp_path / "run")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines() == [
        "error: ZeroDivisionError: of seven by nothing",
        "run again with --debug for the traceback",
    ]
    debugged = train("--run", tmp_path / "run", "--debug")
    assert debugged.code == 1
    assert "Traceback (most recent call last)" in debugged.err
    assert debugged.err.splitlines()[-1] == "error: ZeroDivisionError: of seven by nothing"


def test_debug_shows_the_traceback_of_a_wrong_request_too(rosepo):
    assert "Traceback" not in rosepo("train", "--loss=roseop").err
    assert "Traceback" in rosepo("--debug", "train", "--loss=roseop").err
    assert "Traceback" in rosepo("train", "--loss=roseop", "--debug").err


def test_plugins_as_json(rosepo):
    listed = rosepo("plugins", "list", "--json").json
    assert {"dpo", "ipo", "rosepo"} <= {each["name"] for each in listed["plugins"] if each["kind"] == "loss"}
    [shown] = rosepo("plugins", "show", "exo_pair", "--json").json
    assert (shown["name"], shown["aliases"]) == ("exo", ["exo_pair"])
    [shown] = rosepo("plugins", "show", "popularity-aware", "--json").json
    assert shown["options"]["power"]["default"] == 1.0
    assert shown["description"].startswith("Eligible items drawn in proportion to popularity")


@pytest.mark.parametrize("kind", KINDS)
def test_plugins_of_one_kind(rosepo, kind):
    listed = rosepo("plugins", "list", kind, "--json").json["plugins"]
    assert {each["kind"] for each in listed} == {kind}


def test_an_unknown_kind_of_plugin_names_the_nearest(rosepo):
    done = rosepo("plugins", "list", "metrics")
    assert (done.code, done.err) == (2, "error: unknown kind of plugin 'metrics'; did you mean 'metric'?\n")


def test_plugins_for_people(rosepo):
    listed = rosepo("plugins", "list", "loss").out
    assert re.search(r"^loss +ipo +rosepo 0\.1\.0 ", listed, re.M)
    assert "Also: exo_pair." in " ".join(listed.split())
    shown = rosepo("plugins", "show", "self-hard").out
    assert shown.startswith("sampler self-hard\n")
    assert re.search(r"^temperature +number, at least 0 +0\.0 ", shown, re.M)
    shown = rosepo("plugins", "show", "simpo").out
    assert "/rosepo_losses/simpo.py\n" in shown
    assert shown.endswith("\n  rosepo train --loss simpo --loss.beta 2.0\n")
    assert "\nalso: exo_pair\n" in rosepo("plugins", "show", "exo").out
    assert rosepo("plugins", "show", "scores").out.endswith(" --oracle scores --oracle.path PATH\n")
    for name in ("steam", "lastfm-hetrec"):
        assert rosepo("plugins", "show", name).out.endswith(f" --dataset {name} --dataset.path PATH\n")
    assert rosepo("plugins", "show", "ndcg").out.endswith("\n  rosepo evaluate RUN --metric ndcg\n")


def test_data_check(rosepo, log):
    summary = rosepo("data", "check", log, "--json").json
    assert (summary["users"], summary["interactions"]) == (24, 253)
    shown = rosepo("data", "check", log, "--dataset.min_rating=3").out
    assert re.search(r"^users +24 *$", shown, re.M)
    assert "min_rating=3 dropped" in shown


def test_doctor(rosepo):
    done = rosepo("doctor", "--json")
    checks = done.json
    assert done.code == int(any(check["status"] == "fail" for check in checks))
    assert {"ok", "warn", "fail"} >= {check["status"] for check in checks}


def test_a_wrong_request_of_a_real_process():
    done = process("plugins", "show", "roseop")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown plugin 'roseop'; did you mean 'rosepo' or 'rec-po'?\n"


def test_a_reader_that_goes_away_is_no_error():
    pipe = subprocess.run(
        ["bash", "-c", f'"{ROSEPO}" plugins list --json | head -c 1; echo " ${{PIPESTATUS[0]}}"'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (pipe.stdout, pipe.stderr) == ("{ 0\n", "")


def test_a_wrong_choice_names_the_choices(rosepo):
    done = rosepo("recommend", "runs/demo", "--user", "1", "--fallback", "pop")
    assert done.code == 2
    assert done.err == (
        "error: Invalid value for '--fallback': 'pop' is not one of 'popularity', 'oracle'. "
        "(see `rosepo recommend --help`)\n"
    )
