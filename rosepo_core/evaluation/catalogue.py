"""The protocol ``catalogue``: each model lists its best items among all that are new to the user.

An item is new if it is not in the user's history before the target. Later items of the user are new. The target
itself always counts as new, even if the user chose it before. Models that only score (popularity, the oracle) score
every item; items of equal score have a random order. A language model searches the titles by constrained decoding.
Its list is exact if `evaluation.decoding` is ``exact``; otherwise it is the result of a beam search.

No search finds the best titles under another score than likelihood. So a language model first gets a pool of titles
for each user (`pools`) and ranks this pool. If the catalogue has at most `ranking.pool` items, it ranks them all.

The lists of all models have the same length, and their scores are not compared. So all metrics end there: a target
after the end of the list has no rank, for every model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from rosepo_core.contracts.errors import RosepoError
from rosepo_core.contracts.ranking import best_items
from rosepo_core.contracts.records import Candidates, Examples, Floats, Ints, Longs
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.evaluation.candidates import named
from rosepo_core.evaluation.context import EvaluationContext
from rosepo_core.evaluation.decision_rules import DecisionRule
from rosepo_core.evaluation.pools import PoolSources
from rosepo_core.evaluation.ranked_models import RankedModel
from rosepo_core.evaluation.results import Evaluation, ScoreFn, conclude, score_model
from rosepo_core.stages.session import Handle

LISTS = "lists.safetensors"
POOL = "pool.safetensors"
BLOCK_CELLS = 1 << 18
"""Items scored at once."""

Lists = tuple[Ints, Floats]
"""Items int32 [n, length] and their scores, float32, best first; -1 and -inf fill rows with fewer."""


def evaluate(
    context: EvaluationContext, ranked_models: Sequence[RankedModel], rules: Sequence[DecisionRule]
) -> tuple[Evaluation, list[Handle[Any]]]:
    """The table: each model by each of its decision rules, from RUN/lists-MODEL and RUN/pool-MODEL."""
    length = context.list_length
    made = {each.name: _listed(context, each, length) for each in ranked_models}
    able = [each for each in ranked_models if made[each.name].content is not None]
    handles: list[Handle[Any]] = list(made.values())
    lists: dict[str, Lists] = {}
    recall: dict[str, float] = {}
    for model in able:
        own = [
            rule for rule in rules if rule.model == model.name and set(rule.models) <= {each.name for each in able}
        ]
        found = made[model.name].content
        assert found is not None
        lists[model.name] = found
        own = [rule for rule in own if rule.score != "likelihood"]
        if own and model.language_model is None:
            lists |= {rule.name: _best_by(context, model, rule, length) for rule in own}
        elif own:
            pool = _pool(context, model, able, own, made[model.name])
            handles.append(pool)
            items, raw = pool.content
            rows = context.fitted_rows(np.arange(len(items)))
            lists |= {rule.name: best_items(rule.scores(items, raw, rows), items, length) for rule in own}
            held = float((items == context.examples.target[:, None]).any(axis=1).mean())
            recall |= {rule.name: held for rule in own}
    evaluation = conclude(
        "catalogue",
        f"lists of {length} out of {len(context.catalogue):,} titles, those of the history left out",
        {name: context.lists(items, context.ks) for name, (items, _) in lists.items()},
        context.metrics,
        context.options,
        context.session.reporter,
        examples=context.examples,
        scores={name: scores for name, (_, scores) in lists.items()},
        seed=context.session.config.seed,
    )
    fusions = {rule.name: rule.logit for rule in rules if rule.logit is not None and rule.name in lists}
    return replace(evaluation, fusions=fusions, pool_recall=recall), handles


def _best_by(context: EvaluationContext, model: RankedModel, rule: DecisionRule, length: int) -> Lists:
    """The lists of a model that only scores, out of the whole catalogue, by a rule."""

    def rank(rows: Longs, items: Ints, values: Floats) -> Floats:
        return rule.scores(items, {model.name: values}, context.fitted_rows(rows))

    rng = context.session.rng("order of equals")
    found = best_of_all(rule.name, model.score, context.examples, len(context.catalogue), length, rng, rank)
    assert found is not None
    return found


def _pool(
    context: EvaluationContext,
    model: RankedModel,
    able: Sequence[RankedModel],
    rules: Sequence[DecisionRule],
    searched: Handle[Lists | None],
) -> Handle[tuple[Ints, Mapping[str, Floats]]]:
    """RUN/pool-MODEL: the pool of each user, int32 [n, pool], and the raw scores of the models that the rules need,
    by name, float32 [n, pool]."""
    session, size = context.session, context.session.config.ranking.pool
    needed = tuple(dict.fromkeys(name for rule in rules for name in rule.models))
    scoring = [each for each in able if each.name in needed]
    oracle = next((each for each in able if each.name == "oracle"), None)
    embedded = context.embedded

    def build(folder: Path) -> None:
        lists = searched.content
        assert lists is not None
        sources = PoolSources(
            context.catalogue.popularity, oracle.score if oracle else None, embedded.content if embedded else None
        )
        items = sources.pools(context.examples, history_items(context.examples), lists[0], size)
        column = np.zeros(len(items), dtype=np.int32)
        raw = {
            each.name: score_model(each.name, each.score, context.examples, Candidates(items, column))
            for each in scoring
        }
        arrays = {"items": items, **{f"scores.{name}": values for name, values in raw.items() if values is not None}}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / POOL)

    settings = {**model.settings, **context.settings, "pool": size, "models": needed}
    inputs: list[Handle[Any]] = [context.split]
    if len(context.catalogue) > size:
        inputs += [searched, *(oracle.inputs if oracle else ()), *([embedded] if embedded else [])]
    inputs += [handle for each in scoring for handle in each.inputs if handle not in inputs]
    asks_model = any(each.language_model is not None for each in scoring)
    name = named(f"pool-{model.name}", part=context.part)
    return session.artifact(name, settings, inputs, build, _load_pool, by_all=asks_model)


def _load_pool(folder: Path) -> tuple[Ints, Mapping[str, Floats]]:
    arrays = load_file(folder / POOL)
    items = arrays.pop("items")
    return items, {name.removeprefix("scores."): values for name, values in arrays.items()}


def _listed(context: EvaluationContext, ranked_model: RankedModel, length: int) -> Handle[Lists | None]:
    """RUN/lists-MODEL: items int32 [n, length] and their scores, float32, best first; -1 and -inf fill rows with
    fewer. There is no file if the model cannot rank."""
    session, options = context.session, context.options
    search = {"decoding": options.decoding, "beams": options.beams} if ranked_model.language_model else {}
    settings = {**ranked_model.settings, **context.settings, **search, "length": length}

    def build(folder: Path) -> None:
        if ranked_model.language_model is None:
            count, rng = len(context.catalogue), session.rng("order of equals")
            found = best_of_all(ranked_model.name, ranked_model.score, context.examples, count, length, rng)
        else:
            found = TitleModel(
                ranked_model.language_model(),
                session.template(context.split),
                session.reporter,
                session.config.seed,
                partial=session.partial,
                token_budget=session.config.model.token_budget,
            ).top(
                context.examples,
                length,
                exclude=history_items(context.examples),
                beams=options.beams,
                exact=options.decoding == "exact",
            )
        if found is None:
            session.reporter.note(f"the {ranked_model.name} ranks nothing and is left out of the table")
            return
        items, scores = found
        if np.isnan(scores).any():
            raise RosepoError(
                f"model '{ranked_model.name}' gave titles the log-probability NaN: its training diverged; lower the "
                "learning rate or use float32"
            )
        save_file({"items": np.ascontiguousarray(items), "scores": np.ascontiguousarray(scores)}, folder / LISTS)

    inputs = [context.split, *ranked_model.inputs]
    name, asks_model = named(f"lists-{ranked_model.name}", part=context.part), ranked_model.language_model is not None
    return session.artifact(name, settings, inputs, build, _load, by_all=asks_model)


def _load(folder: Path) -> Lists | None:
    """The lists that `_listed` saved, or `None`."""
    if not (folder / LISTS).exists():
        return None
    arrays = load_file(folder / LISTS)
    return arrays["items"], arrays["scores"]


def history_items(examples: Examples) -> list[NDArray[np.integer]]:
    """The items of each example's user before the target, without the target itself: one array for each example."""
    return [
        np.setdiff1d(examples.sequences[user][:position], [target])
        for user, position, target in zip(
            examples.user.tolist(), examples.position.tolist(), examples.target.tolist(), strict=True
        )
    ]


