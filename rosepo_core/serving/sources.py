"""What a recommender is loaded from: a finished run, or a folder with one model and all that it needs."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from rosepo_core.contracts.components import Reporter, SmoothingOracle
from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.contracts.options import parse_options
from rosepo_core.contracts.records import Ints, Split
from rosepo_core.contracts.sections import ModelOptions, RankingOptions, Score
from rosepo_core.data.catalogue_in_use import CatalogueInUse
from rosepo_core.data.saved_catalogue import load_catalogue
from rosepo_core.engine.models import find_adapter
from rosepo_core.engine.policy import PolicySlot
from rosepo_core.engine.saved_template import TEMPLATE_FILE, load_template
from rosepo_core.engine.shared_bases import SharedBases
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.evaluation.run_models import language_models
from rosepo_core.prompts.item_texts import UnusableTitleError
from rosepo_core.serving import confidence
from rosepo_core.serving.changed_catalogue import CHANGES_FILE, load_in_use
from rosepo_core.serving.confidence import Calibrated
from rosepo_core.serving.ranker import Ranker, RunParts, load_oracle, load_ranker
from rosepo_core.stages.split import load_split
from rosepo_core.store.artifacts import ABOUT_FILE, MANIFEST, check_artifact, is_own_artifact, reading
from rosepo_core.store.changes import CONFIG
from rosepo_core.store.marker import MARKER, is_run
from rosepo_core.store.run_store import RunStore
from rosepo_core.store.seed_folders import is_seeds, seed_runs

ABOUT_SCHEMA = 1

PARTS = "ranking"
"""The folder of an export with the artifacts that its score needs beside the model."""


FLOAT32: dict[str, Any] = {"dtype": "float32", "quantization": "none"}
"""The options of a model that is loaded to be compared with another."""


Model = TypeVar("Model", bound=TitleModel)


@dataclass(frozen=True)
class StoredModel:
    """A language model on the disk, with its prompt template and title trie.

    Attributes:
        folder: the folder with the template and the trie, and with the trained weights.
        options: names the model to load first.
        trained: whether the weights in `folder` are then put into it.
        in_use: the catalogue that it recommends from.
    """

    folder: Path
    options: ModelOptions
    trained: bool
    in_use: CatalogueInUse

    def slot(self, reporter: Reporter, bases: SharedBases | None = None) -> PolicySlot:
        """A place in memory for this model, and for others with the same options; `bases` are weights to share."""
        return PolicySlot(self.options.name, self.options.dtype, reporter, self.options.quantization, bases)

    def put_into(self, slot: PolicySlot) -> Any:
        """The model for inference, in `slot`."""
        return slot.trained(self.folder) if self.trained else slot.base()

    def title_model(self, slot: PolicySlot, reporter: Reporter) -> TitleModel:
        """The model over its catalogue, in `slot`, which is then for this model alone."""
        template = load_template(self.folder, slot.tokenizer)
        model = TitleModel(self.put_into(slot), template, reporter, 0, token_budget=self.options.token_budget)
        return self.over_catalogue(model)

    def over_catalogue(self, model: Model) -> Model:
        """A model over the trained catalogue, made one over the catalogue in use."""
        if not self.in_use.changes.height:
            return model
        try:
            return model.with_items(self.in_use.items, self.in_use.retitled)
        except UnusableTitleError as error:
            raise RequestError(f"{CHANGES_FILE}: {error} (`rosepo catalogue update`), or remove the file") from None


class Source(Protocol):
    """Language models over one catalogue, and how they rank.

    Attributes:
        folder: where they are.
        in_use: the catalogue, with the changes since the training.
        models: the names of the models, the one to take by default first.
        score: the score to rank by, unless another is asked for.
        users: everything that each user of the log has chosen, by the user's own id; `None` if the log is not there.
    """

    folder: Path
    in_use: CatalogueInUse
    models: tuple[str, ...]
    score: Score

    @property
    def users(self) -> Mapping[str, Ints] | None:
        """See the class."""

    def stored(self, name: str) -> StoredModel:
        """A model by its name.

        Raises:
            RequestError: it is not there.
        """

    def ranker(self, name: str, score: Score, load: Callable[[str], TitleModel]) -> Ranker | None:
        """The ranker of a model, see `load_ranker`."""

    def calibrated(self, name: str, score: Score) -> Calibrated:
        """What is known about the confidence of a model's lists."""

    def oracle(self) -> SmoothingOracle | None:
        """The oracle beside the models; `None` if there is none.

        Raises:
            RequestError: its plugin is not installed.
        """


