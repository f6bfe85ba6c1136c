"""What holds for every plugin of a kind, as classes of tests to inherit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import polars as pl
import pytest

from rosepo_core.contracts.components import (
    Component,
    Dataset,
    LogOptions,
    Metric,
    OracleContext,
    PreferenceLoss,
    RejectedSampler,
    SamplerContext,
    SmoothingOracle,
)
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.options import parse_options
from rosepo_core.contracts.outcome import Outcome
from rosepo_core.contracts.ranking import UNRANKED, Ranks
from rosepo_core.contracts.records import Bools, Doubles, Examples, Ints, LogProbs, Split
from rosepo_core.registry import KINDS, Entry, load_plugins
from rosepo_core.testing.toys import (
    FakeLanguageModel,
    SilentReporter,
    random_log_probs,
    toy_given_split,
    toy_outcomes,
    toy_split,
    train_examples,
)

if TYPE_CHECKING:
    from torch import Tensor

RESERVED_KEYS = ("name", "weight", "options")


class ComponentContract:
    """What holds for every plugin. Set `name` or `component`.

    Attributes:
        kind: a key of `KINDS`; set by the contract of each kind.
        name: the name that the plugin is registered under.
        component: the class, as an alternative to its name.
    """

    kind: ClassVar[str]
    name: ClassVar[str] = ""
    component: ClassVar[type[Component] | None] = None

    @pytest.fixture
    def options(self) -> Mapping[str, Any]:
        """Options that the component under test is made with; override to give others."""
        return {}

    def entry(self) -> Entry:
        """The line of the component under test in the listing of plugins."""
        if self.name:
            return load_plugins().entry(self.kind, self.name)
        assert self.component is not None, "set 'name' or 'component'"
        target = f"{self.component.__module__}:{self.component.__qualname__}"
        found = [entry for entry in load_plugins().entries(self.kind) if entry.target == target]
        assert found, f"no {self.kind} is registered with the target '{target}'"
        return found[0]

    def make(self, options: Mapping[str, Any]) -> Any:
        """A component as a run would make it."""
        return load_plugins().create(self.kind, self.entry().qualified_name, options)

    def test_is_registered(self) -> None:
        """An installed distribution registers it, with a summary, and the target is what it should be."""
        entry = self.entry()
        found = load_plugins().get(self.kind, entry.qualified_name)
        assert issubclass(found, KINDS[self.kind])
        assert self.component in (None, found)
        assert entry.summary.strip(), f"{entry} has no summary"
        assert "\n" not in entry.summary

    def test_every_option_is_described(self) -> None:
        """Help is made from the descriptions."""
        fields = load_plugins().get(self.kind, self.entry().qualified_name).Options.model_fields
        assert [key for key, field in fields.items() if not (field.description or "").strip()] == []

    def test_no_option_takes_a_reserved_key(self) -> None:
        """These keys stand beside the options in a configuration and mean something else."""
        fields = load_plugins().get(self.kind, self.entry().qualified_name).Options.model_fields
        assert [key for key in RESERVED_KEYS if key in fields] == []

    def test_options_round_trip(self, options: Mapping[str, Any]) -> None:
        """What a run saves as its configuration makes the same component again."""
        made = self.make(options).options
        saved = {key: value for key, value in made.model_dump(mode="json").items() if value is not None}
        assert parse_options(type(made), saved, self.kind) == made

    def test_an_unknown_option_is_refused(self, options: Mapping[str, Any]) -> None:
        """Misspelt options must not be ignored."""
        with pytest.raises(RequestError, match="no_such_option"):
            self.make({**options, "no_such_option": 1})


class DatasetContract(ComponentContract):
    """What holds for every dataset. Give options with which it loads something small from this machine."""

    kind = "dataset"

    def load(self, options: Mapping[str, Any]) -> Any:
        """The corpus."""
        dataset = cast(Dataset, self.make(options))
        return dataset.load(SilentReporter())

    def test_interactions(self, options: Mapping[str, Any]) -> None:
        """Columns, types, and no holes."""
        interactions = self.load(options).interactions
        assert len(interactions) > 0
        types = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64}
        assert {column: interactions.schema[column] for column in types} == types
        if "rating" in interactions.columns:
            assert interactions.schema["rating"] == pl.Float64
        assert interactions.select(list(types)).null_count().row(0) == (0, 0, 0)

    def test_catalogue(self, options: Mapping[str, Any]) -> None:
        """Every item stands there once, with a title."""
        corpus = self.load(options)
        catalogue = corpus.catalogue
        assert (catalogue.schema["item"], catalogue.schema["title"]) == (pl.String, pl.String)
        assert catalogue["item"].is_unique().all()
        assert catalogue["title"].null_count() == 0
        assert (catalogue["title"].str.strip_chars().str.len_chars() > 0).all()
        assert corpus.interactions.join(catalogue, on="item", how="anti").height == 0

    def test_filters_are_offered_for_logs_alone(self, options: Mapping[str, Any]) -> None:
        """A log's options extend `LogOptions`; given examples are not filtered."""
        offered = isinstance(self.make(options).options, LogOptions)
        assert offered == (self.load(options).examples is None)

    def test_given_examples(self, options: Mapping[str, Any]) -> None:
        """Each is a user with a history and a target, in one part; candidates hold the target once."""
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
        """Order of rows included: it breaks ties in time."""
        first, second = self.load(options), self.load(options)
        assert first.interactions.equals(second.interactions)
        assert first.catalogue.equals(second.catalogue)
        assert (first.examples is None) == (second.examples is None)
        assert first.examples is None or first.examples.equals(second.examples)


