from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from rosepo_core.engine.decoding import Trunks, decode
from rosepo_core.engine.titles import TitleTrie

END = 0
VOCABULARY = 24


class Silent:
    def progress(self, done, total, unit):
        pass

    def note(self, message):
        pass


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.4,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def indifferent():
    """Every token is as likely as any other, so that titles of one length tie."""
    torch.manual_seed(6)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).eval()
    torch.nn.init.zeros_(model.lm_head.weight)
    return model


def catalogue(rng, count, longest=6):
    stems = {tuple(rng.integers(1, VOCABULARY, rng.integers(0, longest)).tolist()) for _ in range(count)}
    # Half of the titles continue another one's beginning.
    stems |= {stem[: len(stem) // 2] + tuple(rng.integers(1, 5, 2).tolist()) for stem in stems}
    return [np.array([*stem, END], dtype=np.int32) for stem in sorted(stems)]


def prompts(rng, trunks=3, longest=14):
    tokens = [rng.integers(1, VOCABULARY, rng.integers(3, longest)).astype(np.int32) for _ in range(trunks)]
    trunk = np.repeat(np.arange(trunks), 4)
    anchor = np.array([rng.integers(1, len(tokens[t]) + 1) for t in trunk])
    order = rng.permutation(len(trunk))
    return Trunks(tokens, trunk[order].astype(np.int32), anchor[order].astype(np.int32))


@torch.no_grad()
def plain_scores(model, trunks, titles):
    """Each title after each prompt as a sequence of its own: [n, titles]."""
    lengths = torch.tensor([len(title) for title in titles])
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(title).long() for title in titles], batch_first=True)
    scores = np.empty((len(trunks), len(titles)))
    for row in range(len(trunks)):
        prompt = torch.from_numpy(trunks.tokens[trunks.trunk[row]][: trunks.anchor[row]]).long()
        ids = torch.cat([prompt.expand(len(titles), -1), padded], dim=1)
        log_probs = model(input_ids=ids).logits[:, len(prompt) - 1 : -1].float().log_softmax(-1)
        log_probs = log_probs.gather(2, padded[:, :, None])[:, :, 0]
        scores[row] = (log_probs * (torch.arange(padded.shape[1]) < lengths[:, None])).sum(1)
    return scores


