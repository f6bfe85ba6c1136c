"""The rounds of a run: fine-tuning and alignment in turn, with rejected items drawn again from the current model.

Self-play as in SPRec (Gao et al., "SPRec: Self-Play to Debias LLM-based Recommendation", arXiv 2412.09243). The
paper's abstract and its published scripts were read. Taken from them, for each round after the first:

1. Rejected items are the greedy answers of the model that the round before left, asked before this round's SFT
   (sampler ``self-hard``).
2. SFT goes on with the same adapter, on a fresh sample of the data, for one epoch, at the learning rate of DPO.
3. DPO goes on from there. Its reference is the model after this SFT.

rosepo's own reading: the first round is a run without rounds, so its rejected items and its reference both come from
the SFT model (SPRec fine-tunes once more between the two); answers are titles of the catalogue and never the target;
any sampler and any loss can be used in rounds; and the oracle is trained once.

This module knows what the stages and the models of each round are called. The folders of the first round are those of
a run without rounds. The model of the last round is always ``aligned``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rosepo_core.stages import STAGES

REPEATED = ("sampling", "sft", "reference", "preferences", "aligned")
"""The stages of a round after the first, in their order."""

_EARLIER = re.compile(r"round-(\d+)-aligned")
_PREFIX = re.compile(r"round-\d+-")


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        number: which one, from 1 on.
        of: how many the run has.
    """

    number: int = 1
    of: int = 1

    def stage(self, name: str) -> str:
        """The name of a stage in this round: ``round-2-sft``; in the first round ``sft``. The model is ``aligned``
        after the last round, and ``round-N-aligned`` after the others."""
        plain = self.number == (self.of if name == "aligned" else 1)
        return name if plain else f"round-{self.number}-{name}"

    @property
    def settings(self) -> Mapping[str, int]:
        """What a stage that draws at random depends on, for its fingerprint; empty in the first round."""
        return {} if self.number == 1 else {"round": self.number}

    def purpose(self, purpose: str) -> str:
        """A purpose of random numbers (`Session.rng`): each round has its own."""
        return purpose if self.number == 1 else f"{purpose}, round {self.number}"

    def seed(self, seed: int) -> int:
        """The seed of a training, from that of the run."""
        return seed if self.number == 1 else int(np.random.SeedSequence([seed, self.number]).generate_state(1)[0])


FIRST = Round()
"""The only round of a run without rounds."""


def rounds_of(count: int) -> tuple[Round, ...]:
    """The rounds of a run with so many."""
    return tuple(Round(number, count) for number in range(1, count + 1))


def stages_of(count: int) -> tuple[str, ...]:
    """The names of the stages of a run with so many rounds, in their order: for one round, `STAGES`."""
    first, *later = rounds_of(count)
    before = tuple(first.stage(name) for name in STAGES[:-1])
    return (*before, *(each.stage(name) for each in later for name in REPEATED), STAGES[-1])


def work_of(stage: str) -> str:
    """What a stage does, whichever round it belongs to: ``sft`` for ``round-2-sft``, and ``scores-aligned`` for
    ``scores-round-1-aligned``. Fingerprints have this name, so that runs with more or fewer rounds share what is
    equal."""
    return _PREFIX.sub("", stage)


def other_name(stage: str, count: int) -> str | None:
    """The name that the artifact of a stage can have in a run with more or fewer rounds than `count`; `None` if it
    has the same name in all. The model of one round is the last of one run, and an earlier one of another."""
    if _EARLIER.search(stage):
        return _EARLIER.sub("aligned", stage)
    return stage.replace("aligned", f"round-{count}-aligned") if "aligned" in stage.split("-") else None
