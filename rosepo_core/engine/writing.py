"""Generation without constraints: a language model writes a title freely."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rosepo_core import ranks
from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import DivergedError
from rosepo_core.contracts.records import Longs, Places
from rosepo_core.contracts.sections import TokenBudget
from rosepo_core.engine.passes import scoring_passes
from rosepo_core.engine.reading import States, read_prompts
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.store.partial import KEEPS_NOTHING, Partial


def longest_answer(template: PromptTemplate) -> int:
    """The most tokens of an answer: those of the longest title with its terminator."""
    return int(template.response_lengths.max())


def write_answers(
    model: Any,
    template: PromptTemplate,
    tokenizer: PreTrainedTokenizerBase,
    places: Places,
    token_budget: TokenBudget,
    reporter: Reporter,
    partial: Partial = KEEPS_NOTHING,
) -> list[str]:
    """The model's answer after each place's prompt, by greedy decoding (always the most probable token): [n]. The
    processes of a run share the users.

    An answer ends with the template's terminator, with the tokenizer's end-of-sequence token, or after
    `longest_answer` tokens. The model's ``generation_config`` is not used, so sampling settings, penalties or
    suppressed tokens of a checkpoint do not change a result.

    Args:
        model: a causal language model of transformers, with or without PEFT adapters, in evaluation mode.
        template: makes the prompts.
        tokenizer: the model's tokenizer, with a padding token.
        places: n places.
        token_budget: tokens per forward pass of prompts (`engine.passes`); changes memory and speed only.
        reporter: receives the progress.
        partial: keeps the batches that are done. The others are the same as without an interruption.

    Raises:
        RosepoError: memory is not enough, see `Passes.within_memory`.
    """
    if model.training:
        raise ValueError("the model is in training mode; call its eval() first")
    longest = longest_answer(template)
    ends = {template.terminator, tokenizer.eos_token_id} - {None}
    passes = scoring_passes(model, token_budget)

    def write(rows: Longs) -> ranks.Arrays:
        some = places.take(rows)
        prompts = template.prompts(some)
        answers = np.full((len(prompts), longest), -1)
        done = np.zeros(len(prompts), dtype=np.bool_)
        kept = {"answers": answers, "done": done}

        @torch.inference_mode()
        def write_the_rest(block_is_done: Callable[[], None]) -> None:
            for members in passes.groups([len(prompt) + longest for prompt in prompts]):
                if done[members].all():
                    continue
                asked = [prompts[index] for index in members.tolist()]
                lengths = np.array([len(prompt) for prompt in asked])
                written = _written(read_prompts(model, asked, passes.token_budget), lengths, ends, longest)
                for index, tokens in zip(members.tolist(), written, strict=True):
                    answers[index, : len(tokens)] = tokens
                done[members] = True
                block_is_done()
                reporter.progress(int(done.sum()), len(prompts), "answers")

        with partial.filled(kept, "writing", some.user, some.position) as block_is_done:
            passes.within_memory(lambda: write_the_rest(block_is_done))
        return {"answers": answers}

    asked = ranks.digest(places.user, places.position)
    found = ranks.shared(f"writing answers {asked}", places.user, write)["answers"]
    return [template.read(tokens[tokens >= 0].tolist()) for tokens in found]


def _written(states: States[Any], lengths: Longs, ends: Collection[int], longest: int) -> list[list[int]]:
    """Token ids after each prompt, up to the first token of `ends`, which is left out: [n]. `lengths` are the numbers
    of prompt tokens."""
    row = np.arange(len(lengths))
    paths = np.zeros((len(row), 0), np.bool_)
    written: list[list[int]] = [[] for _ in row]
    hidden = states.prompt_ends(row, lengths)
    while True:
        best = states.best(hidden)
        if (best < 0).any():
            raise DivergedError(
                "the model gave the next token no probability (NaN): its training diverged, or its numbers are too "
                "large for model.dtype; lower the learning rate or use float32"
            )
        goes_on = ~np.isin(best, list(ends))
        row, paths, best = row[goes_on], paths[goes_on], best[goes_on]
        for index, token in zip(row.tolist(), best.tolist(), strict=True):
            written[index].append(token)
        if not len(row) or len(written[row[0]]) == longest:
            return written
        hidden, paths = states.extend(
            row=row,
            length=lengths[row],
            depth=np.array([len(written[index]) - 1 for index in row.tolist()]),
            paths=paths,
            paths_row=row,
            path=np.arange(len(row)),
            tokens=best,
            counts=np.ones_like(row),
        )
