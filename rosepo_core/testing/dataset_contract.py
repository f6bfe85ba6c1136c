"""Tests for every dataset, as a class to inherit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import polars as pl

from rosepo_core.contracts.components import Dataset, LogOptions
from rosepo_core.testing.component_contract import ComponentContract
from rosepo_core.testing.toys import SilentReporter


class DatasetContract(ComponentContract):
    """Tests for every dataset. Set options with which it loads a small local data set."""

    kind = "dataset"

    def load(self, options: Mapping[str, Any]) -> Any:
        """The corpus."""
        dataset = cast(Dataset, self.make(options))
        return dataset.load(SilentReporter())

    def test_interactions(self, options: Mapping[str, Any]) -> None:
        """The interactions have the right columns and types, and no value is missing."""
        corpus = self.load(options)
        # The ids of a log may be categories.
        interactions = corpus.interactions.cast({pl.Enum: pl.String} if corpus.examples is None else {})
        assert len(interactions) > 0
        types = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64}
        assert {column: interactions.schema[column] for column in types} == types
        if "rating" in interactions.columns:
            assert interactions.schema["rating"] == pl.Float64
        assert interactions.select(list(types)).null_count().row(0) == (0, 0, 0)

    def test_catalogue(self, options: Mapping[str, Any]) -> None:
        """Every item of the interactions is in the catalogue, once, with a title."""
        corpus = self.load(options)
        catalogue = corpus.catalogue
        assert (catalogue.schema["item"], catalogue.schema["title"]) == (pl.String, pl.String)
        assert catalogue["item"].is_unique().all()
        assert catalogue["title"].null_count() == 0
        assert (catalogue["title"].str.strip_chars().str.len_chars() > 0).all()
        assert set(corpus.interactions["item"].unique()) <= set(catalogue["item"])

    def test_filters_are_offered_for_logs_alone(self, options: Mapping[str, Any]) -> None:
        """The options of a log extend `LogOptions`; those of given examples do not, because they are not filtered."""
        offered = isinstance(self.make(options).options, LogOptions)
        assert offered == (self.load(options).examples is None)

    def test_given_examples(self, options: Mapping[str, Any]) -> None:
        """If the dataset gives examples, each is a user with a history and a target, in one part; its candidates
        contain the target once."""
        corpus = self.load(options)
        if corpus.examples is None:
            return
        examples = corpus.examples
        assert (examples.schema["user"], examples.schema["part"]) == (pl.String, pl.String)
        assert examples["user"].is_unique().all()
        assert {"train", "test"} <= set(examples["part"]) <= {"train", "validation", "test"}
        sequences = {
            user: items
            for (user,), items in corpus.interactions.sort("timestamp", maintain_order=True).group_by("user")
        }
        assert set(sequences) == set(examples["user"])
        assert all(items.height >= 2 for items in sequences.values()), "a target has no history"
        if "candidates" in examples.columns:
            known = set(corpus.catalogue["item"])
            for user, candidates in examples.filter(part="test").select("user", "candidates").iter_rows():
                assert candidates.count(sequences[user]["item"][-1]) == 1, f"'{user}' must rank its target, once"
                assert set(candidates) <= known, f"'{user}' ranks what is not in the catalogue"

    def test_loads_the_same_again(self, options: Mapping[str, Any]) -> None:
        """Two loads are equal, also in the order of rows, which breaks ties in time."""
        first, second = self.load(options), self.load(options)
        assert first.interactions.equals(second.interactions)
        assert first.catalogue.equals(second.catalogue)
        assert (first.examples is None) == (second.examples is None)
        assert first.examples is None or first.examples.equals(second.examples)
