"""The session of a run, which all its stages share: configuration, store, plugins, language model and reporter."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from rosepo_core import __version__, ranks
from rosepo_core.config import RecordedOptions, RunConfig, column_name
from rosepo_core.contracts.components import Component, PreferenceLoss, Reporter
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.paths import expanded
from rosepo_core.contracts.records import Examples, Ints, Split
from rosepo_core.data.listed_candidates import draw_lists
from rosepo_core.engine.determinism import deterministic
from rosepo_core.engine.policy import PolicySlot
from rosepo_core.engine.training.mixture import Mixture
from rosepo_core.engine.training.validation import Heard
from rosepo_core.plugins.recorded import Records, find, lacking, origin_of, read_records, stand_in
from rosepo_core.plugins.registry import Registry, running
from rosepo_core.prompts.item_texts import bind_to_catalogue
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.source_code import source_hash
from rosepo_core.stages.rounds import other_name, work_of
from rosepo_core.store import fingerprint
from rosepo_core.store.artifacts import Artifact, content_sums, reading
from rosepo_core.store.partial import KEEPS_NOTHING, Partial
from rosepo_core.store.run_store import RunStore


class RunReporter(Reporter, Protocol):
    """A reporter that also receives the beginning and end of stages."""

    def stage_started(self, stage: str) -> None:
        """Report that `stage` begins."""

    def stage_finished(self, artifact: Artifact) -> None:
        """Report that the stage of `artifact` is done. ``artifact.reused`` says whether it was taken from before."""

    def numbers(self, values: Mapping[str, float]) -> None:
        """Report the numbers of the last step of a training, such as ``loss`` and ``rewards/margins``."""


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

    def numbers(self, values: Mapping[str, float]) -> None:
        """Nothing."""


def shown(reporter: RunReporter) -> RunReporter:
    """The reporter of this process: of all processes of a run, only rank 0 shows something."""
    return reporter if ranks.is_first() else QuietReporter()


ContentT = TypeVar("ContentT")

Settings = Mapping[str, Any] | Callable[[], Mapping[str, Any]]
"""Everything that a stage depends on, except its inputs. A function if computing it reads files that may be missing
after a run is finished."""


@dataclass(frozen=True)
class Handle(Generic[ContentT]):
    """The result of a stage, for the stages after it.

    Attributes:
        artifact: the folder in the run, and its fingerprint.
        load: reads the content from that folder.
    """

    artifact: Artifact
    load: Callable[[Path], ContentT]

    @property
    def folder(self) -> Path:
        """The artifact's folder."""
        return self.artifact.folder

    @cached_property
    def content(self) -> ContentT:
        """The content of the artifact. It is read once, when it is first needed."""
        with reading(self.folder):
            return self.load(self.folder)


class UntilReached(Exception):  # noqa: N818 (no error: the run ends where the user wants it to)
    """The last stage that the user asked for is done."""


