"""Many threads may ask one model: each gets what it would get alone, bit for bit."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BloomConfig, BloomForCausalLM

from rosepo_core.contracts.records import Catalogue, Places, Sequences
from rosepo_core.engine.preparation import prepared
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.serving.recommender import Recommender
from rosepo_core.testing import SilentReporter, prompt_template

THREADS = 4
SEQUENCES = Sequences(np.array([0, 1, 2, 3, 5, 4, 5, 9, 7, 9, 8], dtype=np.int32), np.array([0, 4, 8, 11]))
PLACES = Places(SEQUENCES, np.arange(3, dtype=np.int32), np.array([3, 3, 1], dtype=np.int32))


def adapted(tiny_model: Any) -> Any:
    """Runs in trees, with layers that are fused."""
    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(copy.deepcopy(tiny_model), config).eval()


def bloom(tiny_model: Any) -> Any:
    """Runs in rows."""
    torch.manual_seed(1)
    vocabulary = tiny_model.config.vocab_size
    model = BloomForCausalLM(BloomConfig(vocab_size=vocabulary, hidden_size=16, n_layer=1, n_head=2)).eval()
    assert not prepared(model).trees
    return model


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    kept = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(kept)


@pytest.fixture
def template(tiny_tokenizer: Any, catalogue: Catalogue) -> PromptTemplate:
    return prompt_template({}, tiny_tokenizer, catalogue, 8)


@pytest.mark.usefixtures("eager_switching")
@pytest.mark.parametrize("make", [adapted, bloom])
def test_threads_get_what_each_would_get_alone(
    make: Callable[[Any], Any], tiny_model: Any, template: PromptTemplate, catalogue: Catalogue
) -> None:
    titles = TitleModel(make(tiny_model), template, SilentReporter(), 0)
    recommender = Recommender(titles, catalogue)
    histories = [[catalogue.titles[item] for item in (start, start + 7, start + 3)] for start in range(4)]
    items = np.tile(np.arange(20, dtype=np.int32), (3, 1))
    calls: list[Callable[[], Any]] = [lambda h=history: recommender.recommend(h, 5) for history in histories]  # type: ignore[misc]
    calls += [lambda: titles.score(PLACES, items).tolist()]
    expected = [call() for call in calls]
    start = Barrier(THREADS)

    def ask(thread: int) -> list[Any]:
        start.wait()
        # Each thread in another order, so that different calls meet.
        order = [(thread + place) % len(calls) for place in range(len(calls))]
        found = {index: calls[index]() for index in order}
        return [found[index] for index in range(len(calls))]

    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(ask, range(THREADS)):
            assert found == expected