def best_of_all(
    name: str,
    score: ScoreFn,
    examples: Examples,
    items: int,
    length: int,
    rng: np.random.Generator,
    rank: Callable[[Longs, Ints, Floats], Floats] = lambda rows, items, scores: scores,
) -> tuple[Ints, Floats] | None:
    """The items with the highest scores among all that are new to each example's user.

    Args:
        name: the model's name, for errors.
        score: returns the scores.
        examples: n examples.
        items: number of items in the catalogue.
        length: length of the lists.
        rng: draws the order of items with equal scores, which is the same for all examples.
        rank: gives the scores to rank by, from rows of examples, their items, -1 for an empty slot, and the results
            of `score`.

    Returns:
        items int32 [n, length] and scores float32 [n, length], best first, -1 and -inf fill rows with fewer; `None`
        if the model cannot rank.

    Raises:
        RosepoError: as `score_model`.
    """
    order = rng.permutation(items).astype(np.int32)
    excluded = history_items(examples)
    step = max(1, BLOCK_CELLS // items)
    found = []
    for start in range(0, len(examples), step):
        rows = np.arange(start, min(start + step, len(examples)))
        offered = np.tile(order, (len(rows), 1))
        for place, row in enumerate(rows.tolist()):
            offered[place, np.isin(order, excluded[row])] = -1
        some = examples.take(rows)
        column = np.argmax(offered == some.target[:, None], axis=1).astype(np.int32)
        scores = score_model(name, score, some, Candidates(offered, column))
        if scores is None:
            return None
        found.append(best_items(rank(rows, offered, scores), offered, length))
    return np.concatenate([top for top, _ in found]), np.concatenate([best for _, best in found])