class Session:
    """One run, while its stages are made or read."""

    def __init__(
        self,
        config: RunConfig,
        store: RunStore,
        registry: Registry,
        reporter: RunReporter,
        *,
        base: str | None = None,
        until: str | None = None,
        forced: Callable[[str], bool] = lambda _: False,
        heard: Heard | None = None,
        policy: PolicySlot | None = None,
    ) -> None:
        """
        Args:
            config: the configuration.
            store: the store of the run folder.
            registry: the plugins.
            reporter: receives the progress.
            base: the language model to load, if it is not the one in the configuration.
            until: the last stage to do; `artifact` then raises `UntilReached`.
            forced: whether to make a stage again although its artifact exists. The stages that depend on it are then
                made again, too.
            heard: is told the results of validation during training.
            policy: holds the language model to load, if it should stay in memory after this session.
        """
        self.config = config
        self._policy = policy
        self._base = base or config.model.name
        self.store = store
        self.registry = registry
        self.reporter = reporter
        self._until = until
        self._forced = forced
        self.heard = heard
        self._made_anew: set[str] = set()
        self._templates: dict[str, PromptTemplate] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.partial: Partial = KEEPS_NOTHING
        """What the stage that is being made has so far, for its `build`."""

    @cached_property
    def resolved(self) -> Mapping[str, Any]:
        """The configuration with every key."""
        return self.config.resolved()

    @cached_property
    def that_decides(self) -> Mapping[str, Any]:
        """The configuration with every key that can change a result."""
        return self.config.that_decides()

    @cached_property
    def policy(self) -> PolicySlot:
        """The run's language model. It is loaded when it is first used."""
        model = self.config.model
        return self._policy or PolicySlot(self._base, model.dtype, self.reporter, model.quantization)

    @property
    def history_length(self) -> int:
        """The most items of a history."""
        length: int = self.resolved["dataset"]["history_length"]
        return length

    def template(self, split: Handle[Split]) -> PromptTemplate:
        """The prompt template for the catalogue of the split. The catalogue is tokenized once in a run.

        Raises:
            RequestError: as `bind_to_catalogue`, or the model cannot read prompts of the allowed length.
        """
        fingerprint = split.artifact.fingerprint
        if fingerprint not in self._templates:
            self.check_prompts()
            template: PromptTemplate = self.component("prompt")
            self._templates[fingerprint] = bind_to_catalogue(
                template, self.policy.tokenizer, split.content.catalogue, self.history_length
            )
        return self._templates[fingerprint]

    def check_prompts(self) -> None:
        """Check that the model can read prompts of the allowed length.

        Raises:
            RequestError: it cannot.
        """
        self.policy.check_prompts(self.component("prompt").options.max_length)

    def lists(self, examples: Examples, items: int, rejected: Ints | None = None) -> Ints | None:
        """The lists of candidates in the prompts of training examples, drawn by the run's seed: int32 [n, c]. `None`
        if prompts have no list.

        Args:
            examples: n examples.
            items: number of items in the catalogue.
            rejected: items that the lists must contain in addition to the targets, int32 [n, K], -1 for an empty
                slot.

        Raises:
            RequestError: as `draw_lists`.
        """
        count = self.listed_count
        if not count:
            return None
        purpose = b"lists" if rejected is None else b"lists of pairs"
        return draw_lists(examples, count, items, [self.config.seed, *purpose], rejected=rejected)

    @property
    def listed_count(self) -> int:
        """How many candidates a prompt lists; 0 if it has no list."""
        template: PromptTemplate = self.component("prompt")
        return template.candidates

    def prompt_settings(self) -> Mapping[str, Any]:
        """Everything that the token ids of a prompt depend on, for fingerprints."""
        return {
            "model": self.policy.fingerprint,
            "dtype": self.policy.dtype,
            "prompt": self.plugin_settings("prompt"),
            "history_length": self.history_length,
        }

    def component(self, section: str, index: int | None = None) -> Any:
        """A new instance of the plugin that a section names."""
        return self._component(section, index or 0)

    def require(self, *sections: str) -> None:
        """Check that the code of the plugins in these sections is there.

        Raises:
            RequestError: a plugin of a finished run is no longer installed.
        """
        for section in sections:
            for index, choice in enumerate(self.config.choices(section)):
                if isinstance(choice.options, RecordedOptions):
                    raise self._lacking(section, index, choice.options)

    def _component(self, section: str, index: int) -> Any:
        choice = self.config.choices(section)[index]
        if isinstance(choice.options, RecordedOptions):
            made = find(self.records, section, choice.name, index)
            return stand_in(section, choice.options, made, self._lacking(section, index, choice.options))
        return self.registry.make(section, choice.name, choice.options)

    def _lacking(self, section: str, index: int, options: RecordedOptions) -> RequestError:
        origin = origin_of(self.records, section, self.config.choices(section)[index].name, index)
        return lacking(origin, self.store.folder, options.error)

    @cached_property
    def records(self) -> Records:
        """What the run has kept of its plugins so far."""
        return read_records(self.store.folder)

    def loss(self) -> PreferenceLoss:
        """A new instance of the run's objective: its loss, or the sum of its losses."""
        choices = self.config.loss
        losses: list[PreferenceLoss] = [self.component("loss", index) for index in range(len(choices))]
        if len(choices) == 1 and choices[0].weight == 1:
            return losses[0]
        return Mixture(
            {column_name(choice.name): (loss, choice.weight) for choice, loss in zip(choices, losses, strict=True)}
        )

    def plugin_settings(self, section: str, without: Container[str] = ()) -> list[Mapping[str, Any]]:
        """Everything that the work of a section's plugins depends on, for fingerprints: names, versions, source code,
        options, and the content of the files that they read.

        Args:
            section: a section that names one or more plugins.
            without: options that the stage does not use.
        """
        choices, tables = self.config.choices(section), self.that_decides[section]
        listed = tables if isinstance(tables, list) else [tables]
        found: list[Mapping[str, Any]] = []
        for index, (choice, table) in enumerate(zip(choices, listed, strict=True)):
            component: Component = self._component(section, index)
            options = {key: value for key, value in table.items() if key != "name" and key not in without}
            if isinstance(choice.options, RecordedOptions):
                # Of a finished run, whose stages are taken as they are.
                found.append({"plugin": choice.name, "options": options})
            else:
                found.append(_settings(component, str(self.registry.entry(section, choice.name)), options))
        return found

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator of random numbers for one purpose, independent of all others."""
        return np.random.default_rng([self.config.seed, *purpose.encode()])

    def fingerprint(self, stage: str, settings: Settings, inputs: Sequence[Handle[Any]]) -> str:
        """The fingerprint of a stage's artifact: equal if everything that the artifact depends on is equal. For code
        of the core, the version counts, and of the stage's name what it does, not the round."""
        known = settings() if callable(settings) else settings
        repeated = {"deterministic": True} if self.config.deterministic else {}
        return fingerprint(
            __version__, work_of(stage), {**known, **repeated}, [each.artifact.fingerprint for each in inputs]
        )

    def is_forced(self, stage: str, inputs: Sequence[Handle[Any]]) -> bool:
        """Whether a stage is made again because the user forces it, or a stage that it depends on."""
        if self._forced(stage) or any(each.artifact.stage in self._made_anew for each in inputs):
            self._made_anew.add(stage)
        return stage in self._made_anew

    def find(self, stage: str, wanted: str) -> Artifact | None:
        """The artifact of `stage` with the fingerprint `wanted`, if this run or one beside it has it."""
        return self.store.find(stage, wanted, self.reporter.note, also=other_name(stage, self.config.rounds))

    def artifact(
        self,
        stage: str,
        settings: Settings,
        inputs: Sequence[Handle[Any]],
        build: Callable[[Path], None],
        load: Callable[[Path], ContentT],
        *,
        by_all: bool = False,
    ) -> Handle[ContentT]:
        """The artifact of a stage: found by its fingerprint, or made by `build`.

        Args:
            stage: its name.
            settings: everything that the stage depends on, except its inputs.
            inputs: the results of earlier stages that this stage reads.
            build: makes the artifact in the folder that it gets.
            load: reads the artifact from its folder.
            by_all: whether `build` uses the language model, with which all processes of the run work together. Then
                each of them calls it, and what rank 0 writes is kept. Otherwise only rank 0 calls it.

        Raises:
            UntilReached: this is the last stage to do.
        """
        artifact = self.artifacts[stage] = self.provide(stage, settings, inputs, build, by_all=by_all)
        if stage == self._until:
            raise UntilReached
        return Handle(artifact, load)

    def provide(
        self,
        stage: str,
        settings: Settings,
        inputs: Sequence[Handle[Any]],
        build: Callable[[Path], None],
        *,
        by_all: bool = False,
    ) -> Artifact:
        """The artifact for the handle that `artifact` returns."""
        wanted = ranks.told_by_first(f"the fingerprint of {stage}", lambda: self.fingerprint(stage, settings, inputs))
        self.reporter.stage_started(stage)

        # A stage that several others need is made anew only once.
        forced = stage not in self.artifacts and self.is_forced(stage, inputs)

        def timed(folder: Path) -> float:
            return self._timed(stage, wanted, build, folder, by_all=by_all, forced=forced)

        found = None if forced else self.find(stage, wanted)
        made_from = {each.artifact.stage: each.artifact.fingerprint for each in inputs}
        artifact = (
            self.store.reuse(found, made_from)
            if found
            else self.store.make(stage, wanted, made_from, timed, replace=forced)
        )
        self.reporter.stage_finished(artifact)
        if ranks.is_first():
            self.registry.stage_finished(self.store.folder, stage, artifact.folder, artifact.reused is not None)
        return artifact

    def _timed(
        self,
        stage: str,
        wanted: str,
        build: Callable[[Path], None],
        folder: Path,
        *,
        by_all: bool,
        forced: bool,
    ) -> float:
        """Let `build` fill `folder`, and go on with what earlier attempts left. Returns the seconds that all attempts
        took."""
        start = time.perf_counter()
        if not (by_all or ranks.is_first()):
            return 0.0
        how: Any = {"minutes": self.config.checkpoint.minutes, "replace": forced}
        if ranks.is_first():
            # This removes what is there for another fingerprint.
            partial = self.store.partial(stage, wanted, **how)
        if by_all:
            ranks.meet(f"going on with {stage}")
        if not ranks.is_first():
            partial = self.store.partial(stage, wanted, **how)
        if partial.goes_on:
            self.reporter.note(f"{stage} goes on with what {partial.folder} has")
        self.partial = partial
        try:
            with deterministic(self.config.deterministic):
                build(folder)
        except KeyboardInterrupt:
            partial.save()
            raise
        finally:
            self.partial = KEEPS_NOTHING
        return partial.seconds + time.perf_counter() - start


