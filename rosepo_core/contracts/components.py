"""The five contracts that plugins implement. Each works on whole arrays, never on one example at a time.

An implementation names its options model as `Options` and gets a validated instance in its constructor. The core
checks what comes back (shapes, ranges, no target among the rejected) and names the plugin when it is wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from rosepo_core.contracts.options import Options
from rosepo_core.contracts.outcome import Measure, Outcome, OutcomeNeed
from rosepo_core.contracts.records import (
    Catalogue,
    Corpus,
    Doubles,
    Examples,
    Floats,
    Ints,
    LogProbs,
    Longs,
    Places,
    SeenItems,
    Split,
)

if TYPE_CHECKING:
    from torch import Tensor

Need = Literal["language-model", "oracle", "title-embeddings"]


class Reporter(Protocol):
    """Where long work tells how far it is. Every method may be called from any stage; none may raise."""

    def progress(self, done: int, total: int, unit: str) -> None:
        """`done` of `total` units of the running stage are finished."""

    def note(self, message: str) -> None:
        """One line that the user should see."""


class Component:
    """What every implementation is: a class with options.

    Attributes:
        options: the validated options that this instance was made with.
        origin: which plugin this is, of which distribution and version; set by the registry.
        summary: the one line that it was registered with; set by the registry.
    """

    Options: ClassVar[type[Options]] = Options
    origin: str = ""
    summary: str = ""

    def __init__(self, options: Any = None) -> None:
        """`options` is an instance of the class's own `Options`; the defaults where none are given."""
        self.options: Any = options if options is not None else type(self).Options()

    def files(self) -> Sequence[Path]:
        """The files and folders whose content decides what this component does; those that options of the type `Path`
        name, unless it says otherwise.

        A stage is made anew when their content changes. A component that reads others extends this:
        ``[*super().files(), ...]``. One that does not exist is passed over.
        """
        return [value for _, value in self.options if isinstance(value, Path)]


class DatasetOptions(Options):
    """Options of every dataset. They are about prompts: `Dataset.load` does not read them, and a log is not read anew
    when they change."""

    history_length: int = Field(30, ge=1, description="At most this many earlier items make a history.")


class LogOptions(DatasetOptions):
    """Options of a dataset that yields a log: filters, which the core applies after `load`."""

    min_rating: float | None = Field(None, description="Drop interactions rated below this.")
    k_core: int = Field(
        1,
        ge=0,
        description="Keep users and items with at least this many interactions each; 0 also keeps items without any.",
    )
    duplicates: Literal["keep", "first", "last"] = Field(
        "last", description="Which of a user's interactions with the same item to keep."
    )


class Dataset(Component, ABC):
    """A source of interactions and titles. Its options extend `LogOptions` if it yields a log, and `DatasetOptions`
    alone if it yields examples that come split already (`Corpus.of_examples`), which are not filtered."""

    Options: ClassVar[type[Options]] = DatasetOptions

    @abstractmethod
    def load(self, reporter: Reporter) -> Corpus:
        """Read everything.

        Raises:
            RequestError: a file, row or column is wrong; the message names it and the fix.
        """


class LanguageModel(Protocol):
    """The SFT model as samplers see it: always over the catalogue's exact titles, terminator included."""

    def generate(
        self,
        places: Places,
        k: int,
        *,
        exclude: Callable[[Longs], list[NDArray[np.integer]]],
        beams: int = 8,
        temperature: float = 0.0,
    ) -> Ints:
        """What the model would recommend, by generation constrained to the catalogue, best first.

        Args:
            places: n places.
            k: titles per place.
            exclude: gives for rows of `places`, int64 [m], the items that must not come out, one array a row.
            beams: width of the search, at least `k`.
            temperature: 0 searches for the most probable titles; above 0 draws titles without replacement from the
                model's distribution at that temperature (stochastic beam search, Kool et al. 2019).

        Returns:
            int32 [n, k]; -1 where fewer titles are left.
        """

    def score(self, places: Places, items: Ints) -> Floats:
        """Log-probability of generating each title after each history: float32 [n, m] for items int32 [n, m]; -inf
        where the item is -1."""


@dataclass(frozen=True)
class SamplerContext:
    """What a sampler may use.

    Attributes:
        catalogue: titles and training popularity.
        seen: the users' training interactions.
        rng: seeded; the only source of chance a sampler may use.
        language_model: set if `needs` has "language-model".
        oracle_scores: set if `needs` has "oracle"; the fitted oracle's scores, see `SmoothingOracle.score`.
        title_embeddings: set if `needs` has "title-embeddings"; gives unit-length rows, float32 [items, d].
        reporter: for progress.
    """

    catalogue: Catalogue
    seen: SeenItems
    rng: np.random.Generator
    reporter: Reporter
    language_model: LanguageModel | None = None
    oracle_scores: Callable[[Places, Ints], Floats] | None = None
    title_embeddings: Callable[[], Floats] | None = None


class SamplerOptions(Options):
    """Options of every sampler."""

    allow_seen: bool = Field(False, description="Let items that the user has interacted with be rejected, too.")


