"""Log-probabilities of the responses of trees, whichever way the model runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rosepo_core.engine.preparation import prepared
from rosepo_core.engine.rows import Rows, row_log_probs
from rosepo_core.engine.trees import TreeBatch, tree_log_probs


def log_probs(model: Any, batch: TreeBatch) -> Tensor:
    """Log-probability of each response, summed over its tokens, with the terminator: float32 [r].

    The model runs in one pass over the trees, or in rows if `prepared` says so. Values and gradients are the same. A
    few rows are run at a time, so that no pass has more tokens than the batch, unless a single row has.

    Args:
        model: a causal language model of transformers, with or without PEFT adapters.
        batch: a batch on the model's device.
    """
    if prepared(model).trees:
        of_tokens = tree_log_probs(model, batch)
    else:
        rows = Rows.of(batch)
        of_tokens = row_log_probs(
            model, rows.input_ids, rows.row, rows.column, batch.targets, batch.input_ids.numel()
        )
    return torch.zeros(len(batch.rows), device=of_tokens.device).index_add(0, batch.responses, of_tokens)
