"""The stage `sft`, supervised fine-tuning: the model learns to write the next title after a history, or to choose it
among others."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Bools, Examples, Floats, Ints, Pairs, Sequences, Split
from rosepo_core.contracts.sections import SFTOptions
from rosepo_core.data.unseen_items import draw_unseen, unseen_counts
from rosepo_core.engine.choice_loss import ChoiceLoss, ChoiceOptions
from rosepo_core.engine.training import LogHistory, align_preferences, fine_tune
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.stages import prior, validation
from rosepo_core.stages.aligned import preference_trees
from rosepo_core.stages.optimization import load_log, optimize
from rosepo_core.stages.rounds import FIRST, Round
from rosepo_core.stages.session import Handle, Session


def training_users(split: Split, most: int | None, rng: np.random.Generator) -> Sequences:
    """The training sequences of at most `most` users, drawn by `rng`; the sequences of other users are empty."""
    lengths = split.train.lengths
    if most is None or most >= np.count_nonzero(lengths):
        return split.train
    kept = rng.choice(np.flatnonzero(lengths), most, replace=False)
    return split.train.prefix(np.where(np.isin(np.arange(len(lengths)), kept), lengths, 0))


def check(session: Session) -> None:
    """Check, before any work, that the model can be trained with the settings of the run.

    Raises:
        RequestError: the model cannot read prompts of the allowed length, or has no layer with a name in
            `target_modules`; or it should learn to choose, and prompts list candidates.
    """
    session.check_prompts()
    session.policy.check_targets(session.config.sft)
    if session.config.sft.objective == "choice":
        prior.check(session, "sft.objective = 'choice'")


def stage(
    session: Session, split: Handle[Split], before: Handle[LogHistory] | None = None, number: Round = FIRST
) -> Handle[LogHistory]:
    """RUN/sft: the adapter or the model, the tokenizer, the prompt template and ``log.json`` with one entry for each
    step; and ``curve.json`` with the results of validation, if there is `sft.patience`. The objective ``choice`` also
    needs RUN/prior-base.

    Args:
        session: the run.
        split: RUN/split.
        before: the model that the round before left, whose training goes on; `None` in the first round.
        number: the round.

    Raises:
        RequestError: there is nothing to train on, or nobody to judge the model by.
    """
    options = options_of(session, number)
    settings = {
        **session.prompt_settings(),
        **validation.settings(session),
        "sft": session.that_decides["sft"] | options.model_dump(mode="json", include=set(OF_ROUNDS)),
        "seed": session.config.seed,
        **number.settings,
    }
    judged = validation.make(session, split)
    reference = prior.of_base(session, split) if options.objective == "choice" else None

    def start() -> Any:
        if before is not None:
            return session.policy.to_continue(before.folder)
        return session.policy.to_train(options, session.config.seed)

    def build(folder: Path) -> None:
        template, data = session.template(split), split.content
        if reference is None:
            sequences = token_sequences(session, template, data, number)
            model = start()
            train = partial(fine_tune, model, sequences, validation=judged)
        else:
            trees = preference_trees(
                template, choice_pairs(*choices(session, template, data, number), reference.content)
            )
            loss = ChoiceLoss(ChoiceOptions(beta=options.beta))
            model = start()
            train = partial(align_preferences, model, loss, trees, validation=judged)
        optimize(session, split, "sft", number, options, train, folder)
        if judged is not None:
            validation.save_curve(judged, folder)

    inputs: list[Handle[Any]] = [split, *([before] if before else []), *([reference] if reference else [])]
    return session.artifact(number.stage("sft"), settings, inputs, build, load_log, by_all=True)


OF_ROUNDS = ("epochs", "learning_rate")
"""The keys that SFT of later rounds takes from ``[alignment]``."""


def options_of(session: Session, number: Round) -> SFTOptions:
    """The settings of SFT in a round. A model that was aligned goes on with small steps: in SPRec's published
    scripts, SFT and DPO of a round have the same rate and one epoch each, and the SFT before them has others."""
    options = session.config.sft
    if number.number == 1:
        return options
    return options.model_copy(update={key: getattr(session.config.alignment, key) for key in OF_ROUNDS})


def token_sequences(
    session: Session, template: PromptTemplate, data: Split, number: Round = FIRST
) -> list[tuple[Ints, Bools]]:
    """What the objective ``tokens`` trains on: see `fine_tune`.

    Raises:
        RequestError: there is nothing to train on.
    """
    users = training_users(data, session.config.sft.max_users, session.rng(number.purpose("sft users")))
    lists = session.lists(template.sft_examples(users), len(data.catalogue))
    sequences = template.sft_sequences(users, candidates=lists)
    if not sequences:
        raise RequestError("SFT has no training sequence: no user has a training interaction")
    return sequences


def choices(session: Session, template: PromptTemplate, data: Split, number: Round = FIRST) -> tuple[Examples, Ints]:
    """What the objective ``choice`` trains on: the examples, and the titles that are sampled beside their targets,
    int32 [n, negatives]. They are the same in each epoch.

    Raises:
        RequestError: there is nothing to train on, or a user has too few unseen items.
    """
    options = session.config.sft
    users = training_users(data, options.max_users, session.rng(number.purpose("sft users")))
    examples = template.sft_examples(users)
    if not len(examples):
        raise RequestError("SFT has no choice to learn from: no user has two training interactions")
    fewest = int(unseen_counts(data.train_seen, examples.user).min())
    if fewest < options.negatives:
        raise RequestError(
            f"option 'sft.negatives' = {options.negatives}: set it to {fewest} or less; of {len(data.catalogue)} "
            "items, no more are new to one of the users"
        )
    sampled = draw_unseen(
        data.train_seen, examples.user, options.negatives, session.rng(number.purpose("sft negatives"))
    )
    return examples, sampled.astype(np.int32)


def choice_pairs(examples: Examples, sampled: Ints, prior_log_probs: Floats) -> Pairs:
    """The choices as preference pairs whose reference is the prior, float32 [items]."""
    eps = np.zeros(sampled.shape, dtype=np.float32)
    return Pairs(examples, sampled, eps, prior_log_probs[examples.target], prior_log_probs[sampled])
