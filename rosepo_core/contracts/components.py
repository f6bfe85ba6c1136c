"""The contracts that plugins implement. Each works on whole arrays, never on one example at a time.

An implementation sets its options model as the class attribute `Options`, and gets a validated instance in its
constructor. The core checks the results (shapes, ranges, no target among the rejected items). An error names the
plugin.

The contract of prompt templates is in `rosepo_core.prompts.template`.
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

Need = Literal["language-model", "oracle", "title-embeddings", "disliked", "candidates"]
OracleNeed = Literal["language-model", "title-prior"]


class Reporter(Protocol):
    """Receives the progress of long work. Any stage may call any method; no method may raise."""

    def progress(self, done: int, total: int, unit: str) -> None:
        """Report that `done` of `total` units of the running stage are finished."""

    def note(self, message: str) -> None:
        """Show one line to the user."""


class Component:
    """The base of every plugin class: a class with options.

    Attributes:
        options: the validated options of this instance.
        origin: the plugin's name, its distribution and version; set by the registry.
        summary: the line that the plugin was registered with; set by the registry.
    """

    Options: ClassVar[type[Options]] = Options
    origin: str = ""
    summary: str = ""

    def __init__(self, options: Any = None) -> None:
        """`options` is an instance of the class's `Options`; if it is `None`, the defaults are used."""
        self.options: Any = options if options is not None else type(self).Options()

    def files(self) -> Sequence[Path]:
        """The files and folders that this component reads. By default these are the values of all options of the type
        `Path`.

        A stage is made again if the content of one of them has changed. A component that reads other files returns
        ``[*super().files(), ...]``. Paths that do not exist are ignored.
        """
        return [value for _, value in self.options if isinstance(value, Path)]

    def parts(self) -> Sequence[Component]:
        """The components that this component uses, such as the oracles of an ensemble. Their source code, options and
        files count as its own: a stage is made again if one of them has changed."""
        return ()


class DatasetOptions(Options):
    """Options of every dataset. They are about prompts: `Dataset.load` does not use them, so the log is not read
    again when they change."""

    history_length: int = Field(30, ge=1, lt=2**31, description="At most this many earlier items make a history.")


class LogOptions(DatasetOptions):
    """Options of a dataset that gives a log: filters, which the core applies after `load`."""

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
    """A source of interactions and titles.

    If it gives a log, its options extend `LogOptions`. If it gives examples that are already split
    (`Corpus.of_examples`), its options extend `DatasetOptions` only: such examples are not filtered.
    """

    Options: ClassVar[type[Options]] = DatasetOptions

    @abstractmethod
    def load(self, reporter: Reporter) -> Corpus:
        """Read the data.

        Raises:
            RequestError: a file, row or column is wrong; the message names it and the fix.
        """


class LanguageModel(Protocol):
    """The SFT model, for samplers and oracles. It generates and scores exact titles of the catalogue, including the
    token that ends a title."""

    def generate(
        self,
        places: Places,
        k: int,
        *,
        exclude: Callable[[Longs], list[NDArray[np.integer]]],
        beams: int = 8,
        temperature: float = 0.0,
    ) -> Ints:
        """The titles that the model recommends, best first. Generation is constrained to the catalogue.

        Args:
            places: n places.
            k: titles per place.
            exclude: a function from rows of `places`, int64 [m], to the items that must not be generated, one array
                for each row.
            beams: width of the search, at least `k`.
            temperature: 0 searches for the most probable titles. Above 0, titles are drawn without replacement from
                the model's distribution at that temperature (stochastic beam search, Kool et al. 2019).

        Returns:
            items, int32 [n, k]; -1 fills rows with fewer titles.
        """

    def score(self, places: Places, items: Ints) -> Floats:
        """Log-probability of generating each title after each history: float32 [n, m] for items int32 [n, m]; -inf
        where the item is -1."""


