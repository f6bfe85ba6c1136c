"""Log-probabilities of responses: all responses of a tree in one forward pass, if the model can run in trees."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rosepo_core import ranks
from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.records import Floats, Ints, Longs, Places
from rosepo_core.contracts.sections import TokenBudget
from rosepo_core.engine.log_probs import log_probs
from rosepo_core.engine.passes import scoring_passes
from rosepo_core.engine.prompt_trees import prompt_trees
from rosepo_core.engine.trees import TokenTree, TreeBatch
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.store.partial import KEEPS_NOTHING, Partial

BRANCH_TOKENS = 1024
"""Approximate limit of branch tokens in one tree when scoring."""

BLOCK_RESPONSES = 2**16
"""Number of responses that are made into trees at once when scoring. Batches are formed within such a block."""


def score_items(
    model: Any,
    template: PromptTemplate,
    places: Places,
    items: Ints,
    token_budget: TokenBudget,
    reporter: Reporter,
    *,
    shared: bool = False,
    candidates: Ints | None = None,
    partial: Partial = KEEPS_NOTHING,
) -> Floats:
    """Log-probability of generating each item's title after each place's prompt. The processes of a run share the
    users, or the items of a few users.

    Args:
        model: as in `log_probs`, in evaluation mode.
        template: makes the prompts.
        places: n places.
        items: int32 [n, m], -1 for an empty slot.
        token_budget: most tokens of a forward pass, padding included (`engine.passes`).
        reporter: receives the progress.
        shared: how much history the prompts show, see `PromptTemplate`.
        candidates: the candidates in the prompts, int32 [n, c], see `PromptTemplate.prompts`.
        partial: keeps the passes that are done. The others are made of the same trees as without an interruption.

    Returns:
        float32 [n, m]; -inf where there is no item.

    Raises:
        RosepoError: memory is not enough, see `Passes.within_memory`.
    """

    def score(rows: Longs, columns: Longs | slice) -> Floats:
        listed = None if candidates is None else candidates[rows]
        some = items[rows][:, columns]
        return _scored(model, template, places.take(rows), some, token_budget, reporter, shared, listed, partial)

    place = f"scoring titles {ranks.digest(places.user, places.position, items, candidates)}"
    if len(np.unique(places.user)) >= ranks.count():
        return ranks.shared(place, places.user, lambda rows: {"scores": score(rows, slice(None))})["scores"]
    rows, columns = np.arange(len(places)), np.arange(items.shape[1])
    return ranks.shared(place, columns, lambda mine: {"scores": score(rows, mine).T})["scores"].T


@torch.no_grad()
def _scored(
    model: Any,
    template: PromptTemplate,
    places: Places,
    items: Ints,
    token_budget: TokenBudget,
    reporter: Reporter,
    shared: bool,
    candidates: Ints | None,
    partial: Partial,
) -> Floats:
    """What `score_items` returns, by this process alone."""
    # NaN means "not done yet".
    scores = np.where(items >= 0, np.float32(np.nan), np.float32(-np.inf))
    device = next(model.parameters()).device
    passes = scoring_passes(model, token_budget)
    block = max(1, BLOCK_RESPONSES // max(1, items.shape[1]))
    asked = ("scores", places.user, places.position, items, shared, candidates)
    with partial.filled({"scores": scores}, *asked) as block_is_done:
        total = int((items >= 0).sum())
        done = total - int(np.isnan(scores).sum())

        def score_the_rest(start: int, trees: Sequence[TokenTree]) -> None:
            nonlocal done
            members, packed = passes.of_trees([len(tree) for tree in trees])
            for held in members:
                batch = TreeBatch.of([trees[index] for index in held.tolist()], pad_token_id=0, packed=packed)
                cells = start + batch.rows.numpy(), batch.columns.numpy()
                missing = int(np.isnan(scores[cells]).sum())
                if not missing:
                    continue
                scores[cells] = log_probs(model, batch.to(device)).cpu().numpy()
                done += missing
                block_is_done()
                reporter.progress(done, total, "titles")

        for start in range(0, len(places), block):
            rows = np.arange(start, min(start + block, len(places)))
            if not np.isnan(scores[rows]).any():
                continue
            grown = prompt_trees(
                template,
                places.take(rows),
                items[rows],
                shared=shared,
                candidates=None if candidates is None else candidates[rows],
            )
            trees = [part for tree in grown for part in tree.split(BRANCH_TOKENS)]
            passes.within_memory(functools.partial(score_the_rest, start, trees))
    return scores
