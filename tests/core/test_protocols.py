"""The protocols beside drawn candidates, against brute force and by hand."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import DivergedError, RequestError, RosepoError
from rosepo_core.contracts.records import Examples, Sequences
from rosepo_core.engine.preparation import prepared
from rosepo_core.engine.rows import best_of_logits
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.engine.writing import longest_answer, write_answers
from rosepo_core.evaluation.catalogue import best_of_all, history_items
from rosepo_core.evaluation.free import fold, match, nearest
from rosepo_core.testing import SilentReporter, prompt_template

# ann chose 0, 1, 2 and then 3; bob 5, 4, 5 and then 5 again; cat 7 and then 9, and 8 afterwards.
SEQUENCES = Sequences(np.array([0, 1, 2, 3, 5, 4, 5, 5, 7, 9, 8], dtype=np.int32), np.array([0, 4, 8, 11]))
EXAMPLES = Examples.of(SEQUENCES, np.arange(3, dtype=np.int32), np.array([3, 3, 1], dtype=np.int32))
REPORTER: Reporter = SilentReporter()


def plain_log_probs(model, prompt, responses):
    """Each response after the prompt as a sequence of its own."""
    scores = []
    for response in responses:
        ids = torch.tensor(np.concatenate([prompt, response]))[None].long()
        with torch.no_grad():
            steps = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        scores.append(float(steps.gather(1, torch.tensor(response).long()[:, None]).sum()))
    return np.array(scores)


@pytest.fixture(params=["timeline", "chat"])
def template(request, tiny_tokenizer, catalogue):
    return prompt_template({"name": request.param}, tiny_tokenizer, catalogue, 8)


def test_what_is_new_to_a_user():
    # The target stays even where it was chosen before, and so does what is chosen later.
    assert [items.tolist() for items in history_items(EXAMPLES)] == [[0, 1, 2], [4], [7]]


def test_the_catalogue_by_exact_search_is_the_catalogue_scored_title_by_title(template, tiny_model, catalogue):
    length = len(catalogue)
    model = TitleModel(tiny_model, template, REPORTER, seed=0)
    excluded = history_items(EXAMPLES)
    items, scores = model.top(EXAMPLES, length, exclude=excluded, beams=4, exact=True)
    for row, prompt in enumerate(template.prompts(EXAMPLES)):
        expected = plain_log_probs(tiny_model, prompt, template.response_ids)
        expected[excluded[row]] = -np.inf
        order = np.argsort(-expected)[: length - len(excluded[row])]
        assert items[row, : len(order)].tolist() == order.tolist()
        np.testing.assert_allclose(scores[row, : len(order)], expected[order], atol=1e-4)
        assert (items[row, len(order) :] == -1).all()
    # A shorter list is the beginning of a longer one; so many beams as there are titles miss nothing either.
    for beams, exact in ((1, True), (length, False)):
        top, _ = model.top(EXAMPLES, 10, exclude=excluded, beams=beams, exact=exact)
        assert top.tolist() == items[:, :10].tolist()


def test_prompts_that_list_candidates_cannot_be_asked_for_all(tiny_model, tiny_tokenizer, catalogue):
    template = prompt_template({"name": "chat", "candidates": 3}, tiny_tokenizer, catalogue, 8)
    with pytest.raises(RequestError, match=r"list candidates \(prompt.candidates\)"):
        TitleModel(tiny_model, template, REPORTER, 0).top(EXAMPLES, 2, exclude=[], beams=2, exact=True)


def test_the_best_of_all_scored_items():
    def score(examples, items):
        """Item i scores i modulo 5, but ann's 0 the most."""
        return (items % 5 + 10.0 * ((items == 0) & (examples.user == 0)[:, None])).astype(np.float32)

    top, scores = best_of_all("mine", score, EXAMPLES, 10, 9, np.random.default_rng(1))
    # Fours, threes, twos, ones, noughts; ann's 0 is excluded, so are 1 and 2; bob's 4, cat's 7.
    groups = [
        [{4, 9}, {3, 8}, {7}, {6}, {5}],
        [{9}, {3, 8}, {2, 7}, {1, 6}, {0, 5}],
        [{4, 9}, {3, 8}, {2}, {1, 6}, {0, 5}],
    ]
    for row, expected in enumerate(groups):
        sizes = np.cumsum([0, *map(len, expected)])
        found = [set(top[row, low:high].tolist()) for low, high in pairwise(sizes)]
        assert found == expected
        assert scores[row, : sizes[-1]].tolist() == sorted([i % 5 for i in top[row, : sizes[-1]]], reverse=True)
    assert top[0, 7:].tolist() == [-1, -1]
    assert scores[0, 7:].tolist() == [-np.inf, -np.inf]


