"""The reference's log-probabilities of the pairs, once: they know of neither the oracle nor the loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from rosepo_core.contracts.records import Floats, Split
from rosepo_core.stages import sampling
from rosepo_core.stages.session import Session
from rosepo_core.store import Artifact

REFERENCE = "reference.safetensors"


def stage(session: Session, split: Split, sft: Artifact, sampled: Artifact) -> Artifact:
    """RUN/reference: ``reference.safetensors``, log-probabilities under the SFT model.

    ``chosen`` is float32 [n], ``rejected`` float32 [n, K] and -inf where there is none, for the examples that
    `sampling.load` gives. They are made for every loss, also one that does not read them: the rewards that alignment
    logs are measured from them, and pairs serve all losses.
    """

    def build(folder: Path) -> None:
        examples, rejected, _ = sampling.load(sampled, split)
        responses = np.concatenate([examples.target[:, None], rejected], axis=1)
        scores = sampling.title_model(session, split, sft).score(examples, responses)
        arrays = {"chosen": scores[:, 0], "rejected": scores[:, 1:]}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / REFERENCE)

    return session.artifact("reference", session.prompt_settings(), [sft, sampled], build)


def load(artifact: Artifact) -> tuple[Floats, Floats]:
    """Log-probabilities of the chosen responses, [n], and of the rejected ones, [n, K]."""
    arrays = load_file(artifact.folder / REFERENCE)
    return arrays["chosen"], arrays["rejected"]
