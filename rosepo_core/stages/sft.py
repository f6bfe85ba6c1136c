"""The stage `sft`, supervised fine-tuning: the model learns to write the next title after a history."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Sequences, Split
from rosepo_core.engine.saved_template import save_template
from rosepo_core.engine.training import LogHistory, fine_tune
from rosepo_core.stages.session import Handle, Session

LOG = "log.json"


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
            `target_modules`.
    """
    session.check_prompts()
    session.policy.check_targets(session.config.sft)


def stage(session: Session, split: Handle[Split]) -> Handle[LogHistory]:
    """RUN/sft: the adapter or the model, the tokenizer, the prompt template and ``log.json`` with one entry for each
    step."""
    options = session.config.sft
    settings = {**session.prompt_settings(), "sft": session.that_decides["sft"], "seed": session.config.seed}

    def build(folder: Path) -> None:
        template = session.template(split)
        users = training_users(split.content, options.max_users, session.rng("sft users"))
        lists = session.lists(template.sft_examples(users), len(split.content.catalogue))
        sequences = template.sft_sequences(users, candidates=lists)
        if not sequences:
            raise RequestError("SFT has no training sequence: no user has a training interaction")
        model = session.policy.to_train(options, session.config.seed)
        log = []
        if options.steps != 0:
            log = fine_tune(
                model,
                session.policy.tokenizer,
                sequences,
                batch_size=options.batch_size,
                token_budget=options.token_budget,
                learning_rate=options.learning_rate,
                steps=options.steps,
                epochs=options.epochs,
                warmup_ratio=options.warmup_ratio,
                weight_decay=options.weight_decay,
                gradient_checkpointing=options.gradient_checkpointing,
                seed=session.config.seed,
                reporter=session.reporter,
                products=session.policy.autocast(options),
            )
        session.policy.save(folder)
        save_template(template, session.config.prompt.name, folder)
        (folder / LOG).write_text(json.dumps(log), encoding="utf-8")

    return session.artifact("sft", settings, [split], build, load_log)


def load_log(folder: Path) -> LogHistory:
    """The training log that `stage` wrote into `folder`: one entry for each step."""
    log: LogHistory = json.loads((folder / LOG).read_text(encoding="utf-8"))
    return log
