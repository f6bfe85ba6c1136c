"""The contract kit catches what it is there to catch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch.nn.functional as F
from pydantic import Field

from rosepo_core.contracts.components import (
    CutOffMetric,
    Dataset,
    LogOptions,
    PreferenceLoss,
    RejectedSampler,
    SamplerOptions,
    SmoothingOracle,
)
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.outcome import Measure
from rosepo_core.contracts.records import Corpus
from rosepo_core.prompts.list_template import ListTemplate
from rosepo_core.prompts.template import PromptOptions
from rosepo_core.prompts.token_ids import Ragged
from rosepo_core.testing import (
    DatasetContract,
    FakeLanguageModel,
    LossContract,
    MetricContract,
    OracleContract,
    PromptContract,
    SamplerContract,
    toy_outcomes,
    toy_split,
    toy_supplied_split,
    train_examples,
)


def kit(contract, component):
    """The contract's tests, over a component that no plugin registers."""

    class Bound(contract):
        def make(self, options):
            return component(component.Options(**options))

    return Bound()


class Fair(RejectedSampler):
    """A correct sampler, for the incorrect ones to break."""

    def sample(self, examples, k, context):
        draws = context.rng.random((len(examples), len(context.catalogue)))
        items = np.broadcast_to(np.arange(len(context.catalogue)), draws.shape)
        if not self.options.allow_seen:
            draws[context.seen.contains(examples.user, items)] = 2
        draws[np.arange(len(examples)), examples.target] = 2
        order = np.argsort(draws, axis=1)[:, :k]
        return np.where(np.take_along_axis(draws, order, axis=1) < 2, order, -1).astype(np.int32)


class GivesTarget(Fair):
    def sample(self, examples, k, context):
        rejected = super().sample(examples, k, context)
        rejected[-1, 0] = examples.target[-1]
        return rejected


class GivesSeen(Fair):
    def sample(self, examples, k, context):
        self.options = SamplerOptions(allow_seen=True)
        return super().sample(examples, k, context)


class GivesTwice(Fair):
    def sample(self, examples, k, context):
        rejected = super().sample(examples, k, context)
        rejected[0] = rejected[0, 0]
        return rejected


class OwnChance(Fair):
    def sample(self, examples, k, context):
        return np.random.permutation(super().sample(examples, k, context))


class WrongType(Fair):
    def sample(self, examples, k, context):
        return super().sample(examples, k, context).astype(np.int64)


def test_a_correct_sampler_passes():
    contract = kit(SamplerContract, Fair)
    contract.test_rejected_items({}, 4)
    contract.test_rejected_items_when_seen_ones_are_allowed({})
    contract.test_marks_what_is_left_empty({})
    contract.test_same_seed_same_items({})
    contract.test_no_examples({})


@pytest.mark.parametrize("sampler", [GivesTarget, GivesSeen, GivesTwice, WrongType])
def test_a_wrong_sampler_fails(sampler):
    with pytest.raises(AssertionError):
        kit(SamplerContract, sampler).test_rejected_items({}, 4)


def test_a_sampler_with_chance_of_its_own_fails():
    with pytest.raises(AssertionError):
        kit(SamplerContract, OwnChance).test_same_seed_same_items({})


class Popularity(SmoothingOracle):
    """A correct oracle."""

    def fit(self, split, context):
        self.counts = split.catalogue.popularity.astype(np.float32)
        return {"items": float(len(self.counts))}

    def state(self):
        return {"counts": self.counts}

    def restore(self, state):
        self.counts = state["counts"]

    def score(self, examples, items):
        return self.counts[items]

    def flip_probability(self, places, chosen, rejected):
        difference = self.counts[chosen][:, None] - self.counts[rejected]
        return (0.99 / (1 + np.exp(difference))).astype(np.float32)


class Forgetful(Popularity):
    def restore(self, state):
        self.counts = state["counts"][::-1]


