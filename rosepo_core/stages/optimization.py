"""What SFT and alignment have in common: the settings of their trainers, and the files that they write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from rosepo_core import ranks
from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.records import Split
from rosepo_core.contracts.sections import AlignmentOptions, SFTOptions
from rosepo_core.engine.saved_template import save_template
from rosepo_core.engine.training import LogHistory, TrainingSettings
from rosepo_core.stages.session import Handle, Session

LOG = "log.json"

Train = Callable[[TrainingSettings, Reporter], LogHistory]
"""`fine_tune` or `align_preferences`, with the model and what it is trained on."""


def optimize(
    session: Session,
    split: Handle[Split],
    options: SFTOptions | AlignmentOptions,
    train: Train,
    folder: Path,
) -> None:
    """Train the session's language model, and write it into `folder` with the tokenizer, the prompt template and
    ``log.json``, one entry for each step.

    Args:
        session: the run. Its language model is ready to be trained.
        split: RUN/split.
        options: the section of the training.
        train: trains the model.
        folder: the folder of the stage.
    """
    sft = session.config.sft
    log: LogHistory = []
    if options.steps != 0:
        settings = TrainingSettings(
            learning_rate=options.learning_rate,
            batch_size=options.batch_size,
            token_budget=options.token_budget,
            budget_key=f"{'sft' if isinstance(options, SFTOptions) else 'alignment'}.token_budget",
            compile=session.config.model.compile,
            steps=options.steps,
            epochs=options.epochs,
            warmup_ratio=options.warmup_ratio,
            weight_decay=options.weight_decay,
            max_grad_norm=options.max_grad_norm,
            gradient_checkpointing=sft.gradient_checkpointing,
            products=session.policy.autocast(sft),
            seed=session.config.seed,
        )
        log = train(settings, session.reporter)
    session.policy.save(folder)
    if ranks.is_first():
        save_template(session.template(split), session.config.prompt.name, folder)
        (folder / LOG).write_text(json.dumps(log), encoding="utf-8")


def load_log(folder: Path) -> LogHistory:
    """The training log that `optimize` wrote into `folder`: one entry for each step."""
    log: LogHistory = json.loads((folder / LOG).read_text(encoding="utf-8"))
    return log
