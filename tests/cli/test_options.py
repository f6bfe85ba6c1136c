"""The keys of the configuration in help, in `rosepo options` and in completions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rosepo_core
from rosepo_core.config import RunConfig, load_config

ROSEPO = Path(sys.executable).parent / "rosepo"


def lines_of(text):
    return [line.rstrip() for line in text.splitlines()]


def test_a_section_lists_its_keys_with_default_type_and_meaning(rosepo, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = rosepo("options", "checkpoint")
    assert done.code == 0
    assert lines_of(done.out)[0] == "checkpoint.minutes = 10.0  (number, at least 0)"
    assert max(map(len, lines_of(rosepo("options", "sft").out))) <= 80


def test_a_key_can_be_asked_for_alone(rosepo):
    assert rosepo("options", "sft.max-users", "--json").json == [
        {
            "name": "sft.max_users",
            "type": "integer, at least 1",
            "default": "unset",
            "meaning": "Train on this many users, drawn at random; all if unset.",
        }
    ]
    assert rosepo("options", "seed", "--json").json[0]["default"] == "0"


def test_a_section_of_plugins_lists_the_names(rosepo):
    shown = rosepo("options", "prompt").out
    assert 'prompt.name = "timeline"' in shown
    assert "names: chat, timeline" in shown


def test_every_key_of_the_core_is_listed(rosepo):
    listed = {each["name"] for each in rosepo("options", "--json").json}
    config = load_config(None)
    for name in RunConfig.model_fields:
        value = config.resolved()[name]
        if isinstance(value, dict) and "name" not in value:
            assert {f"{name}.{key}" for key in value} <= listed
        else:
            assert name in listed or f"{name}.name" in listed


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("sftt", "unknown section 'sftt'; did you mean 'sft'?"),
        ("sft.stepz", "'sft.steps'"),
        ("loss.beta", "plugins show"),
    ],
)
def test_an_unknown_name_is_one_line(rosepo, what, message):
    done = rosepo("options", what)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_help_lists_the_keys(rosepo, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    shown = rosepo(command, "-h").out
    assert "  --sft.learning_rate (number, above 0) = 0.0005" in lines_of(shown)
    assert "  --seed (integer, at least 0, below 4294967296) = 0" in lines_of(shown)


def test_the_version(rosepo):
    done = rosepo("--version")
    assert (done.code, done.out) == (0, f"rosepo {rosepo_core.__version__}\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("rosepo pl", "plugins"),
        ("rosepo train --loss simp", "simpo"),
        ("rosepo train --sft.learning", "--sft.learning_rate"),
        ("rosepo train --loss simpo --loss.gam", "--loss.gamma"),
        ("rosepo evaluate --metric hr-", "hr-valid"),
    ],
)
def test_a_shell_completes(words, expected):
    last = len(words.split()) - 1
    asked = {"_ROSEPO_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(last)}
    done = subprocess.run([ROSEPO], env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [expected]