class SamplerContract(ComponentContract):
    """What holds for every sampler."""

    kind = "sampler"

    def sample(self, options: Mapping[str, Any], split: Split, examples: Examples, k: int, seed: int = 0) -> Ints:
        """Rejected items, from a context that holds what the sampler says it needs and nothing more."""
        sampler = cast(RejectedSampler, self.make(options))
        items = len(split.catalogue)
        embeddings = np.random.default_rng(7).normal(size=(items, 16))
        embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
        context = SamplerContext(
            catalogue=split.catalogue,
            seen=split.train_seen,
            rng=np.random.default_rng(seed),
            reporter=SilentReporter(),
            language_model=FakeLanguageModel(items) if "language-model" in sampler.needs else None,
            oracle_scores=FakeLanguageModel(items, seed=1).score if "oracle" in sampler.needs else None,
            title_embeddings=(lambda: embeddings) if "title-embeddings" in sampler.needs else None,
        )
        return sampler.sample(examples, k, context)

    @staticmethod
    def check(rejected: Ints, examples: Examples, k: int, items: int) -> None:
        """Shape and type; items of the catalogue, each once in a row, never the target."""
        assert isinstance(rejected, np.ndarray)
        assert (rejected.shape, rejected.dtype.name) == ((len(examples), k), "int32")
        assert ((rejected >= -1) & (rejected < items)).all()
        assert not (rejected == examples.target[:, None]).any(), "a target is among the rejected"
        for row in rejected:
            kept = row[row >= 0]
            assert len(set(kept.tolist())) == len(kept), f"an item is rejected twice: {row}"

    @pytest.mark.parametrize("k", [1, 4])
    def test_rejected_items(self, options: Mapping[str, Any], k: int) -> None:
        """Full rows while items are left: none of them the target, seen, or twice."""
        split = toy_split()
        examples = train_examples(split)
        rejected = self.sample(options, split, examples, k)
        self.check(rejected, examples, k, len(split.catalogue))
        assert (rejected >= 0).all(), "items were left, but a row is not full"
        assert not split.train_seen.contains(examples.user, rejected).any(), "a seen item is rejected"

    def test_rejected_items_when_seen_ones_are_allowed(self, options: Mapping[str, Any]) -> None:
        """`allow_seen` lets no target through."""
        split = toy_split()
        examples = train_examples(split)
        rejected = self.sample({**options, "allow_seen": True}, split, examples, 8)
        self.check(rejected, examples, 8, len(split.catalogue))

    def test_marks_what_is_left_empty(self, options: Mapping[str, Any]) -> None:
        """Each user has seen all items but two, or all: -1 fills the rest of the row."""
        split = toy_split(users=6, items=12, shortest=12, longest=12)
        examples = train_examples(split)
        left = 12 - split.train.lengths
        assert (left == 2).all()
        rejected = self.sample(options, split, examples, 5)
        self.check(rejected, examples, 5, 12)
        assert not split.train_seen.contains(examples.user, rejected).any(), "a seen item is rejected"
        assert ((rejected >= 0).sum(axis=1) <= left).all()

    def test_same_seed_same_items(self, options: Mapping[str, Any]) -> None:
        """The context's generator is the only source of chance."""
        split = toy_split()
        examples = train_examples(split)
        np.random.seed(1)
        first = self.sample(options, split, examples, 3, seed=5)
        np.random.seed(2)
        np.testing.assert_array_equal(first, self.sample(options, split, examples, 3, seed=5))

    def test_no_examples(self, options: Mapping[str, Any]) -> None:
        """No rows in, no rows out."""
        split = toy_split()
        none = train_examples(split).take(np.zeros(0, dtype=np.int64))
        assert self.sample(options, split, none, 3).shape == (0, 3)