class RejectedSampler(Component, ABC):
    """Gives each example the items that lose against its target.

    Attributes:
        needs: which costly parts of the context `sample` uses; the others are not made for it.
    """

    Options: ClassVar[type[Options]] = SamplerOptions
    needs: ClassVar[frozenset[Need]] = frozenset()

    @abstractmethod
    def sample(self, examples: Examples, k: int, context: SamplerContext) -> Ints:
        """Rejected items: int32 [n, k], distinct within a row, never the target, never an item that the user has
        interacted with (`context.seen`) unless ``options.allow_seen``; -1 where fewer are left."""


@dataclass(frozen=True)
class OracleContext:
    """What an oracle may use.

    Attributes:
        rng: seeded.
        seed: the run's seed, for libraries with generators of their own.
        reporter: for progress.
    """

    rng: np.random.Generator
    seed: int
    reporter: Reporter


class SmoothingOracle(Component, ABC):
    """Says how likely it is that a user prefers the rejected item after all."""

    def fit(self, split: Split, context: OracleContext) -> Mapping[str, float]:
        """Learn from ``split.train``; ``split.validation`` may stop training and calibrate. ``split.test`` may not be
        used. Returns what is worth showing, e.g. the validation NDCG@10."""
        return {}

    def state(self) -> Mapping[str, NDArray[Any]]:
        """All that was learned, as arrays; saved as safetensors."""
        return {}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `state` gave, in a new instance with the same options."""

    def score(self, places: Places, items: Ints) -> Floats | None:
        """Preference scores, higher is better, float32 [n, m] for items int32 [n, m]; `None` from an oracle that
        ranks nothing, which is then left out of the table. A score of an item must not depend on the others."""
        return None

    @abstractmethod
    def flip_probability(self, places: Places, chosen: Ints, rejected: Ints) -> Floats:
        """P(the user prefers rejected[i, j] over chosen[i] at place i): float32 [n, k] in [0, 1).

        Args:
            places: n places.
            chosen: int32 [n].
            rejected: int32 [n, k]; where it is -1, any value in the range does.
        """

    def preference_probability(self, places: Places, chosen: Ints, rejected: Ints) -> Floats:
        """The same before it is shaped for training, e.g. clipped: what calibration is measured by."""
        return self.flip_probability(places, chosen, rejected)


class PreferenceLoss(Component, ABC):
    """An objective over preference pairs.

    Attributes:
        needs_reference: whether the reference's log-probabilities are read; if not, they are not computed and are 0.
        needs_smoothing: whether `eps` is read; if not, the oracle is not asked for it and it is 0.
    """

    needs_reference: ClassVar[bool] = True
    needs_smoothing: ClassVar[bool] = False

    @property
    def beta(self) -> float:
        """Scale of the implicit rewards that are logged: beta (log pi - log ref)."""
        return float(getattr(self.options, "beta", 1.0))

    @abstractmethod
    def __call__(self, log_probs: LogProbs) -> Tensor:
        """Loss of each pair: float [n], differentiable in the policy's log-probabilities."""


class Metric(Component, ABC):
    """Says one thing about what a model did. Its docstring has formula, range, direction and source.

    Attributes:
        about: how its numbers are to be read; all must lie within ``about.low`` and ``about.high``.
        needs: what it cannot do without; where the outcome lacks it, the metric is left out and a note says so.
    """

    about: ClassVar[Measure]
    needs: ClassVar[frozenset[OutcomeNeed]] = frozenset()

    @abstractmethod
    def measure(self, outcome: Outcome) -> Mapping[str, Doubles | float]:
        """The values, keyed by what follows the metric's name in tables: ``"@10"``, or ``""`` without a cut-off.

        A mean over users is given as its parts, float64 [n], NaN for users whom it does not apply to: they make
        intervals and paired tests. What belongs to all lists together (a Gini coefficient) is one float, NaN where
        there is nothing to measure.

        Where lower is better, to give no answer must not pay: a user whose list holds no item
        (`Outcome.without_items`) gets ``about.high``, the worst value, or NaN where that is infinite; a number for
        all lists is NaN where none of them holds an item. Tables say over how many users a mean is.
        """


class CutOffOptions(Options):
    """Options of every metric with a cut-off."""

    ks: tuple[PositiveInt, ...] | None = Field(
        None, min_length=1, description="Cut-offs; those of [evaluation] if unset."
    )


class CutOffMetric(Metric):
    """A metric of the first k items.

    Attributes:
        smallest_k: lower cut-offs are passed over, for the metric says nothing there, or nothing of its own.
    """

    Options: ClassVar[type[Options]] = CutOffOptions
    smallest_k: ClassVar[int] = 1

    def measure(self, outcome: Outcome) -> Mapping[str, Doubles | float]:
        """See `Metric.measure`."""
        ks = sorted(set(self.options.ks or outcome.ks))
        return {f"@{k}": self.at(outcome, k) for k in ks if k >= self.smallest_k}

    @abstractmethod
    def at(self, outcome: Outcome, k: int) -> Doubles | float:
        """The value at one cut-off; ``outcome.top`` has at least k columns."""


__all__ = [
    "Component",
    "CutOffMetric",
    "CutOffOptions",
    "Dataset",
    "DatasetOptions",
    "LanguageModel",
    "LogOptions",
    "Longs",
    "Metric",
    "Need",
    "OracleContext",
    "PreferenceLoss",
    "RejectedSampler",
    "Reporter",
    "SamplerContext",
    "SamplerOptions",
    "SmoothingOracle",
]
