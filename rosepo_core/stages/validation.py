"""Validation during SFT: NDCG@10 of the targets of validation users among uniform candidates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.ranking import rank_targets
from rosepo_core.contracts.records import Candidates, Examples, Floats, Split
from rosepo_core.contracts.sections import Score
from rosepo_core.engine.scoring import score_items
from rosepo_core.engine.training.validation import Validation
from rosepo_core.evaluation.candidates import draw_candidates
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.stages.prior import every_title
from rosepo_core.stages.session import Handle, QuietReporter, Session
from rosepo_core.store.artifacts import reading

CURVE = "curve.json"
DEPTH = 10
NAME = f"ndcg@{DEPTH}"


def settings(session: Session) -> Mapping[str, Any]:
    """What the validation depends on beside the section ``[sft]``, for the fingerprint."""
    if not session.config.sft.patience:
        return {}
    return {"validation": {"score": _score(session), "candidates": session.config.evaluation.candidates}}


def make(session: Session, split: Handle[Split]) -> Validation | None:
    """The validation of SFT; `None` if `sft.patience` is 0.

    Raises:
        RequestError: there is no validation user, or candidates cannot be drawn.
    """
    options = session.config.sft
    if not options.patience or options.steps == 0:
        return None
    data = split.content
    examples = data.validation
    if not len(examples):
        raise RequestError(
            f"option 'sft.patience' = {options.patience}: no user has a validation interaction to judge the model "
            "by; leave it out"
        )
    if options.validation_users < len(examples):
        chosen = session.rng("sft validation users").choice(len(examples), options.validation_users, replace=False)
        examples = examples.take(np.sort(chosen))
    seed = [session.config.seed, *b"sft validation"]
    offered = draw_candidates(data, examples, session.config.evaluation.candidates, seed)

    def measure(model: Any) -> float:
        return ndcg(_scores(session, model, session.template(split), examples, offered), offered)

    return Validation(NAME, measure, options.validate_every, options.patience, heard=session.heard)


def ndcg(scores: Floats, offered: Candidates) -> float:
    """Mean NDCG@10 of the targets, float32 [n, candidates]; NaN if a score is not a number."""
    if np.isnan(scores).any():
        return float("nan")
    ranks = rank_targets(scores, offered.target_column)
    return float(ranks.expectation(1 / np.log2(np.arange(2.0, DEPTH + 2))).mean())


def save_curve(validation: Validation, folder: Path) -> None:
    """Write ``curve.json``: the measure, the step that is kept, and all points whose value is a number."""
    document = {
        "metric": validation.name,
        "patience": validation.patience,
        "kept": validation.kept,
        "points": [{"step": step, "value": value} for step, value in validation.points if np.isfinite(value)],
    }
    (folder / CURVE).write_text(json.dumps(document), encoding="utf-8")


def load_curve(folder: Path) -> Mapping[str, Any] | None:
    """What `save_curve` wrote; `None` if there was no validation."""
    file = folder / CURVE
    with reading(folder):
        curve: Mapping[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    return curve


def _score(session: Session) -> Score:
    """The score of the run as far as it needs no fit: a fusion is fitted to models that are trained."""
    score = session.config.ranking.score
    return "prior-corrected" if score == "fusion" else score


def _scores(
    session: Session, model: Any, template: PromptTemplate, examples: Examples, offered: Candidates
) -> Floats:
    """The scores of the candidates: float32 [n, candidates]."""
    score, budget, quiet = _score(session), session.config.model.token_budget, QuietReporter()
    listed = offered.items if template.candidates else None
    scores = score_items(model, template, examples, offered.items, budget, quiet, candidates=listed)
    if score == "mean":
        scores = (scores / template.response_lengths[offered.items]).astype(np.float32)
    elif score == "prior-corrected":
        place, _ = every_title(1)
        items = np.unique(offered.items)
        prior = score_items(model, template, place, items[None], budget, quiet)[0]
        scores = scores - prior[np.searchsorted(items, offered.items)]
    return scores