class OracleContract(ComponentContract):
    """What holds for every oracle. Give options with which it learns within seconds."""

    kind = "oracle"

    def fit(self, options: Mapping[str, Any], split: Split, seed: int = 0) -> SmoothingOracle:
        """An oracle that has learnt from a split whose test examples cannot be had."""
        oracle = cast(SmoothingOracle, self.make(options))
        context = OracleContext(rng=np.random.default_rng(seed), seed=seed, reporter=SilentReporter())
        shown = oracle.fit(replace(split, test=cast(Examples, _Forbidden())), context)
        assert all(isinstance(key, str) and np.isfinite(value) for key, value in shown.items())
        return oracle

    @staticmethod
    def rejected(split: Split, examples: Examples, k: int = 4) -> Ints:
        """Random items that are not the target; some slots are -1."""
        rng = np.random.default_rng(3)
        items = len(split.catalogue)
        shift = np.stack([rng.permutation(items - 1)[:k] + 1 for _ in range(len(examples))])
        rejected: Ints = ((examples.target[:, None] + shift) % items).astype(np.int32)
        rejected[::3, -1] = -1
        rejected.flags.writeable = False
        return rejected

    def test_flip_probability(self, options: Mapping[str, Any]) -> None:
        """A probability below one for each slot, for unseen places in the sequences, too."""
        split = toy_split()
        oracle = self.fit(options, split)
        for examples in (train_examples(split), split.test):
            rejected = self.rejected(split, examples)
            flips = oracle.flip_probability(examples, examples.target, rejected)
            assert (flips.shape, flips.dtype.name) == (rejected.shape, "float32")
            assert np.isfinite(flips).all()
            assert ((flips >= 0) & (flips < 1)).all()

    def test_learns_where_nobody_is_in_two_parts(self, options: Mapping[str, Any]) -> None:
        """Given examples: who is held out, for validation or the test, has nothing to train on."""
        split = toy_given_split()
        oracle = self.fit(options, split)
        for examples in (train_examples(split), split.test):
            flips = oracle.flip_probability(examples, examples.target, self.rejected(split, examples))
            assert ((flips >= 0) & (flips < 1)).all()

    def test_scores(self, options: Mapping[str, Any]) -> None:
        """A finite score for each item, whatever else stands beside it; or no scores at all."""
        split = toy_split()
        oracle = self.fit(options, split)
        items = np.abs(self.rejected(split, split.test))
        scores = oracle.score(split.test, items)
        if scores is None:
            return
        assert (scores.shape, scores.dtype.name) == (items.shape, "float32")
        assert np.isfinite(scores).all()
        backwards = oracle.score(split.test, items[:, ::-1].copy())
        assert backwards is not None
        np.testing.assert_allclose(backwards[:, ::-1], scores, rtol=1e-4, atol=1e-4)
        alone = oracle.score(split.test, items[:, :1].copy())
        assert alone is not None
        np.testing.assert_allclose(alone, scores[:, :1], rtol=1e-4, atol=1e-4)

    def test_state_round_trip(self, options: Mapping[str, Any]) -> None:
        """A new instance with the saved arrays answers the same."""
        split = toy_split()
        oracle = self.fit(options, split)
        state = {key: np.array(value) for key, value in oracle.state().items()}
        assert all(value.dtype.kind in "biuf" for value in state.values()), "safetensors holds numbers only"
        restored = cast(SmoothingOracle, self.make(options))
        restored.restore(state)
        rejected = self.rejected(split, split.test)
        np.testing.assert_allclose(
            restored.flip_probability(split.test, split.test.target, rejected),
            oracle.flip_probability(split.test, split.test.target, rejected),
            atol=1e-6,
        )
        scores, again = oracle.score(split.test, np.abs(rejected)), restored.score(split.test, np.abs(rejected))
        assert (scores is None) == (again is None)
        if scores is not None and again is not None:
            np.testing.assert_allclose(again, scores, rtol=1e-5, atol=1e-5)

    def test_preference_probability(self, options: Mapping[str, Any]) -> None:
        """A probability in [0, 1) for each slot, whatever becomes of it for training."""
        split = toy_split()
        rejected = self.rejected(split, split.test)
        likely = self.fit(options, split).preference_probability(split.test, split.test.target, rejected)
        assert (likely.shape, likely.dtype.name) == (rejected.shape, "float32")
        assert ((likely >= 0) & (likely < 1)).all()

    def test_same_seed_same_flips(self, options: Mapping[str, Any]) -> None:
        """Learning twice gives the same."""
        split = toy_split()
        rejected = self.rejected(split, split.test)
        first, second = (
            self.fit(options, split, seed=4).flip_probability(split.test, split.test.target, rejected)
            for _ in range(2)
        )
        np.testing.assert_allclose(first, second, atol=1e-6)


