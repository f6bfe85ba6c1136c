"""Generation without constraints: whatever a language model writes in the place of a title."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedTokenizerBase

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.records import Places
from rosepo_core.engine.adapters import fused_adapters
from rosepo_core.engine.trees import pack
from rosepo_core.prompts.template import PromptTemplate


def longest_answer(template: PromptTemplate) -> int:
    """Most tokens that an answer gets: those of the longest title, its terminator included."""
    return int(template.response_lengths.max())


@torch.no_grad()
def write_answers(
    model: Any,
    template: PromptTemplate,
    tokenizer: PreTrainedTokenizerBase,
    places: Places,
    token_budget: int,
    reporter: Reporter,
) -> list[str]:
    """What the model writes after each place's prompt, the most probable token at each step: [n].

    An answer ends with the template's terminator, the tokenizer's end of sequence, or after `longest_answer` tokens.
    Nothing of the model's ``generation_config`` is used, so no sampling, penalty or suppressed token of a checkpoint
    changes a result.

    Args:
        model: a causal language model of transformers, bare or with PEFT adapters, in evaluation mode.
        template: makes the prompts.
        tokenizer: the model's, with a padding token.
        places: n places.
        token_budget: tokens per forward pass of prompts; memory and speed only.
        reporter: told of answers written.
    """
    prompts = [torch.from_numpy(prompt).long() for prompt in template.prompts(places)]
    ends = {template.terminator, tokenizer.eos_token_id} - {None}
    options = GenerationConfig(
        max_new_tokens=longest_answer(template),
        do_sample=False,
        num_beams=1,
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id,
    )
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    answers = [""] * len(prompts)
    done = 0
    with _blank_defaults(bare), fused_adapters(model):
        for members in pack([len(prompt) + longest_answer(template) for prompt in prompts], token_budget):
            batch = [prompts[index] for index in members.tolist()]
            ids = pad_sequence(batch, batch_first=True, padding_value=tokenizer.pad_token_id, padding_side="left").to(
                bare.device
            )
            starts = torch.tensor([ids.shape[1] - len(prompt) for prompt in batch], device=bare.device)
            mask = (torch.arange(ids.shape[1], device=bare.device) >= starts[:, None]).long()
            written = bare.generate(input_ids=ids, attention_mask=mask, generation_config=options)
            for index, tokens in zip(members.tolist(), written[:, ids.shape[1] :].tolist(), strict=True):
                end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
                answers[index] = template.read(tokens[:end])
            done += len(members)
            reporter.progress(done, len(prompts), "answers")
    return answers


@contextmanager
def _blank_defaults(model: Any) -> Iterator[None]:
    """For a while, let `model` have no generation defaults: `generate` fills what it is not told from them."""
    kept = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = kept
