"""The stage `evaluation`: all models of a run under each of its protocols.

The answers of each model under each protocol are an artifact of their own. So only answers that may have changed are
computed again, and a new protocol does not repeat the earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from rosepo_core.contracts.components import SmoothingOracle
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Candidates, Floats, Split
from rosepo_core.contracts.sections import Negatives
from rosepo_core.evaluation import candidates, catalogue, free, oracle_quality
from rosepo_core.evaluation.context import EvaluationContext, parts
from rosepo_core.evaluation.decision_rules import DecisionRule
from rosepo_core.evaluation.ranked_models import RankedModel
from rosepo_core.evaluation.results import Evaluation, load_scores, save_scores, score_model, summarize
from rosepo_core.evaluation.run_models import models_of
from rosepo_core.evaluation.tables import first_oracle_quality, per_user_table, write_oracle_quality
from rosepo_core.source_code import source_hash
from rosepo_core.stages import fusion
from rosepo_core.stages.oracle import asks_model
from rosepo_core.stages.oracle_model import remember
from rosepo_core.stages.session import Handle, Session
from rosepo_core.stages.split import held_out_examples
from rosepo_core.stages.trained import DrawnCandidates

SCORES = "scores.safetensors"
FLIPS = "flips.safetensors"


def draw_candidates(session: Session, split: Handle[Split], models: Sequence[str] | None = None) -> DrawnCandidates:
    """RUN/candidates of each part and kind of negatives, if a protocol ranks candidates; also those of the validation
    part that ``fusion`` is fitted on.

    Args:
        session: the run.
        split: RUN/split.
        models: the names of the models in the table, by default those of a run.

    Raises:
        RequestError: a protocol is impossible: there is no user to test, there are too few items to draw from, or
            prompts list candidates although the protocol asks for a title without a list. Or `ranking.score` is
            impossible, see `fusion.check`.
    """
    fusion.check(session, split.content, models_of(session.config.rounds) if models is None else models)
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
    drawn = [(part, kind) for part in asked for kind in _ranked_kinds(session)]
    drawn += [("validation", kind) for kind in _fitted_kinds(session)]
    return {(part, kind): candidates.stage(session, split, kind, part) for part, kind in dict.fromkeys(drawn)}


def _ranked_kinds(session: Session) -> Sequence[Negatives]:
    """The kinds of negatives whose candidates are ranked."""
    return session.config.evaluation.negatives if "candidates" in session.config.evaluation.protocols else ()


def _fitted_kinds(session: Session) -> Sequence[Negatives]:
    """The kinds of negatives for which ``fusion`` is fitted. Only a fit on uniform ones holds for the whole catalogue
    (`conditional_logit`), so it is always among them."""
    if session.config.ranking.score != "fusion":
        return ()
    return tuple(dict.fromkeys(("uniform", *_ranked_kinds(session))))


def stage(
    session: Session,
    split: Handle[Split],
    to_rank: DrawnCandidates,
    ranked_models: Sequence[RankedModel],
    oracle: Handle[SmoothingOracle] | None = None,
) -> tuple[Evaluation, ...]:
    """RUN/scores-MODEL, RUN/lists-MODEL, RUN/pool-MODEL or RUN/answers-MODEL of each model, depending on the
    protocols; RUN/prior-MODEL and RUN/fusion-MODEL, depending on `ranking.score`; and RUN/evaluation:
    ``per_user.parquet``, and ``oracle_quality.json`` if an oracle was asked about candidates.

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
    asked = _Asked(to_rank, ranked_models, oracle)
    # The rules for the whole catalogue are made in any case, because recommending uses them.
    rules = {kind: _rules(contexts[0], kind, asked) for kind in dict.fromkeys(("uniform", *_ranked_kinds(session)))}
    evaluations: list[Evaluation] = []
    inputs: list[Handle[Any]] = [each for _, made in rules.values() for each in made]
    for context in contexts:
        tables, made = _of_part(context, asked, {kind: found for kind, (found, _) in rules.items()})
        evaluations += [
            replace(each, protocol=candidates.named(each.protocol, part=context.part), part=context.part)
            for each in tables
        ]
        inputs += made

    def build(folder: Path) -> None:
        per_user_table(evaluations, split.content).write_parquet(folder / "per_user.parquet")
        if (quality := first_oracle_quality(evaluations)) is not None:
            write_oracle_quality(quality, folder / "oracle_quality.json")

    settings: dict[str, Any] = {
        "metric": session.plugin_settings("metric"),
        "ks": session.config.evaluation.ks,
        "ranking": session.that_decides["ranking"],
    }
    if "free" in session.config.evaluation.protocols:
        own = free.answer_metrics(session.registry)
        settings["answer metrics"] = {name: source_hash(type(metric)) for name, metric in own.items()}
    inputs += [contexts[0].embedded] if contexts[0].embedded else []
    session.artifact("evaluation", settings, inputs, build, lambda folder: folder)
    return tuple(evaluations)


@dataclass(frozen=True)
class _Asked:
    """What the models are asked.

    Attributes:
        to_rank: the candidates, by part and kind of negatives.
        ranked_models: the models.
        oracle: RUN/oracle, if its quality is measured.
    """

    to_rank: DrawnCandidates
    ranked_models: Sequence[RankedModel]
    oracle: Handle[SmoothingOracle] | None


Rules = Mapping[Negatives, Sequence[DecisionRule]]
"""The decision rules of all models, by the kind of negatives that ``fusion`` was fitted on."""


