"""What SFT and alignment have in common: the settings of their trainers, and the files that they write."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Protocol

from rosepo_core import ranks
from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.records import Split
from rosepo_core.contracts.sections import AlignmentOptions, SFTOptions
from rosepo_core.data.saved_catalogue import save_catalogue
from rosepo_core.engine.saved_template import save_template
from rosepo_core.engine.training import LogHistory, Tracking, TrainingSettings
from rosepo_core.engine.training.configuration import AlignmentConfig, FineTuningConfig, check_settings
from rosepo_core.engine.training.tracking import check_trackers
from rosepo_core.stages.rounds import Round
from rosepo_core.stages.session import Handle, Session
from rosepo_core.store.partial import Partial

LOG = "log.json"


class Train(Protocol):
    """`fine_tune` or `align_preferences`, with the model and what it is trained on."""

    def __call__(
        self, settings: TrainingSettings, reporter: Reporter, tracking: Tracking, *, partial: Partial
    ) -> LogHistory:
        """Train it."""


def training_settings(session: Session, options: SFTOptions | AlignmentOptions) -> TrainingSettings:
    """The settings of a training by its section of the configuration."""
    sft = session.config.sft
    names = {each.name for each in fields(TrainingSettings)}
    shared: dict[str, Any] = {
        "budget_key": f"{'sft' if isinstance(options, SFTOptions) else 'alignment'}.token_budget",
        "compile": session.config.model.compile,
        "gradient_checkpointing": sft.gradient_checkpointing,
        "products": session.policy.autocast(sft),
        "seed": session.config.seed,
    }
    return TrainingSettings(**{name: value for name, value in options if name in names} | shared)


def check(session: Session) -> None:
    """Check, before any work, the settings of both trainings.

    Raises:
        RequestError: see `check_settings` and `check_trackers`.
    """
    check_trackers(session.config.track)
    for section, configuration in (("sft", FineTuningConfig), ("alignment", AlignmentConfig)):
        check_settings(configuration, section, training_settings(session, getattr(session.config, section)))


def optimize(
    session: Session,
    split: Handle[Split],
    stage: str,
    number: Round,
    options: SFTOptions | AlignmentOptions,
    train: Train,
    folder: Path,
) -> None:
    """Train the session's language model, and write it into `folder` with the tokenizer, the prompt template, the
    catalogue, and ``log.json``, one entry for each step.

    Args:
        session: the run. Its language model is ready to be trained.
        split: RUN/split.
        stage: the name of the stage in the first round.
        number: the round.
        options: the settings of the training.
        train: trains the model.
        folder: the folder of the stage.
    """
    log: LogHistory = []
    if options.steps != 0:
        name = number.stage(stage)
        tracking = Tracking(
            session.store.folder,
            name,
            session.config.track,
            session.store.metric_lines(name),
            session.reporter.numbers,
        )
        settings = replace(training_settings(session, options), seed=number.seed(session.config.seed))
        log = train(settings, session.reporter, tracking, partial=session.partial)
    session.policy.save(folder)
    if ranks.is_first():
        save_template(session.template(split), session.config.prompt.name, folder)
        save_catalogue(split.content.catalogue, folder)
        (folder / LOG).write_text(json.dumps(log), encoding="utf-8")


def load_log(folder: Path) -> LogHistory:
    """The training log that `optimize` wrote into `folder`: one entry for each step."""
    log: LogHistory = json.loads((folder / LOG).read_text(encoding="utf-8"))
    return log
