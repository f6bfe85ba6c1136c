"""The stages behind `ranking.score`: priors of titles, the fit of ``fusion``, and the decision rules made of them.

Weights are fitted on validation users only. Where validation users are ranked themselves, each fifth of them is
ranked with weights that were fitted on the other four (cross-fitting), so that no user is ranked with weights that
have seen the user's own choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.contracts.records import Candidates, Floats, Ints, Split
from rosepo_core.contracts.sections import Negatives, Score
from rosepo_core.evaluation.candidates import named
from rosepo_core.evaluation.conditional_logit import ConditionalLogit, fit, folds
from rosepo_core.evaluation.decision_rules import (
    DecisionRule,
    RawScores,
    feature_names,
    needed_models,
    shown_scores,
)
from rosepo_core.evaluation.ranked_models import RankedModel
from rosepo_core.stages import prior
from rosepo_core.stages.session import Handle, Session
from rosepo_core.store.artifacts import reading

LOGIT = "fusion.json"

OWN_FEATURES = ("likelihood", "prior", "popularity")
"""The features that are no models' scores."""


def check(session: Session, split: Split, models: Sequence[str]) -> None:
    """Check, before any work, that the run can rank by `ranking.score`.

    Args:
        session: the run.
        split: its split.
        models: the names of the models in the table.

    Raises:
        RequestError: prompts list candidates, there is no validation user to fit on, or a feature is unknown.
    """
    options = session.config.ranking
    if options.score in ("prior-corrected", "fusion"):
        prior.check(session, f"ranking.score = '{options.score}'")
    if options.score != "fusion":
        return
    known = (*OWN_FEATURES, *models)
    for name in options.features:
        # A run has an oracle by default. A model that is evaluated on its own has none.
        if name not in known and name != "oracle":
            raise RequestError(f"unknown feature '{name}' in ranking.features{nearest(name, known)}")
    if split.supplied_candidates is not None and "uniform" in session.config.evaluation.negatives:
        session.reporter.note(
            "fusion is fitted on uniformly drawn candidates of validation users, and the test users' candidates are "
            "the dataset's: its probabilities may be off"
        )
    if not len(split.validation):
        raise RequestError(
            "ranking.score = 'fusion' is fitted on validation users, and the split has none: choose another score, "
            "or a dataset with validation examples"
        )
    most = session.config.evaluation.max_users
    if "validation" in session.config.evaluation.part and min(len(split.validation), most or 2) < 2:
        raise RequestError(
            "ranking.score = 'fusion' ranks a validation user with weights that were fitted on others, and there is "
            "one user: raise evaluation.max_users, or leave evaluation.part at 'test'"
        )


@dataclass(frozen=True)
class Validation:
    """What ``fusion`` is fitted on.

    Attributes:
        candidates: RUN/candidates of the validation users.
        raw: the raw scores of all models for them; the content is `None` for a model that cannot rank.
    """

    candidates: Handle[Candidates]
    raw: Mapping[str, Handle[Floats | None]]


def rules(
    session: Session,
    split: Handle[Split],
    ranked_models: Sequence[RankedModel],
    validation: Validation | None,
    negatives: Negatives = "uniform",
) -> tuple[list[DecisionRule], list[Handle[Any]]]:
    """The decision rules of all models, in the order of tables: RUN/prior-MODEL of each language model, and
    RUN/fusion-MODEL of each model that has a fusion.

    Args:
        session: the run.
        split: RUN/split.
        ranked_models: the models. One that cannot rank has the rule of its own score only.
        validation: what ``fusion`` is fitted on, if it is among the scores.
        negatives: the kind of negatives of `validation`.

    Returns:
        the rules, and the artifacts that they were made from.
    """
    found: list[DecisionRule] = []
    made: list[Handle[Any]] = []
    if validation is not None:
        _note_missing(session, ranked_models, validation)
    for model in ranked_models:
        for score in _scores_of(session, model, validation):
            rule, inputs = _rule(session, split, model, score)
            if score == "fusion":
                assert validation is not None
                rule = replace(rule, features=_available(session, model, validation))
                handle = _logit(session, split, rule, validation, inputs, negatives)
                rule = replace(rule, logit=handle.content)
                if "validation" in session.config.evaluation.part:
                    rule = replace(rule, cross_fits=_cross_fits(session, rule, validation))
                inputs = [*inputs, handle]
            found.append(rule)
            made += [each for each in inputs if each not in made]
    return found, made