def test_equals_stand_in_an_order_that_no_item_is_favoured_by():
    """A constant model has item 0 first as often as any of ten: 100 of 1,000 orders, give or take five deviations."""

    def constant(examples, items):
        return np.zeros(items.shape, dtype=np.float32)

    alone = Examples.of(
        Sequences(np.array([0], np.int32), np.array([0, 1])), np.zeros(1, np.int32), np.zeros(1, np.int32)
    )
    first = [best_of_all("x", constant, alone, 10, 1, np.random.default_rng(seed))[0][0, 0] for seed in range(1000)]
    counts = np.bincount(first, minlength=10)
    assert np.abs(counts - 100).max() < 5 * np.sqrt(1000 * 0.1 * 0.9)


def test_all_items_are_scored_in_blocks_as_at_once(monkeypatch):
    def score(examples, items):
        return (items * 7 % 10 + examples.user[:, None]).astype(np.float32)

    whole = best_of_all("mine", score, EXAMPLES, 10, 4, np.random.default_rng(0))
    monkeypatch.setattr("rosepo_core.evaluation.catalogue.BLOCK_CELLS", 10)
    parts = best_of_all("mine", score, EXAMPLES, 10, 4, np.random.default_rng(0))
    assert all(np.array_equal(first, second) for first, second in zip(whole, parts, strict=True))
    assert best_of_all("mine", lambda *_: None, EXAMPLES, 10, 4, np.random.default_rng(0)) is None
    with pytest.raises(RosepoError, match=r"model 'mine' scored .* NaN"):
        best_of_all("mine", lambda _, items: np.full(items.shape, np.nan), EXAMPLES, 10, 4, np.random.default_rng(0))


def greedy(model, prompt, ends, most):
    """One token at a time, the whole text read anew for each."""
    ids = list(prompt)
    for _ in range(most):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
    return ids[len(prompt) :]


def test_answers_are_the_most_probable_token_after_the_other(template, tiny_model, tiny_tokenizer):
    expected = []
    for prompt in template.prompts(EXAMPLES):
        ends = {template.terminator, tiny_tokenizer.eos_token_id}
        expected.append(template.read(greedy(tiny_model, prompt.tolist(), ends, longest_answer(template))))
    for budget in (1, 4096):
        assert write_answers(tiny_model, template, tiny_tokenizer, EXAMPLES, budget, REPORTER) == expected
    assert any(expected)


def test_a_checkpoints_own_defaults_change_no_answer(template, tiny_model, tiny_tokenizer):
    plain = write_answers(tiny_model, template, tiny_tokenizer, EXAMPLES, 4096, REPORTER)
    opinionated = deepcopy(tiny_model)
    own = GenerationConfig(
        do_sample=True, temperature=5.0, repetition_penalty=9.0, suppress_tokens=list(range(50, 400)), max_length=3
    )
    opinionated.generation_config = own
    assert write_answers(opinionated, template, tiny_tokenizer, EXAMPLES, 4096, REPORTER) == plain
    assert opinionated.generation_config is own


def test_a_model_whose_numbers_are_none_gives_no_answer(template, tiny_model, tiny_tokenizer):
    assert best_of_logits(torch.tensor([[1.0, torch.nan], [1.0, 2.0]])).tolist() == [-1, 1]
    broken = deepcopy(tiny_model)
    prepared(broken)
    broken.requires_grad_(False).model.norm.weight[0] = torch.nan
    with pytest.raises(DivergedError, match=r"the model gave the next token no probability \(NaN\)"):
        write_answers(broken, template, tiny_tokenizer, EXAMPLES, 4096, REPORTER)
    for exact in (True, False):
        with pytest.raises(DivergedError, match="the model gave titles the log-probability NaN"):
            TitleModel(broken, template, REPORTER, seed=0).top(
                EXAMPLES, 3, exclude=history_items(EXAMPLES), beams=4, exact=exact
            )


