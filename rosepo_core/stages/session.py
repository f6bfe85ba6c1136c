"""What all stages of a run share: the configuration, the store, the plugins, one language model, and who listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rosepo_core import __version__
from rosepo_core.config import RunConfig
from rosepo_core.contracts.components import Component, Reporter
from rosepo_core.engine.policy import PolicySlot
from rosepo_core.engine.prompts import PromptTemplate, make_template
from rosepo_core.registry import Registry, running
from rosepo_core.source_code import source_hash
from rosepo_core.store import Artifact, RunStore, content_sums, fingerprint


class RunReporter(Reporter, Protocol):
    """A reporter that also hears of stages."""

    def stage_started(self, stage: str) -> None:
        """`stage` begins."""

    def stage_finished(self, artifact: Artifact) -> None:
        """The stage of `artifact` is done; ``artifact.reused`` says whether it had been before."""


class QuietReporter:
    """Shows nothing."""

    def progress(self, done: int, total: int, unit: str) -> None:
        """Nothing."""

    def note(self, message: str) -> None:
        """Nothing."""

    def stage_started(self, stage: str) -> None:
        """Nothing."""

    def stage_finished(self, artifact: Artifact) -> None:
        """Nothing."""


class Session:
    """One run while it lasts."""

    def __init__(
        self,
        config: RunConfig,
        store: RunStore,
        registry: Registry,
        reporter: RunReporter,
        base: str | None = None,
    ) -> None:
        """`base` is the language model to load, if not the one that the configuration names."""
        self.config = config
        self._base = base or config.model.name
        self.store = store
        self.registry = registry
        self.reporter = reporter
        self.artifacts: dict[str, Artifact] = {}

    @cached_property
    def resolved(self) -> Mapping[str, Any]:
        """The configuration with every key."""
        return self.config.resolved(self.registry)

    @cached_property
    def that_decides(self) -> Mapping[str, Any]:
        """The configuration with every key that can change a result."""
        return self.config.that_decides(self.registry)

    @cached_property
    def policy(self) -> PolicySlot:
        """The run's language model; nothing is loaded before it is used."""
        return PolicySlot(self._base, self.config.model.dtype, self.reporter)

    def template(self, split: Any) -> PromptTemplate:
        """The prompt template over the split's catalogue.

        Raises:
            RequestError: as `make_template`, or the model does not read prompts as long as they may be.
        """
        self.policy.check_prompts(self.config.prompt)
        length = self.resolved["dataset"]["history_length"]
        return make_template(self.config.prompt, self.policy.tokenizer, split.catalogue, length)

    def prompt_settings(self) -> Mapping[str, Any]:
        """All that decides the token ids of a prompt, for fingerprints."""
        return {
            "model": self.policy.fingerprint,
            "dtype": self.policy.dtype,
            "prompt": self.that_decides["prompt"],
            "history_length": self.resolved["dataset"]["history_length"],
        }

    def component(self, section: str, index: int | None = None) -> Any:
        """A fresh instance of the plugin that a section names."""
        choices = getattr(self.config, section)
        choice = choices if index is None else choices[index]
        return self.registry.create(section, choice.name, choice.options)

    def plugin_settings(self, section: str, without: Container[str] = ()) -> list[Mapping[str, Any]]:
        """All that decides what the plugins of a section do, for fingerprints: names, versions, source code, options,
        and the content of the files that they read.

        Args:
            section: one that names a plugin, or several.
            without: options that the stage does not read.
        """
        choices, tables = self.config.choices(section), self.that_decides[section]
        listed = tables if isinstance(tables, list) else [tables]
        found: list[Mapping[str, Any]] = []
        for index, (choice, table) in enumerate(zip(choices, listed, strict=True)):
            component: Component = self.component(section, index if isinstance(tables, list) else None)
            component_class: type = type(component)
            with running(component):
                files = [path.expanduser() for path in component.files()]
            found.append(
                {
                    "plugin": str(self.registry.entry(section, choice.name)),
                    "source": source_hash(component_class),
                    "options": {key: value for key, value in table.items() if key != "name" and key not in without},
                    "files": [content_sums(path) for path in files],
                }
            )
        return found

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator for one purpose, independent of all the others."""
        return np.random.default_rng([self.config.seed, *purpose.encode()])

    def fingerprint(self, stage: str, settings: Mapping[str, Any], inputs: Sequence[Artifact]) -> str:
        """Of a stage's artifact: equal where everything that it depends on is. The core's own code is known by its
        version."""
        return fingerprint(__version__, stage, settings, [artifact.fingerprint for artifact in inputs])

    def finished(self, stage: str) -> Artifact:
        """The artifact of a stage that this run has done before, whatever it depended on.

        Raises:
            RequestError: the run has not come that far.
        """
        self.artifacts[stage] = self.store.artifact(stage)
        return self.artifacts[stage]

    def artifact(
        self, stage: str, settings: Mapping[str, Any], inputs: Sequence[Artifact], build: Callable[[Path], None]
    ) -> Artifact:
        """The artifact of a stage: found by its fingerprint, or made by `build` in the folder that it is given.

        Args:
            stage: its name.
            settings: all that the stage depends on beside its inputs.
            inputs: earlier artifacts that it reads.
        """
        wanted = self.fingerprint(stage, settings, inputs)
        self.reporter.stage_started(stage)

        def timed(folder: Path) -> float:
            start = time.perf_counter()
            build(folder)
            return time.perf_counter() - start

        found = self.store.find(stage, wanted, self.reporter.note)
        made_from = {artifact.stage: artifact.fingerprint for artifact in inputs}
        artifact = self.store.reuse(found) if found else self.store.make(stage, wanted, made_from, timed)
        self.artifacts[stage] = artifact
        self.reporter.stage_finished(artifact)
        self.registry.stage_finished(self.store.folder, stage, artifact.folder, artifact.reused is not None)
        return artifact