@dataclass(frozen=True)
class SamplerContext:
    """The data and models that a sampler may use.

    Attributes:
        catalogue: titles and training popularity.
        seen: the users' training interactions.
        rng: a seeded generator, the only source of random numbers that a sampler may use.
        reporter: for progress.
        language_model: set if `needs` has "language-model".
        oracle_scores: set if `needs` has "oracle"; the scores of the fitted oracle, see `SmoothingOracle.score`.
        title_embeddings: set if `needs` has "title-embeddings"; returns rows of unit length, float32 [items, d].
        disliked: set if `needs` has "disliked"; the items that users rated low or skipped.
        candidates: set if `needs` has "candidates"; the items that the dataset offered together with each target, or
            else those in the list of the prompt: int32 [n, c], -1 fills rows with fewer.
    """

    catalogue: Catalogue
    seen: SeenItems
    rng: np.random.Generator
    reporter: Reporter
    language_model: LanguageModel | None = None
    oracle_scores: Callable[[Places, Ints], Floats] | None = None
    title_embeddings: Callable[[], Floats] | None = None
    disliked: SeenItems | None = None
    candidates: Callable[[Examples], Ints] | None = None


class SamplerOptions(Options):
    """Options of every sampler."""

    allow_seen: bool = Field(False, description="Let items that the user has interacted with be rejected, too.")


class RejectedSampler(Component, ABC):
    """Picks the rejected items of each example.

    Attributes:
        needs: which parts of the context `sample` uses that are costly, or that not every run has. Only these are
            prepared; a run without them is refused before any work.
    """

    Options: ClassVar[type[Options]] = SamplerOptions
    needs: ClassVar[frozenset[Need]] = frozenset()

    @abstractmethod
    def sample(self, examples: Examples, k: int, context: SamplerContext) -> Ints:
        """Pick rejected items: int32 [n, k].

        Items within a row are distinct. None is the target. None is an item that the user has interacted with
        (`context.seen`), unless ``options.allow_seen`` is set. -1 fills rows with fewer items.
        """


@dataclass(frozen=True)
class OracleContext:
    """The context of an oracle's training.

    Attributes:
        rng: a seeded generator of random numbers.
        seed: the run's seed, for libraries that have their own generators.
        reporter: for progress.
        device: where to compute, as torch names it: ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
        title_prior: set if `needs` has "title-prior"; log p(title) of each item under the SFT model after a prompt
            with an empty history, float32 [items].
    """

    rng: np.random.Generator
    seed: int
    reporter: Reporter
    device: str = "cpu"
    title_prior: Floats | None = None


