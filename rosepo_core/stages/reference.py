"""The reference's log-probabilities of the pairs, once: they know of neither the oracle nor the loss."""

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
        chosen: of the targets, float32 [n].
        rejected: of the rejected items, float32 [n, K], -inf where there is none.
    """

    chosen: Floats
    rejected: Floats


def stage(
    session: Session, split: Handle[Split], sft: Handle[LogHistory], rejected: Handle[RejectedItems]
) -> Handle[ReferenceLogProbs]:
    """RUN/reference: ``reference.safetensors`` with the arrays of `ReferenceLogProbs`; 0 where the loss reads none.

    They are the same for all losses that read them. Where none are read, the rewards that alignment logs are those of
    the policy alone.
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