class LossContract(ComponentContract):
    """What holds for every preference loss."""

    kind = "loss"

    def loss(self, options: Mapping[str, Any]) -> PreferenceLoss:
        """The loss under test."""
        return cast(PreferenceLoss, self.make(options))

    @pytest.mark.parametrize("k", [1, 3])
    def test_one_finite_loss_for_each_pair(self, options: Mapping[str, Any], k: int) -> None:
        """Shape [n], differentiable in what the policy says."""
        log_probs = random_log_probs(k=k)
        losses = self.loss(options)(log_probs)
        assert losses.shape == log_probs.chosen.shape
        assert losses.isfinite().all()
        for gradient in gradients(self.loss(options), log_probs):
            assert gradient.isfinite().all()

    def test_extreme_margins_stay_finite(self, options: Mapping[str, Any]) -> None:
        """A long title that the policy is sure of, or has ruled out."""
        for unlikely in ("chosen", "rejected"):
            log_probs = random_log_probs()
            lowered = getattr(log_probs, unlikely).detach() - 200.0
            log_probs = replace(log_probs, **{unlikely: lowered.requires_grad_()})
            assert self.loss(options)(log_probs).isfinite().all()
            for gradient in gradients(self.loss(options), log_probs):
                assert gradient.isfinite().all()

    def test_a_step_down_the_gradient_lowers_the_loss(self, options: Mapping[str, Any]) -> None:
        """So the gradient is the loss's own."""
        loss, log_probs = self.loss(options), random_log_probs()
        chosen, rejected = gradients(loss, log_probs)
        size = float((chosen.square().sum() + rejected.square().sum()).sqrt())
        assert size > 0
        moved = replace(
            log_probs,
            chosen=log_probs.chosen.detach() - 1e-2 * chosen / size,
            rejected=log_probs.rejected.detach() - 1e-2 * rejected / size,
        )
        assert loss(moved).detach().double().sum() < loss(log_probs).detach().double().sum()

    def test_prefers_the_chosen(self, options: Mapping[str, Any]) -> None:
        """Where the policy is the reference and finds all tokens alike, with no smoothing, the chosen response is
        pushed up and the rejected ones down."""
        log_probs = random_log_probs()
        chosen, rejected = (-2.0 * log_probs.chosen_tokens).float(), (-2.0 * log_probs.rejected_tokens).float()
        even = replace(
            log_probs,
            chosen=chosen.clone().requires_grad_(),
            rejected=rejected.clone().requires_grad_(),
            reference_chosen=chosen,
            reference_rejected=rejected,
            eps=log_probs.eps * 0,
        )
        up, down = gradients(self.loss(options), even)
        assert (up < 0).all()
        assert (down[even.valid] >= 0).all()
        assert (down.sum(dim=1) > 0).all()

    def test_ignores_invalid_slots(self, options: Mapping[str, Any]) -> None:
        """Whatever stands in a slot that holds no response."""
        log_probs = random_log_probs()
        empty = ~log_probs.valid
        assert empty.any()
        changed = replace(
            log_probs,
            rejected=log_probs.rejected.detach().masked_fill(empty, -150.0).requires_grad_(),
            reference_rejected=log_probs.reference_rejected.masked_fill(empty, -3.0),
            rejected_tokens=log_probs.rejected_tokens.masked_fill(empty, 0),
            eps=log_probs.eps.masked_fill(empty, 0.9),
        )
        loss = self.loss(options)
        assert_equal(loss(changed), loss(log_probs))
        for gradient, other in zip(gradients(loss, changed), gradients(loss, log_probs), strict=True):
            assert_equal(gradient, other)
        assert (gradients(loss, changed)[1][empty] == 0).all()

    def test_pairs_do_not_mix(self, options: Mapping[str, Any]) -> None:
        """A pair's loss is its own, whatever else is in the batch."""
        log_probs, loss = random_log_probs(), self.loss(options)
        rows = list(range(len(log_probs.chosen)))[::-2]
        part = LogProbs(**{field: getattr(log_probs, field)[rows] for field in LogProbs.__dataclass_fields__})
        assert_equal(loss(part), loss(log_probs)[rows])

    def test_reads_only_what_it_says(self, options: Mapping[str, Any]) -> None:
        """`needs_reference` and `needs_smoothing` are true."""
        log_probs, loss = random_log_probs(), self.loss(options)
        expected = loss(log_probs)
        if not loss.needs_reference:
            other = replace(
                log_probs,
                reference_chosen=log_probs.reference_chosen - 1,
                reference_rejected=log_probs.reference_rejected + 1,
            )
            assert_equal(loss(other), expected)
        if not loss.needs_smoothing:
            assert_equal(loss(replace(log_probs, eps=log_probs.eps * 0.5)), expected)


