"""What a stage depends on: code, options that decide, and the content of files; and what it does not."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from rosepo_core import source_code
from rosepo_core.config import load_config
from rosepo_core.contracts.sections import AlignmentOptions, ModelOptions, SFTOptions
from rosepo_core.plugins.registry import Registry, load_plugins
from rosepo_core.stages.session import QuietReporter, Session
from rosepo_core.store.run_store import RunStore

PLUGIN = """
from pathlib import Path
from pydantic import Field
from rosepo_core.api import CHANGES_NO_RESULT, Options, SmoothingOracle, hookimpl

class TableOptions(Options):
    path: Path = Field(description="Answers.")
    workers: int = Field(1, json_schema_extra=CHANGES_NO_RESULT, description="Processes.")
    shift: float = Field(0.0, description="Added.")

class Table(SmoothingOracle):
    Options = TableOptions

    def files(self):
        return [*super().files(), self.options.path.parent / "more"]

    def flip_probability(self, examples, rejected):
        return 0 * rejected

@hookimpl
def rosepo_register_oracles(register):
    register("table", "acme_table:Table", summary="Answers of a file.")
"""

Settings = Callable[..., object]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the oracle stage depends on by its plugin, which lies in `tmp_path`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "acme_table.py").write_text(PLUGIN)
    (tmp_path / "answers.csv").write_text("1")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.csv").write_text("2")

    def read(*overrides: tuple[str, object]) -> object:
        # Each time as in a process of its own.
        sys.modules.pop("acme_table", None)
        importlib.invalidate_caches()
        for cached in (source_code._imports, source_code._location, source_code._file):
            cached.cache_clear()
        registry = Registry([EntryPoint("acme", "acme_table", "rosepo"), *_first_party()])
        given = [("oracle", "table"), ("oracle.path", str(tmp_path / "answers.csv")), *overrides]
        config = load_config(None, given, registry)
        return Session(config, RunStore(tmp_path / "run"), registry, QuietReporter()).plugin_settings("oracle")

    return read


def _first_party() -> list[EntryPoint]:
    from importlib.metadata import entry_points

    return list(entry_points(group="rosepo"))


def test_what_an_oracle_depends_on(settings, tmp_path):
    first = settings()
    assert settings() == first
    assert settings(("oracle.workers", 8)) == first
    assert settings(("oracle.shift", 0.5)) != first

    for file, other in {"acme_table.py": PLUGIN + "\n# edited", "answers.csv": "3", "more/a.csv": "4"}.items():
        kept = (tmp_path / file).read_text()
        (tmp_path / file).write_text(other)
        assert settings() != first, file
        (tmp_path / file).write_text(kept)
        # It is the content that counts, not when it was written.
        assert settings() == first, file
    (tmp_path / "more" / "b.csv").write_text("5")
    assert settings() != first


def test_a_plugin_is_the_same_under_its_short_and_its_full_name():
    registry = load_plugins()
    found = [
        Session(load_config(None, [("loss", name)], registry), RunStore(Path("no-run")), registry, QuietReporter())
        for name in ("dpo", "rosepo/dpo")
    ]
    assert found[0].plugin_settings("loss") == found[1].plugin_settings("loss")


def test_keys_of_memory_and_speed_decide_nothing():
    assert {"token_budget", "gradient_checkpointing"} == set(SFTOptions().model_dump()) - set(
        SFTOptions().that_decide()
    )
    assert {"token_budget", "compile"} == set(ModelOptions().model_dump()) - set(ModelOptions().that_decide())
    assert {"token_budget"} == set(AlignmentOptions().model_dump()) - set(AlignmentOptions().that_decide())
    registry = load_plugins()
    plain, other = (
        load_config(None, [("sft.token_budget", budget), ("alignment.token_budget", budget)], registry)
        for budget in (64, 4096)
    )
    assert plain.that_decides() == other.that_decides()
    assert plain.resolved() != other.resolved()
