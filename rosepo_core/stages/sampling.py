"""Rejected sampling: which items lose against each target, by one sampler or a weighted mixture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from rosepo_core.contracts.components import RejectedSampler, SamplerContext, SmoothingOracle
from rosepo_core.contracts.errors import PluginError, RequestError
from rosepo_core.contracts.records import Examples, Floats, Ints, Places, Split
from rosepo_core.contracts.sections import PreferenceOptions
from rosepo_core.engine.title_embeddings import choose_encoder, encoder_version
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.engine.training import LogHistory
from rosepo_core.registry import running
from rosepo_core.stages.session import Handle, Session

REJECTED = "rejected.safetensors"


def choose_examples(split: Split, options: PreferenceOptions, rng: np.random.Generator) -> Examples:
    """The training examples that become pairs: every place with at least one item before it, the latest
    `max_per_user` of each of at most `max_users` users, and at most `max_pairs` in all, whole users first.

    Returns:
        examples over ``split.train``, ordered by user and position; at least one.

    Raises:
        RequestError: there is none.
    """
    lengths = split.train.lengths
    counts = np.maximum(lengths - 1, 0)
    if not counts.any():
        raise RequestError("there is nothing to make pairs of: no user has two training interactions")
    if options.max_per_user is not None:
        counts = np.minimum(counts, options.max_per_user)
    users = rng.permutation(np.flatnonzero(counts))[: options.max_users]
    if options.max_pairs is not None:
        # Whole users keep the trees full; the last one is cut to its latest places.
        before = np.cumsum(counts[users]) - counts[users]
        users = users[before < options.max_pairs]
        counts[users[-1:]] = np.minimum(counts[users[-1:]], options.max_pairs - before[len(users) - 1 : len(users)])
    users = np.sort(users)
    user = np.repeat(users, counts[users])
    # The place of each pair among its user's, counted from the end of the user's sequence.
    back = np.repeat(np.cumsum(counts[users]), counts[users]) - np.arange(len(user))
    return Examples.of(split.train, user.astype(np.int32), (lengths[user] - back).astype(np.int32))


def assign_slots(n: int, k: int, weights: np.ndarray[Any, Any], rng: np.random.Generator) -> Ints:
    """Which sampler fills each slot, drawn by weight: int32 [n, k]."""
    return rng.choice(len(weights), size=(n, k), p=weights / weights.sum()).astype(np.int32)


def check(sampler: RejectedSampler, rejected: Any, examples: Examples, k: int, context: SamplerContext) -> Ints:
    """What the sampler returned, if it keeps its contract.

    Raises:
        PluginError: it does not; the message names the sampler and the first wrong row.
    """
    name = sampler.origin or type(sampler).__qualname__
    items = np.asarray(rejected)
    if items.shape != (len(examples), k) or items.dtype.kind not in "iu":
        raise PluginError(f"{name} returned {items.dtype} {items.shape}, not integers ({len(examples)}, {k})")
    # Not int32 before the range is checked: larger numbers would wrap into it.
    items = items.astype(np.int64)
    ordered = np.sort(items, axis=1)
    faults = {
        "an index outside the catalogue": ((items < -1) | (items >= len(context.catalogue))).any(1),
        "the target": (items == examples.target[:, None]).any(1),
        "an item twice": ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(1),
    }
    if not sampler.options.allow_seen:
        faults["an item that the user has interacted with"] = context.seen.contains(examples.user, items).any(1)
    for fault, rows in faults.items():
        if rows.any():
            row = int(np.flatnonzero(rows)[0])
            raise PluginError(f"{name} returned {fault} for example {row} (user index {examples.user[row]})")
    return items.astype(np.int32)


@dataclass(frozen=True)
class RejectedItems:
    """What was sampled, of the examples that got something.

    Attributes:
        examples: n examples.
        items: int32 [n, K], -1 where a slot is empty; at least one item in each row.
        sampler: which sampler gave each, by its place in the configuration; int32 [n, K], -1 where a slot is empty.
    """

    examples: Examples
    items: Ints
    sampler: Ints


def stage(
    session: Session, split: Handle[Split], sft: Handle[LogHistory], oracle: Handle[SmoothingOracle]
) -> Handle[RejectedItems]:
    """RUN/sampling: the examples with their rejected items and which sampler gave each."""
    samplers: list[RejectedSampler] = [
        session.component("sampler", index) for index in range(len(session.config.sampler))
    ]
    needs = frozenset[str]().union(*(sampler.needs for sampler in samplers))
    settings = {
        "sampler": session.plugin_settings("sampler"),
        "preferences": session.that_decides["preferences"],
        "seed": session.config.seed,
    }
    if "title-embeddings" in needs:
        settings["encoder"] = encoder_version(choose_encoder())
    asks_model = bool(needs & {"language-model", "title-embeddings"})
    inputs: list[Handle[Any]] = [split, *([sft] if asks_model else []), *([oracle] if "oracle" in needs else [])]

    def build(folder: Path) -> None:
        options = session.config.preferences
        rng = session.rng("sampling")
        data = split.content
        examples = choose_examples(data, options, rng)
        weights = np.array([choice.weight for choice in session.config.sampler])
        slots = assign_slots(len(examples), options.negatives, weights, rng)
        rejected = np.full_like(slots, -1)
        for index, sampler in enumerate(samplers):
            rows = np.flatnonzero((slots == index).any(1))
            if not len(rows):
                continue
            context = _context(session, split, sft, oracle, sampler, index)
            with running(sampler):
                given = sampler.sample(examples.take(rows), options.negatives, context)
                given = check(sampler, given, examples.take(rows), options.negatives, context)
            _fill(rejected, slots, rows, index, given)
        slots[rejected < 0] = -1
        empty = int((rejected < 0).all(1).sum())
        if empty == len(examples):
            raise RequestError(
                f"no example got a rejected item out of {len(data.catalogue):,} in the catalogue: "
                "take other samplers, or set sampler.allow_seen"
            )
        arrays = {"user": examples.user, "position": examples.position, "rejected": rejected, "sampler": slots}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / REJECTED)
        if empty:
            session.reporter.note(f"{empty:,} of {len(examples):,} examples got no rejected item and are left out")

    return session.artifact("sampling", settings, inputs, build, lambda folder: _load(folder, split.content))


def _load(folder: Path, split: Split) -> RejectedItems:
    arrays = load_file(folder / REJECTED)
    some = (arrays["rejected"] >= 0).any(1)
    examples = Examples.of(split.train, arrays["user"][some], arrays["position"][some])
    return RejectedItems(examples, arrays["rejected"][some], arrays["sampler"][some])


def _fill(rejected: Ints, slots: Ints, rows: Any, index: int, given: Ints) -> None:
    """Put a sampler's items, best first, into its slots; an item that another sampler gave to the row is passed."""
    for column in range(given.shape[1]):
        item = given[:, column]
        free = (slots[rows] == index) & (rejected[rows] < 0)
        usable = (item >= 0) & ~(rejected[rows] == item[:, None]).any(1) & free.any(1)
        rejected[rows[usable], free[usable].argmax(1)] = item[usable]