class RunSource:
    """A finished run, or the first of runs under seeds."""

    def __init__(self, folder: Path, reporter: Reporter, *, float32: bool = False, as_trained: bool = False) -> None:
        """
        Args:
            folder: the run folder, or a folder of runs under seeds.
            reporter: receives a note if there are several runs.
            float32: load models in float32, whatever the run says.
            as_trained: leave the changes of the catalogue out.

        Raises:
            RequestError: there is no run.
        """
        if is_seeds(folder):
            first, *others = seed_runs(folder).values()
            reporter.note(f"recommending with the first of {len(others) + 1} seeds, {first}")
            folder = first
        self.folder = folder
        self._types: dict[str, Any] = FLOAT32 if float32 else {}
        self.store = RunStore.open(folder)
        self.config = _read_tables(folder)
        self.models: tuple[str, ...] = language_models(self.config.get("rounds", 1))
        held_out = self.store.artifact("split").folder
        with reading(held_out):
            self.split = load_split(held_out)
        trained = self.split.catalogue
        self.in_use = CatalogueInUse.of(trained) if as_trained else load_in_use(folder, trained)
        self.score: Score = parse_options(RankingOptions, self.config.get("ranking", {}), "ranking").score

    @cached_property
    def users(self) -> Mapping[str, Ints]:
        """See `Source`."""
        return full_histories(self.split)

    def stored(self, name: str) -> StoredModel:
        """See `Source`. The base model reads the template of the SFT model."""
        options = parse_options(ModelOptions, dict(self.config.get("model", {})) | self._types, "model")
        folder = self.store.artifact("sft" if name == "base" else name).folder
        return StoredModel(folder, options, trained=name != "base", in_use=self.in_use)

    def ranker(self, name: str, score: Score, load: Callable[[str], TitleModel]) -> Ranker | None:
        """See `Source`."""
        return load_ranker(RunParts(self.store), self.config, name, score, self.in_use, load)

    def calibrated(self, name: str, score: Score) -> Calibrated:
        """See `Source`."""
        return confidence.load(RunParts(self.store), self.folder, name, score, is_run=True)

    def oracle(self) -> SmoothingOracle | None:
        """See `Source`."""
        return load_oracle(RunParts(self.store), self.config)


class ModelSource:
    """A folder with one model, its prompt template, title trie and catalogue: RUN/aligned or a copy of it, or a model
    into which its adapter was merged, beside the same files."""

    def __init__(self, folder: Path, reporter: Reporter, *, float32: bool = False, as_trained: bool = False) -> None:
        """
        Args:
            folder: the folder.
            reporter: receives notes.
            float32: load the model in float32, whatever its weights are saved in.
            as_trained: leave the changes of the catalogue out.

        Raises:
            RequestError: a file is missing or damaged, or the base model of an adapter cannot be found.
        """
        if not check_artifact(folder):
            reporter.note(f"{folder} has no {MANIFEST}, so nothing tells whether its files are as they were written")
        self.folder = folder
        with reading(folder):
            trained = load_catalogue(folder)
        self.in_use = CatalogueInUse.of(trained) if as_trained else load_in_use(folder, trained)
        self.users: None = None
        about = _read_about(folder)
        self.models: tuple[str, ...] = (str(about.get("model", folder.resolve().name)),)
        self.score: Score = about.get("score", "likelihood")
        self._config: Mapping[str, Any] = about.get("config", {})
        adapter = find_adapter(str(folder), reporter)
        named = {"name": str(folder if adapter is None else adapter.base)}
        options = parse_options(ModelOptions, {**named, **(FLOAT32 if float32 else {})}, "model")
        self._stored = StoredModel(folder, options, trained=adapter is not None, in_use=self.in_use)

    def stored(self, name: str) -> StoredModel:
        """See `Source`."""
        return self._stored

    def ranker(self, name: str, score: Score, load: Callable[[str], TitleModel]) -> Ranker | None:
        """See `Source`."""
        return load_ranker(FolderParts(self.folder), self._config, name, score, self.in_use, load)

    def calibrated(self, name: str, score: Score) -> Calibrated:
        """See `Source`."""
        return confidence.load(FolderParts(self.folder), self.folder, name, score, is_run=False)

    def oracle(self) -> SmoothingOracle | None:
        """See `Source`."""
        return load_oracle(FolderParts(self.folder), self._config)


