"""Makes token trees of prompts and their responses, and trunks of prompts for a search."""

from __future__ import annotations

import numpy as np

from rosepo_core.contracts.records import Ints, Places
from rosepo_core.engine.trees import TokenTree
from rosepo_core.prompts.template import PromptTemplate


def prompt_trees(
    template: PromptTemplate, places: Places, items: Ints, *, shared: bool = False, candidates: Ints | None = None
) -> list[TokenTree]:
    """Prompts and responses as token trees.

    Args:
        template: makes the prompts.
        places: n places.
        items: the responses to each prompt, int32 [n, m]; -1 for an empty slot. The responses of a tree refer to them
            by row and column.
        shared: how much history is shown, see `PromptTemplate`.
        candidates: as in `PromptTemplate.prompts`.

    Returns:
        Trees with every response once. Places without any response are left out. For a timeline, all places whose
        histories begin with the same item are one tree, and a response that is also the next item in the trunk needs
        no branch.
    """
    kept = np.flatnonzero((items >= 0).any(axis=1))
    trees = []
    for group in template.groups(places, shared=shared, candidates=candidates, kept=kept):
        member, column = np.nonzero(items[group.rows] >= 0)
        rows = group.rows[member]
        response = items[rows, column]
        # Look up the next item only if the trunk contains it.
        inside = np.where(group.continued, places.position[group.rows], 0)
        following = places.sequences.items[places.sequences.offsets[places.user[group.rows]] + inside]
        trees.append(
            TokenTree.grow(
                group.tokens,
                rows=rows,
                columns=column,
                visible=group.visible[member],
                lengths=template.response_lengths[response],
                targets=template.response_tokens(response),
                in_trunk=(response == following[member]) & group.continued[member],
            )
        )
    return trees


def prompt_trunks(
    template: PromptTemplate, places: Places, *, shared: bool = False, candidates: Ints | None = None
) -> tuple[list[Ints], Ints, Ints]:
    """The prompts, as beginnings of shared trunks: the prompt of place i is ``tokens[trunk[i]][:length[i]]``.

    Returns:
        tokens: int32 ids of each trunk.
        trunk: the trunk of each place, int32 [n].
        length: the number of prompt tokens of each place, int32 [n].
    """
    tokens: list[Ints] = []
    trunk, length = np.zeros((2, len(places)), dtype=np.int32)
    for group in template.groups(places, shared=shared, candidates=candidates):
        trunk[group.rows], length[group.rows] = len(tokens), group.visible
        tokens.append(group.tokens)
    return tokens, trunk, length
