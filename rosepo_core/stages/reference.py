"""The stage `reference`: the log-probabilities with which the loss compares those of the model. They depend neither
on the oracle nor on the loss, so they are computed once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from rosepo_core.contracts.components import PreferenceLoss
from rosepo_core.contracts.records import Floats, Split
from rosepo_core.contracts.sections import Reference
from rosepo_core.engine.training import LogHistory
from rosepo_core.stages import prior
from rosepo_core.stages.sampling import RejectedItems, title_model
from rosepo_core.stages.session import Handle, Session

REFERENCE = "reference.safetensors"


@dataclass(frozen=True)
class ReferenceLogProbs:
    """Log-probabilities of the reference, for the examples of `sampling.RejectedItems`.

    Attributes:
        chosen: log-probabilities of the targets, float32 [n].
        rejected: log-probabilities of the rejected items, float32 [n, K], -inf for an empty slot.
    """

    chosen: Floats
    rejected: Floats


def kind(session: Session) -> Reference:
    """What the run's loss compares the model with: `alignment.reference`, or ``none`` if the loss has no
    reference."""
    loss: PreferenceLoss = session.component("loss")
    return session.config.alignment.reference if loss.needs_reference else "none"


def check(session: Session) -> None:
    """Check, before any work, that the run can have its reference.

    Raises:
        RequestError: the reference is the prior, and prompts list candidates.
    """
    if kind(session) == "prior":
        prior.check(session, "alignment.reference = 'prior'")


def stage(
    session: Session, split: Handle[Split], sft: Handle[LogHistory], rejected: Handle[RejectedItems]
) -> Handle[ReferenceLogProbs]:
    """RUN/reference: ``reference.safetensors`` with the arrays of `ReferenceLogProbs`.

    - ``sft``: log p(title | history) under the SFT model.
    - ``prior``: log p(title) under the SFT model, from RUN/prior-sft, whatever the history.
    - ``none``: 0. The rewards in the training log are then those of the policy alone.

    They are the same for all losses that use them.
    """
    reference = kind(session)
    settings: dict[str, Any] = {"reference": reference}
    inputs: list[Handle[Any]] = [rejected]
    titles = prior.of_sft(session, split, sft) if reference == "prior" else None
    if titles is not None:
        inputs = [titles, rejected]
    elif reference == "sft":
        settings |= session.prompt_settings()
        inputs = [sft, rejected]

    def build(folder: Path) -> None:
        examples = rejected.content.examples
        responses = np.concatenate([examples.target[:, None], rejected.content.items], axis=1)
        scores = np.zeros(responses.shape, dtype=np.float32)
        if titles is not None:
            scores = titles.content[responses]
        elif reference == "sft":
            scores = title_model(session, split, sft).score(examples, responses, rejected.content.listed)
        scores = np.where(responses >= 0, scores, np.float32(-np.inf))
        arrays = {"chosen": scores[:, 0], "rejected": scores[:, 1:]}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / REFERENCE)

    return session.artifact("reference", settings, inputs, build, _load, by_all=reference == "sft")


def _load(folder: Path) -> ReferenceLogProbs:
    arrays = load_file(folder / REFERENCE)
    return ReferenceLogProbs(arrays["chosen"], arrays["rejected"])
