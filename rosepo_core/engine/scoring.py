"""Log-probabilities of responses, all those of a tree in one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Floats, Ints, Places
from rosepo_core.engine import attention
from rosepo_core.engine.adapters import fused_adapters
from rosepo_core.engine.head import frozen_head_log_probs
from rosepo_core.engine.prompt_trees import prompt_trees
from rosepo_core.engine.trees import TreeBatch, pack
from rosepo_core.prompts.template import PromptTemplate

LOGIT_BYTES = 256 * 2**20
"""Most memory that logits and what is made of them take at once."""

BRANCH_TOKENS = 1024
"""About the most tokens of branches in one tree when scoring."""

BLOCK_RESPONSES = 2**16
"""Responses that are laid out as trees at once when scoring; batches are made within a block."""


def log_probs(model: Any, batch: TreeBatch) -> Tensor:
    """Log-probability of each response, summed over its tokens, terminator included: float32 [r].

    Only the positions before response tokens reach the language-model head, a chunk at a time, so that no more than
    `LOGIT_BYTES` of logits exist at once, with gradients or without.

    Args:
        model: a causal language model of transformers with sdpa or eager attention, bare or with PEFT adapters.
        batch: on the model's device.

    Raises:
        RequestError: the model's attention takes no mask of one's own.
    """
    decoder = decoder_of(model)
    dtype = next(decoder.parameters()).dtype
    hidden = decoder(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask(dtype),
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state
    parents, states = torch.unique(batch.parents, return_inverse=True)
    of_tokens = token_log_probs(model, hidden.flatten(0, 1)[parents], batch.targets, states)
    return torch.zeros(len(batch.rows), device=of_tokens.device).index_add(0, batch.responses, of_tokens)


def decoder_of(model: Any) -> Any:
    """The model below its head, which gives hidden states.

    Raises:
        RequestError: the model's attention takes no mask of one's own.
    """
    bare = _bare(model)
    kind = bare.config._attn_implementation
    if kind not in ("sdpa", "eager", attention.NAME):
        raise RequestError(f"the model was loaded with attention '{kind}'; token trees need 'sdpa' or 'eager'")
    return bare.get_decoder()


def _bare(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _head_of(model: Any) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
    """What makes float32 logits of hidden states, and the head's weight where it is frozen and all that there is to
    the head."""
    bare = _bare(model)
    head, config = bare.get_output_embeddings(), bare.config
    cap = getattr(config, "final_logit_softcapping", None)
    # Cohere multiplies its logits, Granite divides them.
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)

    def logits(hidden: Tensor) -> Tensor:
        values: Tensor = head(hidden).float()
        if scale != 1.0:
            values = values * scale
        return values if cap is None else cap * torch.tanh(values / cap)

    plain = type(head) is torch.nn.Linear and head.bias is None and scale == 1.0 and cap is None
    frozen = head.weight if plain and not head.weight.requires_grad else None
    return logits, frozen


def token_log_probs(model: Any, hidden: Tensor, targets: Tensor, states: Tensor) -> Tensor:
    """Log-probability of each target given the hidden state before it, float32 [m].

    Args:
        model: as in `log_probs`. hidden: last hidden states, [n, d].
        targets: token ids, int64 [m]. states: the row of `hidden` that comes before each, int64 [m].
    """
    head, frozen = _head_of(model)
    if frozen is not None:
        return frozen_head_log_probs(hidden, frozen, targets, states)

    def chunk_log_probs(hidden: Tensor, states: Tensor, targets: Tensor) -> Tensor:
        logits = head(hidden)
        return logits[states, targets] - logits.logsumexp(1)[states]

    # Logits, log-sum-exp, its gradient and the logits' own.
    rows = max(1, LOGIT_BYTES // (4 * 4 * model.config.vocab_size))
    order = states.argsort(stable=True)
    borders = torch.searchsorted(states[order], torch.arange(0, len(hidden) + rows, rows, device=states.device))
    pieces = []
    for first, members in enumerate(torch.tensor_split(order, borders[1:-1].cpu())):
        chunk = hidden[first * rows : (first + 1) * rows], states[members] - first * rows, targets[members]
        checkpointed = torch.is_grad_enabled()
        pieces.append(
            checkpoint(chunk_log_probs, *chunk, use_reentrant=False) if checkpointed else chunk_log_probs(*chunk)
        )
    return torch.cat(pieces)[order.argsort()]


@torch.no_grad()
def score_items(
    model: Any,
    template: PromptTemplate,
    places: Places,
    items: Ints,
    token_budget: int,
    reporter: Reporter,
    *,
    shared: bool = False,
    length_normalize: bool = False,
    candidates: Ints | None = None,
) -> Floats:
    """Log-probability of generating each item's title after each place's prompt.

    Args:
        model: as in `log_probs`, in evaluation mode.
        template: makes the prompts.
        places: n places.
        items: int32 [n, m], -1 for none.
        token_budget: tokens per forward pass, padding included.
        reporter: hears how many titles are scored.
        shared: how much history the prompts show, see `PromptTemplate`.
        length_normalize: give the mean over a response's tokens instead of the sum.
        candidates: what the prompts list, int32 [n, c], see `PromptTemplate.prompts`.

    Returns:
        float32 [n, m]; -inf where there is no item.
    """
    scores = np.full(items.shape, -np.inf, dtype=np.float32)
    device = next(model.parameters()).device
    total, done = int((items >= 0).sum()), 0
    block = max(1, BLOCK_RESPONSES // max(1, items.shape[1]))
    for start in range(0, len(places), block):
        rows = np.arange(start, min(start + block, len(places)))
        grown = prompt_trees(
            template,
            places.take(rows),
            items[rows],
            shared=shared,
            candidates=None if candidates is None else candidates[rows],
        )
        trees = [part for tree in grown for part in tree.split(BRANCH_TOKENS)]
        for members in pack([len(tree) for tree in trees], token_budget):
            batch = TreeBatch.of([trees[index] for index in members.tolist()], pad_token_id=0).to(device)
            with fused_adapters(model):
                values = log_probs(model, batch)
            if length_normalize:
                values = values / batch.lengths
            scores[start + batch.rows.cpu().numpy(), batch.columns.cpu().numpy()] = values.cpu().numpy()
            done += len(values)
            reporter.progress(done, total, "titles")
    return scores