class Certain(Popularity):
    def flip_probability(self, places, chosen, rejected):
        return np.ones(rejected.shape, dtype=np.float32)


class Relative(Popularity):
    def score(self, examples, items):
        return self.counts[items] - self.counts[items].max(axis=1, keepdims=True)


class Peeking(Popularity):
    def fit(self, split, context):
        self.seen = split.test.user
        return super().fit(split, context)


def test_a_correct_oracle_passes():
    contract = kit(OracleContract, Popularity)
    contract.test_flip_probability({})
    contract.test_scores({})
    contract.test_state_round_trip({})
    contract.test_same_seed_same_flips({})


@pytest.mark.parametrize(
    ("oracle", "test"),
    [
        (Forgetful, "test_state_round_trip"),
        (Certain, "test_flip_probability"),
        (Relative, "test_scores"),
        (Peeking, "test_flip_probability"),
    ],
)
def test_a_wrong_oracle_fails(oracle, test):
    with pytest.raises(AssertionError):
        getattr(kit(OracleContract, oracle), test)({})


class Logistic(PreferenceLoss):
    """A correct loss without a reference: the mean over valid slots."""

    needs_reference = False

    def __call__(self, log_probs):
        margin = log_probs.chosen[:, None] - log_probs.rejected
        losses = (-F.logsigmoid(margin)).masked_fill(~log_probs.valid, 0)
        return losses.sum(dim=1) / log_probs.valid.sum(dim=1)


class Backwards(Logistic):
    def __call__(self, log_probs):
        return -super().__call__(log_probs)


class ReadsEmptySlots(Logistic):
    def __call__(self, log_probs):
        return -F.logsigmoid(log_probs.chosen[:, None] - log_probs.rejected).mean(dim=1)


class MixesPairs(Logistic):
    def __call__(self, log_probs):
        losses = super().__call__(log_probs)
        return losses - losses.mean().detach()


class AgainstTheDrift(PreferenceLoss):
    """KTO without mismatched responses, and without saying that it reads the other pairs. Its baseline is the mean
    log-ratio of the batch, but at least 0, so that it mixes pairs only if the policy is above the reference."""

    def __call__(self, log_probs):
        won = log_probs.chosen - log_probs.reference_chosen
        lost = (log_probs.rejected - log_probs.reference_rejected).masked_fill(~log_probs.valid, 0)
        baseline = won.mean().clamp(min=0).detach()
        rows = (lost - baseline).sigmoid().masked_fill(~log_probs.valid, 0).sum(dim=1) / log_probs.valid.sum(dim=1)
        return (baseline - won).sigmoid() + rows


class OfTheWholeBatch(AgainstTheDrift):
    scope = "batch"


class SortsPairs(Logistic):
    """The margins of the batch in order, as in AOT: right only for a batch that is sorted already."""

    def __call__(self, log_probs):
        return -F.logsigmoid(log_probs.chosen.sort().values - log_probs.rejected[:, 0].sort().values)


class OfThePassBefore(OfTheWholeBatch):
    """Compares each pair with the one before, so the order of passes matters."""

    def __call__(self, log_probs):
        losses = super().__call__(log_probs)
        return losses - 0.1 * losses.roll(1)


class ReadsTokens(Logistic):
    def __call__(self, log_probs):
        return super().__call__(log_probs) * log_probs.chosen_tokens


class RewardsOfTheReference(Logistic):
    def rewards(self, log_probs):
        return log_probs.chosen - log_probs.reference_chosen, log_probs.rejected


class Overflows(Logistic):
    def __call__(self, log_probs):
        margin = log_probs.chosen[:, None] - log_probs.rejected
        return ((1 + (-margin).exp()).log() * log_probs.valid).sum(dim=1)


class ReadsReference(Logistic):
    def __call__(self, log_probs):
        return super().__call__(log_probs) + log_probs.reference_chosen


