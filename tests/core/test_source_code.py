"""The hash of a component's source code: which files are in it, and that none is imported for it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from rosepo_core.plugins.registry import load_plugins
from rosepo_core.source_code import source_hash

SOURCES = {
    "acme/__init__.py": "import acme.shared",
    "acme/shared.py": "K = 5",
    "acme/oracle.py": (
        "from acme_base import Base\n"
        "class Oracle(Base):\n"
        "    def fit(self):\n"
        "        import numpy\n"
        "        import rosepo_core.api\n"
        "        from rosepo_losses.dpo import DPO\n"
        "        from .parts import network\n"
        "        from acme_helpers import helper\n"
    ),
    "acme/parts/__init__.py": "",
    "acme/parts/network.py": "from ..deep import layer",
    "acme/deep.py": "layer = 1",
    "acme/other.py": "raise SystemExit('never imported')",
    "acme_base.py": "class Base: pass",
    "acme_helpers.py": "raise SystemExit('never imported')",
    "acme_unused.py": "",
}

Hash = Callable[..., str]


@pytest.fixture
def hash_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hash:
    """The hash of acme's oracle, in a process that has `SOURCES` with some of them changed."""

    def made(changes: Mapping[str, str], folder: str = "src", module: str = "acme.oracle") -> str:
        place = tmp_path / folder
        for name, text in {**SOURCES, **changes}.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)
        code = (
            f"import sys; sys.path.insert(0, {str(place)!r})\n"
            f"from {module} import Oracle\n"
            "from rosepo_core.source_code import source_hash\n"
            "print(source_hash(Oracle))\n"
            "assert 'acme.parts.network' not in sys.modules"
        )
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    return made


def test_code_that_the_class_runs_is_in_it_and_nothing_else_is(hash_of):
    first = hash_of({})
    assert len(first) == 16
    # The same code elsewhere is the same.
    assert hash_of({}, "elsewhere") == first
    for name in (
        *("acme/__init__.py", "acme/shared.py", "acme/oracle.py", "acme/parts/__init__.py", "acme/parts/network.py"),
        *("acme/deep.py", "acme_base.py", "acme_helpers.py"),
    ):
        assert hash_of({name: f"{SOURCES[name]}\n# edited"}) != first, name
    for name in ("acme/other.py", "acme_unused.py"):
        assert hash_of({name: f"{SOURCES[name]}\n# edited"}) == first, name


def test_other_installed_packages_are_what_their_version_says(hash_of):
    installed = "lib/python3.11/site-packages"
    first = hash_of({}, installed)
    assert hash_of({"acme_helpers.py": "helper = 1"}, installed) == first
    assert hash_of({"acme/deep.py": "layer = 2"}, installed) != first


def test_first_party_plugins_are_known_by_their_own_code():
    registry = load_plugins()
    hashes = {name: source_hash(registry.get("loss", name)) for name in ("dpo", "ipo", "rosepo")}
    assert all(len(each) == 16 for each in hashes.values())
    assert hashes["dpo"] != hashes["ipo"]


def test_a_class_without_a_file_has_no_source():
    assert source_hash(type("Made", (), {"__module__": "nowhere.at_all"})) == ""
    assert importlib.util.find_spec("nowhere") is None
