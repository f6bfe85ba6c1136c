"""Imports go one way, and what only lists plugins imports nothing heavy."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "rosepo_core": ROOT / "rosepo_core",
    "rosepo_cli": ROOT / "cli" / "rosepo_cli",
    **{folder.name: folder for folder in sorted((ROOT / "plugins").glob("rosepo_*"))},
}
PLUGINS = {name for name in SOURCES if name not in ("rosepo_core", "rosepo_cli")}

# From the ground up. A module may import from its own layer and from those before it.
LAYERS = (
    {
        "rosepo_core.contracts.errors",
        "rosepo_core.contracts.paths",
        "rosepo_core.contracts.records",
        "rosepo_core.contracts.untrusted_text",
        "rosepo_core.launch",
    },
    {"rosepo_core.contracts.options", "rosepo_core.contracts.ranking", "rosepo_core.contracts.outcome"},
    {
        "rosepo_core.contracts",
        "rosepo_core.plugins",
        "rosepo_core.plugins.containment",
        "rosepo_core.ranks",
        "rosepo_core.processes",
    },
    {"rosepo_core.data", "rosepo_core.prompts"},
    {
        "rosepo_core.plugins.installed",
        "rosepo_core.plugins.one_file",
        "rosepo_core.plugins.registry",
        "rosepo_core.downloads",
        "rosepo_core.extras",
        "rosepo_core.packages",
        "rosepo_core.cache",
        "rosepo_core.presets",
        "rosepo_core.ownership",
        "rosepo_core.source_code",
        "rosepo_core.store",
    },
    {"rosepo_core.config", "rosepo_core.config_keys", "rosepo_core.plugins.recorded", "rosepo_core.api"},
    {"rosepo_core.engine"},
    {"rosepo_core.stages", "rosepo_core.evaluation"},
    {"rosepo_core.report"},
    {
        "rosepo_core.pipeline",
        "rosepo_core.measured_speed",
        "rosepo_core.planning",
        "rosepo_core.run_list",
        "rosepo_core.seeds",
        "rosepo_core.sweep",
    },
    {"rosepo_core.serving"},
    {
        "rosepo_core",
        "rosepo_core.console",
        "rosepo_core.diagnostics",
        "rosepo_core.plugin_kit",
        "rosepo_core.testing",
    },
    {"rosepo_core.adapters"},
    {"rosepo_cli"},
)
HEAVY = {
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "gguf",
    "sentence_transformers",
    "polars",
    "safetensors",
    "scipy",
}

Imports = Mapping[str, set[str]]


def imports_of(file: Path, module: str) -> set[str]:
    """Dotted names that a file imports when it runs; `from a import b` counts as a.b."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module if file.name == "__init__.py" else module.rpartition(".")[0]
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.update(f"{base}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text(encoding="utf-8")))
    return found


@cache
def read() -> Mapping[str, set[str]]:
    """What each module of the project imports."""
    modules = {}
    for name, folder in SOURCES.items():
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            module = ".".join([name, *parts]).removesuffix(".__init__")
            modules[module] = imports_of(file, module)
    return MappingProxyType(modules)


def layer(module: str) -> int | None:
    """Of a module, or of a name in one; a package's parts are in its layer."""
    while module:
        for height, names in enumerate(LAYERS):
            if module in names:
                return height
        if module.rpartition(".")[0] == "rosepo_core":
            return None
        module = module.rpartition(".")[0]
    return None


def target(name: str, modules: Imports) -> str:
    """The module that an imported name is or comes from."""
    while name not in modules and "." in name:
        name = name.rpartition(".")[0]
    return name


def breaches(modules: Imports) -> Iterator[str]:
    for module, imported in modules.items():
        package = module.partition(".")[0]
        if package not in PLUGINS and layer(module) is None:
            yield f"{module} has no layer; add it to LAYERS"
        for name in imported:
            top = name.partition(".")[0]
            found = target(name, modules)
            if top == "typer" and package != "rosepo_cli":
                yield f"{module} imports {top}: only rosepo_cli may"
            if top == "rich" and module != "rosepo_core.console":
                yield f"{module} imports {top}: only rosepo_core.console may, the door to the terminal"
            if top not in SOURCES:
                continue
            if package in PLUGINS and top != package and found != "rosepo_core.api":
                yield f"{module} imports {found}: a plugin may import rosepo_core.api alone"
            elif package == "rosepo_core" and top != "rosepo_core":
                yield f"{module} imports {found}: the core imports no plugin and no command line"
            elif package == "rosepo_cli" and top in PLUGINS:
                yield f"{module} imports {found}: plugins are reached through the registry alone"
            elif package == top == "rosepo_core" and name != "rosepo_core.__version__":
                height, below = layer(module), layer(found)
                if height is not None and below is not None and below > height:
                    yield f"{module} imports {found}, which is above it"


def importers(package: str, modules: Imports) -> list[str]:
    return sorted(
        module for module, imported in modules.items() if package in {name.partition(".")[0] for name in imported}
    )


def heavy_modules(code: str, *path: Path) -> set[str]:
    """What `code` leaves imported of HEAVY in a fresh interpreter."""
    script = f"{code}\nimport sys; print('imported:', *sorted({HEAVY!r} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("imported:")[2].split())


def command(*arguments: str) -> str:
    return f"""
import sys
from rosepo_cli import main
sys.argv = ["rosepo", *{arguments!r}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


def test_imports_go_one_way():
    assert sorted(breaches(read())) == []


@pytest.mark.parametrize(
    ("module", "source", "breach"),
    [
        (
            "rosepo_core.contracts.records",
            "from rosepo_core.contracts import components",
            "components, which is above it",
        ),
        ("rosepo_core.engine.trees", "import rosepo_core.stages.sft", "rosepo_core.stages.sft, which is above it"),
        ("rosepo_core.engine.trees", "from ..stages import sft", "rosepo_core.stages.sft, which is above it"),
        (
            "rosepo_core.evaluation.statistics",
            "def f():\n  from rosepo_core.pipeline import run",
            "which is above it",
        ),
        ("rosepo_core.contracts.errors", "from rosepo_core import align", "rosepo_core, which is above it"),
        ("rosepo_core.novelty", "", "has no layer"),
        ("rosepo_core.plugins.registry", "from rosepo_losses import dpo", "the core imports no plugin"),
        ("rosepo_core.pipeline", "import rosepo_cli", "the core imports no plugin"),
        ("rosepo_core.pipeline", "if x:\n  import rich.progress", "only rosepo_core.console may"),
        ("rosepo_cli.tables", "from rich.table import Table", "only rosepo_core.console may"),
        ("rosepo_losses.dpo", "from typer import echo", "only rosepo_cli may"),
        (
            "rosepo_losses.dpo",
            "from rosepo_core.contracts.records import LogProbs",
            "a plugin may import rosepo_core.api alone",
        ),
        ("rosepo_losses.dpo", "from rosepo_samplers import uniform", "a plugin may import rosepo_core.api alone"),
        ("rosepo_cli.app", "from rosepo_losses.dpo import DPO", "through the registry alone"),
    ],
)
def test_a_breach_is_found(tmp_path, module, source, breach):
    file = tmp_path / "module.py"
    file.write_text(source)
    modules = read() | {module: imports_of(file, module)}
    assert [found for found in breaches(modules) if found.startswith(module) and breach in found]


@pytest.mark.parametrize(
    "source",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  from rosepo_core.pipeline import run\n  import rich",
        "from rosepo_core import __version__\nfrom rosepo_core.contracts import hookspecs\nimport torch",
    ],
)
def test_what_is_allowed_is_no_breach(tmp_path, source):
    file = tmp_path / "module.py"
    file.write_text(source)
    assert (
        list(breaches(read() | {"rosepo_core.plugins.registry": imports_of(file, "rosepo_core.plugins.registry")}))
        == []
    )


@pytest.mark.parametrize("package", ["trl", "gguf", "lenskit", "recbole"])
def test_one_module_touches_each_unstable_package(package):
    assert len(importers(package, read())) == 1


def test_importers_are_found(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("def f():\n  from trl.trainer import x")
    modules = {"rosepo_core.a": imports_of(file, "rosepo_core.a"), "rosepo_core.b": set()}
    assert importers("trl", modules) == ["rosepo_core.a"]


@pytest.mark.parametrize(
    "code",
    [
        "import rosepo_core.api, rosepo_core.config, rosepo_core.contracts.hookspecs",
        "from rosepo_core.plugins.registry import load_plugins; assert len(load_plugins().entries()) >= 10",
        command("--help"),
        command("plugins", "list"),
    ],
    ids=["api", "registry", "help", "plugins list"],
)
def test_nothing_heavy_is_imported(code):
    assert heavy_modules(code) == set()


def test_a_heavy_plugin_is_found(tmp_path):
    (tmp_path / "torch.py").write_text("")
    (tmp_path / "acme_heavy.py").write_text("import torch")
    info = tmp_path / "acme_heavy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-heavy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rosepo]\nheavy = acme_heavy\n")
    listing = "from rosepo_core.plugins.registry import load_plugins; load_plugins().entries()"
    assert heavy_modules(listing, tmp_path) == {"torch"}
