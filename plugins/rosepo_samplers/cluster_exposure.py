"""The model's own wrong answers, chosen by the user's genres and by how often they are seen in training."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from rosepo_core.api import (
    Bools,
    Catalogue,
    Examples,
    Ints,
    Longs,
    RejectedSampler,
    RequestError,
    SamplerContext,
    SamplerOptions,
)
from rosepo_samplers.drawing import Eligibility


class ClusterExposureOptions(SamplerOptions):
    """Options of `cluster-exposure`."""

    cluster: Literal["out", "in"] = Field(
        "out",
        description="`out` prefers answers without any of the user's genres, then those with the fewest; `in` takes "
        "answers with one of them only.",
    )
    exposure: Literal["low", "high"] = Field(
        "low", description="Of these answers, take those with the fewest (`low`) or most training interactions."
    )
    genres: int = Field(3, ge=1, description="How many of the most frequent genres of the history are the user's.")
    candidates: int = Field(10, ge=1, description="How many answers of the SFT model are compared.")


class ClusterExposure(RejectedSampler):
    """The SFT model's answers, in order of the user's cluster of genres and of exposure.

    After the strategies ``clusterout_low``, ``clusterin_low``, ``clusterout_high`` and ``clusterin_high`` of the
    repository flora0110/ClusterExposure-DPO; there is no paper. As there: the candidates are found by beam search
    over titles; the user's cluster is the three most frequent genres of the history; exposure counts an item in
    training; outside of the cluster, answers with the least overlap follow where none is without. Different from
    there: the beam search is not a diverse one; the target is excluded before the search; with ``cluster = "out"``,
    high exposure, too, continues with the least overlap, where the repository takes the most. Several rejected items
    are the first of this order. Two samplers, ``in`` with ``high`` and ``out`` with ``low``, give its "balanced"
    pairs.

    Needs a catalogue with a column ``genres``: lists of text, or text separated by ``|``.
    """

    Options = ClusterExposureOptions
    needs = frozenset({"language-model"})

    def sample(self, examples: Examples, k: int, context: SamplerContext) -> Ints:
        """Rejected items: int32 [n, k]; -1 fills rows with fewer.

        Raises:
            RequestError: the catalogue has no genres.
        """
        assert context.language_model is not None  # granted by `needs`
        options: ClusterExposureOptions = self.options
        genres = context.catalogue.genres
        if genres is None:
            raise RequestError(
                "sampler 'cluster-exposure' needs a catalogue with a column 'genres' of lists of text, or of text "
                "with '|' between: take a dataset that has it, or another sampler"
            )
        eligibility = Eligibility(context, options.allow_seen)
        width = max(options.candidates, k)
        answers = context.language_model.generate(
            examples, width, exclude=lambda rows: eligibility.excluded(examples.take(rows)), beams=width
        )
        overlap = _overlap(examples, answers, genres, options.genres)
        exposure = _exposure(context.catalogue, answers) * (1 if options.exposure == "low" else -1)
        good = (answers >= 0) & ((overlap > 0) if options.cluster == "in" else True)
        first = np.zeros_like(overlap) if options.cluster == "in" else overlap
        order = np.lexsort((exposure, first, ~good), axis=1)[:, :k]
        return np.where(np.take_along_axis(good, order, 1), np.take_along_axis(answers, order, 1), -1).astype(
            np.int32
        )


def _exposure(catalogue: Catalogue, items: Ints) -> Longs:
    """Training interactions of each item, int64 of the same shape."""
    counts: Longs = catalogue.popularity[np.maximum(items, 0)]
    return counts


def _overlap(examples: Examples, items: Ints, genres: Bools, most: int) -> Longs:
    """How many of the `most` most frequent genres of each history each item has: int64 of the shape of `items`. Of
    genres that are equally frequent, those that come first in the catalogue count."""
    found = np.zeros(items.shape, dtype=np.int64)
    for row in range(len(examples)):
        start = examples.sequences.offsets[examples.user[row]]
        history = examples.sequences.items[start : start + examples.position[row]]
        counts = genres[history].sum(axis=0)
        top = np.argsort(-counts, kind="stable")[:most]
        top = top[counts[top] > 0]
        found[row] = genres[np.maximum(items[row], 0)][:, top].sum(axis=1)
    return found
