"""Writes a new distribution with one plugin that works, for its author to change."""

from __future__ import annotations

import os
import re
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.plugins.registry import KINDS, REGISTER_HOOKS, Registry

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

SUMMARIES = {
    "dataset": "Books with stars, from a text file.",
    "prompt": "An instruction, the history as its input.",
    "sampler": "Rare items more often.",
    "oracle": "What more people took is preferred.",
    "loss": "No loss beyond a margin, quadratic within.",
    "metric": "The share of rare items in a list.",
}
"""What the plugin of each template does, in one line."""


def new_plugin(name: str, kind: str, parent: Path, registry: Registry) -> Path:
    """Write the distribution ``rosepo-NAME`` into a new folder.

    Args:
        name: the plugin's name in kebab-case.
        kind: a key of `KINDS`.
        parent: the folder in which the new folder is made; it is made, too, if it is missing.
        registry: the installed plugins, none of which may have the name.

    Returns:
        The new folder, ``parent/rosepo-NAME``.

    Raises:
        RequestError: the name is wrong or taken, or the folder exists or cannot be written.
    """
    if kind not in KINDS:
        raise RequestError(f"unknown kind of plugin '{kind}'{nearest(kind, KINDS)}")
    if not NAME.fullmatch(name):
        raise RequestError(f"'{name}' is not kebab-case that begins with a letter, as in 'my-{kind}'")
    for entry in registry.entries(kind):
        if name in (entry.name, *entry.aliases):
            raise RequestError(f"there is a {entry} already; take another name")
    distribution = f"rosepo-{name}"
    package = distribution.replace("-", "_")
    if find_spec(package) is not None:
        raise RequestError(f"a package '{package}' is installed already; take another name")
    class_name = "".join(part.capitalize() for part in name.split("-"))
    folder = parent / distribution
    if os.path.lexists(folder):
        raise RequestError(
            f"{folder} exists already; nothing is overwritten: take another name, or --to another folder"
        )
    texts = _templates(kind)
    for text in texts.values():
        if re.search(rf"\b{class_name}(Options)?\b", text):
            raise RequestError(f"'{name}' would be the class {class_name}, which rosepo uses; take another name")
    values = {
        "name": name,
        "kind": kind,
        "distribution": distribution,
        "package": package,
        "class_name": class_name,
        "title": name.replace("-", " ").capitalize(),
        "plural": REGISTER_HOOKS[kind].removeprefix("rosepo_register_"),
        "summary": SUMMARIES[kind],
        "versions": _versions(),
        "check_options": " --dataset.path example.csv" if kind == "dataset" else "",
        "use": _use(kind, name),
    }
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=parent, prefix=f".{distribution}-") as made:
            for path, text in texts.items():
                file = Path(made, "new", Template(path).substitute(values))
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(Template(text).substitute(values), encoding="utf-8")
            os.rename(Path(made, "new"), folder)
    except OSError as error:
        raise RequestError(f"{folder} cannot be written: {error.strerror or error}") from error
    return folder


def _templates(kind: str) -> dict[str, str]:
    """The text of each file, by its path in the new folder."""
    root = resources.files("rosepo_core.plugin_kit") / "templates"
    files = {
        "pyproject.toml": root / "pyproject.toml.template",
        "README.md": root / "README.md.template",
        "src/$package/__init__.py": root / "package.py.template",
        "src/$package/$kind.py": root / kind / "implementation.py.template",
        "tests/test_$package.py": root / kind / "test.py.template",
    }
    if kind == "dataset":
        files["example.csv"] = root / kind / "example.csv.template"
    return {path: file.read_text(encoding="utf-8") for path, file in files.items()}


def _use(kind: str, name: str) -> str:
    """A command that uses the new plugin."""
    if kind == "metric":
        return f"rosepo evaluate RUN --metric {name}"
    if kind == "dataset":
        return f"rosepo data check example.csv --dataset {name}"
    return f"rosepo train --{kind} {name}"


def _versions() -> str:
    """The versions of rosepo that the new plugin is made for: from this one up to the next minor version before 1.0,
    and up to the next major version from then on."""
    from rosepo_core import __version__

    major, minor = (int(part) for part in __version__.split(".")[:2])
    return f">={major}.{minor},<{f'0.{minor + 1}' if major == 0 else major + 1}"