def _rules(
    context: EvaluationContext, negatives: Negatives, asked: _Asked
) -> tuple[list[DecisionRule], list[Handle[Any]]]:
    """The decision rules of all models, and the artifacts behind them."""
    session, validation = context.session, None
    if session.config.ranking.score == "fusion":
        offered = asked.to_rank["validation", negatives]
        raw = _raw(context.on("validation"), negatives, offered, asked)
        validation = fusion.Validation(offered, raw)
    return fusion.rules(session, context.split, asked.ranked_models, validation, negatives)


def _of_part(context: EvaluationContext, asked: _Asked, rules: Rules) -> tuple[list[Evaluation], list[Handle[Any]]]:
    """All protocols on one part, and the artifacts with the models' answers."""
    evaluations: list[Evaluation] = []
    inputs: list[Handle[Any]] = []
    for protocol in dict.fromkeys(context.options.protocols):
        if protocol == "candidates":
            made = []
            for kind in context.options.negatives:
                table, scored = _candidates(context, kind, asked, rules[kind])
                evaluations.append(table)
                made += scored
        elif protocol == "catalogue":
            own = [each for each in asked.ranked_models if not each.outside]
            table, made = catalogue.evaluate(context, own, rules["uniform"])
            evaluations.append(table)
        else:
            tables, made = free.evaluate(context, asked.ranked_models)
            evaluations += tables
        inputs += made
    return evaluations, inputs


def _candidates(
    context: EvaluationContext, negatives: Negatives, asked: _Asked, rules: Sequence[DecisionRule]
) -> tuple[Evaluation, list[Handle[Any]]]:
    """The protocol ``candidates`` with one kind of negatives: each model by each of its decision rules, from
    RUN/scores-MODEL; also the quality of the oracle's flip probabilities."""
    offered = asked.to_rank[context.part, negatives]
    scored = _raw(context, negatives, offered, asked)
    raw = {name: each.content for name, each in scored.items() if each.content is not None}
    ranked = [rule for rule in rules if all(name in raw for name in rule.models)]
    evaluation = summarize(
        {rule.name: _ranked_by(rule, context, offered.content, raw) for rule in ranked},
        context.split.content,
        context.examples,
        offered.content,
        context.options,
        context.metrics,
        context.session.reporter,
        title_embeddings=context.title_embeddings,
        seed=context.session.config.seed,
        negatives=negatives,
    )
    evaluation = replace(evaluation, fusions={rule.name: rule.logit for rule in ranked if rule.logit is not None})
    if asked.oracle is not None:
        answers = load_file(scored["oracle"].folder / FLIPS)
        evaluation = replace(evaluation, oracle_quality=oracle_quality.quality(answers["flips"], answers["outcomes"]))
    return evaluation, list(scored.values())


def _ranked_by(
    rule: DecisionRule, context: EvaluationContext, offered: Candidates, raw: Mapping[str, Floats]
) -> Floats:
    """The scores of a rule for the candidates."""
    return rule.scores(offered.items, raw, context.fitted_rows(np.arange(len(offered.items))))


def _raw(
    context: EvaluationContext, negatives: Negatives, offered: Handle[Candidates], asked: _Asked
) -> Mapping[str, Handle[Floats | None]]:
    """RUN/scores-MODEL of each model for the candidates of a part."""
    first = context.part == parts(context.options)[0]
    models = [each for each in asked.ranked_models if first or not each.outside]
    found = {
        each.name: _scores(context, negatives, offered, each)
        for each in models
        if each.name != "oracle" or asked.oracle is None
    }
    # An oracle that asks the SFT model gets what is known.
    for each in models:
        if each.name not in found:
            found[each.name] = _scores(context, negatives, offered, each, asked.oracle, found.get("sft"))
    return {each.name: found[each.name] for each in models}


def _scores(
    context: EvaluationContext,
    negatives: Negatives,
    to_rank: Handle[Candidates],
    ranked_model: RankedModel,
    measured: Handle[SmoothingOracle] | None = None,
    of_sft: Handle[Floats | None] | None = None,
) -> Handle[Floats | None]:
    """RUN/scores-MODEL, or RUN/scores-MODEL-NEGATIVES if the negatives are not uniform: the model's raw scores. For
    the oracle, its flip probabilities are saved there, too. The content is `None` for a model that cannot rank.

    Args:
        context: the part.
        negatives: the kind of negatives.
        to_rank: the candidates.
        ranked_model: the model.
        measured: the oracle, if this is it.
        of_sft: for the oracle, the scores of the SFT model, if the run has one.
    """
    session = context.session
    known = of_sft if measured is not None and asks_model(session) else None

    def build(folder: Path) -> None:
        values = score_model(ranked_model.name, ranked_model.score, context.examples, to_rank.content)
        if values is None:
            session.reporter.note(f"the {ranked_model.name} ranks nothing and is left out of the table")
        else:
            save_scores(values, folder / SCORES)
        if measured is not None:
            if known is not None and known.content is not None:
                remember(measured.content, context.examples, to_rank.content.items, known.content)
            flips, outcomes = oracle_quality.held_out_flips(measured.content, context.examples, to_rank.content)
            save_file({"flips": flips, "outcomes": outcomes}, folder / FLIPS)

    settings: dict[str, object] = {**ranked_model.settings, "flips": measured is not None}
    name = candidates.named(f"scores-{ranked_model.name}", negatives, context.part)
    return session.artifact(
        name,
        settings,
        [to_rank, *ranked_model.inputs, *([known] if known else [])],
        build,
        _load_scores,
        by_all=ranked_model.language_model is not None or known is not None,
    )


def _load_scores(folder: Path) -> Floats | None:
    return load_scores(folder / SCORES) if (folder / SCORES).exists() else None
