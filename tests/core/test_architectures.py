"""Tiny models of many families: trees or rows, scoring, training, search and free answers give what plain
transformers gives, one prompt and response at a time, without a cache."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from benchmarks.architectures import FAMILIES, PAGE, VOCABULARY, make, page
from rosepo_core.contracts.components import PreferenceLoss
from rosepo_core.contracts.records import Ints, Places, Sequences
from rosepo_core.engine.decoding import Trunks, decode
from rosepo_core.engine.log_probs import log_probs
from rosepo_core.engine.preparation import prepared
from rosepo_core.engine.rows import Rows, row_log_probs
from rosepo_core.engine.title_trie import TitleTrie
from rosepo_core.engine.training import PreferenceTree, TrainingSettings, align_preferences
from rosepo_core.engine.trees import TokenTree, TreeBatch
from rosepo_core.engine.writing import write_answers
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.testing import SilentReporter

END = 3
"""The token that ends every title."""

RNG = np.random.default_rng(4)
PROMPTS: list[Ints] = [RNG.integers(4, VOCABULARY, length).astype(np.int32) for length in (23, 14)]
"""Longer than any window of the models."""

TITLES: list[Ints] = [
    np.array([*RNG.integers(4, VOCABULARY, length), END], dtype=np.int32) for length in (1, 3, 3, 5, 2)
]
TITLES.append(np.array([*TITLES[1][:2], 5, 6, END], dtype=np.int32))


def asked(prompt: Ints, titles: Sequence[Ints]) -> list[tuple[Ints, Ints]]:
    """All titles after all of the prompt, the last one after its first nine tokens too, and what stands in it: what a
    response follows, and the response."""
    return [*((prompt, title) for title in titles), (prompt[:9], titles[-1]), (prompt[:4], prompt[4:7])]


def tree(prompt: Ints, titles: Sequence[Ints]) -> TokenTree:
    """All that is `asked`, as the responses to one example."""
    before, responses = zip(*asked(prompt, titles), strict=True)
    columns = np.arange(len(responses))
    return TokenTree.grow(
        prompt,
        rows=np.zeros_like(columns),
        columns=columns,
        visible=np.array([len(each) for each in before]),
        lengths=np.array([len(response) for response in responses]),
        targets=np.concatenate(responses),
        in_trunk=columns == columns[-1],
    )


def plain(model: Any, prompts: Sequence[Ints], titles: Sequence[Ints]) -> Tensor:
    """All that is `asked` by the book: [prompts, responses]."""
    found = []
    for prompt in prompts:
        for seen, response in asked(prompt, titles):
            ids = torch.from_numpy(np.concatenate([seen, response])).long()
            steps = model(input_ids=ids[None], use_cache=False).logits[0].float().log_softmax(-1)
            found.append(steps[len(seen) - 1 : -1].gather(1, ids[len(seen) :, None]).sum())
    return torch.stack(found).view(len(prompts), -1)


BATCH = TreeBatch.of([tree(prompt, TITLES) for prompt in PROMPTS], pad_token_id=0)
FEW = [TITLES[0], TITLES[1]]
SMALL = tree(PROMPTS[1], FEW)
"""What is trained on: some of these models are slow in it."""


def adapted(model: Any, **options: Any) -> Any:
    """With an adapter on all linear layers that PEFT can put one on."""
    head = model.get_output_embeddings()
    names = {name.rpartition(".")[2] for name, each in model.named_modules() if is_linear(each) and each is not head}
    torch.manual_seed(2)
    config = LoraConfig(
        r=2,
        # PEFT refuses the first where there is a Mamba layer, and cannot run the second.
        target_modules=sorted(names - {"out_proj", "router"}),
        init_lora_weights=False,
        task_type="CAUSAL_LM",
        **options,
    )
    return get_peft_model(copy.deepcopy(model), config).eval()


def is_linear(module: Any) -> bool:
    return isinstance(module, torch.nn.Linear | Conv1D)


@cache
def model_of(family: str) -> Any:
    """As transformers makes it, never prepared."""
    return make(family)


@cache
def prepared_of(family: str) -> Any:
    model = copy.deepcopy(model_of(family))
    prepared(model)
    return model


families = pytest.mark.parametrize("family", FAMILIES)


@families
@torch.no_grad()
def test_scoring_search_and_training_see_the_model_that_transformers_has(family: str) -> None:
    expected, model = plain(model_of(family), PROMPTS, TITLES), prepared_of(family)
    torch.testing.assert_close(log_probs(model, BATCH).view_as(expected), expected, atol=1e-3, rtol=0)
    rows = Rows.of(BATCH)
    in_rows = row_log_probs(model, rows.input_ids, rows.row, rows.column, BATCH.targets, 64)
    by_response = torch.zeros(len(BATCH.rows)).index_add(0, BATCH.responses, in_rows)
    torch.testing.assert_close(by_response.view_as(expected), expected, atol=1e-3, rtol=0)

    # Supervised fine-tuning reads plain sequences.
    texts = [np.concatenate([prompt, TITLES[3]]) for prompt in PROMPTS]
    labelled = [np.arange(len(text)) >= len(prompt) for prompt, text in zip(PROMPTS, texts, strict=True)]
    trunks = [TokenTree.of_sequence(text, those) for text, those in zip(texts, labelled, strict=True)]
    found = log_probs(model, TreeBatch.of(trunks, pad_token_id=0))
    torch.testing.assert_close(found, expected[:, 3], atol=1e-3, rtol=0)

    # The prompts, and the first nine tokens of each, grow beams side by side.
    for exact in (True, False):
        items, scores = decode(
            model,
            Trunks(PROMPTS, np.array([0, 0, 1], np.int32), np.array([len(PROMPTS[0]), 9, len(PROMPTS[1])], np.int32)),
            TitleTrie.of(TITLES),
            len(TITLES) if exact else 3,
            reporter=SilentReporter(),
            token_budget=200,
            beams=len(TITLES),
            exact=exact,
        )
        for row, prompt in ((0, 0), (2, 1)):
            best = expected[prompt, : len(TITLES)].sort(descending=True)
            np.testing.assert_allclose(scores[row], best.values[: scores.shape[1]], atol=1e-3)
            assert items[row].tolist() == best.indices[: scores.shape[1]].tolist()
        for score in scores[1, items[1] == len(TITLES) - 1]:
            assert score == pytest.approx(float(expected[0, len(TITLES)]), abs=1e-3)


class Template:
    """As much of a prompt template as free answers need."""

    terminator = END
    response_lengths = np.array([4])

    def prompts(self, places: Places) -> list[Ints]:
        return [PROMPTS[user] for user in places.user.tolist()]

    def read(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


@families
@torch.no_grad()
def test_a_free_answer_is_the_most_probable_token_at_each_step(family: str) -> None:
    expected = []
    for prompt in PROMPTS:
        ids = prompt.tolist()
        for _ in range(4):
            ids.append(int(model_of(family)(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        written = ids[len(prompt) :]
        stop = next((place for place, token in enumerate(written) if token in (2, END)), 4)
        expected.append(" ".join(map(str, written[:stop])))
    tokenizer: Any = SimpleNamespace(eos_token_id=2)
    users = np.arange(len(PROMPTS), dtype=np.int32)
    places = Places(Sequences(np.zeros(0, np.int32), np.zeros(len(PROMPTS) + 1, np.int64)), users, users * 0)
    answers = write_answers(prepared_of(family), cast(Any, Template()), tokenizer, places, 200, SilentReporter())
    assert answers == expected


@families
def test_adapters_and_their_gradients_are_the_models_own(family: str) -> None:
    model = adapted(model_of(family))
    batch = TreeBatch.of([SMALL], pad_token_id=0)
    weights = torch.linspace(-1, 1, len(batch.rows))
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    expected = plain(model, PROMPTS[1:], FEW)[0]
    of_book = torch.autograd.grad((expected * weights).sum(), list(trained.values()), allow_unused=True)
    found = log_probs(model, batch)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    gradients = torch.autograd.grad((found * weights).sum(), list(trained.values()), allow_unused=True)
    for name, mine, book in zip(trained, gradients, of_book, strict=True):
        assert (mine is None) == (book is None), name
        if book is not None:
            scale = max(1.0, float(book.abs().max()))
            torch.testing.assert_close(mine / scale, book / scale, atol=1e-3, rtol=0, msg=name)


@cache
def dpo() -> PreferenceLoss:
    loss: PreferenceLoss = load_plugins().create("loss", "dpo", {})
    return loss


DROPOUTS = (
    *("attention_dropout", "dropout", "activation_dropout", "hidden_dropout", "residual_dropout", "layerdrop"),
    *("attn_pdrop", "resid_pdrop", "embd_pdrop", "embed_dropout", "resid_dropout"),
)


@families
def test_alignment_begins_at_the_reference(family: str) -> None:
    """Whatever a configuration calls dropout is on, and an adapter's too."""
    # PEFT has no dropout before experts.
    before_adapter = 0.0 if family in ("Qwen3-Next", "DeepSeek-V3") else 0.2
    model = adapted(make(family, **dict.fromkeys(DROPOUTS, 0.2)), lora_dropout=before_adapter)
    with torch.no_grad():
        reference = log_probs(model, TreeBatch.of([SMALL], pad_token_id=0))
        model.train()
        again = log_probs(model, TreeBatch.of([SMALL], pad_token_id=0))
    assert (again - reference).abs().max() > 1e-2, "nothing was dropped, so nothing is tested"
    pair = PreferenceTree(SMALL, np.zeros((1, len(reference) - 1), np.float32), reference.numpy()[None])
    settings = TrainingSettings(batch_size=1, token_budget=4096, learning_rate=1e-3, steps=1)
    log = align_preferences(model, dpo(), [pair], settings, SilentReporter())
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)


def test_the_page_of_the_docs_is_what_the_engine_decides() -> None:
    executions = {family: prepared(prepared_of(family)) for family in FAMILIES}
    assert PAGE.read_text(encoding="utf-8") == page(executions), "run `python -m benchmarks.architectures`"


def test_what_a_tree_can_express_runs_in_trees() -> None:
    """Literally: who is in rows is slow, and should not come to be by accident."""
    in_rows = {family for family in FAMILIES if not prepared(prepared_of(family)).trees}
    assert in_rows == {
        *("Bloom", "MPT", "Falcon, rotary", "Falcon, ALiBi", "GPT-J", "GPT-Neo"),
        *("Mamba", "Mamba 2", "RecurrentGemma", "Jamba", "RWKV"),
        *("LFM2", "Falcon-H1", "Granite 4, hybrid", "Qwen3-Next"),
    }
