"""The protocol ``free``: each language model writes one answer for each user, without any constraint.

An answer counts as an item if it equals the item's title, either in the form of the prompts or in full. Both are
compared after Unicode normalization (NFKC), with white space collapsed; upper and lower case differ. Models that only
score cannot write, and are left out. Answers may be in the user's history: `already-seen` counts them.

``free-grounded`` replaces each answer by the titles nearest to it by embedding, as in BIGRec (Bao et al., "A bi-step
grounding paradigm for large language models in recommendation systems", arXiv 2308.08434). BIGRec uses the model's
own states, rosepo the run's title embeddings. An answer that is an item is nearest to itself. An empty answer has no
nearest title.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import load_file, save_file

from rosepo_core.contracts.components import Metric
from rosepo_core.contracts.ranking import top_items
from rosepo_core.contracts.records import Floats, Ints
from rosepo_core.engine.title_embeddings import choose_encoder, title_embeddings
from rosepo_core.engine.writing import write_answers
from rosepo_core.evaluation.candidates import named
from rosepo_core.evaluation.context import EvaluationContext
from rosepo_core.evaluation.measurement import longest_list
from rosepo_core.evaluation.ranked_models import RankedModel
from rosepo_core.evaluation.results import Evaluation, conclude
from rosepo_core.plugins.registry import Registry
from rosepo_core.stages.session import Handle

ANSWERS = "answers.parquet"
GROUNDED = "grounded.safetensors"

ANSWER_METRICS = ("hr-valid", "valid-ratio", "out-of-catalogue")
"""Metrics that are always measured for answers, because HR over all users says little without them."""


def evaluate(
    context: EvaluationContext, ranked_models: Sequence[RankedModel]
) -> tuple[list[Evaluation], list[Handle[Any]]]:
    """The table of exact matches, from RUN/answers-MODEL of each language model; with `evaluation.ground` also the
    table of grounded answers, from RUN/grounded-MODEL."""
    writers = [each for each in ranked_models if each.language_model is not None]
    written = {each.name: _written(context, each) for each in writers}
    answers = {name: each.content for name, each in written.items()}
    texts = context.session.template(context.split).texts
    matched = {name: match(each, texts, context.catalogue.titles) for name, each in answers.items()}
    evaluations = [_exact(context, answers, matched)]
    if not context.options.ground:
        return evaluations, list(written.values())
    grounded = {name: _grounded(context, name, written[name], matched[name]) for name in written}
    evaluations.append(_nearest(context, answers, grounded))
    return evaluations, [*written.values(), *grounded.values()]


def answer_metrics(registry: Registry) -> dict[str, Metric]:
    """What is measured of answers in any case (`ANSWER_METRICS`), by name."""
    return {name: registry.create("metric", f"rosepo/{name}", {}) for name in ANSWER_METRICS}


def fold(text: str) -> str:
    """The form of a text that is compared: NFKC, with white space collapsed and none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def match(answers: Sequence[str], texts: Sequence[str], titles: Sequence[str]) -> Ints:
    """The item of each answer, -1 if it is no item: int32 [n].

    Args:
        answers: n answers.
        texts: the titles in the form of the prompts, [items]; of equal ones the first counts.
        titles: the full titles, [items]; compared if no text is equal.
    """
    known: dict[str, int] = {}
    for readings in (texts, titles):
        for item, reading in enumerate(readings):
            known.setdefault(fold(reading), item)
    return np.array([known.get(fold(answer), -1) for answer in answers], dtype=np.int32)


def _written(context: EvaluationContext, ranked_model: RankedModel) -> Handle[list[str]]:
    """RUN/answers-MODEL: columns ``user`` (the source's id) and ``answer``, as it was written."""
    session = context.session

    def build(folder: Path) -> None:
        assert ranked_model.language_model is not None
        answers = write_answers(
            ranked_model.language_model(),
            session.template(context.split),
            session.policy.tokenizer,
            context.examples,
            session.config.model.token_budget,
            session.reporter,
            session.partial,
        )
        users = [context.split.content.users[user] for user in context.examples.user.tolist()]
        schema = {"user": pl.String, "answer": pl.String}
        pl.DataFrame({"user": users, "answer": answers}, schema=schema).write_parquet(folder / ANSWERS)

    settings = {**ranked_model.settings, **context.settings}
    inputs = [context.split, *ranked_model.inputs]
    name = named(f"answers-{ranked_model.name}", part=context.part)
    return session.artifact(name, settings, inputs, build, _load_answers, by_all=True)


