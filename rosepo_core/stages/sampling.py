"""The stage `sampling`: picks the rejected items of each target, by one sampler or a weighted mixture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from rosepo_core.contracts.components import RejectedSampler, SamplerContext, SmoothingOracle
from rosepo_core.contracts.errors import PluginError, RequestError
from rosepo_core.contracts.records import Bools, Examples, Floats, Ints, Longs, Places, Split
from rosepo_core.contracts.sections import PreferenceOptions
from rosepo_core.engine.title_embeddings import choose_encoder, encoder_version
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.engine.training import LogHistory
from rosepo_core.plugins.registry import running
from rosepo_core.stages.rounds import FIRST, Round
from rosepo_core.stages.session import Handle, Session

REJECTED = "rejected.safetensors"


def choose_examples(split: Split, options: PreferenceOptions, rng: np.random.Generator) -> Examples:
    """The training examples that become pairs.

    These are the places with at least one earlier item: the latest `max_per_user` of each user, for at most
    `max_users` users. Each example makes `negatives` pairs, so `max_pairs` keeps at most ``max_pairs // negatives``
    examples. Users are kept whole, except the last one, of whom the latest places are kept.

    Returns:
        examples over ``split.train``, ordered by user and position; at least one.

    Raises:
        RequestError: there is no such place.
    """
    lengths = split.train.lengths
    counts = np.maximum(lengths - 1, 0)
    if not counts.any():
        raise RequestError("there is nothing to make pairs of: no user has two training interactions")
    if options.max_per_user is not None:
        counts = np.minimum(counts, options.max_per_user)
    users = rng.permutation(np.flatnonzero(counts))[: options.max_users]
    if options.max_pairs is not None:
        # Whole users make full trees.
        most = options.max_pairs // options.negatives
        before = np.cumsum(counts[users]) - counts[users]
        users = users[before < most]
        counts[users[-1:]] = np.minimum(counts[users[-1:]], most - before[len(users) - 1 : len(users)])
    users = np.sort(users)
    user = np.repeat(users, counts[users])
    # The position of each pair, counted from the end of its user's sequence.
    back = np.repeat(np.cumsum(counts[users]), counts[users]) - np.arange(len(user))
    return Examples.of(split.train, user.astype(np.int32), (lengths[user] - back).astype(np.int32))


def assign_slots(n: int, k: int, weights: np.ndarray[Any, Any], rng: np.random.Generator) -> Ints:
    """The sampler of each slot, drawn by weight: int32 [n, k]."""
    return rng.choice(len(weights), size=(n, k), p=weights / weights.sum()).astype(np.int32)


def check(sampler: RejectedSampler, rejected: Any, examples: Examples, k: int, context: SamplerContext) -> Ints:
    """Check the result of a sampler against its contract, and return it.

    Raises:
        PluginError: the result is wrong; the message names the sampler and the first wrong row.
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
    """The rejected items of the examples that have at least one.

    Attributes:
        examples: n examples.
        items: int32 [n, K], -1 for an empty slot; at least one item in each row.
        sampler: the sampler of each item, by its position in the configuration; int32 [n, K], -1 for an empty slot.
        listed: the candidates in the list of each prompt, int32 [n, c], with the target and the rejected items among
            them; `None` if prompts have no list.
    """

    examples: Examples
    items: Ints
    sampler: Ints
    listed: Ints | None = None