class FinishedSession(Session):
    """A session on a run that has trained. Its finished stages are taken as they are, even if their inputs
    changed."""

    def __init__(
        self, config: RunConfig, store: RunStore, registry: Registry, reporter: RunReporter, kept: Container[str]
    ) -> None:
        """`kept` names the stages that are taken as they are; other stages are found or made as in any session."""
        super().__init__(config, store, registry, reporter)
        self._kept = kept

    def provide(
        self,
        stage: str,
        settings: Settings,
        inputs: Sequence[Handle[Any]],
        build: Callable[[Path], None],
        *,
        by_all: bool = False,
    ) -> Artifact:
        """The finished artifact of a kept stage.

        Raises:
            RequestError: the run has not finished this stage.
        """
        if stage in self._kept:
            return self.store.artifact(stage)
        return super().provide(stage, settings, inputs, build, by_all=by_all)


class ReadingSession(Session):
    """A session that takes every artifact of a finished run as it is, whatever it was made with, and makes none."""

    def __init__(
        self,
        config: RunConfig,
        store: RunStore,
        registry: Registry,
        reporter: RunReporter,
        command: Callable[[str], str],
        *,
        base: str | None = None,
    ) -> None:
        """`command` gives the command that makes a stage, for errors; `base` is as in `Session`."""
        super().__init__(config, store, registry, reporter, base=base)
        self._command = command

    def provide(
        self,
        stage: str,
        settings: Settings,
        inputs: Sequence[Handle[Any]],
        build: Callable[[Path], None],
        *,
        by_all: bool = False,
    ) -> Artifact:
        """The finished artifact.

        Raises:
            RequestError: the run has not finished this stage; the message names the command that does.
        """
        return self.store.artifact(stage, self._command(stage))


def _settings(component: Component, name: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Everything that the work of a component and of its parts depends on."""
    with running(component):
        files = [expanded(path) for path in component.files()]
        parts = component.parts()
    component_class: type = type(component)
    settings: dict[str, Any] = {
        "plugin": name,
        "source": source_hash(component_class),
        "options": options,
        "files": [content_sums(path) for path in files],
    }
    if parts:
        settings["parts"] = [_settings(part, part.origin, part.options.that_decide()) for part in parts]
    return settings
