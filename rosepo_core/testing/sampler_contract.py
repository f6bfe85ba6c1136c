"""Tests for every sampler of rejected items, as a class to inherit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import polars as pl
import pytest

from rosepo_core.contracts.components import RejectedSampler, SamplerContext
from rosepo_core.contracts.records import Examples, Ints, SeenItems, Split
from rosepo_core.testing.component_contract import ComponentContract
from rosepo_core.testing.toys import (
    FakeLanguageModel,
    SilentReporter,
    toy_split,
    train_examples,
)


class SamplerContract(ComponentContract):
    """Tests for every sampler."""

    kind = "sampler"

    def sample(self, options: Mapping[str, Any], split: Split, examples: Examples, k: int, seed: int = 0) -> Ints:
        """Rejected items, from a context with only the data that the sampler declares in `needs`."""
        sampler = cast(RejectedSampler, self.make(options))
        items = len(split.catalogue)
        genres = pl.DataFrame({"genres": ["ABC"[item % 3] for item in range(items)]})
        embeddings = np.random.default_rng(7).normal(size=(items, 16))
        embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
        context = SamplerContext(
            catalogue=replace(split.catalogue, attributes=genres),
            seen=split.train_seen,
            rng=np.random.default_rng(seed),
            reporter=SilentReporter(),
            language_model=FakeLanguageModel(items) if "language-model" in sampler.needs else None,
            oracle_scores=FakeLanguageModel(items, seed=1).score if "oracle" in sampler.needs else None,
            title_embeddings=(lambda: embeddings) if "title-embeddings" in sampler.needs else None,
            disliked=_unseen(split) if "disliked" in sampler.needs else None,
            candidates=(lambda places: np.tile(np.arange(items, dtype=np.int32), (len(places), 1)))
            if "candidates" in sampler.needs
            else None,
        )
        return sampler.sample(examples, k, context)

    @staticmethod
    def check(rejected: Ints, examples: Examples, k: int, items: int) -> None:
        """Shape and type; items of the catalogue, each once in a row, never the target."""
        assert isinstance(rejected, np.ndarray), "the result is no numpy array"
        found, wanted = f"{rejected.dtype} {list(rejected.shape)}", f"int32 {[len(examples), k]}"
        assert found == wanted, f"the result is {found}, not {wanted}"
        assert ((rejected >= -1) & (rejected < items)).all(), "a number is not that of an item"
        assert not (rejected == examples.target[:, None]).any(), "a target is among the rejected"
        for row in rejected:
            kept = row[row >= 0]
            assert len(set(kept.tolist())) == len(kept), f"an item is rejected twice: {row}"

    @pytest.mark.parametrize("k", [1, 4])
    def test_rejected_items(self, options: Mapping[str, Any], k: int) -> None:
        """A row is full while items are left, and no item in it is the target, seen by the user, or there twice."""
        split = toy_split()
        examples = train_examples(split)
        rejected = self.sample(options, split, examples, k)
        self.check(rejected, examples, k, len(split.catalogue))
        assert (rejected >= 0).all(), "items were left, but a row is not full"
        assert not split.train_seen.contains(examples.user, rejected).any(), "a seen item is rejected"

    def test_rejected_items_when_seen_ones_are_allowed(self, options: Mapping[str, Any]) -> None:
        """With the option `allow_seen`, the target is still never rejected."""
        split = toy_split()
        examples = train_examples(split)
        rejected = self.sample({**options, "allow_seen": True}, split, examples, 8)
        self.check(rejected, examples, 8, len(split.catalogue))

    def test_marks_what_is_left_empty(self, options: Mapping[str, Any]) -> None:
        """Where too few items are left, -1 fills the rest of the row.

        Each user has seen all items but two.
        """
        split = toy_split(users=6, items=12, shortest=12, longest=12)
        examples = train_examples(split)
        left = 12 - split.train.lengths
        assert (left == 2).all()
        rejected = self.sample(options, split, examples, 5)
        self.check(rejected, examples, 5, 12)
        assert not split.train_seen.contains(examples.user, rejected).any(), "a seen item is rejected"
        assert ((rejected >= 0).sum(axis=1) <= left).all()

    def test_same_seed_same_items(self, options: Mapping[str, Any]) -> None:
        """The context's generator is the only source of random numbers."""
        split = toy_split()
        examples = train_examples(split)
        np.random.seed(1)
        first = self.sample(options, split, examples, 3, seed=5)
        np.random.seed(2)
        np.testing.assert_array_equal(first, self.sample(options, split, examples, 3, seed=5))

    def test_no_examples(self, options: Mapping[str, Any]) -> None:
        """Without examples, the result has no rows."""
        split = toy_split()
        none = train_examples(split).take(np.zeros(0, dtype=np.int64))
        assert self.sample(options, split, none, 3).shape == (0, 3)


def _unseen(split: Split) -> SeenItems:
    """A world in which users dislike everything that they have not seen."""
    keys = np.arange(len(split.users) * len(split.catalogue), dtype=np.int64)
    return SeenItems(np.setdiff1d(keys, split.train_seen.keys), len(split.catalogue))
