"""The source code of a component, for fingerprints. An edited plugin counts as changed, even with the same
version."""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

CORE = "rosepo_core"


@cache
def source_hash(component: type) -> str:
    """SHA-256 (hex, 16 digits) of the code of a class; empty if the class has no file.

    It covers the modules of the class and of its base classes, and, recursively, the modules that these import,
    anywhere in a file. Included are modules of the same top-level packages, and code on the path that is not
    installed, such as a module of helpers beside a plugin. Not included are

    - other libraries, because their version identifies them;
    - the core, because its version is in every fingerprint (after editing the core, use ``--force``);
    - modules that are imported by a computed name;
    - data files, which `Component.files` names.

    The modules are found and read, but not imported.
    """
    modules = [each.__module__ for each in component.__mro__ if not _is_core(each.__module__)]
    own = {module.partition(".")[0] for module in modules if _location(module.partition(".")[0])}
    found: dict[str, Path] = {}
    while modules:
        module = modules.pop()
        for name in _with_packages(module):
            path = _file(name)
            if name in found or path is None or not (name.partition(".")[0] in own or _is_local(path)):
                continue
            found[name] = path
            modules += [each for each in _imports(path, name) if not _is_core(each)]
    if not found:
        return ""
    digest = hashlib.sha256()
    for name, path in sorted(found.items()):
        digest.update(f"{name}:{path.stat().st_size}:".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _is_core(module: str) -> bool:
    return module.partition(".")[0] in (CORE, *sys.stdlib_module_names)


def _is_local(path: Path) -> bool:
    """Whether code is on the path without being installed."""
    standard = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return not installed and not any(path.is_relative_to(folder) for folder in standard)


def _with_packages(module: str) -> Iterator[str]:
    """A module and the packages that it is in, whose code runs before its own."""
    parts = module.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))


@cache
def _location(top: str) -> tuple[str, list[str]] | None:
    """The file of a top-level module, empty where there is none, and the folders of its parts."""
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    return (spec.origin or "") if spec.has_location else "", list(spec.submodule_search_locations or ())


@cache
def _file(module: str) -> Path | None:
    """Where a module's code is; None of what is no module, or has no file."""
    top, *parts = module.split(".")
    if (location := _location(top)) is None:
        return None
    origin, folders = location
    if not parts:
        return Path(origin) if origin else None
    *above, last = parts
    for folder in folders:
        path = Path(folder, *above, last)
        for candidate in (path / "__init__.py", path.with_name(f"{last}.py"), *path.parent.glob(f"{last}.*.so")):
            if candidate.is_file():
                return candidate
    return None


@cache
def _imports(path: Path, module: str) -> tuple[str, ...]:
    """Dotted names that a file imports; of ``from a import b`` both a and a.b, which may be no module."""
    if path.suffix != ".py":
        return ()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(found)
