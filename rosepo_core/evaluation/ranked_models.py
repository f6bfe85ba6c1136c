"""The models in the table of an evaluation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rosepo_core.contracts.components import SmoothingOracle
from rosepo_core.contracts.paths import expanded
from rosepo_core.contracts.records import Floats, Ints, Places, Split
from rosepo_core.engine.models import Adapter, folder_fingerprint
from rosepo_core.engine.saved_template import TEMPLATE_FILE, read_template
from rosepo_core.engine.scoring import score_items
from rosepo_core.engine.training import LogHistory
from rosepo_core.evaluation.results import ScoreFn, popularity_scores
from rosepo_core.plugins.registry import running
from rosepo_core.stages.session import Handle, Session
from rosepo_core.stages.trained import Trained


@dataclass(frozen=True)
class RankedModel:
    """One model of the table.

    Attributes:
        name: its name in every table.
        score: scores items; returns `None` if the model cannot rank.
        settings: everything that its answers depend on, except `inputs`, for fingerprints.
        inputs: the artifacts that it depends on.
        language_model: loads the language model; `None` for a model that only scores.
        outside: whether it has scores for candidates of the first held-out part alone, see `evaluation.outside`.
    """

    name: str
    score: ScoreFn
    settings: Mapping[str, object] = field(default_factory=dict)
    inputs: Sequence[Handle[Any]] = ()
    language_model: Callable[[], Any] | None = None
    outside: bool = False


def of_run(session: Session, trained: Trained) -> list[RankedModel]:
    """The models of a run: popularity, the oracle, and the language model before training, after SFT, and after each
    round."""
    split = trained.split
    stages = {"sft": trained.sft} | {each.number.stage("aligned"): each.aligned for each in trained.rounds}

    def model(name: str, weights: Handle[LogHistory]) -> RankedModel:
        return _language_model(session, split, name, lambda: session.policy.trained(weights.folder), inputs=[weights])

    return [
        *before_training(session, split, trained.oracle),
        *(model(name, weights) for name, weights in stages.items()),
    ]


def before_training(
    session: Session, split: Handle[Split], oracle: Handle[SmoothingOracle] | None
) -> list[RankedModel]:
    """The models of a run that need no training of the language model: popularity, the oracle, if there is one, and
    the base model."""
    return [
        RankedModel("popularity", popularity_scores(split.content)),
        *([] if oracle is None else [RankedModel("oracle", _oracle_scores(oracle), inputs=[oracle])]),
        _language_model(session, split, "base", session.policy.base),
    ]


def _oracle_scores(oracle: Handle[SmoothingOracle]) -> ScoreFn:
    def scores(places: Places, items: Ints) -> Floats | None:
        if not oracle.content.ranks:
            return None
        with running(oracle.content):
            return oracle.content.score(places, items)

    return scores


def of_model(session: Session, split: Handle[Split], adapter: Adapter | None) -> list[RankedModel]:
    """Popularity, and the model in the configuration: the session's language model, with `adapter` if there is
    one."""
    name = model_name(session.config.model.name)
    _note_prompts(session, expanded(session.config.model.name))
    if adapter is None:
        model = _language_model(session, split, name, session.policy.base)
    else:
        folder = adapter.folder
        settings = {"adapter": folder_fingerprint(folder)}
        model = _language_model(session, split, name, lambda: session.policy.trained(folder), settings=settings)
    return [RankedModel("popularity", popularity_scores(split.content)), model]


def _note_prompts(session: Session, folder: Path) -> None:
    """For a model with its own prompt template, note whether it is asked with these prompts."""
    saved = read_template(folder)
    if saved is None:
        return
    trained = {"name": saved.name, **saved.options, "dataset.history_length": saved.history_length}
    asked = {**session.resolved["prompt"], "dataset.history_length": session.history_length}
    other = [key if "." in key else f"prompt.{key}" for key in asked if trained.get(key) != asked[key]]
    session.reporter.note(
        f"the model is asked with other prompts than it was trained on: {', '.join(other)}"
        if other
        else f"the model is asked with the prompts that it was trained on, {folder / TEMPLATE_FILE}"
    )


def model_name(spec: str) -> str:
    """The name of a single evaluated model in tables: the last part of its path or hub id. It has no blanks and
    brackets, because these separate a model from its score and its run."""
    path = expanded(spec)
    name = path.resolve().name if path.exists() else spec.rpartition("/")[2]
    name = re.sub(r"[\s()]+", "-", name).strip("-")
    return name if name not in ("", "popularity") else "model"


def _each_once(items: Ints) -> Ints:
    """The items of each row, with -1 for repeated items. Rows with fewer candidates are filled with the target, which
    must not be in a list several times."""
    order = np.argsort(items, axis=1, kind="stable")
    ordered = np.take_along_axis(items, order, axis=1)
    repeated = np.zeros(items.shape, dtype=np.bool_)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return np.where(repeated, np.int32(-1), items)


def _language_model(
    session: Session,
    split: Handle[Split],
    name: str,
    model: Callable[[], Any],
    *,
    inputs: Sequence[Handle[Any]] = (),
    settings: Mapping[str, object] | None = None,
) -> RankedModel:
    def score(places: Places, items: Ints) -> Floats:
        template = session.template(split)
        return score_items(
            model(),
            template,
            places,
            items,
            token_budget=session.config.model.token_budget,
            reporter=session.reporter,
            candidates=_each_once(items) if template.candidates else None,
            partial=session.partial,
        )

    return RankedModel(name, score, {**session.prompt_settings(), **(settings or {})}, inputs, model)