@pytest.mark.parametrize("loss", [Logistic, OfTheWholeBatch])
def test_a_correct_loss_passes(loss):
    contract = kit(LossContract, loss)
    contract.test_one_finite_loss_for_each_pair({}, 3)
    contract.test_extreme_margins_stay_finite({})
    contract.test_a_step_down_the_gradient_lowers_the_loss({})
    contract.test_prefers_the_chosen({})
    contract.test_ignores_invalid_slots({})
    for drift in (-3.0, 0.0, 3.0):
        contract.test_only_a_loss_of_scope_batch_sees_other_pairs({}, drift)
    contract.test_rewards_are_those_of_each_response({})
    contract.test_reads_only_what_it_says({})


@pytest.mark.parametrize(
    ("loss", "test"),
    [
        (Backwards, "test_prefers_the_chosen"),
        (ReadsEmptySlots, "test_ignores_invalid_slots"),
        (Overflows, "test_extreme_margins_stay_finite"),
        (ReadsReference, "test_reads_only_what_it_says"),
        (ReadsTokens, "test_reads_only_what_it_says"),
        (RewardsOfTheReference, "test_reads_only_what_it_says"),
    ],
)
def test_a_wrong_loss_fails(loss, test):
    with pytest.raises(AssertionError):
        getattr(kit(LossContract, loss), test)({})


@pytest.mark.parametrize(
    ("loss", "seen_at"),
    [
        (MixesPairs, (-3.0, 0.0, 3.0)),
        (SortsPairs, (-3.0, 0.0, 3.0)),
        (AgainstTheDrift, (3.0,)),
        (OfThePassBefore, (-3.0, 0.0, 3.0)),
    ],
)
def test_a_loss_that_depends_on_the_passes_fails(loss, seen_at):
    for drift in seen_at:
        with pytest.raises(AssertionError):
            kit(LossContract, loss).test_only_a_loss_of_scope_batch_sees_other_pairs({}, drift)


class Length(CutOffMetric):
    """Items among the first k over k. Range 0 to 1."""

    about = Measure("Length", "higher", "Lists")

    def at(self, outcome, k):
        return (outcome.top[:, :k] >= 0).mean(axis=1)


class OutOfRange(Length):
    def at(self, outcome, k):
        return 2 * super().at(outcome, k)


class ForOthers(Length):
    def at(self, outcome, k):
        return super().at(outcome, k)[:-1]


class Compared(Length):
    def at(self, outcome, k):
        values = (outcome.top[:, :k] * 7 % 40).sum(axis=1) / 1000
        return values - values.min()


class ByPlace(Length):
    def at(self, outcome, k):
        return super().at(outcome, k) * np.arange(len(outcome)) / len(outcome)


class ReadsScores(Length):
    def at(self, outcome, k):
        return (outcome.scores[:, :k] > 0).mean(axis=1)


class DividesByNothing(Length):
    def at(self, outcome, k):
        with np.errstate(divide="ignore"):
            return 1 / (outcome.top[:, :k] >= 0).sum(axis=1)


class Unexplained(Length):
    """Nothing."""


class Dull(Length):
    """Even items among the first k over items among the first k. Range 0 to 1."""

    about = Measure("Dull", "lower", "Lists")

    def at(self, outcome, k):
        top = outcome.top[:, :k]
        held = (top >= 0).sum(axis=1)
        return np.where(held, ((top >= 0) & (top % 2 == 0)).sum(axis=1) / np.maximum(held, 1), 1.0)


class DullUnlessSilent(Dull):
    def at(self, outcome, k):
        return np.where((outcome.top[:, :k] >= 0).any(axis=1), super().at(outcome, k), 0.0)


class DullOfSome(Dull):
    def at(self, outcome, k):
        return np.where((outcome.top >= 0).any(axis=1), super().at(outcome, k), np.nan)


class DullInAll(Dull):
    def at(self, outcome, k):
        return float((outcome.top[:, :k] >= 0).mean())