def test_an_answer_is_the_title_that_the_model_was_made_to_write(tiny_tokenizer, tiny_model, catalogue):
    """A model that writes one title for ever: every answer is that title, up to the terminator."""
    template = prompt_template({}, tiny_tokenizer, catalogue, 8)
    # No token of it may come twice.
    title = next(item for item, ids in enumerate(template.response_ids) if len(set(ids.tolist())) == len(ids))
    response = template.response_ids[title].tolist()
    follows = dict(zip([template.terminator, *response[:-1]], response, strict=True))
    model = deepcopy(tiny_model)
    # The last token alone decides: its embedding passes through, and the head maps it to what follows.
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size, bias=False)
    states = torch.nn.functional.normalize(model.model.embed_tokens.weight.detach(), dim=1)
    with torch.no_grad():
        head.weight.zero_()
        for token, after in follows.items():
            head.weight[after] += 5 * states[token]
    model.lm_head = head
    written = write_answers(model.eval(), template, tiny_tokenizer, EXAMPLES, 4096, REPORTER)
    assert written == [catalogue.titles[title]] * 3
    assert match(written, template.texts, catalogue.titles).tolist() == [title] * 3


def test_a_timeline_answer_is_one_line(tiny_tokenizer, catalogue):
    timeline, chat = (prompt_template({"name": kind}, tiny_tokenizer, catalogue, 8) for kind in ("timeline", "chat"))
    ids = tiny_tokenizer("Bluebird (1940)\nBluebird (1976)", add_special_tokens=False).input_ids
    assert timeline.read(ids) == "Bluebird (1940)"
    assert chat.read(ids) == "Bluebird (1940)\nBluebird (1976)"
    assert timeline.read([]) == ""


@pytest.mark.parametrize(
    ("answer", "reads"),
    [
        ("  Quiet\u00a0 Rivers\t", "Quiet Rivers"),
        ("Le Cafe\u0301", "Le Café"),
        ("\uff27lass \uff2dountain", "Glass Mountain"),
        ("ﬁrst", "first"),
        ("quiet rivers", "quiet rivers"),
        (" \u3000 ", ""),
    ],
)
def test_what_reads_the_same(answer, reads):
    assert fold(answer) == reads


def test_answers_are_matched_with_titles(catalogue):
    titles = catalogue.titles
    short = [title.removesuffix(" (1979)") for title in titles]
    answers = [
        "Glass Mountain",  # as the prompts write it
        "Glass Mountain (1979)",  # in full
        " Glass  Mountain (1979)",
        "glass mountain",
        "Glass Mountain (1980)",
        "Quiet Rivers",  # has a namesake with a year
        "Le Cafe\u0301 des E\u0301toiles (1991)",
        "Harvest Moon",  # two have it with a year, none without
        "",
    ]
    expected = ["Glass Mountain (1979)"] * 3 + [None, None, "Quiet Rivers", "Le Café des Étoiles (1991)", None, None]
    found = match(answers, short, titles)
    assert found.tolist() == [-1 if title is None else titles.index(title) for title in expected]
    assert found.dtype == np.int32
    # Of titles that read the same the first is meant.
    assert match(["II"], ["\u2161", "II"], ["\u2161", "II"]).tolist() == [0]


def test_the_nearest_titles():
    titles = np.array([[1, 0], [0.6, 0.8], [0, 1]], dtype=np.float32)
    items, cosines = nearest(np.array([[0.8, 0.6], [0, -1]], dtype=np.float32), titles, 4)
    # Cosines 0.8, 0.96, 0.6 and 0, -0.8, -1.
    assert items.tolist() == [[1, 0, 2, -1], [0, 1, 2, -1]]
    np.testing.assert_allclose(cosines, [[0.96, 0.8, 0.6, -np.inf], [0, -0.8, -1, -np.inf]], atol=1e-6)


def test_the_target_of_an_example_changes_no_answer(template, tiny_model, tiny_tokenizer):
    other = replace(
        EXAMPLES, sequences=Sequences(np.array([0, 1, 2, 8, 5, 4, 5, 9, 7, 3, 8], np.int32), SEQUENCES.offsets)
    )
    first, second = (
        write_answers(tiny_model, template, tiny_tokenizer, examples, 4096, REPORTER)
        for examples in (EXAMPLES, other)
    )
    assert first == second