def best(scores, k, excluded=None):
    """Brute force: the k best items of each row, the lower index first among equals (to float32)."""
    scores = scores.copy()
    for row, items in enumerate(excluded or []):
        scores[row, items] = -np.inf
    order = np.argsort(-np.round(scores, 5), axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(scores, order, axis=1)
    return np.where(np.isneginf(found), -1, order), found


def run(model, trunks, titles, k, **options):
    options = {"reporter": Silent(), "token_budget": 200, "beams": len(titles), **options}
    return decode(model, trunks, TitleTrie.of(titles), k, **options)


def test_a_beam_as_wide_as_the_catalogue_is_brute_force(model):
    rng = np.random.default_rng(0)
    titles, trunks = catalogue(rng, 40), prompts(rng)
    expected = best(plain_scores(model, trunks, titles), 7)
    items, scores = run(model, trunks, titles, 7)
    assert items.tolist() == expected[0].tolist()
    np.testing.assert_allclose(scores, expected[1], atol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_exact_search_is_brute_force_at_any_width(model, beams):
    rng = np.random.default_rng(1)
    titles, trunks = catalogue(rng, 60), prompts(rng)
    expected = best(plain_scores(model, trunks, titles), 3)
    items, scores = run(model, trunks, titles, 3, beams=beams, exact=True)
    assert items.tolist() == expected[0].tolist()
    np.testing.assert_allclose(scores, expected[1], atol=1e-4)


def test_a_narrow_beam_reports_the_true_scores_of_what_it_finds(model):
    rng = np.random.default_rng(2)
    titles, trunks = catalogue(rng, 60), prompts(rng)
    truth = plain_scores(model, trunks, titles)
    items, scores = run(model, trunks, titles, 2, beams=2)
    np.testing.assert_allclose(scores, np.take_along_axis(truth, items, axis=1), atol=1e-4)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_a_wider_beam_finds_more_probable_titles(model):
    rng = np.random.default_rng(3)
    titles, trunks = catalogue(rng, 100), prompts(rng, trunks=10)
    means = [run(model, trunks, titles, 1, beams=beams)[1].mean() for beams in (1, 2, 8)]
    assert means[0] < means[1] < means[2]


def test_a_greedy_beam_takes_the_likeliest_allowed_token_at_each_choice(model):
    titles = [np.array(title, dtype=np.int32) for title in ([3, 4, END], [3, 5, END], [7, END], [8, 9, END])]
    trunks = prompts(np.random.default_rng(4))
    items, _ = run(model, trunks, titles, 1, beams=1)
    for row in range(len(trunks)):
        prompt = torch.from_numpy(trunks.tokens[trunks.trunk[row]][: trunks.anchor[row]]).long()
        with torch.no_grad():
            first = model(input_ids=prompt[None]).logits[0, -1]
            second = model(input_ids=torch.cat([prompt, torch.tensor([3])])[None]).logits[0, -1]
        likeliest = max((3, 7, 8), key=lambda token: float(first[token]))
        # A title without further choices that was finished first is beaten only by a better score.
        expected = {7: 2, 8: 3}.get(likeliest, 0 if second[4] > second[5] else 1)
        assert items[row, 0] == expected


def test_equal_scores_go_to_the_lower_item(indifferent):
    titles = [np.array([*stem, END], dtype=np.int32) for stem in permutations((9, 3, 6), 2)]
    titles.insert(4, np.array([2, END], dtype=np.int32))
    trunks = prompts(np.random.default_rng(5))
    for options in ({}, {"exact": True, "beams": 1}):
        items, scores = run(indifferent, trunks, titles, 4, **options)
        assert items.tolist() == [[4, 0, 1, 2]] * len(trunks)
        np.testing.assert_allclose(scores, [np.log(VOCABULARY) * -np.array([2, 3, 3, 3])] * len(trunks), rtol=1e-6)


def test_excluded_items_never_come_out(model):
    rng = np.random.default_rng(6)
    titles, trunks = catalogue(rng, 30), prompts(rng)
    excluded = [rng.choice(len(titles), rng.integers(0, len(titles)), replace=False) for _ in range(len(trunks))]
    expected = best(plain_scores(model, trunks, titles), 5, excluded)[0]
    items, _ = run(model, trunks, titles, 5, exclude=lambda rows: [excluded[row] for row in rows])
    assert items.tolist() == expected.tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_fewer_titles_are_left_the_rest_is_empty(model, temperature):
    titles = [np.array(title, dtype=np.int32) for title in ([3, 4, END], [3, 5, END], [END])]
    trunks = Trunks([np.array([4, 2], dtype=np.int32)], np.zeros(3, np.int32), np.array([1, 2, 2], np.int32))
    excluded = [np.array([1]), np.array([0, 1, 2]), np.array([], dtype=np.int64)]
    items, scores = run(
        model,
        trunks,
        titles,
        5,
        temperature=temperature,
        rng=np.random.default_rng(0),
        exclude=lambda rows: [excluded[row] for row in rows],
    )
    assert [set(row.tolist()) for row in items] == [{0, 2, -1}, {-1}, {0, 1, 2, -1}]
    assert (np.isneginf(scores) == (items == -1)).all()
    assert (items[:, 3:] == -1).all()


def test_an_anchor_in_a_trunk_equals_a_prompt_of_its_own(model):
    rng = np.random.default_rng(7)
    titles, shared = catalogue(rng, 40), prompts(rng)
    alone = Trunks(
        [shared.tokens[t][:a] for t, a in zip(shared.trunk, shared.anchor, strict=True)],
        np.arange(len(shared), dtype=np.int32),
        shared.anchor,
    )
    one, other = (run(model, trunks, titles, 3, beams=3) for trunks in (shared, alone))
    assert one[0].tolist() == other[0].tolist()
    np.testing.assert_allclose(one[1], other[1], atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_batches_do_not_change_what_comes_out(model, temperature):
    rng = np.random.default_rng(8)
    titles, trunks = catalogue(rng, 60), prompts(rng, trunks=6)
    runs = [
        run(
            model,
            trunks,
            titles,
            3,
            beams=4,
            temperature=temperature,
            rng=np.random.default_rng(1),
            token_budget=budget,
        )
        for budget in (1, 60, 10_000)
    ]
    for items, scores in runs[1:]:
        assert items.tolist() == runs[0][0].tolist()
        np.testing.assert_allclose(scores, runs[0][1], atol=1e-4)


def test_drawn_titles_are_distinct_with_their_true_scores_and_repeatable(model):
    rng = np.random.default_rng(9)
    titles, trunks = catalogue(rng, 30), prompts(rng)
    truth = plain_scores(model, trunks, titles)
    items, scores = run(model, trunks, titles, 8, temperature=1.5, rng=np.random.default_rng(3))
    assert all(len(set(row.tolist())) == 8 for row in items)
    np.testing.assert_allclose(scores, np.take_along_axis(truth, items, axis=1), atol=1e-4)
    again, unscored = run(model, trunks, titles, 8, temperature=1.5, rng=np.random.default_rng(3), score=False)
    assert again.tolist() == items.tolist()
    assert np.isnan(unscored).all()
    other, _ = run(model, trunks, titles, 8, temperature=1.5, rng=np.random.default_rng(4))
    assert other.tolist() != items.tolist()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_model_s_distribution_over_allowed_titles(model, temperature):
    """Ordered pairs drawn without replacement against p(first) p(second) / (1 - p(first)), one item excluded."""
    titles = [
        np.array(title, dtype=np.int32)
        for title in ([3, 4, END], [3, 5, 6, END], [3, 5, 7, END], [8, END], [9, 2, 2, END], [3, 5, 1, END])
    ]
    prompt = np.array([4, 2, 11], dtype=np.int32)
    draws = 6000
    trunks = Trunks([prompt], np.zeros(draws, np.int32), np.full(draws, 3, np.int32))
    items, _ = run(
        model,
        trunks,
        titles,
        2,
        temperature=temperature,
        rng=np.random.default_rng(11),
        exclude=lambda rows: [np.array([5])] * len(rows),
        token_budget=100_000,
        score=False,
    )

    def after(*tokens):
        with torch.no_grad():
            return model(input_ids=torch.tensor([[*prompt.tolist(), *tokens]])).logits[0, -1].double() / temperature

    root, three, five = after(), after(3), after(3, 5)
    root, three, five = (x.numpy() for x in (root, three, five))

    def among(logits, tokens):
        weights = np.exp(logits[tokens] - logits[tokens].max())
        return weights / weights.sum()

    p3, p8, p9 = among(root, [3, 8, 9])
    p4, p5 = among(three, [4, 5])
    p6, p7 = among(five, [6, 7])
    p = np.array([p3 * p4, p3 * p5 * p6, p3 * p5 * p7, p8, p9])
    expected = draws * p[:, None] * p[None, :] / (1 - p[:, None])
    np.fill_diagonal(expected, 0)
    counts = np.zeros((5, 5))
    np.add.at(counts, (items[:, 0], items[:, 1]), 1)
    assert counts.sum() == draws
    assert np.trace(counts) == 0
    common = expected > 5
    statistic = ((counts - expected)[common] ** 2 / expected[common]).sum()
    # The 99.9 % quantile of chi-square with at most 19 degrees of freedom.
    assert common.sum() >= 4
    assert statistic < 43.8


def test_a_draw_needs_a_generator(model):
    with pytest.raises(ValueError, match="random generator"):
        run(model, prompts(np.random.default_rng(0)), [np.array([END], dtype=np.int32)], 1, temperature=1.0)


def test_no_examples(model):
    trunks = Trunks([], np.zeros(0, np.int32), np.zeros(0, np.int32))
    items, scores = run(model, trunks, [np.array([END], dtype=np.int32)], 2)
    assert items.shape == scores.shape == (0, 2)


@settings(max_examples=25, deadline=None)
@given(
    stems=st.sets(st.lists(st.integers(1, 4), max_size=5).map(tuple), min_size=1, max_size=12),
    k=st.integers(1, 5),
    seed=st.integers(0, 2**31),
    exact=st.booleans(),
    budget=st.sampled_from([1, 40, 1000]),
)
def test_any_small_catalogue_equals_brute_force(model, stems, k, seed, exact, budget):
    rng = np.random.default_rng(seed)
    titles = [np.array([*stem, END], dtype=np.int32) for stem in sorted(stems)]
    trunks = prompts(rng, trunks=2, longest=6)
    excluded = [rng.choice(len(titles), rng.integers(0, len(titles)), replace=False) for _ in range(len(trunks))]
    expected, truth = best(plain_scores(model, trunks, titles), k, excluded)
    items, scores = run(
        model,
        trunks,
        titles,
        k,
        exclude=lambda rows: [excluded[row] for row in rows],
        exact=exact,
        beams=1 if exact else len(titles),
        token_budget=budget,
    )
    width = expected.shape[1]
    np.testing.assert_allclose(scores[:, :width], truth, atol=1e-4)
    assert (items[:, width:] == -1).all()
    apart = np.abs(np.diff(truth, axis=1, append=-np.inf, prepend=np.inf)).min() if len(titles) > 1 else 1
    if apart > 1e-4:
        assert items[:, :width].tolist() == expected.tolist()