class SmoothingOracle(Component, ABC):
    """Estimates how likely it is that a user prefers the rejected item to the chosen one.

    Attributes:
        needs: what the oracle uses that is costly. Only this is prepared. If it depends on the options, the
            constructor sets it.
        language_model: the SFT model, if `needs` has "language-model". It is set before `fit`, and after `restore`.
            The oracle is then made again whenever the SFT model is.
    """

    needs: frozenset[OracleNeed] = frozenset()
    language_model: LanguageModel | None = None

    @property
    def ranks(self) -> bool:
        """Whether it may be asked to rank many items: it has scores, and asks no language model for them. That would
        cost a pass for each title, and the SFT model has a row of its own in every table."""
        return type(self).score is not SmoothingOracle.score and "language-model" not in self.needs

    def asks(self, split: Split) -> int:
        """How many titles `fit` lets the language model score, for the plan of a run."""
        return 0

    def fit(self, split: Split, context: OracleContext) -> Mapping[str, float]:
        """Learn from ``split.train``.

        ``split.validation`` may be used for early stopping and calibration. ``split.test`` must not be used.

        Returns:
            numbers to show to the user, e.g. the validation NDCG@10.
        """
        return {}

    def state(self) -> Mapping[str, NDArray[Any]]:
        """Everything that was learned, as arrays; it is saved as safetensors."""
        return {}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Load the result of `state` into a new instance with the same options."""

    def score(self, places: Places, items: Ints) -> Floats | None:
        """Preference scores, higher is better: float32 [n, m] for items int32 [n, m].

        The score of an item must not depend on the other items. An oracle that cannot rank returns `None`, and is
        then left out of the table. In recommending, places belong to people who may not be in the split
        (`Places.of_split`).
        """
        return None

    @abstractmethod
    def flip_probability(self, places: Places, chosen: Ints, rejected: Ints) -> Floats:
        """P(the user prefers rejected[i, j] over chosen[i] at place i): float32 [n, k] in [0, 1).

        Args:
            places: n places.
            chosen: int32 [n].
            rejected: int32 [n, k]. Where it is -1, the result may be any value in the range.
        """

    def preference_probability(self, places: Places, chosen: Ints, rejected: Ints) -> Floats:
        """The same probability before it is changed for training, e.g. by clipping. Calibration is measured on it."""
        return self.flip_probability(places, chosen, rejected)


class PreferenceLoss(Component, ABC):
    """An objective over preference pairs.

    What a loss needs may depend on its options; then its constructor sets the attribute. What no loss of a run needs
    is not computed.

    Attributes:
        scope: ``"pair"`` if the loss of a pair depends on that pair alone. ``"batch"`` if it depends on the other
            pairs of the optimizer step, too, but not on their order: the loss then gets all pairs of the step at
            once, however many passes the model makes over them. This costs each pass a second time.
        needs_reference: whether the loss uses the log-probabilities of the reference, which `alignment.reference`
            names. If not, they are not computed, and may be 0.
        needs_smoothing: whether the loss uses `eps`. If not, the oracle is not asked for it, and it may be 0.
        needs_tokens: whether the loss uses the numbers of tokens.
        needs_mismatched: whether the loss uses the log-probabilities of mismatched responses.
        needs_ratings: whether the loss uses ratings and delays. A run on a log without ratings is then refused.
    """

    scope: Literal["pair", "batch"] = "pair"
    needs_reference: bool = True
    needs_smoothing: bool = False
    needs_tokens: bool = False
    needs_mismatched: bool = False
    needs_ratings: bool = False

    @property
    def beta(self) -> float:
        """Scale of the implicit rewards that are logged."""
        return float(getattr(self.options, "beta", 1.0))

    def rewards(self, log_probs: LogProbs) -> tuple[Tensor, Tensor]:
        """The implicit rewards for the training log: of the chosen responses, float [n], and of the rejected ones,
        float [n, K], with any value in an empty slot. By default beta (log pi - log ref), or beta log pi for a loss
        without a reference."""
        chosen, rejected = log_probs.chosen, log_probs.rejected
        if self.needs_reference:
            chosen, rejected = chosen - log_probs.reference_chosen, rejected - log_probs.reference_rejected
        return self.beta * chosen, self.beta * rejected

    @abstractmethod
    def __call__(self, log_probs: LogProbs) -> Tensor:
        """Loss of each pair: finite numbers, float [n], differentiable in the policy's log-probabilities."""


class Metric(Component, ABC):
    """Measures one property of a model's results. Its docstring has formula, range, direction and source.

    Attributes:
        about: how to read the numbers. All must lie between ``about.low`` and ``about.high``.
        needs: data that the metric requires. If the outcome does not have it, the metric is left out, with a note.
    """

    about: ClassVar[Measure]
    needs: ClassVar[frozenset[OutcomeNeed]] = frozenset()

    @abstractmethod
    def measure(self, outcome: Outcome) -> Mapping[str, Doubles | float]:
        """The values of the metric, by the suffix of its name in tables: ``"@10"``, or ``""`` without a cut-off.

        If the metric is a mean over users, return the value of each user, float64 [n], with NaN for users that it
        does not apply to. These values give intervals and paired tests. If the metric belongs to all lists together
        (such as a Gini coefficient), return one float, or NaN if there is nothing to measure.

        If lower is better, a model must not gain by giving no answer. A user whose list has no item
        (`Outcome.without_items`) gets ``about.high``, the worst value, or NaN if that is infinite. A number for all
        lists is NaN if no list has an item. Tables show how many users a mean covers.
        """


class CutOffOptions(Options):
    """Options of every metric with a cut-off."""

    ks: tuple[PositiveInt, ...] | None = Field(
        None, min_length=1, description="Cut-offs; if unset, those of [evaluation]."
    )


class CutOffMetric(Metric):
    """A metric of the first k items of a list.

    Attributes:
        smallest_k: the lowest useful cut-off. Lower ones are skipped, because the metric has no meaning there, or
            only repeats another metric.
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
