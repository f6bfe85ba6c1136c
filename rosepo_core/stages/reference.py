"""The stage `reference`: the log-probabilities of the pairs under the SFT model. They depend neither on the oracle
nor on the loss, so they are computed once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from rosepo_core.contracts.components import PreferenceLoss
from rosepo_core.contracts.records import Floats, Split
from rosepo_core.engine.training import LogHistory
from rosepo_core.stages.sampling import RejectedItems, title_model
from rosepo_core.stages.session import Handle, Session

REFERENCE = "reference.safetensors"


@dataclass(frozen=True)
class ReferenceLogProbs:
    """Log-probabilities under the SFT model, for the examples of `sampling.RejectedItems`.

    Attributes:
        chosen: log-probabilities of the targets, float32 [n].
        rejected: log-probabilities of the rejected items, float32 [n, K], -inf for an empty slot.
    """

    chosen: Floats
    rejected: Floats


def stage(
    session: Session, split: Handle[Split], sft: Handle[LogHistory], rejected: Handle[RejectedItems]
) -> Handle[ReferenceLogProbs]:
    """RUN/reference: ``reference.safetensors`` with the arrays of `ReferenceLogProbs`; 0 if the loss does not use
    them.

    They are the same for all losses that use them. If the loss does not use them, the rewards in the training log are
    those of the policy alone.
    """
    loss: PreferenceLoss = session.component("loss")
    needed = loss.needs_reference

    def build(folder: Path) -> None:
        examples = rejected.content.examples
        responses = np.concatenate([examples.target[:, None], rejected.content.items], axis=1)
        scores = np.where(responses >= 0, np.float32(0), -np.inf)
        if needed:
            scores = title_model(session, split, sft).score(examples, responses, rejected.content.listed)
        arrays = {"chosen": scores[:, 0], "rejected": scores[:, 1:]}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / REFERENCE)

    settings = session.prompt_settings() if needed else {}
    inputs: list[Handle[Any]] = [sft, rejected] if needed else [rejected]
    return session.artifact("reference", {**settings, "needed": needed}, inputs, build, _load)


def _load(folder: Path) -> ReferenceLogProbs:
    arrays = load_file(folder / REFERENCE)
    return ReferenceLogProbs(arrays["chosen"], arrays["rejected"])