def _note_missing(session: Session, ranked_models: Sequence[RankedModel], validation: Validation) -> None:
    """Note features that this run does not have, and language models without any feature."""
    able = [name for name, each in validation.raw.items() if each.content is not None]
    missing = [name for name in session.config.ranking.features if name not in (*OWN_FEATURES, *able)]
    if missing:
        session.reporter.note(f"fusion leaves {', '.join(missing)} out: no such model ranks here")
    for model in ranked_models:
        if model.language_model is not None and not _available(session, model, validation):
            session.reporter.note(f"{model.name} has no fusion: ranking.features has no feature for it")


def _scores_of(session: Session, model: RankedModel, validation: Validation | None) -> Sequence[Score]:
    """The scores that a model has. A model that only scores has its own, and a fusion with popularity."""
    scores = shown_scores(session.config.ranking.score)
    if model.language_model is not None:
        fits = validation is not None and _available(session, model, validation)
        return tuple(score for score in scores if score != "fusion" or fits)
    fused = (
        "fusion" in scores
        and validation is not None
        and model.name != "popularity"
        and len(_available(session, model, validation)) > 1
    )
    return ("likelihood", "fusion") if fused else ("likelihood",)


def _available(session: Session, model: RankedModel, validation: Validation) -> tuple[str, ...]:
    """The features of a model's fusion that this run has."""
    wanted = feature_names(session.config.ranking.features, model.name, model.language_model is not None)
    known = [*OWN_FEATURES, *(name for name, each in validation.raw.items() if each.content is not None)]
    return tuple(name for name in wanted if name in known)


def _rule(
    session: Session, split: Handle[Split], model: RankedModel, score: Score
) -> tuple[DecisionRule, list[Handle[Any]]]:
    """A rule without the fit of fusion, and the artifacts that it needs."""
    popularity = split.content.catalogue.popularity
    if model.language_model is None or score == "likelihood":
        return DecisionRule(model.name, score, popularity), []
    lengths = session.template(split).response_lengths
    if score == "mean":
        return DecisionRule(model.name, score, popularity, lengths), []
    handle = prior.stage(session, split, model.name, model.language_model, model.settings, model.inputs)
    return DecisionRule(model.name, score, popularity, lengths, handle.content), [handle]


def _logit(
    session: Session,
    split: Handle[Split],
    rule: DecisionRule,
    validation: Validation,
    inputs: Sequence[Handle[Any]],
    negatives: Negatives,
) -> Handle[ConditionalLogit]:
    """RUN/fusion-MODEL, or RUN/fusion-MODEL-NEGATIVES: ``fusion.json`` with the fields of `ConditionalLogit`."""
    needed = needed_models(rule.features, rule.model)
    handles = [validation.raw[name] for name in needed]

    def build(folder: Path) -> None:
        raw = {name: _content(each) for name, each in zip(needed, handles, strict=True)}
        candidates = validation.candidates.content
        logit = fitted(rule, candidates.items, raw, candidates.target_column, session.config.ranking.ridge)
        for name, why in logit.left_out:
            session.reporter.note(f"the fusion of {rule.model} leaves '{name}' out: {why}")
        logit.write(folder / LOGIT)

    settings = {"features": rule.features, "ridge": session.config.ranking.ridge}
    name = named(f"fusion-{rule.model}", negatives)
    return session.artifact(name, settings, [split, validation.candidates, *inputs, *handles], build, load)


def _content(handle: Handle[Floats | None]) -> Floats:
    found = handle.content
    assert found is not None
    return found


def load(folder: Path) -> ConditionalLogit:
    """The fit that RUN/fusion-MODEL holds."""
    with reading(folder):
        return ConditionalLogit.read(folder / LOGIT)


def fitted(rule: DecisionRule, items: Ints, raw: RawScores, chosen: Ints, ridge: float) -> ConditionalLogit:
    """The weights of a rule's features, fitted on the choices of users.

    Args:
        rule: a rule with features.
        items: the candidates of each user, int32 [n, c], -1 for an empty slot.
        raw: the raw scores of the rule's models, for these items.
        chosen: the column of the item that each user chose, int32 [n].
        ridge: see `conditional_logit.fit`.
    """
    values = rule.values(items, raw, rule.features)
    return fit(rule.features, values, items >= 0, chosen, ridge)


def _cross_fits(
    session: Session, rule: DecisionRule, validation: Validation
) -> tuple[tuple[Ints, ConditionalLogit], ...]:
    """For each fifth of the validation users: their rows, and the weights that were fitted on the others."""
    candidates = validation.candidates.content
    raw = {name: _content(validation.raw[name]) for name in rule.models}
    found = []
    for rows in folds(len(candidates.items), session.rng("folds")):
        others = np.setdiff1d(np.arange(len(candidates.items)), rows)
        part = {name: values[others] for name, values in raw.items()}
        chosen = candidates.target_column[others]
        logit = fitted(rule, candidates.items[others], part, chosen, session.config.ranking.ridge)
        found.append((rows, logit))
    return tuple(found)
