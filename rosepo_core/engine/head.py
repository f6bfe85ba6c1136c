"""Log-probabilities of tokens from hidden states.

If only a frozen matrix W is between states and logits, the work is done in tiles. The gradient of log p(target | h)
with respect to h is W[target] - softmax(h W') W. The second term is the mean row of W under the model's distribution.
It depends on h only, so it is computed already in the forward pass. The vocabulary is processed in tiles that stay in
the processor's cache, with a running maximum as in online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867). So
no logit is written to memory or computed twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

LOGIT_BYTES = 256 * 2**20
"""Most memory of logits, and of the arrays computed from them, at one time."""

LOGITS_IN_CACHE = 2**20
"""Number of logits in a tile on a CPU: 4 MiB."""

LOGITS_ON_GPU = 2**24
"""Number of logits in a tile on a GPU, where few large products are fast: 64 MiB."""

BLOCK = 256
"""The number of vocabulary tokens in a tile is a multiple of this. Other sizes make products slower by half."""


def _tiled(hidden: Tensor, weight: Tensor, targets: Tensor, states: Tensor, mean: Tensor | None) -> Tensor:
    """Log-probabilities, float32 [m]; writes the mean row of `weight` for each state into `mean`, float32 [n, d]."""
    logits_at_once = LOGITS_IN_CACHE if hidden.device.type == "cpu" else LOGITS_ON_GPU
    width = BLOCK * max(1, logits_at_once // (BLOCK * max(1, len(hidden))))
    top = torch.full((len(hidden), 1), -torch.inf, device=hidden.device)
    total = torch.zeros_like(top)
    chosen = torch.zeros(len(targets), device=hidden.device)
    for first in range(0, len(weight), width):
        rows = weight[first : first + width]
        tile = (hidden @ rows.T).float()
        column = targets - first
        here = (column >= 0) & (column < len(rows))
        chosen = torch.where(here, tile[states, column.clamp(0, len(rows) - 1)], chosen)
        new_top = torch.maximum(top, tile.amax(1, keepdim=True))
        shrunk = (top - new_top).exp_()
        tile.sub_(new_top).exp_()
        total.mul_(shrunk).add_(tile.sum(1, keepdim=True))
        if mean is not None:
            mean.mul_(shrunk).add_(tile.to(rows.dtype) @ rows)
        top = new_top
    if mean is not None:
        mean.div_(total)
    return chosen - (top + total.log())[states, 0]


class _FrozenHeadLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, states: Tensor) -> Tensor:
        mean = torch.zeros(hidden.shape, device=hidden.device)
        log_probs = _tiled(hidden, weight, targets, states, mean)
        ctx.save_for_backward(mean, weight, targets, states)
        return log_probs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        mean, weight, targets, states = ctx.saved_tensors
        of_state = torch.zeros(len(mean), device=mean.device).index_add_(0, states, gradient)
        of_hidden = (-of_state[:, None] * mean).index_add_(0, states, gradient[:, None] * weight[targets].float())
        return of_hidden.to(weight.dtype), None, None, None


def frozen_head_log_probs(hidden: Tensor, weight: Tensor, targets: Tensor, states: Tensor) -> Tensor:
    """log softmax(hidden[state] weight')[target] of each target, differentiable with respect to `hidden` only.

    A state with many targets, such as the end of a prompt, is multiplied with the vocabulary once.

    Args:
        hidden: [n, d]. weight: weight of the head, [vocabulary, d], without gradient.
        targets: int64 [m]. states: the row of `hidden` that comes before each target, int64 [m].

    Returns:
        float32 [m].
    """
    if not torch.is_grad_enabled():
        return _tiled(hidden, weight, targets, states, None)
    result: Tensor = _FrozenHeadLogProbs.apply(hidden, weight, targets, states)  # type: ignore[no-untyped-call]
    return result


def bare_model(model: Any) -> Any:
    """The model of transformers under a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_of(model: Any) -> Any:
    """The part of a model below the head, which computes hidden states."""
    bare = bare_model(model)
    decoder = bare.get_decoder()
    if decoder is not bare:
        return decoder
    (part,) = (child for child in bare.children() if isinstance(child, PreTrainedModel))
    return part


def head_of(model: Any) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
    """A function from hidden states to float32 logits; and the head's weight if it is frozen and the head has no
    other part, otherwise `None`."""
    bare = bare_model(model)
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

    States are processed in chunks, so that at most `LOGIT_BYTES` of logits exist at once, with or without gradients.

    Args:
        model: a causal language model of transformers, with or without PEFT adapters.
        hidden: last hidden states, [n, d].
        targets: token ids, int64 [m]. states: the row of `hidden` that comes before each target, int64 [m].
    """
    head, frozen = head_of(model)
    if frozen is not None:
        return frozen_head_log_probs(hidden, frozen, targets, states)

    def chunk_log_probs(hidden: Tensor, states: Tensor, targets: Tensor) -> Tensor:
        logits = head(hidden)
        return logits[states, targets] - logits.logsumexp(1)[states]

    # Logits, log-sum-exp, its gradient, and the gradient of the logits.
    rows = max(1, LOGIT_BYTES // (4 * 4 * bare_model(model).config.get_text_config().vocab_size))
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
