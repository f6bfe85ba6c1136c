"""The context of an evaluation, which all protocols share: the test examples, the metrics and the data they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rosepo_core.config import RecordedOptions, column_name
from rosepo_core.contracts.components import Metric
from rosepo_core.contracts.outcome import Outcome
from rosepo_core.contracts.records import Bools, Catalogue, Examples, Floats, Ints, Split
from rosepo_core.contracts.sections import EvaluationOptions, HeldOut
from rosepo_core.evaluation.measurement import longest_list
from rosepo_core.plugins.recorded import origin_of, why_lacking
from rosepo_core.stages import embeddings
from rosepo_core.stages.session import Handle, Session
from rosepo_core.stages.split import held_out_examples

SHORTEST_LIST = 10
"""The least length of lists of the whole catalogue, so that other low cut-offs need no second search."""


def parts(options: EvaluationOptions) -> list[HeldOut]:
    """The held-out parts to evaluate, the test first."""
    return sorted(set(options.part))


@dataclass(frozen=True)
class EvaluationContext:
    """The evaluation of all models on one held-out part, under any protocol.

    Attributes:
        session: the run.
        split: RUN/split.
        part: the held-out part.
        examples: the examples of this part.
        metrics: the metrics, by the name of their columns.
        embedded: RUN/embeddings, if they are needed.
    """

    session: Session
    split: Handle[Split]
    part: HeldOut
    examples: Examples
    metrics: Mapping[str, Metric]
    embedded: Handle[Floats] | None

    @staticmethod
    def of_each_part(session: Session, split: Handle[Split]) -> list[EvaluationContext]:
        """The contexts of all parts in the run's configuration, the test first. Makes RUN/embeddings if necessary.

        A metric that is no longer installed is left out, with a note.
        """
        metrics: dict[str, Metric] = {}
        for index, choice in enumerate(session.config.metric):
            if isinstance(choice.options, RecordedOptions):
                origin = origin_of(session.records, "metric", choice.name, index)
                session.reporter.note(f"{origin} is left out: {why_lacking(origin, choice.options.error)}")
            else:
                metrics[column_name(choice.name)] = session.component("metric", index)
        needed = "title-embeddings" in frozenset[str]().union(*(metric.needs for metric in metrics.values()))
        grounded = session.config.evaluation.ground and "free" in session.config.evaluation.protocols
        embedded = embeddings.stage(session, split) if needed or grounded else None
        return [
            EvaluationContext(
                session, split, part, held_out_examples(session, split.content, part), metrics, embedded
            )
            for part in parts(session.config.evaluation)
        ]

    def on(self, part: HeldOut) -> EvaluationContext:
        """The same evaluation on another part."""
        return replace(self, part=part, examples=held_out_examples(self.session, self.split.content, part))

    def fitted_rows(self, rows: NDArray[np.integer]) -> Ints | None:
        """The rows of examples among the users that ``fusion`` is fitted on, int32; `None` if it is not fitted on
        this part."""
        return rows.astype(np.int32) if self.part == "validation" else None

    @property
    def options(self) -> EvaluationOptions:
        """The section ``[evaluation]``."""
        return self.session.config.evaluation

    @property
    def ks(self) -> tuple[int, ...]:
        """The cut-offs of metrics that name none, ascending."""
        return tuple(sorted(set(self.options.ks)))

    @property
    def list_length(self) -> int:
        """Length of lists of the whole catalogue."""
        return max(SHORTEST_LIST, longest_list(self.metrics, self.ks))

    @property
    def settings(self) -> Mapping[str, object]:
        """The settings that decide which users are tested, and the seed, for fingerprints."""
        return {"part": self.part, "max_users": self.options.max_users, "seed": self.session.config.seed}

    @property
    def catalogue(self) -> Catalogue:
        """The items that can be recommended."""
        return self.split.content.catalogue

    @property
    def title_embeddings(self) -> Callable[[], Floats] | None:
        """A function that returns rows of unit length, float32 [items, d]; `None` if there are no embeddings."""
        embedded = self.embedded
        return (lambda: embedded.content) if embedded else None

    def lists(self, top: Ints, ks: tuple[int, ...], answered: Bools | None = None) -> Outcome:
        """The outcome of lists, see `Outcome.of_lists`."""
        return Outcome.of_lists(
            self.examples,
            self.catalogue,
            self.split.content.seen,
            ks,
            top,
            answered=answered,
            title_embeddings=self.title_embeddings,
        )