def stage(
    session: Session,
    split: Handle[Split],
    model: Handle[LogHistory],
    oracle: Handle[SmoothingOracle] | None,
    number: Round = FIRST,
) -> Handle[RejectedItems]:
    """RUN/sampling: the examples with their rejected items, and the sampler of each item. Samplers ask the current
    `model`: that of RUN/sft in the first round, and in later ones that of the round before. Each round draws its
    examples anew.

    Each slot belongs to one sampler, drawn by weight. If that sampler has no more items for an example, the other
    samplers fill the slot, in the order of the configuration.

    If prompts list candidates, new lists are drawn that contain the rejected items, and are saved with them. Samplers
    that use the language model see the lists of SFT. All later stages see the new lists.
    """
    samplers: list[RejectedSampler] = [
        session.component("sampler", index) for index in range(len(session.config.sampler))
    ]
    needs = frozenset[str]().union(*(sampler.needs for sampler in samplers))
    settings = {
        "sampler": session.plugin_settings("sampler"),
        "preferences": session.that_decides["preferences"],
        "seed": session.config.seed,
        "listed": session.listed_count,
        **number.settings,
    }
    if "title-embeddings" in needs:
        settings["encoder"] = encoder_version(choose_encoder())
    asks_model = bool(needs & {"language-model", "title-embeddings"})
    inputs: list[Handle[Any]] = [
        split,
        *([model] if asks_model else []),
        *([oracle] if oracle and "oracle" in needs else []),
    ]

    def build(folder: Path) -> None:
        options = session.config.preferences
        rng = session.rng(number.purpose("sampling"))
        data = split.content
        examples = choose_examples(data, options, rng)
        weights = np.array([choice.weight for choice in session.config.sampler])
        slots = assign_slots(len(examples), options.negatives, weights, rng)

        @cache
        def context(index: int) -> SamplerContext:
            return _context(session, split, model, oracle, samplers[index], index, number)

        def ask(index: int, rows: Longs) -> Ints:
            sampler, asked = samplers[index], examples.take(rows)
            with running(sampler):
                answer = sampler.sample(asked, options.negatives, context(index))
                return check(sampler, answer, asked, options.negatives, context(index))

        rejected, sampler = fill_slots(slots, len(samplers), ask)
        empty = int((rejected < 0).all(1).sum())
        if empty == len(examples):
            raise RequestError(
                f"no example got a rejected item out of {len(data.catalogue):,} in the catalogue: "
                "take other samplers, or set sampler.allow_seen"
            )
        arrays = {"user": examples.user, "position": examples.position, "rejected": rejected, "sampler": sampler}
        if (lists := session.lists(examples, len(data.catalogue), rejected)) is not None:
            arrays["listed"] = lists
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / REJECTED)
        if empty:
            session.reporter.note(f"{empty:,} of {len(examples):,} examples got no rejected item and are left out")
        _note_filled(session, slots, sampler)

    return session.artifact(
        number.stage("sampling"),
        settings,
        inputs,
        build,
        lambda folder: _load(folder, split.content),
        by_all="language-model" in needs,
    )


def _load(folder: Path, split: Split) -> RejectedItems:
    arrays = load_file(folder / REJECTED)
    some = (arrays["rejected"] >= 0).any(1)
    examples = Examples.of(split.train, arrays["user"][some], arrays["position"][some])
    listed = arrays["listed"][some] if "listed" in arrays else None
    return RejectedItems(examples, arrays["rejected"][some], arrays["sampler"][some], listed)


def fill_slots(slots: Ints, samplers: int, ask: Callable[[int, Longs], Ints]) -> tuple[Ints, Ints]:
    """Fill each slot from its own sampler. If that one has no more items, fill the slot from the others, in their
    order.

    No item is twice in a row. The items of a sampler are used in its own order, best first.

    Args:
        slots: the sampler that each slot belongs to, int32 [n, K].
        samplers: number of samplers.
        ask: a function from a sampler and rows, int64 [m], to the sampler's items: int32 [m, K], distinct within a
            row, -1 fills rows with fewer. It is called at most once for each sampler and row, and only when needed.

    Returns:
        the items, and the sampler of each; both int32 [n, K], -1 for slots that no sampler could fill.
    """
    rejected, source = np.full_like(slots, -1), np.full_like(slots, -1)
    offered = np.full((samplers, *slots.shape), -1, dtype=np.int32)
    asked = np.zeros((samplers, len(slots)), dtype=np.bool_)
    for own in (True, False):
        for index in range(samplers):
            open_slots = (rejected < 0) & ((slots == index) if own else True)
            rows = np.flatnonzero(open_slots.any(1))
            unasked = rows[~asked[index, rows]]
            if len(unasked):
                offered[index, unasked] = ask(index, unasked)
                asked[index, unasked] = True
            _place(rejected, source, open_slots, rows, index, offered[index, rows])
    return rejected, source


def _place(rejected: Ints, source: Ints, open_slots: Bools, rows: Longs, index: int, answer: Ints) -> None:
    """Put a sampler's items into open slots; items that are already in the row are skipped."""
    for column in range(answer.shape[1]):
        item = answer[:, column]
        free = open_slots[rows] & (rejected[rows] < 0)
        usable = (item >= 0) & ~(rejected[rows] == item[:, None]).any(1) & free.any(1)
        to = rows[usable], free[usable].argmax(1)
        rejected[to], source[to] = item[usable], index


def _note_filled(session: Session, slots: Ints, sampler: Ints) -> None:
    """Show how many slots their own sampler could not fill, for examples with at least one rejected item."""
    some = (sampler >= 0).any(1)
    slots, sampler = slots[some], sampler[some]
    refilled, empty = int(((sampler >= 0) & (sampler != slots)).sum()), int((sampler < 0).sum())
    if refilled:
        session.reporter.note(
            f"{refilled:,} of {sampler.size:,} rejected items come from another sampler than the one drawn for them, "
            "which had no more"
        )
    if empty:
        session.reporter.note(
            f"{empty:,} of {sampler.size:,} places for rejected items stay empty: no sampler had one more"
        )


