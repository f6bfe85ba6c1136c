"""`rosepo plugins check`: which promises of its kind a plugin keeps, in words."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from rosepo_core.api import Options, PreferenceLoss
from rosepo_core.plugin_kit.checking import source_file
from rosepo_core.plugins.registry import Entry, load_plugins


class Halved(PreferenceLoss):
    """Gives one number for all pairs."""

    def __call__(self, log_probs):
        return (log_probs.rejected[:, 0] - log_probs.chosen).mean()


class Raising(PreferenceLoss):
    def __call__(self, log_probs):
        raise ZeroDivisionError("of seven by nothing")


class Unmakeable(PreferenceLoss):
    def __init__(self, options: Options | None = None) -> None:
        raise ValueError("no licence\nfound")

    def __call__(self, log_probs):
        return log_probs.chosen


@pytest.fixture
def installed(monkeypatch):
    """The losses of this file and one whose module fails, as if a distribution registered them."""
    module = ModuleType("rosepo_of_tests")
    for each in (Halved, Raising, Unmakeable):
        setattr(module, each.__name__, each)
    monkeypatch.setitem(sys.modules, "rosepo_of_tests", module)
    registry = load_plugins()
    names = {"halved": "Halved", "raising": "Raising", "unmakeable": "Unmakeable", "uniform": "Halved"}
    own = [Entry("loss", name, "of-tests", "1", f"rosepo_of_tests:{target}", "A.") for name, target in names.items()]
    missing = Entry("loss", "missing", "of-tests", "1", "rosepo_absent:Loss", "A.")
    failed = Entry("plugin", "dead", "of-tests-2", "1", "dead", error="ImportError: no such thing")
    monkeypatch.setattr(registry, "_entries", [*registry._entries, *own, missing, failed])


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("simpo", ["--loss.beta", "3"]),
        ("uniform", []),
        ("rosepo/popularity", []),
        ("hr", []),
        ("chat", []),
        (str(Path(__file__).parents[2] / "examples" / "one_file_loss.py:Margin"), ["--loss.margin", "2"]),
    ],
)
def test_a_good_plugin_keeps_every_promise(rosepo, name, options):
    done = rosepo("plugins", "check", name, *options, "--json")
    document = done.json
    assert (done.code, document["kept"]) == (0, True)
    assert {promise["kept"] for promise in document["promises"]} == {True}
    assert len(document["promises"]) >= 9


def test_a_good_dataset_keeps_every_promise(rosepo, log):
    done = rosepo("plugins", "check", "table", "--dataset.path", log)
    assert done.code == 0
    assert done.out.startswith("dataset 'table' of rosepo 0.1.0\n")
    assert "kept Two loads are equal, also in the order of rows, which breaks ties in time." in flat(done.out)
    assert done.out.endswith("10 promises kept, 0 broken\n")


def test_a_broken_promise_is_told_in_words(rosepo, installed):
    done = rosepo("plugins", "check", "halved")
    assert done.code == 1
    assert "broken The loss is one finite number for each pair, of shape [n], with finite gradients." in flat(
        done.out
    )
    assert "with k = 1: the loss has the shape [] for 9 pairs, not [9]" in flat(done.out)
    assert "Traceback" not in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_an_error_of_the_plugin_names_its_line(rosepo, installed):
    [first] = {
        promise["broken"]
        for promise in rosepo("plugins", "check", "raising", "--json").json["promises"]
        if promise["test"] == "test_ignores_invalid_slots"
    }
    line = Path(__file__).read_text(encoding="utf-8").partition("raise ZeroDivisionError")[0].count("\n") + 1
    assert first == f"ZeroDivisionError: of seven by nothing (test_plugin_check.py, line {line})"


@pytest.mark.parametrize(
    ("name", "code", "error"),
    [
        ("unmakeable", 1, "loss 'unmakeable' of of-tests 1: it cannot be made: ValueError: no licence found"),
        ("missing", 1, "loss 'missing' of of-tests 1: cannot import 'rosepo_absent:Loss'"),
        ("dead", 1, "plugin 'dead' of of-tests-2 1: ImportError: no such thing"),
        ("halvd", 2, "unknown plugin 'halvd'; did you mean 'halved'"),
        ("uniform", 2, "'uniform' is the name of a sampler and of a loss; add --kind sampler or --kind loss"),
        ("table", 2, "option 'dataset.path' is required"),
    ],
)
def test_what_cannot_be_checked_is_one_line(rosepo, installed, name, code, error):
    done = rosepo("plugins", "check", name)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(f"error: {error}")
    assert len([line for line in done.err.splitlines() if not line.startswith("warning")]) == 1


def test_options_of_another_kind_are_refused(rosepo):
    done = rosepo("plugins", "check", "simpo", "--oracle.value", "1")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: unknown option '--oracle.value'; options of this plugin are --loss.KEY VALUE\n"


def test_without_pytest_the_error_says_how_to_install_it(rosepo, monkeypatch):
    monkeypatch.setattr("rosepo_core.plugin_kit.checking.find_spec", lambda name: None)
    done = rosepo("plugins", "check", "simpo")
    assert done.code == 2
    assert done.err == "error: the check needs pytest, which is not installed: pip install pytest\n"


def test_the_source_of_a_plugin():
    entry = load_plugins().entry("loss", "rosepo/simpo")
    found = source_file(entry)
    assert found is not None
    assert found.name == "simpo.py"