class DullWithoutEnd(DullUnlessSilent):
    about = Measure("Dull", "lower", "Lists", high=np.inf)


def test_a_correct_metric_of_which_lower_is_better_passes():
    kit(MetricContract, Dull).test_to_give_no_answer_does_not_pay({})


def test_a_correct_metric_passes():
    contract = kit(MetricContract, Length)
    contract.test_says_how_it_is_to_be_read({})
    contract.test_values({})
    contract.test_the_order_of_users_does_not_count({})
    contract.test_a_users_value_is_their_own({})
    contract.test_empty_lists({})
    assert list(contract.measure({}, toy_outcomes()["written"])) == ["@1", "@3", "@5"]
    assert list(contract.measure({"ks": (2,)}, toy_outcomes()["written"])) == ["@2"]


@pytest.mark.parametrize(
    ("metric", "test", "error"),
    [
        (OutOfRange, "test_values", AssertionError),
        (ForOthers, "test_values", AssertionError),
        (ReadsScores, "test_values", TypeError),
        (Compared, "test_a_users_value_is_their_own", AssertionError),
        (ByPlace, "test_the_order_of_users_does_not_count", AssertionError),
        (DividesByNothing, "test_empty_lists", AssertionError),
        (Unexplained, "test_says_how_it_is_to_be_read", AssertionError),
        *(
            (metric, "test_to_give_no_answer_does_not_pay", AssertionError)
            for metric in (DullUnlessSilent, DullOfSome, DullInAll, DullWithoutEnd)
        ),
    ],
)
def test_a_wrong_metric_fails(metric, test, error):
    with pytest.raises(error):
        getattr(kit(MetricContract, metric), test)({})


def test_the_toy_outcomes():
    outcomes = toy_outcomes()
    assert [outcome.offers("scores") for outcome in outcomes.values()] == [True, True, False]
    assert [outcome.offers("answers") for outcome in outcomes.values()] == [False, False, True]
    assert all(outcome.offers("genres") and outcome.offers("title-embeddings") for outcome in outcomes.values())
    target = outcomes["catalogue"].examples.target
    assert (outcomes["catalogue"].targets[:, 0] == target).all()
    assert (outcomes["candidates"].targets[:, 0] == target).all()
    part = outcomes["written"].take(np.array([4, 2]))
    assert part.top.tolist() == [outcomes["written"].top[row].tolist() for row in (4, 2)]
    assert part.examples.target.tolist() == target[[4, 2]].tolist()


class UndescribedOptions(SamplerOptions):
    strength: float = Field(1.0)


class Undescribed(Fair):
    Options = UndescribedOptions


def test_an_option_without_a_description_fails(install):
    source = """
        from rosepo_core.api import hookimpl

        @hookimpl
        def rosepo_register_samplers(register):
            register("undescribed", "test_contract_kit:Undescribed", summary="")
    """
    from rosepo_core.plugins.registry import load_plugins

    install("acme-undescribed", "1.0", "acme_undescribed", source)
    load_plugins.cache_clear()
    try:
        contract = type("Contract", (SamplerContract,), {"component": Undescribed})()
        with pytest.raises(AssertionError, match="strength"):
            contract.test_every_option_is_described()
        with pytest.raises(AssertionError, match="no summary"):
            contract.test_is_registered()
    finally:
        load_plugins.cache_clear()


def test_the_fake_language_model():
    split = toy_split()
    examples = train_examples(split)
    model = FakeLanguageModel(len(split.catalogue))
    banned = [np.arange(38) for _ in range(len(examples))]
    generated = model.generate(examples, 3, exclude=lambda _: banned)
    scores = model.score(examples, generated)
    assert set(generated[:, :2].ravel().tolist()) == {38, 39}
    assert (generated[:, 2] == -1).all()
    assert (scores[:, 0] >= scores[:, 1]).all()
    assert (scores[:, 2] == -np.inf).all()
    np.testing.assert_allclose(np.exp(model.table).sum(axis=1), 1, rtol=1e-4)


