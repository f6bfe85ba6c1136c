"""The stage `reference`: the log-probabilities with which the loss compares those of the model. They depend neither
on the oracle nor on the loss, so they are computed once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from rosepo_core.contracts.records import Floats, Ints, Split
from rosepo_core.contracts.sections import Reference
from rosepo_core.engine.training import LogHistory
from rosepo_core.stages import prior
from rosepo_core.stages.rounds import FIRST, Round
from rosepo_core.stages.sampling import RejectedItems, title_model
from rosepo_core.stages.session import Handle, Session

REFERENCE = "reference.safetensors"


@dataclass(frozen=True)
class ReferenceLogProbs:
    """Log-probabilities of the reference, for the examples of `sampling.RejectedItems`.

    Attributes:
        chosen: log-probabilities of the targets, float32 [n].
        rejected: log-probabilities of the rejected items, float32 [n, K], -inf for an empty slot.
        mismatched_items: the mismatched item of each example, int32 [n]; `None` if the loss needs none.
        mismatched: log-probabilities of the mismatched items, float32 [n].
    """

    chosen: Floats
    rejected: Floats
    mismatched_items: Ints | None = None
    mismatched: Floats | None = None


def kind(session: Session) -> Reference:
    """What the run's loss compares the model with: `alignment.reference`, or ``none`` if the loss has no
    reference."""
    return session.config.alignment.reference if session.loss().needs_reference else "none"


def check(session: Session) -> None:
    """Check, before any work, that the run can have its reference.

    Raises:
        RequestError: the reference is the prior, and prompts list candidates.
    """
    if kind(session) == "prior":
        prior.check(session, "alignment.reference = 'prior'")


def stage(
    session: Session,
    split: Handle[Split],
    sft: Handle[LogHistory],
    rejected: Handle[RejectedItems],
    number: Round = FIRST,
) -> Handle[ReferenceLogProbs]:
    """RUN/reference: ``reference.safetensors`` with the arrays of `ReferenceLogProbs`.

    - ``sft``: log p(title | history) under the SFT model.
    - ``prior``: log p(title) under the SFT model, from RUN/prior-sft, whatever the history.
    - ``none``: 0. The rewards in the training log are then those of the policy alone.

    They are the same for all losses that use them.

    A loss with `needs_mismatched` also gets a mismatched item for each example, with its log-probability: the target
    of the next example in a random order, so that mismatched items are distributed as targets are.
    """
    reference = kind(session)
    settings: dict[str, Any] = {"reference": reference}
    mismatches = session.loss().needs_mismatched
    if mismatches:
        settings |= {"mismatched": session.config.seed, **number.settings}
    inputs: list[Handle[Any]] = [rejected]
    titles = prior.of_sft(session, split, sft, number) if reference == "prior" else None
    if titles is not None:
        inputs = [titles, rejected]
    elif reference == "sft":
        settings |= session.prompt_settings()
        inputs = [sft, rejected]

    def build(folder: Path) -> None:
        examples = rejected.content.examples
        responses = np.concatenate([examples.target[:, None], rejected.content.items], axis=1)
        if mismatches:
            mismatched = mismatched_items(examples.target, session.rng(number.purpose("mismatched")))
            responses = np.concatenate([responses, mismatched[:, None]], axis=1)
        scores = np.zeros(responses.shape, dtype=np.float32)
        if titles is not None:
            scores = titles.content[responses]
        elif reference == "sft":
            scores = title_model(session, split, sft).score(examples, responses, rejected.content.listed)
        scores = np.where(responses >= 0, scores, np.float32(-np.inf))
        arrays: dict[str, Any] = {"chosen": scores[:, 0], "rejected": scores[:, 1:]}
        if mismatches:
            arrays |= {"rejected": scores[:, 1:-1], "mismatched": scores[:, -1], "mismatched_items": mismatched}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / REFERENCE)

    return session.artifact(number.stage("reference"), settings, inputs, build, _load, by_all=reference == "sft")


def _load(folder: Path) -> ReferenceLogProbs:
    arrays = load_file(folder / REFERENCE)
    others = arrays.get("mismatched_items"), arrays.get("mismatched")
    return ReferenceLogProbs(arrays["chosen"], arrays["rejected"], *others)


def mismatched_items(targets: Ints, rng: np.random.Generator) -> Ints:
    """The target of another example for each, int32 [n]: that of the next one in a random order."""
    order = rng.permutation(len(targets))
    mismatched = np.empty_like(targets)
    mismatched[order] = targets[np.roll(order, -1)]
    return mismatched
