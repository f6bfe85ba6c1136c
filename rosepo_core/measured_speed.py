"""Measures the speed and memory of a run's own model on this machine, with a few real passes.

The model is the one before training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rosepo_core.contracts.components import RejectedSampler, SamplerContext
from rosepo_core.contracts.records import Examples, Split
from rosepo_core.engine.log_probs import log_probs
from rosepo_core.engine.passes import constant_budget
from rosepo_core.engine.precision import autocast
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.engine.trees import TokenTree, TreeBatch
from rosepo_core.engine.writing import write_answers
from rosepo_core.evaluation.catalogue import history_items
from rosepo_core.evaluation.context import EvaluationContext
from rosepo_core.plugins.registry import running
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.stages import sampling
from rosepo_core.stages.session import QuietReporter, Session

MEASURED_TOKENS = 512
"""Approximate tokens of the batches that are timed on a CPU. On a GPU they have the size of the run's own batches."""

MEASURED_EXAMPLES = 16
"""Number of examples that generating samplers are timed with."""


@dataclass(frozen=True)
class MeasuredSpeed:
    """Measured speeds and sizes.

    Attributes:
        train: tokens per second, forward and backward.
        score: tokens per second without gradients.
        sampling: seconds of the whole stage.
        listing: seconds for the list of one user under the protocol `catalogue`; 0 if it is not used.
        writing: seconds for the answer of one user under the protocol `free`; 0 if it is not used.
        kept: bytes that a training step keeps for its backward pass, per token.
    """

    train: float
    score: float
    sampling: float
    listing: float
    writing: float
    kept: float


UNKNOWN_SPEED = MeasuredSpeed(*[math.nan] * 6)
"""Of a model that was not loaded."""


def measure_speed(
    context: EvaluationContext,
    template: PromptTemplate,
    examples: Examples,
    trees: Sequence[TokenTree],
    scored: Sequence[TokenTree],
) -> MeasuredSpeed:
    """Measure the run's own model.

    Args:
        context: the part of the split that is evaluated, in the session of the run.
        template: makes the prompts.
        examples: those that get rejected items.
        trees: what training passes through the model.
        scored: what scoring passes through it.
    """
    session, data = context.session, context.split.content
    options = session.config
    model = session.policy.to_train(options.sft, options.seed)
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda"
    if options.sft.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def batch(of: Sequence[TokenTree], budget: int) -> TreeBatch:
        """Trees of about the median length."""
        by_length = sorted(of, key=len)[len(of) // 2 :]
        count = max(1, budget // len(by_length[0]))
        return TreeBatch.of(by_length[:count], pad_token_id=0).to(device)

    budget = constant_budget(options.alignment.token_budget, True, device.type) if on_gpu else MEASURED_TOKENS
    first, trained = batch(trees, 1), batch(trees, budget)
    # The first pass is the slow one, so it is not timed.
    products = session.policy.autocast(options.sft)
    kept = _kept_bytes(model, first, products) / first.input_ids.numel()
    train = trained.input_ids.numel() / _timed(lambda: _train_step(model, trained, products), on_gpu)

    model.eval().requires_grad_(False)
    scoring_budget = constant_budget(options.model.token_budget, False, device.type)
    to_score = batch(scored, scoring_budget if on_gpu else MEASURED_TOKENS)
    with torch.no_grad():
        log_probs(model, batch(scored, 1))
        score = to_score.input_ids.numel() / _timed(lambda: log_probs(model, to_score), on_gpu)
    seconds = 0.0
    if session.artifacts["sampling"].reused is None:
        lists = sampling.lists_for_samplers(session, context.split)
        titles = TitleModel(model, template, QuietReporter(), options.seed, lists)
        seconds = _sampling_seconds(session, template, data, examples, titles, score)
    listing, writing = _asking_seconds(context, template, model)
    return MeasuredSpeed(train, score, seconds, listing, writing, kept)


def _asking_seconds(context: EvaluationContext, template: PromptTemplate, model: Any) -> tuple[float, float]:
    """Seconds for one user's list and for one user's answer, measured with the untrained model and a few users; 0 for
    protocols that are not used."""
    options, session = context.options, context.session
    few = context.examples.take(np.arange(min(MEASURED_EXAMPLES, len(context.examples))))
    listing = writing = 0.0
    if "catalogue" in options.protocols:
        start = time.perf_counter()
        TitleModel(model, template, QuietReporter(), session.config.seed).top(
            few,
            context.list_length,
            exclude=history_items(few),
            beams=options.beams,
            exact=options.decoding == "exact",
        )
        listing = (time.perf_counter() - start) / len(few)
    if "free" in options.protocols:
        start = time.perf_counter()
        budget = session.config.model.token_budget
        write_answers(model, template, session.policy.tokenizer, few, budget, QuietReporter())
        writing = (time.perf_counter() - start) / len(few)
    return listing, writing


def _train_step(model: Any, batch: TreeBatch, products: torch.dtype | None) -> None:
    with autocast(model, products):
        total = log_probs(model, batch).sum()
    torch.autograd.backward(total)
    model.zero_grad()


def _kept_bytes(model: Any, batch: TreeBatch, products: torch.dtype | None) -> float:
    """Bytes of the tensors that the backward pass of a training step needs, without the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with autocast(model, products), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = log_probs(model, batch).sum()
    torch.autograd.backward(loss)
    return sum(kept.values())


def _timed(work: Callable[[], object], on_gpu: bool) -> float:
    start = time.perf_counter()
    work()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _sampling_seconds(
    session: Session, template: PromptTemplate, data: Split, examples: Examples, titles: TitleModel, score_rate: float
) -> float:
    """Expected time of samplers: of those that use the language model, measured with the untrained model and a few
    examples, and of embedding the catalogue once. The time of other samplers is negligible."""
    options = session.config
    weights = np.array([choice.weight for choice in options.sampler])
    shares = 1 - (1 - weights / weights.sum()) ** options.preferences.negatives
    few = examples.take(np.arange(min(MEASURED_EXAMPLES, len(examples))))
    seconds = 0.0
    for index, share in enumerate(shares.tolist()):
        sampler: RejectedSampler = session.component("sampler", index)
        if "title-embeddings" in sampler.needs:
            seconds += float(template.response_lengths.sum()) / score_rate
        elif "language-model" in sampler.needs:
            context = SamplerContext(
                catalogue=data.catalogue,
                seen=data.train_seen,
                rng=np.random.default_rng(0),
                reporter=QuietReporter(),
                language_model=titles,
            )
            with running(sampler):
                start = time.perf_counter()
                sampler.sample(few, options.preferences.negatives, context)
                seconds += (time.perf_counter() - start) * len(examples) * share / len(few)
    return seconds