class Given(Dataset):
    """Two correct examples, for the incorrect ones to break."""

    parts = ("train", "test")
    histories = (["a"], ["b", "a"])
    candidates = (None, ["b", "c"])

    def load(self, reporter):
        examples = pl.DataFrame(
            {
                "user": ["u", "v"],
                "part": self.parts,
                "history": self.histories,
                "target": ["b", "c"],
                "candidates": self.candidates,
            },
            schema_overrides={"history": pl.List(pl.String), "candidates": pl.List(pl.String)},
        )
        return Corpus.of_examples("given", examples, pl.DataFrame({"item": list("abc"), "title": list("ABC")}))


class NoTest(Given):
    parts = ("train", "train")


class OddPart(Given):
    parts = ("train", "dev")


class NoHistory(Given):
    histories = ([], ["b", "a"])


class NoTarget(Given):
    candidates = (None, ["b", "a"])


class TargetTwice(Given):
    candidates = (None, ["c", "b", "c"])


class Stranger(Given):
    candidates = (None, ["c", "z"])


class Filtered(Given):
    Options = LogOptions


def test_correct_examples_pass():
    contract = kit(DatasetContract, Given)
    contract.test_interactions({})
    contract.test_catalogue({})
    contract.test_filters_are_offered_for_logs_alone({})
    contract.test_given_examples({})
    contract.test_loads_the_same_again({})


@pytest.mark.parametrize("dataset", [NoTest, OddPart, NoHistory, NoTarget, TargetTwice, Stranger])
def test_wrong_examples_fail(dataset):
    with pytest.raises(AssertionError):
        kit(DatasetContract, dataset).test_given_examples({})


def test_examples_with_filters_fail():
    with pytest.raises(AssertionError):
        kit(DatasetContract, Filtered).test_filters_are_offered_for_logs_alone({})


def test_the_given_toy_split_is_one():
    split = toy_supplied_split()
    assert (len(train_examples(split)), len(split.validation), len(split.test)) == (18, 6, 6)
    held_out = np.concatenate([split.validation.user, split.test.user])
    assert not split.train.lengths[held_out].any()
    assert split.catalogue.popularity.sum() == split.train.lengths.sum()
    given = split.supplied_candidates
    assert (given.items[np.arange(6), given.target_column] == split.test.target).all()


class PairsOwnTraining(Popularity):
    """Takes it that who has a validation target has something to train on."""

    def fit(self, split, context):
        self.shortest = float(1 / split.train.lengths[split.validation.user].min())
        return super().fit(split, context) | {"shortest": self.shortest}


def test_an_oracle_that_cannot_learn_from_given_examples_fails():
    kit(OracleContract, PairsOwnTraining).test_flip_probability({})
    with np.errstate(divide="ignore"), pytest.raises(AssertionError):
        kit(OracleContract, PairsOwnTraining).test_learns_where_nobody_is_in_two_parts({})


class AskOptions(PromptOptions):
    candidates: int = Field(0, ge=0, description="How many titles are listed.")


class Ask(ListTemplate):
    """A correct template, for the incorrect ones to break."""

    Options = AskOptions

    @property
    def candidates(self):
        return self.options.candidates

    def wording(self, history, candidates):
        return f"Liked:\n{history}Of these:\n{candidates}Next: " if candidates else f"Liked:\n{history}Next: "


class EndsEarly(Ask):
    """Ends a response with a token that titles hold, too."""

    @property
    def terminator(self):
        return self.encode(self.texts[0])[0]


class Miscounts(Ask):
    def fixed_cost(self, candidates):
        return super().fixed_cost(candidates) - 1


class ShowsAll(Ask):
    def starts(self, places, *, shared=False, candidates=None):
        return np.zeros(len(places), dtype=np.int64)


