"""The prior of titles: how probable a language model finds each title when it knows nothing about the user.

A title that is probable as a text is probable after every history. log p(title | history) - log p(title) takes this
out (domain conditional pointwise mutual information: Holtzman et al., "Surface form competition: why the highest
probability answer isn't always right", EMNLP 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Floats, Ints, Places, Sequences, Split
from rosepo_core.engine.scoring import score_items
from rosepo_core.stages.rounds import FIRST, Round
from rosepo_core.stages.session import Handle, Session
from rosepo_core.store.artifacts import reading

PRIOR = "prior.safetensors"
PREFIX = "prior-"
"""The beginning of the names of these stages."""


def check(session: Session, key: str) -> None:
    """Check that the prompts of the run allow a prior.

    Args:
        session: the run.
        key: the key of the configuration that needs the prior, with its value, for the error.

    Raises:
        RequestError: prompts list candidates, so a title has another probability in each list.
    """
    if session.component("prompt").candidates:
        raise RequestError(
            f"{key} needs the probability of each title on its own, and the prompts list candidates: set "
            "prompt.candidates = 0"
        )


def stage(
    session: Session,
    split: Handle[Split],
    name: str,
    model: Callable[[], Any],
    settings: Mapping[str, object],
    inputs: Sequence[Handle[Any]],
) -> Handle[Floats]:
    """RUN/prior-NAME: log p(title) under a language model, float32 [items], after the run's own prompt with an empty
    history.

    Args:
        session: the run.
        split: RUN/split.
        name: name of the model, as in tables.
        model: loads the model.
        settings: everything that the model's answers depend on, except `inputs`.
        inputs: the artifacts that the model depends on.
    """
    # Several scores, several kinds of negatives and training may need it in one session.
    if (known := session.artifacts.get(f"{PREFIX}{name}")) is not None:
        return Handle(known, load)

    def build(folder: Path) -> None:
        place, items = every_title(len(split.content.catalogue))
        scores = score_items(
            model(),
            session.template(split),
            place,
            items,
            session.config.model.token_budget,
            session.reporter,
            partial=session.partial,
        )
        save_file({"log_probs": scores[0]}, folder / PRIOR)

    return session.artifact(f"{PREFIX}{name}", settings, [split, *inputs], build, load, by_all=True)


def of_base(session: Session, split: Handle[Split]) -> Handle[Floats]:
    """RUN/prior-base: the prior of the base model."""
    return stage(session, split, "base", session.policy.base, session.prompt_settings(), [])


def of_sft(session: Session, split: Handle[Split], sft: Handle[Any], number: Round = FIRST) -> Handle[Floats]:
    """RUN/prior-sft: the prior of the model in RUN/sft."""
    name, settings = number.stage("sft"), session.prompt_settings()
    return stage(session, split, name, lambda: session.policy.trained(sft.folder), settings, [sft])


def every_title(count: int) -> tuple[Places, Ints]:
    """A place without history, and all `count` items of the catalogue, int32 [1, count]."""
    return no_history(), np.arange(count, dtype=np.int32)[None]


def no_history() -> Places:
    """One place without history."""
    # A place before the first item of a sequence has no history.
    sequence = Sequences(np.zeros(1, np.int32), np.array([0, 1], dtype=np.int64))
    return Places(sequence, np.zeros(1, np.int32), np.zeros(1, np.int32))


def load(folder: Path) -> Floats:
    """What `stage` wrote: float32 [items]."""
    with reading(folder):
        log_probs: Floats = load_file(folder / PRIOR)["log_probs"]
    return log_probs
