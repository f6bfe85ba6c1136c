"""A small world for tests: a split, a language model without weights, log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rosepo_core.contracts.outcome import Outcome
from rosepo_core.contracts.records import (
    Candidates,
    Catalogue,
    Examples,
    Floats,
    Ints,
    LogProbs,
    Longs,
    Places,
    SeenItems,
    Sequences,
    Split,
)
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.prompts.item_texts import bind_to_catalogue
from rosepo_core.prompts.template import PromptTemplate

if TYPE_CHECKING:
    from torch import Tensor


class SilentReporter:
    """A `Reporter` that shows nothing and keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, done: int, total: int, unit: str) -> None:
        """Nothing is shown."""

    def note(self, message: str) -> None:
        """Kept in `notes`."""
        self.notes.append(message)


class FakeLanguageModel:
    """A `LanguageModel` without weights: a title's log-probability depends only on the last item of the history.

    Attributes:
        table: log-probabilities, float32 [items + 1, items]; the last row is for empty histories.
    """

    def __init__(self, items: int, seed: int = 0) -> None:
        logits = np.random.default_rng(seed).normal(scale=2.0, size=(items + 1, items))
        self.table: Floats = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
        self._rng = np.random.default_rng(seed)

    def generate(
        self,
        places: Places,
        k: int,
        *,
        exclude: Callable[[Longs], list[NDArray[np.integer]]],
        beams: int = 8,
        temperature: float = 0.0,
    ) -> Ints:
        """As `LanguageModel.generate`; exact, so `beams` only has to be large enough."""
        assert beams >= k, f"beams={beams} cannot give k={k} titles"
        scores = self.table[places.histories(1)[:, 0]].astype(np.float64)
        if temperature > 0:
            scores = scores / temperature + self._rng.gumbel(size=scores.shape)
        for row, banned in enumerate(exclude(np.arange(len(places)))):
            scores[row, banned] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        left = np.take_along_axis(scores, order, axis=1) > -np.inf
        chosen = np.full((len(places), k), -1, dtype=np.int32)
        chosen[:, : order.shape[1]] = np.where(left, order, -1)
        return chosen

    def score(self, places: Places, items: Ints) -> Floats:
        """As `LanguageModel.score`."""
        scores = np.take_along_axis(self.table[places.histories(1)[:, 0]], np.maximum(items, 0), axis=1)
        return np.where(items >= 0, scores, -np.inf).astype(np.float32)