class ShowsTooFew(Ask):
    def starts(self, places, *, shared=False, candidates=None):
        starts = super().starts(places, shared=shared, candidates=candidates)
        return np.minimum(starts + 1, places.position)


class ShowsTheTarget(Ask):
    def prompts(self, places, *, shared=False, candidates=None):
        starts = self.starts(places, candidates=candidates)
        return [
            self.prompt(places.sequences[user][start : position + 1], None if candidates is None else candidates[row])
            for row, (user, start, position) in enumerate(zip(places.user, starts, places.position, strict=True))
        ]


class LooksAside(Ask):
    """Shows as much of all histories as of the shortest."""

    def starts(self, places, *, shared=False, candidates=None):
        starts = super().starts(places, shared=shared, candidates=candidates)
        return places.position - (places.position - starts).min(initial=99)


class LaysOutLess(Ask):
    def groups(self, places, *, shared=False, candidates=None, kept=None):
        groups = super().groups(places, shared=shared, candidates=candidates, kept=kept)
        return [replace(group, visible=group.visible - 1) for group in groups]


class Foresees(Ask):
    def groups(self, places, *, shared=False, candidates=None, kept=None):
        groups = super().groups(places, shared=shared, candidates=candidates, kept=kept)
        return [replace(group, continued=~group.continued) for group in groups]


class TrainsOnPrompts(Ask):
    def sft_sequences(self, sequences, *, candidates=None):
        return [(ids, np.full(len(ids), True)) for ids, _ in super().sft_sequences(sequences, candidates=candidates)]


class TrainsTwice(Ask):
    def sft_sequences(self, sequences, *, candidates=None):
        return super().sft_sequences(sequences, candidates=candidates) * 2


class TakesTitlesForControl(Ask):
    def prepare(self):
        super().prepare()
        self._lines = Ragged([self.encode(f"- {text}\n") for text in self.texts])


class SortsCandidates(Ask):
    def prompt(self, history, candidates):
        return super().prompt(history, None if candidates is None else np.sort(candidates))


PROMPT_TESTS = [name for name in vars(PromptContract) if name.startswith("test_") and "saved" not in name]


@pytest.mark.parametrize("candidates", [0, 5])
@pytest.mark.parametrize("test", PROMPT_TESTS)
def test_a_correct_template_passes(test, candidates):
    getattr(kit(PromptContract, Ask), test)({"candidates": candidates})


def test_a_template_that_ends_in_the_middle_of_a_title_is_refused() -> None:
    with pytest.raises(RequestError, match="the token that ends a title"):
        kit(PromptContract, EndsEarly).test_a_response_is_its_title_and_ends_once({"candidates": 5})


@pytest.mark.parametrize(
    ("template", "test"),
    [
        (Miscounts, "test_costs_are_the_tokens_of_a_prompt"),
        (ShowsAll, "test_a_prompt_shows_the_last_items_and_nothing_after_them"),
        (ShowsTooFew, "test_a_prompt_shows_the_last_items_and_nothing_after_them"),
        (ShowsTooFew, "test_a_long_history_loses_its_oldest_items"),
        (ShowsTheTarget, "test_a_prompt_shows_the_last_items_and_nothing_after_them"),
        (LooksAside, "test_a_prompt_is_its_examples_own"),
        (LaysOutLess, "test_groups_lay_out_the_same_prompts"),
        (Foresees, "test_groups_lay_out_the_same_prompts"),
        (TrainsOnPrompts, "test_fine_tuning_marks_the_responses_and_nothing_else"),
        (TrainsTwice, "test_fine_tuning_marks_the_responses_and_nothing_else"),
        (TakesTitlesForControl, "test_titles_stay_text"),
        (SortsCandidates, "test_candidates_are_listed_as_given"),
    ],
)
def test_a_wrong_template_fails(template, test):
    with pytest.raises(AssertionError):
        getattr(kit(PromptContract, template), test)({"candidates": 5})
