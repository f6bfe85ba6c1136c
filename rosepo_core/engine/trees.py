"""Token trees: a prompt and all its responses in one sequence of tokens.

A tree has a trunk, and branches that start at tokens of the trunk. A trunk token sees the trunk up to itself. A
branch token sees the trunk up to the start of its branch, and its own branch up to itself. Position ids are depths in
the tree. So every token has the same position as in a plain sequence of the prompt and this one response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rosepo_core.contracts.records import Bools, Ints, Longs
from rosepo_core.engine.attention import Mask, Rule, attention, laid_out
from rosepo_core.engine.flex import BLOCK, block_mask
from rosepo_core.engine.head import decoder_of, token_log_probs


@dataclass(frozen=True)
class TokenTree:
    """A trunk and its branches, and the response that each token belongs to.

    The last token of a response is only predicted, and never an input. So it is in `targets` and not in `tokens`.

    Attributes:
        tokens: token ids, int32 [t]: the trunk, then one branch after another.
        depth: position of each token, int32 [t].
        branch: 0 in the trunk, else the number of the branch, int32 [t].
        limit: how many trunk tokens each token sees, int32 [t].
        rows: the example that each response belongs to, int32 [r].
        columns: the column of each response among its example's responses, int32 [r].
        lengths: number of tokens of each response, with its terminator, int32 [r].
        parents: index in `tokens` of the token before each response token, int32 [sum of lengths].
        targets: ids of the response tokens, int32 [sum of lengths].
    """

    tokens: Ints
    depth: Ints
    branch: Ints
    limit: Ints
    rows: Ints
    columns: Ints
    lengths: Ints
    parents: Ints
    targets: Ints

    def __len__(self) -> int:
        return len(self.tokens)

    def with_rows(self, rows: NDArray[np.integer]) -> TokenTree:
        """The same tree, with other row numbers for its responses, [r]."""
        return replace(self, rows=np.asarray(rows, dtype=np.int32))

    def split(self, branch_tokens: int) -> list[TokenTree]:
        """Trees with the same responses and about `branch_tokens` branch tokens each. The cost of attention grows
        with the square of a tree's length."""
        _, _, grown = self._layout()
        part = (np.cumsum(grown) - grown) // branch_tokens
        return self._parts(part) if len(part) and part[-1] else [self]

    def split_examples(self, token_budget: int) -> list[TokenTree]:
        """Trees with the same responses. The responses of one example stay together. Each tree has at most
        `token_budget` tokens, unless a single example has more. An example's responses must follow each other."""
        if len(self) <= token_budget:
            return [self]
        _, visible, grown = self._layout()
        first = np.flatnonzero(np.diff(self.rows, prepend=self.rows[0] - 1))
        branches = np.add.reduceat(grown, first).tolist()
        trunks = np.maximum.reduceat(visible + self.lengths - 1 - grown, first).tolist()
        part = np.zeros(len(first), dtype=np.int64)
        trunk = held = 0
        for example in range(len(first)):
            trunk, held = max(trunk, trunks[example]), held + branches[example]
            if example:
                part[example] = part[example - 1]
                if trunk + held > token_budget:
                    part[example] += 1
                    trunk, held = trunks[example], branches[example]
        return self._parts(np.repeat(part, np.diff(first, append=len(self.rows))))

    def _layout(self) -> tuple[Bools, NDArray[np.integer], NDArray[np.integer]]:
        """For each response, [r]: whether it is in the trunk and needs no branch, the number of trunk tokens before
        it, and the number of tokens in its branch."""
        first = np.cumsum(self.lengths) - self.lengths
        in_trunk = ~np.isin(np.arange(len(self.lengths)) + 1, self.branch)
        return in_trunk, self.parents[first] + 1, np.where(in_trunk, 0, self.lengths - 1)

    def _parts(self, part: NDArray[np.integer]) -> list[TokenTree]:
        """One tree for each number in `part`, [r], ascending: the responses with this number, and as much of the
        trunk as they need."""
        in_trunk, visible, grown = self._layout()
        seen = visible + self.lengths - 1 - grown
        owner = np.repeat(np.arange(len(self.lengths)), self.lengths)
        return [
            TokenTree.grow(
                self.tokens[: seen[held].max()],
                rows=self.rows[held],
                columns=self.columns[held],
                visible=visible[held],
                lengths=self.lengths[held],
                targets=self.targets[held[owner]],
                in_trunk=in_trunk[held],
            )
            for held in (part == number for number in np.unique(part))
        ]

    @staticmethod
    def grow(
        trunk: Ints,
        rows: NDArray[np.integer],
        columns: NDArray[np.integer],
        visible: NDArray[np.integer],
        lengths: NDArray[np.integer],
        targets: Ints,
        in_trunk: Bools,
    ) -> TokenTree:
        """Make the tree of r responses on a trunk.

        Args:
            trunk: token ids, [trunk], at least one.
            rows: [r]. columns: [r]. lengths: [r], each at least 1.
            visible: number of trunk tokens before each response, at least one, [r].
            targets: the token ids of all responses, one after another, [sum of lengths].
            in_trunk: which responses are already in the trunk, directly after their `visible` tokens, [r]. They need
                no branch.
        """
        response = np.repeat(np.arange(len(lengths)), lengths)
        within = np.arange(len(targets)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        grown = np.where(in_trunk, 0, lengths - 1)
        start = len(trunk) + np.cumsum(grown) - grown
        follows_trunk = in_trunk[response] | (within == 0)
        parents = np.where(follows_trunk, visible[response] + within - 1, start[response] + within - 1)
        is_input = ~in_trunk[response] & (within < lengths[response] - 1)
        inputs = response[is_input]
        along = np.arange(len(trunk))

        def joined(of_trunk: NDArray[np.integer], of_branches: NDArray[np.integer]) -> Ints:
            return np.concatenate([of_trunk, of_branches]).astype(np.int32)

        return TokenTree(
            tokens=joined(trunk, targets[is_input]),
            depth=joined(along, visible[inputs] + within[is_input]),
            branch=joined(np.zeros_like(along), inputs + 1),
            limit=joined(along + 1, visible[inputs]),
            rows=np.asarray(rows, dtype=np.int32),
            columns=np.asarray(columns, dtype=np.int32),
            lengths=np.asarray(lengths, dtype=np.int32),
            parents=parents.astype(np.int32),
            targets=targets.astype(np.int32),
        )

    @staticmethod
    def of_sequence(ids: Ints, labelled: Bools) -> TokenTree:
        """The tree without branches of a plain sequence. Each stretch of labelled tokens is a response in the trunk.

        Args:
            ids: token ids, [t].
            labelled: the tokens to predict, [t], at least one after the first token. The first token is never
                predicted, because there is nothing before it.
        """
        wanted = np.flatnonzero(labelled[1:]) + 1
        first = np.flatnonzero(np.diff(wanted, prepend=-1) > 1)
        count = len(first)
        return TokenTree.grow(
            ids[: wanted[-1]],
            rows=np.zeros(count, np.int32),
            columns=np.arange(count),
            visible=wanted[first],
            lengths=np.diff(first, append=len(wanted)),
            targets=ids[wanted],
            in_trunk=np.ones(count, np.bool_),
        )


@dataclass(frozen=True)
class TreeBatch:
    """Trees side by side, each in a row of its own and padded to the longest, or one after another in one long row.

    Depth first, each tree's tokens are numbered: after a token of the trunk come the branches that start there, and
    then the next token of the trunk. What comes below a token has the numbers that follow its own. So token q sees
    token k exactly if ``enter[k] <= enter[q] < leave[k]``. In one long row, the numbers go on from tree to tree.

    Attributes:
        input_ids: int64 [b, t].
        position_ids: depths, int64 [b, t]; 0 in padding.
        enter: number of each token, depth first, int64 [b, t]. Padding has numbers after those of all tokens.
        leave: the first number that is not below the token, int64 [b, t].
        parents: index in the flattened [b * t] of the token before each response token, int64 [s].
        targets: ids of the response tokens, int64 [s].
        responses: the response that each response token belongs to, int64 [s].
        trees: the tree of the batch that each response belongs to, int64 [r].
        rows: int64 [r]. columns: int64 [r]. lengths: int64 [r]. As in `TokenTree`.
        causal: whether there are trunks only, each in a row of its own and padded on the right. Then the plain causal
            mask is right for every token but padding.
        packed: whether the trees are in one long row, whose attention is computed in blocks (`engine.flex`).
    """

    input_ids: Tensor
    position_ids: Tensor
    enter: Tensor
    leave: Tensor
    parents: Tensor
    targets: Tensor
    responses: Tensor
    trees: Tensor
    rows: Tensor
    columns: Tensor
    lengths: Tensor
    causal: bool
    packed: bool

    @staticmethod
    def of(
        trees: Sequence[TokenTree], pad_token_id: int, *, pad_left: bool = False, packed: bool = False
    ) -> TreeBatch:
        """Put trees side by side. `pad_token_id` may be any id of the vocabulary, because no token sees padding.
        `packed` puts them into one row, which is filled up to whole blocks."""
        sizes = np.array([len(tree) for tree in trees])
        starts = np.cumsum(sizes) - sizes
        tree = np.repeat(np.arange(len(trees)), sizes)
        if packed:
            height, width = 1, -(-int(sizes.sum()) // BLOCK) * BLOCK
            first = starts
        else:
            height, width = len(trees), int(sizes.max())
            first = np.arange(len(trees)) * width + (width - sizes if pad_left else 0)
        # Where each token is in the flattened table.
        place = np.arange(sizes.sum()) + np.repeat(first - starts, sizes)

        def flat(name: str) -> Longs:
            return np.concatenate([getattr(tree, name) for tree in trees]).astype(np.int64)

        def padded(values: Longs, fill: int | Longs) -> Tensor:
            table = np.empty((height, width), dtype=np.int64)
            table[:] = fill
            table.reshape(-1)[place] = values
            return torch.from_numpy(table)

        enter, leave = _intervals(tree, sizes, flat("depth"), flat("branch"), flat("limit"))
        if packed:
            enter, leave = enter + starts[tree], leave + starts[tree]
        after = width + np.arange(width)
        counts = np.array([len(tree.rows) for tree in trees])
        predicted = np.array([len(tree.parents) for tree in trees])
        lengths = flat("lengths")
        return TreeBatch(
            input_ids=padded(flat("tokens"), pad_token_id),
            position_ids=padded(flat("depth"), 0),
            enter=padded(enter, after),
            leave=padded(leave, after + 1),
            parents=torch.from_numpy(flat("parents") + np.repeat(first, predicted)),
            targets=torch.from_numpy(flat("targets")),
            responses=torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)),
            trees=torch.from_numpy(np.repeat(np.arange(len(trees)), counts)),
            rows=torch.from_numpy(flat("rows")),
            columns=torch.from_numpy(flat("columns")),
            lengths=torch.from_numpy(lengths),
            causal=not pad_left and not packed and not any(tree.branch.any() for tree in trees),
            packed=packed,
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TreeBatch:
        """The same batch on `device`."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def sees(self) -> Tensor:
        """Whether the token of dimension 1 sees the token of dimension 2: bool [b, t, t]. Padding sees itself: a row
        without any true value would make attention NaN."""
        query = self.enter[:, :, None]
        return (self.enter[:, None, :] <= query) & (query < self.leave[:, None, :])

    def mask(self, rule: Rule | None, dtype: torch.dtype) -> Mask | None:
        """See `Layout.mask`: 0 where a token sees another, otherwise -inf, [b, 1, t, t]; `None` for the plain causal
        mask; in one long row a mask of blocks."""
        if self.packed:
            return block_mask(self.enter, self.leave, self.position_ids, rule)
        if self.causal and rule is None:
            return None
        sees = self.sees()[:, None]
        if rule is not None:
            depth = self.position_ids
            sequence = torch.arange(len(depth), device=depth.device)[:, None, None, None]
            sees = sees & rule(sequence, sequence[:1], depth[:, None, :, None], depth[:, None, None, :])
        return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, -torch.inf)

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Mask | None, **options: Any
    ) -> Tensor:
        """See `Layout.attend`."""
        if not self.causal and (mask is None or len(mask.shape) != 4):
            raise NotImplementedError(f"{type(module).__name__} got no mask of the tree")
        return attention(module, query, key, value, mask, **options)


def _intervals(row: Longs, sizes: Longs, depth: Longs, branch: Longs, limit: Longs) -> tuple[Longs, Longs]:
    """`TreeBatch.enter` and `TreeBatch.leave` of the tokens of some trees, one tree after another: int64 [t] each.

    Args:
        row: the tree of each token, [t]. sizes: number of tokens of each tree.
        depth, branch, limit: as in `TokenTree`, [t].
    """
    # A branch that sees n tokens of the trunk comes after token n - 1 and before token n.
    place = np.where(branch == 0, 2 * depth, 2 * limit - 1)
    order = np.lexsort((place, row))
    first = np.cumsum(sizes) - sizes
    enter = np.empty_like(order)
    enter[order] = np.arange(len(order)) - first[row[order]]
    ends = np.flatnonzero((np.diff(row, append=-1) != 0) | (np.diff(branch, append=-1) != 0))
    end = ends[np.searchsorted(ends, np.arange(len(order)))]
    return enter, np.where(branch == 0, sizes[row], enter[end] + 1)


def tree_log_probs(model: Any, batch: TreeBatch) -> Tensor:
    """Log-probability of each response token in one pass over the trees: float32 [s].

    Only the states before response tokens go through the language-model head.

    Args:
        model: a prepared model (`engine.preparation`) that can run in trees.
        batch: a batch on the model's device.
    """
    with laid_out(batch):
        hidden = decoder_of(model)(
            input_ids=batch.input_ids,
            attention_mask=torch.ones_like(batch.input_ids),
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state
    parents, states = torch.unique(batch.parents, return_inverse=True)
    return token_log_probs(model, hidden.flatten(0, 1)[parents], batch.targets, states)
