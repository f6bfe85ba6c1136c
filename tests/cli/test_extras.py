"""What works without the packages of the extras, and what is said where one is missing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from rosepo_core.contracts.errors import RequestError
from rosepo_core.extras import extra_with, named_extras

CODE = """
import json, sys
for name in ("trl", "gguf", "datasets", "fastapi", "uvicorn", "prometheus_client"):
    sys.modules[name] = None  # so that importing it fails
from rosepo_core import Recommender
titles = [each.title for each in Recommender.load(sys.argv[1]).recommend(["Night Train (1974)"], 2)]
from rosepo_cli.app import run
commands = ["recommend", sys.argv[1], "--history", "Night Train (1974)"], ["train"], ["serve", sys.argv[1]]
codes = [run(command) for command in commands]
print(json.dumps([titles, codes]))
"""


def test_recommending_needs_no_extra(finished):
    done = subprocess.run([sys.executable, "-c", CODE, str(finished)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    titles, codes = json.loads(done.stdout.splitlines()[-1])
    assert len(set(titles)) == 2
    assert codes == [0, 2, 2]
    assert [line for line in done.stderr.splitlines() if line.startswith("error")] == [
        "error: this needs the package trl, which is not installed: pip install 'rosepo[train]'",
        "error: this needs the package uvicorn, which is not installed: pip install 'rosepo[serve]'",
    ]


def test_the_extra_of_a_module():
    modules = ("trl.trainer", "prometheus_client", "bitsandbytes", "sentence_transformers", "torch", "pytest")
    assert [extra_with(name) for name in modules] == ["train", "serve", "gpu", "semantic", None, None]


def test_other_missing_modules_stay_what_they_are():
    with pytest.raises(ModuleNotFoundError, match="unheard_of"), named_extras():
        import unheard_of  # noqa: F401
    with pytest.raises(RequestError, match=r"rosepo\[gpu\]"), named_extras():
        raise ModuleNotFoundError("No module named 'bitsandbytes.nn'", name="bitsandbytes.nn")
