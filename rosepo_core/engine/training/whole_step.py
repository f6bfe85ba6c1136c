"""The loss of a whole optimizer step in many passes, as GradCache does it (Gao et al., "Scaling deep contrastive
learning batch size under memory limited setup", 2021).

First all passes without gradients; then the loss of all log-probabilities together, and its derivative with respect
to each of them; then each pass again, with these derivatives as the gradient of its log-probabilities. So a loss may
look at all pairs of a step, and the passes still decide memory and speed alone. It is exact if a pass gives the same
log-probabilities twice, so there must be no dropout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from rosepo_core import ranks
from rosepo_core.engine.training.metrics import Totals
from rosepo_core.engine.training.objective import Objective, Pass


def with_gradients(
    module: Any, objective: Objective[Any], passes: Sequence[Pass], device: torch.device, first: bool
) -> tuple[list[Pass], Totals]:
    """The passes with the gradients of their log-probabilities.

    Args:
        module: what is trained, in training mode.
        objective: with a loss of the whole step.
        passes: all passes of this process in the step.
        device: where the module is.
        first: whether this is the first optimizer step.

    Returns:
        the passes, and what is logged.
    """
    with torch.no_grad():
        placed = [one.to(device) for one in passes]
        values = [module(one.batch) for one in placed]
    counting = [(one, each) for one, each in zip(placed, values, strict=True) if one.counts]
    leaf = torch.cat([values[0][:0], *(each for _, each in counting)]).requires_grad_()
    whole = objective.joined([one for one, _ in counting]) if counting else _without_items(placed[0])
    log_probs, whole = _of_all_ranks(leaf, whole, objective)
    with torch.enable_grad():
        total, metrics = objective.loss(log_probs, whole, first)
        (gradient,) = torch.autograd.grad(total, [leaf])
    share = total.detach() / (ranks.count() * len(passes))
    pieces = iter(torch.split(gradient, [len(each) for _, each in counting]))
    found = [
        replace(one, gradient=next(pieces) if one.counts else torch.zeros_like(each), share=share)
        for one, each in zip(passes, values, strict=True)
    ]
    return found, metrics


def _without_items(one: Pass) -> Pass:
    """A pass of the same kind, without any item."""
    return replace(one, items=0, inputs={name: value[:0] for name, value in one.inputs.items()})


def _of_all_ranks(leaf: torch.Tensor, whole: Pass, objective: Objective[Any]) -> tuple[torch.Tensor, Pass]:
    """The log-probabilities and inputs of all ranks; those of this rank keep their gradients."""
    if ranks.count() == 1:
        return leaf, whole
    inputs = {name: value.cpu().numpy() for name, value in whole.inputs.items()}
    found = ranks.gathered("the loss of a step", {**inputs, "log_probs": leaf.detach().cpu().numpy()})
    passes, log_probs = [], []
    for rank, arrays in enumerate(found):
        tensors = {name: torch.from_numpy(array).to(leaf.device) for name, array in arrays.items()}
        values = tensors.pop("log_probs")
        log_probs.append(leaf if rank == ranks.rank() else values)
        passes.append(replace(whole, inputs=tensors))
    return torch.cat(log_probs), objective.joined(passes)