@dataclass(frozen=True)
class FolderParts:
    """The artifacts in the folder `PARTS` beside a model."""

    model: Path

    @property
    def is_own(self) -> bool:
        """See `Parts`."""
        return is_own_artifact(self.model)

    def find(self, name: str, command: str = "") -> Path | None:
        """See `Parts`."""
        folder = self.model / PARTS / name
        return folder if folder.is_dir() else None

    def folder(self, name: str, score: Score) -> Path:
        """See `Parts`."""
        folder = self.find(name)
        if folder is None:
            raise RequestError(
                f"{self.model} does not hold what the score '{score}' needs beside the model: name its run, or "
                f"export the run with --score {score}"
            )
        return folder


def open_source(folder: Path, reporter: Reporter) -> Source:
    """What is in a folder: a run, runs under seeds, or one model.

    Raises:
        RequestError: it is none of these, or something in it is missing or damaged.
    """
    if is_run(folder) or is_seeds(folder):
        return RunSource(folder, reporter)
    if (folder / TEMPLATE_FILE).is_file():
        return ModelSource(folder, reporter)
    what = "has" if folder.is_dir() else "does not exist, or has"
    raise RequestError(
        f"{folder} {what} neither a run ({MARKER}) nor a model with its prompts ({TEMPLATE_FILE}): name a folder "
        "that `rosepo train` or `rosepo export` printed"
    )


def chosen_model(source: Source, name: str | None) -> str:
    """The name of a model in a source; the default one for `None`.

    Raises:
        RequestError: there is no such model.
    """
    if name is None:
        return source.models[0]
    if name not in source.models:
        one = len(source.models) == 1
        raise RequestError(
            f"{source.folder} holds one model: leave --stage {name} out"
            if one
            else f"unknown model '{name}'{nearest(name, source.models)}"
        )
    return name


def full_histories(split: Split) -> Mapping[str, Ints]:
    """Everything that each user has chosen, in order of time, by the user's own id: int32 [h]. Users without any item
    are left out."""
    found = {user: split.train[user] for user in range(len(split.train))}
    for examples in (split.validation, split.test):
        for user, position, target in zip(
            examples.user.tolist(), examples.position.tolist(), examples.target.tolist(), strict=True
        ):
            found[user] = np.append(examples.sequences[user][:position], np.int32(target))
    return {split.users[user]: items for user, items in found.items() if len(items)}


def _read_tables(folder: Path) -> Mapping[str, Any]:
    """The tables of the run's configuration, unchecked: the plugins that recommending does not use need not be
    installed."""
    path = folder / CONFIG
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read: {error}; write it again with `rosepo train --run`") from None


def _read_about(folder: Path) -> Mapping[str, Any]:
    """What `ABOUT_FILE` says; empty where there is none.

    Raises:
        RequestError: it cannot be read.
    """
    path = folder / ABOUT_FILE
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read: {error}; copy the folder again") from None
    if not isinstance(about, dict) or about.get("schema") != ABOUT_SCHEMA:
        raise RequestError(f"{path} is of another version of rosepo; export the run anew")
    return about
