"""The SFT model's own preference as oracle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from numpy.typing import NDArray
from pydantic import Field

from rosepo_core.api import Floats, Ints, Options, OracleContext, Places, Split
from rosepo_oracles.scored import ScoredOptions, ScoredOracle


class SFTPreferenceOptions(ScoredOptions):
    """Options of `llm`."""

    score: Literal["likelihood", "prior-corrected"] = Field(
        "likelihood",
        description="'likelihood' is log p(title | history); 'prior-corrected' is log p(title | history) - "
        "log p(title), where the prior is that without a history.",
    )
    calibration_users: int = Field(200, ge=1, description="Calibrate on this many validation users, drawn at random.")
    calibration_items: int = Field(
        10, ge=1, description="Items that each target is compared with in calibration. Each costs a title to score."
    )


class SFTPreference(ScoredOracle):
    """The score of a title is its log-probability under the SFT model, so

        eps = sigmoid((log p(l | history) - log p(w | history)) / T), at most `max_flip`.

    With T = 1 (`calibration = "none"`) this is the share of l in p(l) + p(w): the model's choice between the two
    (Luce, "Individual Choice Behavior", 1959). Log-probabilities are sums over tokens, and differ by many nats, so T
    is usually far above 1. With ``score = "prior-corrected"``, log p(title) is subtracted from each
    (docs/ranking.md), so that a title is not preferred because it is short or common as a text.

    The temperature, and the limit on eps, are those of every oracle that scores. That the SFT model itself smooths
    the labels is rosepo's own choice, not RosePO's.

    It has no row in tables, because the SFT model has one, and the sampler ``oracle-hard`` cannot use it
    (``self-hard`` takes what the SFT model prefers). Pairs are scored by the stage `reference` anyway if
    `alignment.reference` is ``"sft"``; then eps costs no further pass.
    """

    Options: ClassVar[type[Options]] = SFTPreferenceOptions
    needs = frozenset({"language-model"})

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.calibration_users = self.options.calibration_users
        self.calibration_items = self.options.calibration_items
        if self.options.score == "prior-corrected":
            self.needs = frozenset({"language-model", "title-prior"})
        self._prior: Floats | None = None

    def asks(self, split: Split) -> int:
        """Each title of the calibration, at validation places and at the last training places."""
        return 2 * min(self.options.calibration_users, len(split.validation)) * (1 + self.options.calibration_items)

    def learn(self, split: Split, context: OracleContext) -> Mapping[str, float]:
        """Keep the prior, if it is used; nothing to show."""
        self._prior = context.title_prior
        return {}

    def state(self) -> Mapping[str, NDArray[Any]]:
        """The temperature, and ``prior``, float32 [items], if it is used."""
        return {**super().state(), **({} if self._prior is None else {"prior": self._prior})}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Load the result of `state`."""
        super().restore(state)
        self._prior = state.get("prior")

    def score(self, places: Places, items: Ints) -> Floats:
        """The log-probability of each title, less its prior if `score` says so: float32 [n, m]; -inf where the item
        is -1."""
        assert self.language_model is not None  # granted by `needs`
        scores = self.language_model.score(places, items)
        return scores if self._prior is None else scores - self._prior[items]
