"""A language model, a tokenizer and a catalogue small enough to be made on the fly."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from rosepo_core.contracts.records import Catalogue

# The process that hands the tests out reads this file and runs none of them: it does without torch.
if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

TITLES = (
    "The Lighthouse Keeper (1995)",
    "The Lighthouse (1995)",
    "Harvest Moon (1987)",
    "Harvest Moon (1996)",
    "Harvest Moon Rising (1996)",
    "Quiet Rivers (1994)",
    "Quiet Rivers",
    "Glass Mountain (1979)",
    "Paper Kites (1993)",
    "Paper Kites II (1995)",
    "Le Café des Étoiles (1991)",
    "千の風 (1988)",
    "Zoë & the Dragon (1996)",
    "Night Train to Nowhere (1974)",
    "Night Train (1974)",
    "A Bridge of Salt (1990)",
    "Ordinary Thieves (1992)",
    "Ordinary Saints (1992)",
    "Seven Winters (1985)",
    "The Clockmaker's Daughter (1989)",
    "Copper Sun (1968)",
    "Copper Sun: The Return (1971)",
    "Slow Dancing (1980)",
    "Orchard Road (1997)",
    "The Last Cartographer (1998)",
    "2000 Miles (1983)",
    "1984 (1956)",
    "Umbrella Season (1964)",
    "Wolves at Noon (1977)",
    "Small Gods of Summer (1996)",
    "North of Silence (1995)",
    "South of Silence (1995)",
    "Mirror, Mirror (1982)",
    "The Tailor of Trieste (1961)",
    "Bluebird (1940)",
    "Bluebird (1976)",
    "Ash Wednesday (1973)",
    "The Beekeeper's War (1986)",
    "Lantern Street (1999)",
    "Farewell, Captain (1959)",
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pytest_collection_finish() -> None:
    import torch

    # Models this small gain nothing from more, and wait for each other where the cores are shared.
    torch.set_num_threads(1)
    # Some tests ask for equal bits, which a GPU gives by such algorithms alone.
    torch.use_deterministic_algorithms(torch.cuda.is_available())
    # Each training collects garbage several times. Without this it would go through the half a million objects of the
    # imported libraries each time.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """40 invented titles: years, two pairs that differ by year alone, one that another has without its year, titles
    that begin others, accents and CJK."""
    return Catalogue(
        ids=tuple(f"i{number}" for number in range(len(TITLES))),
        titles=TITLES,
        popularity=np.arange(len(TITLES), 0, -1, dtype=np.int64),
        attributes=pl.DataFrame(),
    )


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a chat template; "\\n" is one token, <|im_end|> ends a message, <|endoftext|> pads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TITLES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
    )


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Two layers of 32, four heads over two of keys and values, float32, seeded. Shared: train a copy of it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,
        tie_word_embeddings=True,
        pad_token_id=tiny_tokenizer.pad_token_id,
        eos_token_id=tiny_tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()