def _context(
    session: Session,
    split: Handle[Split],
    model: Handle[LogHistory],
    oracle: Handle[SmoothingOracle] | None,
    sampler: RejectedSampler,
    index: int,
    number: Round,
) -> SamplerContext:
    @cache
    def embeddings() -> Floats:
        # The sentence encoder is slow to import, and most samplers do not need it.
        from rosepo_core.engine.title_embeddings import title_embeddings

        return title_embeddings(
            split.content.catalogue.titles,
            lambda: session.policy.trained(model.folder),
            session.policy.tokenizer,
            session.reporter,
        )

    return SamplerContext(
        catalogue=split.content.catalogue,
        seen=split.content.train_seen,
        rng=session.rng(number.purpose(f"sampler {index}")),
        reporter=session.reporter,
        language_model=title_model(session, split, model, number) if "language-model" in sampler.needs else None,
        oracle_scores=_oracle_scores(session, oracle, sampler) if oracle and "oracle" in sampler.needs else None,
        title_embeddings=embeddings if "title-embeddings" in sampler.needs else None,
        disliked=split.content.disliked if "disliked" in sampler.needs else None,
        candidates=partial(_candidates, session, split.content) if "candidates" in sampler.needs else None,
    )


def _candidates(session: Session, split: Split, examples: Examples) -> Ints:
    """See `SamplerContext.candidates`."""
    if split.offered is None:
        lists = session.lists(examples, len(split.catalogue))
        assert lists is not None  # as `check_split` found
        return lists
    # A dataset offers items together with the last target of an example.
    last = examples.position == split.train.lengths[examples.user] - 1
    counts = np.where(last, split.offered.lengths[examples.user], 0)
    places = Places(split.offered, examples.user, counts.astype(np.int32))
    return places.histories(max(1, int(counts.max(initial=0))))


def check_split(session: Session, split: Handle[Split]) -> None:
    """Check, before any costly work, that the data has what the samplers need.

    Raises:
        RequestError: a sampler needs disliked items or candidates, and there are none.
    """
    for index, choice in enumerate(session.config.sampler):
        needs = session.component("sampler", index).needs
        if "disliked" in needs and split.content.disliked is None:
            raise RequestError(
                f"sampler '{choice.shown_name}' takes what users rated low or skipped, and dataset "
                f"'{session.config.dataset.shown_name}' does not say: if the log has ratings, set "
                "dataset.min_rating; what is rated lower leaves the histories and is disliked"
            )
        if "candidates" in needs and split.content.offered is None and not session.listed_count:
            raise RequestError(
                f"sampler '{choice.shown_name}' takes items from lists of candidates, and there are none: take a "
                "dataset that offers some with its training examples, such as s-dpo, or let prompts list them "
                "(prompt.candidates)"
            )


def check_request(session: Session) -> None:
    """Check, before any work, that pairs can be made with the settings of the run.

    Raises:
        RequestError: `max_pairs` is lower than the pairs of one example, prompts list too few candidates to contain
            the rejected items, or a sampler needs an oracle that can rank, and this one cannot.
    """
    negatives, most = session.config.preferences.negatives, session.config.preferences.max_pairs
    if most is not None and most < negatives:
        raise RequestError(
            f"option 'preferences.max_pairs' = {most}: set it to {negatives} or more, or preferences.negatives to "
            f"{most} at most; each example makes preferences.negatives={negatives} pairs, and none is cut"
        )
    listed = session.listed_count
    if 0 < listed <= negatives:
        raise RequestError(
            f"option 'prompt.candidates' = {listed}: set it to {negatives + 1} or more, or preferences.negatives to "
            "fewer; a prompt lists the target and all its rejected items"
        )
    oracle: SmoothingOracle = session.component("oracle")
    for index, choice in enumerate(session.config.sampler):
        sampler: RejectedSampler = session.component("sampler", index)
        if "oracle" in sampler.needs and not oracle.ranks:
            raise _ranks_nothing(session, choice.shown_name)


def _ranks_nothing(session: Session, sampler: str) -> RequestError:
    return RequestError(
        f"sampler '{sampler}' takes what the oracle ranks highest, and oracle '{session.config.oracle.shown_name}' "
        "ranks nothing: set another, such as oracle='sasrec'"
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


def title_model(
    session: Session, split: Handle[Split], weights: Handle[LogHistory], number: Round = FIRST
) -> TitleModel:
    """The language model over the catalogue's titles, with the weights that a stage saved."""
    return TitleModel(
        session.policy.trained(weights.folder),
        session.template(split),
        session.reporter,
        number.seed(session.config.seed),
        lists_for_samplers(session, split),
        session.partial,
        session.config.model.token_budget,
    )


def lists_for_samplers(session: Session, split: Handle[Split]) -> Callable[[Places], Ints | None]:
    """A function that returns the lists of candidates for samplers, which are those of SFT. It returns `None` if
    prompts have no list, and for places without a target, because a list needs one."""

    def lists(places: Places) -> Ints | None:
        return session.lists(places, len(split.content.catalogue)) if isinstance(places, Examples) else None

    return lists
