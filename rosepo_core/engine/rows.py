"""Token trees as plain sequences ("rows"), for models that cannot run in trees.

A recurrent or convolutional layer reads all earlier tokens of its row, also those of other branches. A model that
counts positions along the row does not use depths. Such a model reads each branch in a row of its own, after its part
of the trunk. The model runs exactly as in transformers: its whole forward pass, with its own attention and head. Rows
are padded on the right, where no token of a response sees the padding.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rosepo_core.engine.head import LOGIT_BYTES, bare_model
from rosepo_core.engine.trees import TreeBatch


@dataclass(frozen=True)
class Rows:
    """Sequences, and the positions in them where response tokens are predicted.

    Attributes:
        input_ids: int64 [n, t], padded on the right.
        row, column: position of the token before each response token, int64 [s].
    """

    input_ids: Tensor
    row: Tensor
    column: Tensor

    @staticmethod
    def of(batch: TreeBatch) -> Rows:
        """The trunk and each branch of a batch's trees, one row each, on the batch's device.

        A response that is in the trunk, or that has a single token after the trunk, is read in the row of the trunk,
        or of a branch that starts at the end of the trunk. If there is no such response, the trunk gets no row.
        """
        depth, leave = batch.position_ids.flatten().cpu().numpy(), batch.leave.flatten().cpu().numpy()
        parents, responses = batch.parents.cpu().numpy(), batch.responses.cpu().numpy()
        # The token before a response's last: in the trunk or in the response's branch.
        last = parents[np.flatnonzero(np.diff(responses, append=-1))]
        width = batch.input_ids.shape[1]
        # All tokens of a branch are left at once, and all of the trunk at the end of the tree.
        _, path = np.unique(np.stack([last // width, leave[last]]), axis=1, return_inverse=True)
        path = path.reshape(-1)
        deepest = np.empty(path.max() + 1, np.int64)
        order = np.argsort(depth[last], kind="stable")
        deepest[path[order]] = last[order]
        # In the order of a tree, the tokens of a path are sorted by depth.
        read = batch.sees().flatten(0, 1).cpu().numpy()[deepest]
        row, place = np.nonzero(read)
        column = depth[deepest[row] // width * width + place]
        ids = np.zeros((len(deepest), int(read.sum(1).max())), np.int64)
        ids[row, column] = batch.input_ids.flatten().cpu().numpy()[deepest[row] // width * width + place]
        device = batch.input_ids.device
        return Rows(
            torch.from_numpy(ids).to(device),
            torch.from_numpy(path[responses]).to(device),
            torch.from_numpy(depth[parents]).to(device),
        )


def row_log_probs(
    model: Any, input_ids: Tensor, row: Tensor, column: Tensor, targets: Tensor, token_budget: int
) -> Tensor:
    """Log-probability of targets[i] after the tokens of row row[i] up to column[i]: float32 [m].

    Args:
        model: a causal language model of transformers, or a PEFT model on one; its whole forward pass is run.
        input_ids: int64 [n, t], padded on the right with any token.
        row: int64 [m]. column: int64 [m]. targets: token ids, int64 [m].
        token_budget: most tokens of a forward pass, unless a single row has more. If gradients are needed and there
            are several passes, each pass is run again in the backward pass.
    """
    columns = torch.unique(column)
    # Logits, their log-softmax, and the gradients of both.
    fitting = LOGIT_BYTES // (4 * 4 * max(1, len(columns)) * bare_model(model).config.get_text_config().vocab_size)
    step = max(1, min(fitting, token_budget // input_ids.shape[1]))

    def part(ids: Tensor, row: Tensor, column: Tensor, targets: Tensor) -> Tensor:
        logits = _logits(model, ids, columns).float()
        found: Tensor = logits.log_softmax(-1)[row, torch.searchsorted(columns, column), targets]
        return found

    order = row.argsort(stable=True)
    starts = torch.arange(0, len(input_ids), step, device=row.device)
    borders = torch.searchsorted(row[order], starts[1:])
    again = torch.is_grad_enabled() and len(starts) > 1
    pieces = []
    for start, members in zip(starts.tolist(), torch.tensor_split(order, borders.cpu()), strict=True):
        passed = input_ids[start : start + step], row[members] - start, column[members], targets[members]
        pieces.append(checkpoint(part, *passed, use_reentrant=False) if again else part(*passed))
    return torch.cat(pieces)[order.argsort()]


def best_tokens(model: Any, input_ids: Tensor, column: Tensor) -> Tensor:
    """The most probable token after the first column[i] + 1 tokens of row i: int64 [n], -1 if its logits are no
    numbers. Rows are padded on the right."""
    columns = torch.unique(column)
    place = torch.searchsorted(columns, column)
    logits = _logits(model, input_ids, columns)
    return best_of_logits(logits[torch.arange(len(input_ids), device=input_ids.device), place])


def best_of_logits(logits: Tensor) -> Tensor:
    """The most probable token by logits [n, vocabulary]: int64 [n], -1 where one of them is NaN."""
    highest, best = logits.max(-1)
    return torch.where(highest.isnan(), -1, best)


def _logits(model: Any, input_ids: Tensor, columns: Tensor) -> Tensor:
    """Logits of the tokens after some columns, [n, columns, vocabulary]."""
    # Count from the end, because an adapter may put its own vectors before the tokens.
    places = columns - input_ids.shape[1]
    if "logits_to_keep" in inspect.signature(bare_model(model).forward).parameters:
        chosen: Tensor = model(input_ids=input_ids, use_cache=False, logits_to_keep=places).logits
        return chosen
    every: Tensor = model(input_ids=input_ids, use_cache=False).logits
    return every[:, places]