def _context(
    session: Session,
    split: Handle[Split],
    sft: Handle[LogHistory],
    oracle: Handle[SmoothingOracle],
    sampler: RejectedSampler,
    index: int,
) -> SamplerContext:
    @cache
    def embeddings() -> Floats:
        # The sentence encoder is slow to import, and most samplers do without.
        from rosepo_core.engine.title_embeddings import title_embeddings

        return title_embeddings(
            split.content.catalogue.titles,
            lambda: session.policy.trained(sft.folder),
            session.policy.tokenizer,
            session.reporter,
        )

    return SamplerContext(
        catalogue=split.content.catalogue,
        seen=split.content.train_seen,
        rng=session.rng(f"sampler {index}"),
        reporter=session.reporter,
        language_model=title_model(session, split, sft) if "language-model" in sampler.needs else None,
        oracle_scores=_oracle_scores(session, oracle, sampler) if "oracle" in sampler.needs else None,
        title_embeddings=embeddings if "title-embeddings" in sampler.needs else None,
    )


def check_oracle(session: Session) -> None:
    """Whether samplers that ask the oracle can: to be known before anything is trained.

    Raises:
        RequestError: the oracle ranks nothing.
    """
    oracle: SmoothingOracle = session.component("oracle")
    for index, choice in enumerate(session.config.sampler):
        sampler: RejectedSampler = session.component("sampler", index)
        if "oracle" in sampler.needs and type(oracle).score is SmoothingOracle.score:
            raise _ranks_nothing(session, choice.name)


def _ranks_nothing(session: Session, sampler: str) -> RequestError:
    return RequestError(
        f"sampler '{sampler}' takes what the oracle ranks highest, and oracle '{session.config.oracle.name}' ranks "
        "nothing: set another, such as oracle='sasrec'"
    )


def _oracle_scores(
    session: Session, oracle: Handle[SmoothingOracle], sampler: RejectedSampler
) -> Callable[[Places, Ints], Floats]:
    fitted = oracle.content

    def score(places: Places, items: Ints) -> Floats:
        with running(fitted):
            scores = fitted.score(places, items)
        if scores is None:
            raise _ranks_nothing(session, sampler.origin)
        return scores

    return score


def title_model(session: Session, split: Handle[Split], weights: Handle[LogHistory]) -> TitleModel:
    """The language model over the catalogue's titles, as the stage of `weights` left it."""
    return TitleModel(
        session.policy.trained(weights.folder), session.template(split), session.reporter, session.config.seed
    )
