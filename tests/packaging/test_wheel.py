"""The wheels that users get: what is in them, and a third-party plugin at work beside the installed rosepo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest

pytestmark = pytest.mark.packaging

ROOT = Path(__file__).parents[2]
KINDS = ("loss", "sampler", "oracle", "dataset", "metric", "prompt")

AT_WORK = """
import io, json, sys
from contextlib import redirect_stdout
import pytest
from rosepo_cli.app import run

tests, example = sys.argv[1:]
passed = pytest.main(["-p", "no:cacheprovider", "-q", tests]) == 0
checked = {}
for kind in ("loss", "sampler", "oracle", "dataset", "metric", "prompt"):
    options = ["--dataset.path", example] if kind == "dataset" else []
    with redirect_stdout(io.StringIO()) as shown:
        run(["plugins", "check", f"my-{kind}", *options, "--json"])
    checked[kind] = json.loads(shown.getvalue())["kept"]
print(json.dumps([passed, checked]))
"""
"""Runs the tests of all generated plugins, and checks each, in one process."""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(project: Path, folder: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=project)
    (wheel,) = folder.glob("*.whl")
    return wheel


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the wheel and a generated plugin of each kind; their dependencies come from the
    environment of the tests."""

    rosepo_wheel: Path
    plugins: Path
    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheels")
    made = Installed(build(ROOT, folder / "rosepo"), folder / "plugins", folder / "environment")
    venv.create(made.folder, with_pip=False)
    install = [sys.executable, "-m", "pip", "--python", made.python, "--disable-pip-version-check", "install"]
    run(*install, "--no-deps", "--no-index", "--quiet", made.rosepo_wheel, cwd=folder)
    # Only now: with the dependencies in sight, pip would take the rosepo under test for installed already.
    (site,) = made.folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    # In one process, because each import of rosepo takes a second.
    code = """
import sys
from rosepo_cli.app import run
for kind in sys.argv[2:]:
    assert run(["plugins", "new", f"my-{kind}", "--kind", kind, "--to", sys.argv[1]]) == 0
"""
    run(made.python, "-c", code, made.plugins, *KINDS, cwd=folder)
    projects = sorted(made.plugins.iterdir())
    run(*install, "--no-deps", "--no-index", "--no-build-isolation", "--quiet", *projects, cwd=folder)
    return made


def names(wheel: Path) -> list[str]:
    with ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_holds_the_import_packages_and_nothing_else(installed):
    version = installed.rosepo_wheel.name.split("-")[1]
    assert {name.split("/")[0] for name in names(installed.rosepo_wheel)} == {
        "rosepo_core",
        "rosepo_cli",
        "rosepo_datasets",
        "rosepo_samplers",
        "rosepo_oracles",
        "rosepo_losses",
        "rosepo_metrics",
        "rosepo_prompts",
        f"rosepo-{version}.dist-info",
    }


def test_wheel_holds_every_file_of_the_packages(installed):
    tracked = run("git", "ls-files", "rosepo_core", "cli/rosepo_cli", "plugins", cwd=ROOT).split()
    expected = {name.removeprefix("cli/").removeprefix("plugins/") for name in tracked}
    assert "rosepo_core/py.typed" in expected
    assert expected - set(names(installed.rosepo_wheel)) == set()


def test_wheel_has_entry_points_and_licence(installed):
    (entry_points,) = [name for name in names(installed.rosepo_wheel) if name.endswith("/entry_points.txt")]
    with ZipFile(installed.rosepo_wheel) as archive:
        lines = archive.read(entry_points).decode().splitlines()
    assert [line for line in lines if line] == [
        "[console_scripts]",
        "rosepo = rosepo_cli:main",
        "[rosepo]",
        "datasets = rosepo_datasets",
        "losses = rosepo_losses",
        "metrics = rosepo_metrics",
        "oracles = rosepo_oracles",
        "prompts = rosepo_prompts",
        "samplers = rosepo_samplers",
    ]
    assert any(name.endswith("/licenses/LICENSE") for name in names(installed.rosepo_wheel))


def test_the_installed_rosepo_is_the_wheels(installed, tmp_path):
    code = "import rosepo_core, rosepo_losses, rosepo_cli; print(rosepo_core, rosepo_losses, rosepo_cli)"
    modules = run(installed.python, "-c", code, cwd=tmp_path)
    assert modules.count(str(installed.folder)) == 3


def test_generated_plugins_work_through_the_registry(installed, tmp_path):
    code = """
import json
from rosepo_core.plugins.registry import load_plugins
registry = load_plugins()
loss = registry.create("loss", "my-loss", {"margin": 2})
sampler = registry.create("sampler", "rosepo-my-sampler/my-sampler", {})
first_party = [entry.name for entry in registry.entries("loss") if entry.distribution == "rosepo"]
print(json.dumps([loss.origin, loss.options.model_dump(), sampler.options.power, first_party, registry.problems]))
"""
    origin, options, power, first_party, problems = json.loads(run(installed.python, "-c", code, cwd=tmp_path))
    assert origin == "loss 'my-loss' of rosepo-my-loss 0.1.0"
    assert options == {"beta": 0.1, "margin": 2.0}
    assert power == 1.0
    assert {"dpo", "ipo", "kto", "rosepo", "s-dpo"} <= set(first_party)
    assert problems == []


def test_generated_plugins_pass_their_own_tests_and_keep_their_promises(installed, tmp_path):
    """Against the wheel: -P keeps the sources of rosepo off the path."""
    example = installed.plugins / "rosepo-my-dataset" / "example.csv"
    output = run(installed.python, "-P", "-c", AT_WORK, installed.plugins, example, cwd=tmp_path)
    assert json.loads(output.splitlines()[-1]) == [True, dict.fromkeys(KINDS, True)], output
    assert " passed" in output
    assert "skipped" not in output


def test_the_command_line_shows_generated_plugins(installed, tmp_path):
    rosepo = installed.folder / "bin" / "rosepo"
    listing = run(rosepo, "plugins", "list", cwd=tmp_path)
    assert [kind for kind in KINDS if f"my-{kind}" not in listing] == []
    shown = run(rosepo, "plugins", "show", "my-loss", cwd=tmp_path)
    assert "rosepo_my_loss/loss.py" in shown
    assert "rosepo train --loss my-loss --loss.beta 0.1" in shown
