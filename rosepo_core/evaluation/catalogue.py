"""The protocol ``catalogue``: each model lists its best items among all that are new to the user.

An item is new if it is not in the user's history before the target. Later items of the user are new. The target
itself always counts as new, even if the user chose it before. Models that only score (popularity, the oracle) score
every item; items of equal score have a random order. A language model searches the titles by constrained decoding.
Its list is exact if `evaluation.decoding` is ``exact``; otherwise it is the result of a beam search.

The lists of all models have the same length, and their scores are not compared. So all metrics end there: a target
after the end of the list has no rank, for every model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from rosepo_core.contracts.errors import RosepoError
from rosepo_core.contracts.ranking import top_items
from rosepo_core.contracts.records import Candidates, Examples, Floats, Ints
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.evaluation.candidates import named
from rosepo_core.evaluation.context import EvaluationContext
from rosepo_core.evaluation.ranked_models import RankedModel
from rosepo_core.evaluation.results import Evaluation, ScoreFn, conclude, score_model
from rosepo_core.stages.session import Handle

LISTS = "lists.safetensors"
BLOCK_CELLS = 1 << 18
"""Items scored at once."""

Lists = tuple[Ints, Floats]
"""Items int32 [n, length] and their scores, float32, best first; -1 and -inf fill rows with fewer."""


def evaluate(
    context: EvaluationContext, ranked_models: Sequence[RankedModel]
) -> tuple[Evaluation, list[Handle[Lists | None]]]:
    """The table, from RUN/lists-MODEL of each model."""
    length = context.list_length
    made = {each.name: _listed(context, each, length) for each in ranked_models}
    lists = {name: each.content for name, each in made.items() if each.content is not None}
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
    return evaluation, list(made.values())


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
                ranked_model.language_model(), session.template(context.split), session.reporter, session.config.seed
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
    return session.artifact(named(f"lists-{ranked_model.name}", part=context.part), settings, inputs, build, _load)


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
    name: str, score: ScoreFn, examples: Examples, items: int, length: int, rng: np.random.Generator
) -> tuple[Ints, Floats] | None:
    """The items with the highest scores among all that are new to each example's user.

    Args:
        name: the model's name, for errors.
        score: returns the scores.
        examples: n examples.
        items: number of items in the catalogue.
        length: length of the lists.
        rng: draws the order of items with equal scores, which is the same for all examples.

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
        top = top_items(scores, offered, length)
        best = -np.sort(-scores, axis=1)[:, :length]
        best = np.pad(best, ((0, 0), (0, length - best.shape[1])), constant_values=-np.inf)
        found.append((top, np.where(top >= 0, best, -np.inf).astype(np.float32)))
    return np.concatenate([top for top, _ in found]), np.concatenate([best for _, best in found])