class MetricContract(ComponentContract):
    """What holds for every metric."""

    kind = "metric"

    def measure(self, options: Mapping[str, Any], outcome: Outcome) -> Mapping[str, Doubles | float]:
        """Its values, of the right shape and within the range that it declares."""
        metric = cast(Metric, self.make(options))
        about = metric.about
        found = metric.measure(outcome)
        for cut_off, value in found.items():
            assert re.fullmatch(r"(@[1-9]\d*)?", cut_off), f"'{cut_off}' is neither empty nor a cut-off like '@10'"
            array = np.asarray(value)
            assert array.dtype.kind == "f", f"{array.dtype} values"
            assert array.shape in ((), (len(outcome),)), f"shape {array.shape} for {len(outcome)} users"
            assert not np.isinf(array).any(), "infinite values; NaN says that a metric does not apply"
            known = array[~np.isnan(array)]
            assert ((known >= about.low - 1e-9) & (known <= about.high + 1e-9)).all(), f"out of range: {known}"
        return found

    def outcomes(self, options: Mapping[str, Any]) -> Mapping[str, Outcome]:
        """The toy outcomes that offer what the metric needs, and nothing else that is optional."""
        needs = cast(Metric, self.make(options)).needs
        bare = {
            name: replace(
                outcome,
                title_embeddings=outcome.title_embeddings if "title-embeddings" in needs else None,
                answered=outcome.answered if "answers" in needs else None,
                catalogue=outcome.catalogue
                if "genres" in needs
                else replace(outcome.catalogue, attributes=pl.DataFrame()),
            )
            for name, outcome in toy_outcomes().items()
        }
        return {name: outcome for name, outcome in bare.items() if all(outcome.offers(need) for need in needs)}

    def test_says_how_it_is_to_be_read(self, options: Mapping[str, Any]) -> None:
        """Title, heading, range; formula and source stand in the docstring."""
        metric = cast(Metric, self.make(options))
        assert metric.about.title.strip()
        assert metric.about.group.strip()
        assert metric.about.low < metric.about.high
        assert "Range" in (type(metric).__doc__ or ""), "the docstring does not say the range"

    def test_values(self, options: Mapping[str, Any]) -> None:
        """However the model was asked: something is measured, and only what `needs` says is read."""
        outcomes = self.outcomes(options)
        assert outcomes, "no outcome offers what it needs"
        for outcome in outcomes.values():
            found = self.measure(options, outcome)
            assert found, "nothing is measured"
            assert any((~np.isnan(value)).any() for value in found.values()), "nothing but NaN"

    def test_the_order_of_users_does_not_count(self, options: Mapping[str, Any]) -> None:
        """Values of users move with them, and a number for all stays."""
        for outcome in self.outcomes(options).values():
            order = np.random.default_rng(0).permutation(len(outcome))
            before, after = self.measure(options, outcome), self.measure(options, outcome.take(order))
            assert before.keys() == after.keys()
            for cut_off, value in before.items():
                array = np.asarray(value)
                np.testing.assert_allclose(after[cut_off], array[order] if array.ndim else array, atol=1e-6)

    def test_a_users_value_is_their_own(self, options: Mapping[str, Any]) -> None:
        """Whoever else there is."""
        for outcome in self.outcomes(options).values():
            some = np.arange(0, len(outcome), 3)
            whole, part = self.measure(options, outcome), self.measure(options, outcome.take(some))
            for cut_off, value in whole.items():
                if np.ndim(value):
                    np.testing.assert_allclose(part[cut_off], np.asarray(value)[some], atol=1e-6)

    def test_empty_lists(self, options: Mapping[str, Any]) -> None:
        """A model that said nothing that is an item."""
        outcome = self.outcomes(options).get("written")
        if outcome is not None:
            everyone = np.ones(len(outcome), dtype=np.bool_)
            self.measure(options, silenced(outcome, everyone))
            if outcome.answered is not None:
                self.measure(options, replace(silenced(outcome, everyone), answered=outcome.answered))

    def test_to_give_no_answer_does_not_pay(self, options: Mapping[str, Any]) -> None:
        """Where lower is better: a user whose list holds no item gets the worst value that the metric declares, or
        NaN where that is infinite, and a number for all lists is NaN where none holds an item."""
        about = cast(Metric, self.make(options)).about
        outcome = self.outcomes(options).get("written")
        if about.direction != "lower" or outcome is None:
            return
        silent = np.arange(len(outcome)) % 2 == 0
        before = self.measure(options, outcome)
        for cut_off, value in self.measure(options, silenced(outcome, silent)).items():
            if np.ndim(value):
                # A metric that does not apply to a user, whatever is recommended, need not apply now.
                applies = silent & ~np.isnan(before[cut_off])
                worst = about.high if np.isfinite(about.high) else np.nan
                np.testing.assert_array_equal(np.asarray(value)[applies], worst)
                others = np.asarray(value)[silent & ~applies]
                assert (np.isnan(others) | (others == about.high)).all(), "an empty list has a good value"
        for value in self.measure(options, silenced(outcome, np.ones_like(silent))).values():
            if not np.ndim(value):
                assert np.isnan(value), "lists without any item have a value"


def silenced(outcome: Outcome, rows: Bools) -> Outcome:
    """The outcome of lists, those of the chosen rows without any item or answer."""
    return replace(
        outcome,
        top=np.where(rows[:, None], -1, outcome.top),
        ranks=Ranks(
            np.where(rows[:, None], UNRANKED, outcome.ranks.above), np.where(rows[:, None], 0, outcome.ranks.tied)
        ),
        answered=None if outcome.answered is None else outcome.answered & ~rows[:, None],
    )


def gradients(loss: PreferenceLoss, log_probs: LogProbs) -> Sequence[Tensor]:
    """Of the summed losses, in the policy's log-probabilities of the chosen [n] and the rejected [n, k]."""
    import torch

    return torch.autograd.grad(loss(log_probs).sum(), [log_probs.chosen, log_probs.rejected])


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    """Up to float32 rounding."""
    import torch

    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


class _Forbidden:
    def __getattr__(self, name: str) -> Any:
        raise AssertionError("an oracle must not look at split.test")
