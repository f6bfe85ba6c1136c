"""Layout, packing and masks of token trees, by hand and against the plain rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rosepo_core.engine.trees import TokenTree, TreeBatch


def tree(trunk: list[int], responses: list[tuple[int, list[int], bool]]) -> TokenTree:
    """Responses as (visible trunk tokens, ids, whether the ids stand in the trunk)."""
    return TokenTree.grow(
        np.array(trunk, dtype=np.int32),
        rows=np.arange(len(responses)),
        columns=np.zeros(len(responses), dtype=np.int64),
        visible=np.array([visible for visible, _, _ in responses]),
        lengths=np.array([len(ids) for _, ids, _ in responses]),
        targets=np.array([token for _, ids, _ in responses for token in ids], dtype=np.int32),
        in_trunk=np.array([inside for _, _, inside in responses]),
    )


# Trunk 1 2 3 4 5; (3 4) follows 1 2 in the trunk, (7 8 9) branches off there, (6 9) off the whole trunk.
EXAMPLE = tree([1, 2, 3, 4, 5], [(2, [3, 4], True), (2, [7, 8, 9], False), (5, [6, 9], False)])


def test_a_tree_is_its_trunk_and_its_branches_without_their_last_tokens() -> None:
    assert EXAMPLE.tokens.tolist() == [1, 2, 3, 4, 5, 7, 8, 6]
    assert EXAMPLE.depth.tolist() == [0, 1, 2, 3, 4, 2, 3, 5]
    assert EXAMPLE.branch.tolist() == [0, 0, 0, 0, 0, 2, 2, 3]
    assert EXAMPLE.limit.tolist() == [1, 2, 3, 4, 5, 2, 2, 5]


def test_tokens_are_numbered_depth_first_and_left_where_nothing_more_is_below_them() -> None:
    batch = TreeBatch.of([EXAMPLE, tree([1, 2], [(1, [3, 4], False)])], 0)
    # 1 2 (7 8) 3 4 5 (6), and 1 (3) 2.
    assert batch.enter.tolist() == [[0, 1, 4, 5, 6, 2, 3, 7], [0, 2, 1, *range(8 + 3, 8 + 8)]]
    assert batch.leave.tolist() == [[8, 8, 8, 8, 8, 4, 4, 8], [3, 3, 2, *range(9 + 3, 9 + 8)]]


def test_every_response_token_has_the_token_before_it_as_parent() -> None:
    assert EXAMPLE.lengths.tolist() == [2, 3, 2]
    assert EXAMPLE.targets.tolist() == [3, 4, 7, 8, 9, 6, 9]
    assert EXAMPLE.parents.tolist() == [1, 2, 1, 5, 6, 4, 7]


def test_a_sequence_is_a_trunk_whose_labelled_stretches_are_responses() -> None:
    ids = np.array([11, 12, 13, 14, 15, 16, 17], dtype=np.int32)
    found = TokenTree.of_sequence(ids, np.array([True, False, True, True, False, True, False]))
    # 11 has nothing before it; 16 is only predicted, and nothing after it is needed.
    assert found.tokens.tolist() == [11, 12, 13, 14, 15]
    assert found.branch.tolist() == [0] * 5
    assert found.lengths.tolist() == [2, 1]
    assert found.targets.tolist() == [13, 14, 16]
    assert found.parents.tolist() == [1, 2, 4]
    assert len(found.split_examples(1)) == 1, "a sequence is one example"


def test_trunks_alone_need_no_mask_of_their_own() -> None:
    trunks = [tree([1, 2, 3], [(1, [2, 3, 4], True)]), tree([1, 2], [(2, [5], False)])]
    assert TreeBatch.of(trunks, 0).mask(None, torch.float32) is None
    window = TreeBatch.of(trunks, 0).mask(lambda sequence, head, query, key: query - key < 2, torch.float32)
    assert window is not None
    assert (window[0, 0] == 0).tolist() == [[True, False, False], [True, True, False], [False, True, True]]
    for batch in (TreeBatch.of(trunks, 0, pad_left=True), TreeBatch.of([*trunks, EXAMPLE], 0)):
        assert batch.mask(None, torch.float32) is not None


@pytest.mark.parametrize("pad_left", [False, True])
def test_a_token_sees_its_ancestors_only_and_padding_sees_padding(pad_left: bool) -> None:
    batch = TreeBatch.of([tree([1, 2], [(1, [5, 6], False)]), tree([1], [(1, [4], False)])], 0, pad_left=pad_left)
    assert batch.sees()[0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    assert batch.input_ids[1].tolist() == ([0, 0, 1] if pad_left else [1, 0, 0])
    # A padding token that saw nothing would turn its row of the attention into NaN.
    assert batch.sees()[1].any(1).all()
    place = 2 if pad_left else 0
    assert batch.sees()[1, place].int().tolist() == [int(column == place) for column in range(3)]
    assert batch.parents.tolist() == [0, 2, 3 + place]
    assert batch.targets.tolist() == [5, 6, 4]
    assert batch.responses.tolist() == [0, 0, 1]
    assert batch.trees.tolist() == [0, 1]


def test_the_additive_mask_is_minus_infinity_where_nothing_is_seen() -> None:
    batch = TreeBatch.of([EXAMPLE], 0)
    mask = batch.mask(None, torch.bfloat16)
    assert mask is not None
    assert mask.shape == (1, 1, 8, 8)
    assert mask.dtype == torch.bfloat16
    assert torch.equal(mask[0, 0] == 0, batch.sees()[0])
    assert torch.equal(mask[0, 0] == -torch.inf, ~batch.sees()[0])


def test_a_window_counts_depths_not_places() -> None:
    batch = TreeBatch.of([EXAMPLE], 0)
    mask = batch.mask(lambda sequence, head, query, key: (key <= query) & (query - key < 3), torch.float32)
    assert mask is not None
    # 7 and 8 leave the trunk after 1 2; 6 after 1 2 3 4 5.
    assert [(mask[0, 0, place] == 0).nonzero()[:, 0].tolist() for place in (4, 5, 6, 7)] == [
        [2, 3, 4],
        [0, 1, 5],
        [1, 5, 6],
        [3, 4, 7],
    ]


def test_rows_can_be_counted_anew() -> None:
    assert EXAMPLE.with_rows(np.array([4, 4, 9])).rows.tolist() == [4, 4, 9]
    assert EXAMPLE.rows.tolist() == [0, 1, 2]


def path(grown: TokenTree, response: int) -> tuple[list[int], list[int]]:
    """The sequence that a response's last parent sees, read off the mask alone, and the response's targets."""
    ends = np.cumsum(grown.lengths)
    own = slice(ends[response] - grown.lengths[response], ends[response])
    last = int(grown.parents[own][-1])
    seen = np.flatnonzero(TreeBatch.of([grown], 0).sees()[0, last].numpy())
    assert grown.depth[seen].tolist() == list(range(len(seen)))
    assert set(grown.parents[own].tolist()) <= set(seen.tolist())
    return grown.tokens[seen].tolist(), grown.targets[own].tolist()


RESPONSES = st.lists(
    st.tuples(st.integers(1, 8), st.lists(st.integers(0, 9), min_size=1, max_size=4)), min_size=1, max_size=8
)


@given(trunk=st.lists(st.integers(0, 9), min_size=8, max_size=8), responses=RESPONSES, limit=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_whatever_a_tree_holds_each_response_sees_its_prompt_and_itself(
    trunk: list[int], responses: list[tuple[int, list[int]]], limit: int
) -> None:
    grown = tree(trunk, [(visible, ids, trunk[visible : visible + len(ids)] == ids) for visible, ids in responses])
    expected = [((trunk[:visible] + ids)[:-1], ids) for visible, ids in responses]
    assert [path(grown, response) for response in range(len(responses))] == expected

    parts = grown.split(limit)
    rows = [int(row) for part in parts for row in part.rows]
    assert rows == list(range(len(responses)))
    assert [path(part, response) for part in parts for response in range(len(part.rows))] == expected
    longest = max(len(ids) for _, ids in responses)
    assert all(int((part.branch > 0).sum()) < limit + longest for part in parts)


@given(trunk=st.lists(st.integers(0, 9), min_size=8, max_size=8), responses=RESPONSES, budget=st.integers(1, 24))
@settings(max_examples=60, deadline=None)
def test_a_tree_split_between_examples_keeps_each_whole_and_to_the_budget(
    trunk: list[int], responses: list[tuple[int, list[int]]], budget: int
) -> None:
    whole = tree(trunk, [(visible, ids, trunk[visible : visible + len(ids)] == ids) for visible, ids in responses])
    # Examples of two responses, numbered as the rows of a table may be.
    examples = 5 - np.arange(len(responses)) // 2
    whole = whole.with_rows(examples)
    expected = [((trunk[:visible] + ids)[:-1], ids) for visible, ids in responses]
    parts = whole.split_examples(budget)
    assert [row for part in parts for row in part.rows.tolist()] == examples.tolist()
    assert [path(part, response) for part in parts for response in range(len(part.rows))] == expected
    held = [set(part.rows.tolist()) for part in parts]
    assert sum(map(len, held)) == len(set(examples.tolist()))
    assert all(len(part) <= budget or len(rows) == 1 for part, rows in zip(parts, held, strict=True))
    if budget >= len(whole):
        assert parts == [whole]


def test_an_example_goes_into_the_part_before_where_it_fits() -> None:
    # Trunk tokens needed and tokens in branches of the three examples: 2 + 1, 3 + 2, 5 + 1.
    whole = tree([1, 2, 3, 4, 5], [(2, [7, 8], False), (3, [7, 8, 9], False), (5, [6, 9], False)])
    assert [part.tokens.tolist() for part in whole.split_examples(6)] == [[1, 2, 3, 7, 7, 8], [1, 2, 3, 4, 5, 6]]
    assert [part.tokens.tolist() for part in whole.split_examples(5)] == [
        [1, 2, 7],
        [1, 2, 3, 7, 8],
        [1, 2, 3, 4, 5, 6],
    ]
