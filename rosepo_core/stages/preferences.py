"""The stage `preferences`: rejected items with their smoothing factors and reference log-probabilities.

``pairs.parquet`` has one row for each pair. TRL can read it, because ``prompt``, ``chosen`` and ``rejected`` are
text.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rosepo_core.contracts.components import SmoothingOracle
from rosepo_core.contracts.errors import PluginError
from rosepo_core.contracts.records import Corpus, Examples, Ints, Pairs, Places, Split
from rosepo_core.plugins.registry import running
from rosepo_core.stages import ratings
from rosepo_core.stages.oracle import asks_model
from rosepo_core.stages.oracle_model import remember
from rosepo_core.stages.reference import ReferenceLogProbs, kind
from rosepo_core.stages.rounds import FIRST, Round
from rosepo_core.stages.sampling import RejectedItems
from rosepo_core.stages.session import Handle, Session

PAIRS = "pairs.parquet"


def stage(
    session: Session,
    corpus: Handle[Corpus],
    split: Handle[Split],
    oracle: Handle[SmoothingOracle] | None,
    rejected: Handle[RejectedItems],
    reference: Handle[ReferenceLogProbs],
    number: Round = FIRST,
) -> Handle[Pairs]:
    """RUN/preferences: ``pairs.parquet``.

    Columns: ``user`` and ``position`` (indices of the example), ``slot`` (which of the K rejected items),
    ``chosen_item``, ``rejected_item`` (catalogue indices), ``sampler``, ``eps`` (the smoothing factor, 0 if the loss
    does not use it), ``reference_chosen`` and ``reference_rejected`` (the log-probabilities of RUN/reference),
    ``prompt``, ``chosen``, ``rejected`` (text); if prompts list candidates, also ``listed`` (their catalogue indices,
    in the order of the prompt); if the loss needs mismatched items, also ``mismatched_item`` and
    ``reference_mismatched``; if the loss needs ratings, also ``chosen_rating``, ``rejected_rating`` and
    ``rejected_delay``, which are NaN where the log does not tell.
    """
    rated = session.loss().needs_ratings
    smoothing = oracle if session.loss().needs_smoothing else None

    def build(folder: Path) -> None:
        examples, items, sampler = rejected.content.examples, rejected.content.items, rejected.content.sampler
        listed = rejected.content.listed
        eps = np.zeros(items.shape, dtype=np.float32)
        if smoothing is not None:
            # An oracle that asks the language model asks that of RUN/sft, also in later rounds.
            if kind(session) == "sft" and number.number == 1:
                responses = np.concatenate([examples.target[:, None], items], axis=1)
                scores = np.concatenate([reference.content.chosen[:, None], reference.content.rejected], axis=1)
                remember(smoothing.content, examples, responses, scores)
            eps = flip_probabilities(smoothing.content, examples, examples.target, items)
        template = session.template(split)
        prompts = template.prompt_texts(examples, shared=True, candidates=listed)
        texts = np.array(template.response_texts, dtype=object)
        row, slot = np.nonzero(items >= 0)
        names = [choice.shown_name for choice in session.config.sampler]
        table = pl.DataFrame(
            {
                "user": examples.user[row],
                "position": examples.position[row],
                "slot": slot.astype(np.int32),
                "chosen_item": examples.target[row],
                "rejected_item": items[row, slot],
                "sampler": [names[index] for index in sampler[row, slot]],
                "eps": eps[row, slot],
                "reference_chosen": reference.content.chosen[row],
                "reference_rejected": reference.content.rejected[row, slot],
                "prompt": [prompts[index] for index in row],
                "chosen": texts[examples.target[row]].tolist(),
                "rejected": texts[items[row, slot]].tolist(),
            }
        )
        if listed is not None:
            table = table.with_columns(pl.Series("listed", listed[row], pl.Array(pl.Int32, listed.shape[1])))
        if reference.content.mismatched_items is not None:
            assert reference.content.mismatched is not None
            table = table.with_columns(
                mismatched_item=pl.Series(reference.content.mismatched_items[row]),
                reference_mismatched=pl.Series(reference.content.mismatched[row]),
            )
        if rated:
            responses = np.concatenate([examples.target[:, None], items], axis=1)
            found, delays = ratings.of_items(corpus.content, split.content, examples, responses)
            table = table.with_columns(
                chosen_rating=pl.Series(found[row, 0]),
                rejected_rating=pl.Series(found[row, 1 + slot]),
                rejected_delay=pl.Series(delays[row, 1 + slot]),
            )
        table.write_parquet(folder / PAIRS)

    settings = {**session.prompt_settings(), "smoothed": smoothing is not None}
    if rated:
        settings["rated"] = True
    inputs: list[Handle[Any]] = [
        *([smoothing] if smoothing else []),
        *([corpus] if rated else []),
        rejected,
        reference,
    ]
    return session.artifact(
        number.stage("preferences"),
        settings,
        inputs,
        build,
        lambda folder: load_pairs(folder, split.content),
        by_all=smoothing is not None and asks_model(session),
    )


def load_pairs(folder: Path, split: Split) -> Pairs:
    """The pairs that `stage` wrote into `folder`, as arrays."""
    table = pl.read_parquet(folder / PAIRS)
    first_rows = table.unique(["user", "position"], keep="first", maintain_order=True)
    first = first_rows.select("user", "position")
    row = (
        table.select("user", "position")
        .join(first.with_row_index("row"), on=["user", "position"], how="left", maintain_order="left")["row"]
        .to_numpy()
    )
    slot = table["slot"].to_numpy()
    shape = (len(first), int(slot.max()) + 1)
    rejected = np.full(shape, -1, dtype=np.int32)
    eps, reference_rejected = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    reference_chosen = np.zeros(len(first), dtype=np.float32)
    rejected[row, slot] = table["rejected_item"].to_numpy()
    eps[row, slot] = table["eps"].to_numpy()
    reference_rejected[row, slot] = table["reference_rejected"].to_numpy()
    reference_chosen[row] = table["reference_chosen"].to_numpy()
    examples = Examples.of(split.train, first["user"].to_numpy(), first["position"].to_numpy())
    listed = None
    if "listed" in table.columns:
        listed = first_rows["listed"].to_numpy()
    pairs = Pairs(examples, rejected, eps, reference_chosen, reference_rejected, listed)
    if "mismatched_item" in table.columns:
        mismatched, scored = first_rows["mismatched_item"].to_numpy(), first_rows["reference_mismatched"].to_numpy()
        pairs = replace(pairs, mismatched=mismatched, reference_mismatched=scored)
    if "chosen_rating" in table.columns:
        found, delays = np.full((2, shape[0], 1 + shape[1]), np.nan, dtype=np.float32)
        found[row, 0], delays[:, 0] = table["chosen_rating"].to_numpy(), 0
        found[row, 1 + slot] = table["rejected_rating"].to_numpy()
        delays[row, 1 + slot] = table["rejected_delay"].to_numpy()
        pairs = replace(pairs, ratings=found, delays=delays)
    return pairs


def flip_probabilities(
    oracle: SmoothingOracle, places: Places, chosen: Ints, rejected: np.ndarray, *, shaped: bool = True
) -> np.ndarray:
    """The oracle's flip probabilities, checked: float32 [n, K]. Without `shaped`, the probabilities before the oracle
    changes them for training.

    Raises:
        PluginError: the oracle broke its contract.
    """
    name = oracle.origin or type(oracle).__qualname__
    with running(oracle):
        ask = oracle.flip_probability if shaped else oracle.preference_probability
        eps = np.asarray(ask(places, chosen, rejected), dtype=np.float32)
    if eps.shape != rejected.shape:
        raise PluginError(f"{name} returned flip probabilities of shape {eps.shape}, not {rejected.shape}")
    held = eps[rejected >= 0]
    if not ((held >= 0) & (held < 1)).all():
        wrong = held[~((held >= 0) & (held < 1))][0]
        raise PluginError(f"{name} returned the flip probability {wrong}, which is not in [0, 1)")
    return eps
