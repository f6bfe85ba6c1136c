"""All models of a run over the same candidates; each one's scores are an artifact, so that only what changed is
scored again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from rosepo_core.config import metric_column
from rosepo_core.contracts import Metric
from rosepo_core.engine.embeddings import choose_encoder, title_embeddings
from rosepo_core.engine.scoring import score_items
from rosepo_core.errors import RequestError
from rosepo_core.records import Candidates, Examples, Floats, Split
from rosepo_core.registry import running
from rosepo_core.stages import oracle as oracle_stage
from rosepo_core.stages import oracle_quality
from rosepo_core.stages.evaluation import (
    Evaluation,
    ScoreFn,
    load_scores,
    per_user_table,
    popularity_scores,
    save_scores,
    score_model,
    summarize,
    write_oracle_quality,
)
from rosepo_core.stages.session import Session
from rosepo_core.stages.split import draw_candidates, load_candidates, save_candidates
from rosepo_core.store import Artifact

SCORES = "scores.safetensors"
FLIPS = "flips.safetensors"
EMBEDDINGS = "embeddings.safetensors"
TOKEN_BUDGET = 4096
"""Tokens per forward pass when scoring."""


def draw(session: Session, cut: Artifact, split: Split) -> Artifact:
    """RUN/candidates: what every model ranks for each test example, as the dataset gives it or drawn."""
    options = session.config.evaluation

    def build(folder: Path) -> None:
        examples = test_examples(session, split)
        if split.given_candidates is None:
            candidates = draw_candidates(split, examples, options.candidates, session.config.seed)
        else:
            candidates = split.given_candidates.take(np.searchsorted(split.test.user, examples.user))
            note_given(session, candidates)
        save_candidates(candidates, split, examples, folder)

    settings = {"count": options.candidates, "max_users": options.max_users, "seed": session.config.seed}
    return session.artifact("candidates", settings, [cut], build)


def note_given(session: Session, candidates: Candidates) -> None:
    """Say so where other candidates were asked for than the dataset gives."""
    asked, given = session.config.evaluation.candidates, candidates.items.shape[1]
    if asked != given:
        session.reporter.note(
            f"evaluation.candidates={asked} is not used: the dataset gives each test example its candidates, {given} "
            "at most"
        )


def stage(
    session: Session,
    cut: Artifact,
    drawn: Artifact,
    split: Split,
    sft: Artifact,
    oracle: Artifact,
    aligned: Artifact,
) -> Evaluation:
    """RUN/scores-MODEL for each model, and RUN/evaluation: ``per_user.parquet`` and ``oracle_quality.json``.

    If a metric needs them, also RUN/embeddings.
    """
    names = [metric_column(choice.name) for choice in session.config.metric]
    metrics: dict[str, Metric] = {name: session.component("metric", index) for index, name in enumerate(names)}
    embedded = "title-embeddings" in frozenset[str]().union(*(metric.needs for metric in metrics.values()))
    embeddings = _embeddings(session, cut, split) if embedded else None
    examples = test_examples(session, split)
    candidates = load_candidates(drawn.folder)

    def language_model(weights: Artifact | None) -> ScoreFn:
        def score(examples: Examples, items: np.ndarray) -> Floats:
            template = session.template(split)
            return score_items(
                session.policy.trained(weights.folder) if weights else session.policy.base(),
                template,
                examples,
                items,
                token_budget=TOKEN_BUDGET,
                reporter=session.reporter,
                length_normalize=session.config.evaluation.length_normalize,
                candidates=items if template.options.candidates else None,
            )

        return score

    def judge(examples: Examples, items: np.ndarray) -> Floats | None:
        fitted = oracle_stage.load(session, oracle)
        with running(fitted):
            return fitted.score(examples, items)

    def ask(folder: Path) -> None:
        flips, outcomes = oracle_quality.held_out_flips(oracle_stage.load(session, oracle), examples, candidates)
        save_file({"flips": flips, "outcomes": outcomes}, folder / FLIPS)

    prompted = {**session.prompt_settings(), "length_normalize": session.config.evaluation.length_normalize}
    artifacts = {
        "popularity": _scored(session, "popularity", popularity_scores(split), {}, [drawn], examples, candidates),
        "oracle": _scored(session, "oracle", judge, {"flips": True}, [drawn, oracle], examples, candidates, ask),
        "base": _scored(session, "base", language_model(None), prompted, [drawn], examples, candidates),
        "sft": _scored(session, "sft", language_model(sft), prompted, [drawn, sft], examples, candidates),
        "aligned": _scored(
            session, "aligned", language_model(aligned), prompted, [drawn, aligned], examples, candidates
        ),
    }
    scores = {name: load_scores(artifact.folder / SCORES) for name, artifact in artifacts.items() if ranks(artifact)}
    evaluation = summarize(
        scores,
        split,
        examples,
        candidates,
        session.config.evaluation,
        metrics,
        session.reporter,
        title_embeddings=cache(lambda: load_file(embeddings.folder / EMBEDDINGS)["titles"]) if embeddings else None,
        seed=session.config.seed,
    )
    answers = load_file(artifacts["oracle"].folder / FLIPS)
    judged = oracle_quality.quality(answers["flips"], answers["outcomes"])

    def build(folder: Path) -> None:
        per_user_table(evaluation, split).write_parquet(folder / "per_user.parquet")
        write_oracle_quality(judged, folder / "oracle_quality.json")

    settings = {"metric": session.plugin_settings("metric"), "ks": session.config.evaluation.ks}
    inputs = [*artifacts.values(), *([embeddings] if embeddings else [])]
    session.artifact("evaluation", settings, inputs, build)
    return replace(evaluation, oracle_quality=judged)


def _embeddings(session: Session, cut: Artifact, split: Split) -> Artifact:
    """RUN/embeddings: one row a title, by the base model where no sentence encoder is installed: what fine-tuning did
    to a model must not move the yardstick that it is measured with."""
    encoder = choose_encoder()
    model = [session.policy.fingerprint, session.config.model.dtype] if encoder == "language-model" else None

    def build(folder: Path) -> None:
        rows = title_embeddings(
            split.catalogue.titles, session.policy.base, session.policy.tokenizer, session.reporter, encoder
        )
        save_file({"titles": np.ascontiguousarray(rows)}, folder / EMBEDDINGS)

    return session.artifact("embeddings", {"encoder": encoder, "model": model}, [cut], build)


def test_examples(session: Session, split: Split) -> Examples:
    """The test examples, or as many of them as `evaluation.max_users` says, drawn by the seed."""
    most = session.config.evaluation.max_users
    if not len(split.test):
        raise RequestError("there is no user to test on: nobody has an interaction to hold out")
    if most is None or most >= len(split.test):
        return split.test
    return split.test.take(np.sort(session.rng("test users").choice(len(split.test), most, replace=False)))


def ranks(scored: Artifact) -> bool:
    """Whether the model ranks anything; an oracle need not."""
    return (scored.folder / SCORES).exists()


def _scored(
    session: Session,
    name: str,
    score: ScoreFn,
    settings: dict[str, object],
    inputs: list[Artifact],
    examples: Examples,
    candidates: Candidates,
    also: Callable[[Path], None] | None = None,
) -> Artifact:
    """RUN/scores-MODEL; `also` may leave more in its folder."""

    def build(folder: Path) -> None:
        values = score_model(name, score, examples, candidates)
        if values is None:
            session.reporter.note(f"the {name} ranks nothing and is left out of the table")
        else:
            save_scores(values, folder / SCORES)
        if also is not None:
            also(folder)

    return session.artifact(f"scores-{name}", settings, inputs, build)