def _load_answers(folder: Path) -> list[str]:
    answers: list[str] = pl.read_parquet(folder / ANSWERS)["answer"].to_list()
    return answers


def _exact(
    context: EvaluationContext, answers: Mapping[str, Sequence[str]], matched: Mapping[str, Ints]
) -> Evaluation:
    own = answer_metrics(context.session.registry)
    metrics = {**context.metrics, **{name: metric for name, metric in own.items() if name not in context.metrics}}
    # There is one answer. For metrics with longer cut-offs, the rest of the list is empty.
    room = ((0, 0), (0, longest_list(metrics, (1,)) - 1))
    return conclude(
        "free",
        "one answer each, read as the title that it equals",
        {
            name: context.lists(
                np.pad(matched[name][:, None], room, constant_values=-1),
                (1,),
                np.pad(np.array([[bool(fold(answer))] for answer in written]), room),
            )
            for name, written in answers.items()
        },
        metrics,
        context.options,
        context.session.reporter,
        examples=context.examples,
        answers=answers,
        seed=context.session.config.seed,
    )


def _grounded(
    context: EvaluationContext, name: str, written: Handle[list[str]], matched: Ints
) -> Handle[Mapping[str, Any]]:
    """RUN/grounded-MODEL: the nearest items of each answer, int32 [n, length], and their cosines, float32."""
    session, length = context.session, context.list_length
    embedded = context.embedded
    assert embedded is not None

    def build(folder: Path) -> None:
        titles, answers = context.catalogue.titles, written.content
        asked = [
            titles[item] if item >= 0 else fold(text) for text, item in zip(answers, matched.tolist(), strict=True)
        ]
        rows = np.flatnonzero([bool(text) for text in asked])
        vectors = title_embeddings(
            titles,
            session.policy.base,
            session.policy.tokenizer,
            session.reporter,
            choose_encoder(),
            others=[asked[row] for row in rows.tolist()],
        )
        items, cosines = nearest(vectors[len(titles) :], vectors[: len(titles)], length)
        top = np.full((len(asked), length), -1, dtype=np.int32)
        scores = np.full((len(asked), length), -np.inf, dtype=np.float32)
        top[rows], scores[rows] = items, cosines
        save_file({"items": top, "cosines": scores}, folder / GROUNDED)

    # The fingerprint of the embeddings includes the encoder.
    return session.artifact(
        named(f"grounded-{name}", part=context.part), {"length": length}, [written, embedded], build, _load_grounded
    )


def _load_grounded(folder: Path) -> Mapping[str, Any]:
    return load_file(folder / GROUNDED)


def nearest(vectors: Floats, titles: Floats, length: int) -> tuple[Ints, Floats]:
    """The titles that are nearest to each vector by cosine, the nearest first.

    Args:
        vectors: rows of unit length, float32 [n, d].
        titles: rows of unit length, float32 [items, d].
        length: length of the lists.

    Returns:
        items int32 [n, length] and cosines float32 [n, length]; -1 and -inf if there are fewer titles.
    """
    cosines = vectors @ titles.T
    items = np.broadcast_to(np.arange(len(titles)), cosines.shape)
    top = top_items(cosines, items, length)
    best = np.take_along_axis(cosines, np.maximum(top, 0), axis=1)
    return top, np.where(top >= 0, best, -np.inf).astype(np.float32)


def _nearest(
    context: EvaluationContext,
    answers: Mapping[str, Sequence[str]],
    grounded: Mapping[str, Handle[Mapping[str, Any]]],
) -> Evaluation:
    lists = {name: each.content for name, each in grounded.items()}
    return conclude(
        "free-grounded",
        f"one answer each, taken for the {context.list_length} nearest titles",
        {name: context.lists(each["items"], context.ks) for name, each in lists.items()},
        context.metrics,
        context.options,
        context.session.reporter,
        examples=context.examples,
        scores={name: each["cosines"] for name, each in lists.items()},
        answers=answers,
        seed=context.session.config.seed,
    )
