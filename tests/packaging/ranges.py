"""Run tests with the oldest and with the newest versions that pyproject.toml admits of libraries that change often.

    python tests/packaging/ranges.py [PYTEST ARGUMENTS]

Each end of the ranges gets a virtual environment of its own, in a temporary folder. torch is the version that
constraints.txt has. Without arguments the tests of core and plugins are run. `make test-ranges` calls this.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHANGING = ("accelerate", "peft", "transformers", "trl")
TESTS = ("-n", "2", "--dist", "worksteal", "tests/core", "tests/plugins")


def oldest(dependencies: list[str]) -> list[str]:
    """The lower end of each range, e.g. ``"peft==0.21"``.

    Args:
        dependencies: such as ``"peft>=0.21,<0.23"``.
    """
    ranges = dict(re.fullmatch(r"([\w-]+)>=([\w.]+),.*", line).groups() for line in dependencies)  # type: ignore[union-attr]
    return [f"{name}=={ranges[name]}" for name in CHANGING]


def run(end: str, constraints: list[str], arguments: list[str]) -> int:
    """Install rosepo with `constraints` in a new environment and run pytest there; its exit status."""
    with tempfile.TemporaryDirectory(prefix=f"rosepo-{end}-") as temporary:
        folder = Path(temporary)
        (folder / "constraints.txt").write_text("\n".join(constraints) + "\n", encoding="utf-8")
        venv.create(folder / "venv", with_pip=True)
        python = str(folder / "venv" / "bin" / "python")
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run(
            [*install, "--constraint", str(folder / "constraints.txt"), "--editable", ".[dev]"], check=True, cwd=ROOT
        )
        shown = "import importlib.metadata as m, sys; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
        print(f"{end}: ", end="", flush=True)
        subprocess.run([python, "-c", shown, *CHANGING], check=True)
        return subprocess.run([python, "-m", "pytest", *arguments], cwd=ROOT).returncode


def main() -> None:
    """Both ends; the exit status is 1 where a test fails at either."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    torch = [line for line in pinned if line.startswith("torch==")]
    arguments = sys.argv[1:] or list(TESTS)
    ends = {
        "oldest": [*torch, *oldest([*project["dependencies"], *project["optional-dependencies"]["train"]])],
        "newest": torch,
    }
    failed = [run(end, constraints, arguments) for end, constraints in ends.items()]
    sys.exit(int(any(failed)))


if __name__ == "__main__":
    main()
