"""The stage `evaluation`: all models of a run under each of its protocols.

The answers of each model under each protocol are an artifact of their own. So only answers that may have changed are
computed again, and a new protocol does not repeat the earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from rosepo_core.contracts.components import SmoothingOracle
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Candidates, Floats, Split
from rosepo_core.contracts.sections import Negatives
from rosepo_core.evaluation import candidates, catalogue, free, oracle_quality
from rosepo_core.evaluation.context import EvaluationContext, parts
from rosepo_core.evaluation.ranked_models import RankedModel
from rosepo_core.evaluation.results import Evaluation, load_scores, save_scores, score_model, summarize
from rosepo_core.evaluation.tables import first_oracle_quality, per_user_table, write_oracle_quality
from rosepo_core.source_code import source_hash
from rosepo_core.stages.session import Handle, Session
from rosepo_core.stages.split import held_out_examples
from rosepo_core.stages.trained import DrawnCandidates

SCORES = "scores.safetensors"
FLIPS = "flips.safetensors"


def draw_candidates(session: Session, split: Handle[Split]) -> DrawnCandidates:
    """RUN/candidates of each part and kind of negatives, if a protocol ranks candidates.

    Raises:
        RequestError: a protocol is impossible: there is no user to test, there are too few items to draw from, or
            prompts list candidates although the protocol asks for a title without a list.
    """
    asked = parts(session.config.evaluation)
    for part in asked:
        held_out_examples(session, split.content, part)
    protocols = session.config.evaluation.protocols
    others = [protocol for protocol in protocols if protocol != "candidates"]
    if others and session.component("prompt").candidates:
        raise RequestError(
            f"protocol '{others[0]}' asks for a title out of all, but the prompts list candidates, the target among "
            "them: set prompt.candidates=0, or use protocol 'candidates' alone"
        )
    if "candidates" not in protocols:
        return {}
    return {
        (part, kind): candidates.stage(session, split, kind, part)
        for part in asked
        for kind in session.config.evaluation.negatives
    }


def stage(
    session: Session,
    split: Handle[Split],
    to_rank: DrawnCandidates,
    ranked_models: Sequence[RankedModel],
    oracle: Handle[SmoothingOracle] | None = None,
) -> tuple[Evaluation, ...]:
    """RUN/scores-MODEL, RUN/lists-MODEL or RUN/answers-MODEL of each model, depending on the protocols, and
    RUN/evaluation: ``per_user.parquet``, and ``oracle_quality.json`` if an oracle was asked about candidates.

    Args:
        session: the run.
        split: RUN/split.
        drawn: the result of `draw_candidates`.
        ranked_models: the models.
        oracle: RUN/oracle, if the quality of an oracle should be measured.

    Returns:
        one evaluation for each protocol, first for the test and then for the validation part. ``candidates`` gives
        one for each kind of negatives; ``free`` gives two if answers are grounded.
    """
    contexts = EvaluationContext.of_each_part(session, split)
    evaluations: list[Evaluation] = []
    inputs: list[Handle[Any]] = []
    for context in contexts:
        tables, made = _of_part(context, to_rank, ranked_models, oracle)
        evaluations += [
            replace(each, protocol=candidates.named(each.protocol, part=context.part), part=context.part)
            for each in tables
        ]
        inputs += made

    def build(folder: Path) -> None:
        per_user_table(evaluations, split.content).write_parquet(folder / "per_user.parquet")
        if (quality := first_oracle_quality(evaluations)) is not None:
            write_oracle_quality(quality, folder / "oracle_quality.json")

    settings: dict[str, Any] = {"metric": session.plugin_settings("metric"), "ks": session.config.evaluation.ks}
    if "free" in session.config.evaluation.protocols:
        own = free.answer_metrics(session.registry)
        settings["answer metrics"] = {name: source_hash(type(metric)) for name, metric in own.items()}
    inputs += [contexts[0].embedded] if contexts[0].embedded else []
    session.artifact("evaluation", settings, inputs, build, lambda folder: folder)
    return tuple(evaluations)


def _of_part(
    context: EvaluationContext,
    to_rank: DrawnCandidates,
    ranked_models: Sequence[RankedModel],
    oracle: Handle[SmoothingOracle] | None,
) -> tuple[list[Evaluation], list[Handle[Any]]]:
    """All protocols on one part, and the artifacts with the models' answers."""
    evaluations: list[Evaluation] = []
    inputs: list[Handle[Any]] = []
    for protocol in dict.fromkeys(context.options.protocols):
        if protocol == "candidates":
            made = []
            for (part, kind), offered in to_rank.items():
                if part == context.part:
                    table, scored = _candidates(context, kind, offered, ranked_models, oracle)
                    evaluations.append(table)
                    made += scored
        elif protocol == "catalogue":
            table, made = catalogue.evaluate(context, ranked_models)
            evaluations.append(table)
        else:
            tables, made = free.evaluate(context, ranked_models)
            evaluations += tables
        inputs += made
    return evaluations, inputs


def _candidates(
    context: EvaluationContext,
    negatives: Negatives,
    to_rank: Handle[Candidates],
    ranked_models: Sequence[RankedModel],
    oracle: Handle[SmoothingOracle] | None,
) -> tuple[Evaluation, list[Handle[Any]]]:
    """The protocol ``candidates`` with one kind of negatives, from RUN/scores-MODEL of each model; also the quality
    of the oracle's flip probabilities."""
    scored = {each.name: _scores(context, negatives, to_rank, each, oracle) for each in ranked_models}
    evaluation = summarize(
        {name: each.content for name, each in scored.items() if each.content is not None},
        context.split.content,
        context.examples,
        to_rank.content,
        context.options,
        context.metrics,
        context.session.reporter,
        title_embeddings=context.title_embeddings,
        seed=context.session.config.seed,
        negatives=negatives,
    )
    if oracle is not None:
        answers = load_file(scored["oracle"].folder / FLIPS)
        evaluation = replace(evaluation, oracle_quality=oracle_quality.quality(answers["flips"], answers["outcomes"]))
    return evaluation, list(scored.values())


def _scores(
    context: EvaluationContext,
    negatives: Negatives,
    to_rank: Handle[Candidates],
    ranked_model: RankedModel,
    oracle: Handle[SmoothingOracle] | None,
) -> Handle[Floats | None]:
    """RUN/scores-MODEL, or RUN/scores-MODEL-NEGATIVES if the negatives are not uniform. For the oracle, its flip
    probabilities are saved there, too. The content is `None` for a model that cannot rank."""
    session = context.session
    measured = oracle if ranked_model.name == "oracle" else None

    def build(folder: Path) -> None:
        values = score_model(ranked_model.name, ranked_model.score, context.examples, to_rank.content)
        if values is None:
            session.reporter.note(f"the {ranked_model.name} ranks nothing and is left out of the table")
        else:
            save_scores(values, folder / SCORES)
        if measured is not None:
            flips, outcomes = oracle_quality.held_out_flips(measured.content, context.examples, to_rank.content)
            save_file({"flips": flips, "outcomes": outcomes}, folder / FLIPS)

    settings: dict[str, object] = {**ranked_model.settings, "flips": measured is not None}
    if ranked_model.language_model is not None:
        settings["length_normalize"] = context.options.length_normalize
    name = candidates.named(f"scores-{ranked_model.name}", negatives, context.part)
    return session.artifact(name, settings, [to_rank, *ranked_model.inputs], build, _load_scores)


def _load_scores(folder: Path) -> Floats | None:
    return load_scores(folder / SCORES) if (folder / SCORES).exists() else None