def toy_split(users: int = 30, items: int = 40, shortest: int = 6, longest: int = 15, seed: int = 0) -> Split:
    """A leave-one-out split of random sequences without repeats, with read-only arrays.

    Each of the first half of the items is drawn three times as often as each of the second half, and every item has
    at least one training interaction if `users` and `longest` allow it.
    """
    rng = np.random.default_rng(seed)
    weights = np.where(np.arange(items) < items // 2, 3.0, 1.0)
    lengths = rng.integers(shortest, longest + 1, size=users)
    distractors = [rng.choice(items, size=length, replace=False, p=weights / weights.sum()) for length in lengths]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    whole = Sequences(_frozen(np.concatenate(distractors).astype(np.int32)), _frozen(offsets))
    train = whole.prefix(whole.lengths - 2)
    everyone = np.arange(users, dtype=np.int32)
    catalogue = Catalogue(
        ids=tuple(f"i{item}" for item in range(items)),
        titles=tuple(f"{WORDS[item % len(WORDS)]} {item} ({1950 + item})" for item in range(items)),
        popularity=_frozen(np.bincount(train.items, minlength=items).astype(np.int64)),
        attributes=pl.DataFrame(),
    )
    return Split(
        users=tuple(f"u{user}" for user in range(users)),
        catalogue=catalogue,
        train=Sequences(_frozen(train.items), _frozen(train.offsets)),
        validation=Examples.of(whole, everyone, _frozen((lengths - 2).astype(np.int32))),
        test=Examples.of(whole, everyone, _frozen((lengths - 1).astype(np.int32))),
        seen=SeenItems.of(whole, items),
    )


def toy_supplied_split(users: int = 30, items: int = 40, seed: int = 0) -> Split:
    """The sequences of `toy_split` as examples that are already split: of five users in turn, three are for training,
    one for validation and one for the test, with five candidates. Held-out users have no training interactions."""
    log = toy_split(users, items, seed=seed)
    whole = log.test.sequences
    turn = np.arange(users) % 5

    def held_out(which: int) -> Examples:
        position = _frozen((whole.lengths[turn == which] - 1).astype(np.int32))
        return Examples.of(whole, _frozen(np.flatnonzero(turn == which).astype(np.int32)), position)

    train = whole.prefix(np.where(turn < 3, whole.lengths, 0))
    test = held_out(4)
    # The target and the four items numbered behind it.
    offered = (test.target[:, None] + np.arange(5)) % items
    return replace(
        log,
        catalogue=replace(
            log.catalogue, popularity=_frozen(np.bincount(train.items, minlength=items).astype(np.int64))
        ),
        train=Sequences(_frozen(train.items), _frozen(train.offsets)),
        validation=held_out(3),
        test=test,
        strategy="given",
        supplied_candidates=Candidates(_frozen(offered.astype(np.int32)), np.zeros(len(test), dtype=np.int32)),
    )


WORDS = ("Night", "River", "Alien", "Garden", "Winter", "Return", "Silence", "Harbor")


def train_examples(split: Split) -> Examples:
    """The last training interaction of each user who has any as a target."""
    users = _frozen(np.flatnonzero(split.train.lengths).astype(np.int32))
    return Examples.of(split.train, users, _frozen((split.train.lengths[users] - 1).astype(np.int32)))


def toy_outcomes(seed: int = 0) -> dict[str, Outcome]:
    """The outcomes of a random model for the test users of `toy_split`, under three protocols. ``"candidates"`` has
    scores of eight random items, with ties and one shorter row. ``"catalogue"`` has scores of all unseen items.
    ``"written"`` has lists of answers, some of which are no items, repeated or missing. All have genres and title
    embeddings.
    """
    rng = np.random.default_rng(seed)
    split = toy_split()
    items, users = len(split.catalogue), len(split.test)
    genres = [
        rng.choice(["Comedy", "Drama", "War"], rng.integers(0, 3), replace=False).tolist() for _ in range(items)
    ]
    attributes = pl.DataFrame({"genres": genres}, schema={"genres": pl.List(pl.String)})
    embeddings = rng.normal(size=(items, 4))
    embeddings = _frozen((embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32))
    unseen = [np.setdiff1d(np.arange(items), split.seen.of_user(user)) for user in split.test.user.tolist()]
    distractors = np.stack([rng.permutation(each)[:7] for each in unseen])
    candidates = np.concatenate([split.test.target[:, None], distractors], axis=1).astype(np.int32)
    candidates[0, 4:] = -1
    everything = np.tile(np.arange(items, dtype=np.int32), (users, 1))
    before = SeenItems.of(split.test.sequences.prefix(split.test.position.astype(np.int64)), items)
    everything[before.contains(split.test.user, everything)] = -1

    catalogue, ks = replace(split.catalogue, attributes=attributes), (1, 3, 5)

    def ranked(offered: Ints, target_column: Ints) -> Outcome:
        scores = np.where(offered >= 0, np.round(rng.normal(size=offered.shape), 1), -np.inf).astype(np.float32)
        return Outcome.of_scores(
            split.test,
            catalogue,
            split.seen,
            ks,
            _frozen(offered),
            _frozen(scores),
            target_column,
            title_embeddings=lambda: embeddings,
        )

    top = _frozen(rng.integers(-1, items, size=(users, 5)).astype(np.int32))
    answered = _frozen((top >= 0) | (rng.random(top.shape) < 0.5))
    return {
        "candidates": ranked(candidates, np.zeros(users, dtype=np.int32)),
        "catalogue": ranked(everything, split.test.target),
        "written": Outcome.of_lists(
            split.test,
            catalogue,
            split.seen,
            ks,
            top,
            answered=answered,
            title_embeddings=lambda: embeddings,
        ),
    }


def random_log_probs(n: int = 9, k: int = 3, seed: int = 0, drift: float = 0.0) -> LogProbs:
    """Log-probabilities of titles of 2 to 9 tokens; about a third of the slots beyond the first are empty.

    Args:
        n: pairs.
        k: slots.
        seed: of the random numbers.
        drift: what the policy adds to the log-probabilities of the reference, on average over all titles. The titles
            of the first pairs drift by less than this, and those of the last ones by more.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    chosen_tokens = torch.randint(2, 10, (n,), generator=generator)
    rejected_tokens = torch.randint(2, 10, (n, k), generator=generator)
    reference_chosen = -chosen_tokens * (0.5 + uniform(n))
    reference_rejected = -rejected_tokens * (0.5 + uniform(n, k))
    reference_mismatched = -12 - uniform(n)
    valid = uniform(n, k) > 1 / 3
    valid[:, 0] = True
    stars = torch.randint(1, 6, (n, 1 + k), generator=generator).float()
    delays = torch.randint(0, 9, (n, 1 + k), generator=generator).float()
    delays[:, 0] = 0
    unrated = uniform(n, k) < 0.5
    for feedback in (stars, delays):
        feedback[:, 1:][unrated] = torch.nan
    own = drift * torch.linspace(0.5, 1.5, n)
    return LogProbs(
        chosen=(reference_chosen + own + uniform(n) - 0.5).requires_grad_(),
        rejected=(reference_rejected + own[:, None] + uniform(n, k) - 0.5).requires_grad_(),
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
        chosen_tokens=chosen_tokens,
        rejected_tokens=rejected_tokens,
        eps=0.4 * uniform(n, k),
        valid=valid,
        mismatched=(reference_mismatched + own + uniform(n) - 0.5).requires_grad_(),
        reference_mismatched=reference_mismatched,
        ratings=stars,
        delays=delays,
    )


def _frozen(array: Any) -> Any:
    array.flags.writeable = False
    return array


@cache
def toy_tokenizer() -> Any:
    """A tokenizer of transformers for the titles of `toy_split`: byte-level BPE, so that it can write any text, with
    a chat template, an end of sequence and a padding token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|start|>", "<|end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(toy_split().catalogue.titles, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|start|>"],
        chat_template="{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}",
    )


def prompt_template(
    options: Mapping[str, Any], tokenizer: Any, catalogue: Catalogue, history_length: int
) -> PromptTemplate:
    """A prompt template bound to a catalogue, as a run binds it.

    Args:
        options: of the template; its ``name`` is ``timeline`` if not given.
        tokenizer: of transformers.
        catalogue: whose titles stand for the items.
        history_length: at most this many items make a history.
    """
    own = {key: value for key, value in options.items() if key != "name"}
    template: PromptTemplate = load_plugins().create("prompt", options.get("name", "timeline"), own)
    return bind_to_catalogue(template, tokenizer, catalogue, history_length)
