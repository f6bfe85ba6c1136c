from copy import deepcopy
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rosepo_core.engine.decoding import Trunks, decode
from rosepo_core.engine.title_trie import TitleTrie

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
    for each in tokens[1:]:
        each[:2] = tokens[0][:2]
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


@pytest.mark.parametrize("beams", [1, 3, None])
def test_exact_search_is_brute_force_at_any_width(model, beams):
    rng = np.random.default_rng(1)
    titles, trunks = catalogue(rng, 60), prompts(rng)
    expected = best(plain_scores(model, trunks, titles), 3)
    items, scores = run(model, trunks, titles, 3, beams=beams, exact=True)
    assert items.tolist() == expected[0].tolist()
    np.testing.assert_allclose(scores, expected[1], atol=1e-4)


def test_what_prompts_begin_with_is_read_once(model):
    """Also a prompt that is the beginning of another one, and one that comes twice."""
    titles = [np.array(title, dtype=np.int32) for title in ([7, END], [8, END], [7, 9, END])]
    tokens = [np.array(ids, dtype=np.int32) for ids in ([1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 2], [1, 2, 3, 5, 6])]
    trunks = Trunks(tokens, np.arange(4, dtype=np.int32), np.array([4, 5, 2, 5], dtype=np.int32))
    read = []
    hook = model.get_input_embeddings().register_forward_hook(lambda layer, args, out: read.append(args[0].shape[1]))
    items, scores = run(model, trunks, titles, 3)
    hook.remove()
    assert read[0] == 6
    expected = best(plain_scores(model, trunks, titles), 3)
    assert items.tolist() == expected[0].tolist()
    np.testing.assert_allclose(scores, expected[1], atol=1e-4)


def test_an_exact_search_reads_little_that_it_does_not_need(model):
    """A search that reads one beam at a time reads the least that any can. One that chooses its width reads no more
    than twice that for many prompts, in fewer passes."""
    rng = np.random.default_rng(3)
    titles, trunks = catalogue(rng, 200), prompts(rng, trunks=8)
    read: dict[int | None, list[int]] = {1: [], None: []}
    for beams, sizes in read.items():
        hook = model.get_input_embeddings().register_forward_hook(
            lambda layer, args, out, sizes=sizes: sizes.append(args[0].shape[1])
        )
        run(model, trunks, titles, 5, beams=beams, exact=True, token_budget=4096)
        hook.remove()
    assert sum(read[None]) < 2 * sum(read[1])
    assert len(read[None]) < len(read[1]) / 2


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


def test_a_model_s_own_generation_defaults_change_nothing(model):
    rng = np.random.default_rng(10)
    titles, trunks = catalogue(rng, 30), prompts(rng)
    expected = run(model, trunks, titles, 4, exact=True, beams=4)
    odd = deepcopy(model)
    odd.generation_config = GenerationConfig(
        do_sample=True,
        temperature=9.0,
        top_k=1,
        repetition_penalty=5.0,
        no_repeat_ngram_size=1,
        num_beams=3,
        max_new_tokens=1,
        suppress_tokens=list(range(1, VOCABULARY)),
        eos_token_id=3,
    )
    items, scores = run(odd, trunks, titles, 4, exact=True, beams=4)
    assert items.tolist() == expected[0].tolist()
    assert scores.tolist() == expected[1].tolist()


def families():
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "initializer_range": 0.4,
    }
    yield "adapted", LlamaForCausalLM, LlamaConfig(**sizes)
    yield "gpt2", GPT2LMHeadModel, GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4)
    yield "qwen3", Qwen3ForCausalLM, Qwen3Config(**sizes)
    yield "gemma3", Gemma3ForCausalLM, Gemma3TextConfig(**sizes, final_logit_softcapping=2.0)
    yield "cohere", CohereForCausalLM, CohereConfig(**sizes, logit_scale=0.3, bos_token_id=1, eos_token_id=0)


@pytest.mark.parametrize(("name", "kind", "config"), [pytest.param(*family, id=family[0]) for family in families()])
def test_models_of_other_families_score_as_they_do_in_transformers(name, kind, config):
    torch.manual_seed(8)
    model = kind(config).eval()
    if name == "adapted":
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    rng = np.random.default_rng(12)
    titles, trunks = catalogue(rng, 20), prompts(rng)
    expected = best(plain_scores(model, trunks, titles), 4)
    items, scores = run(model, trunks, titles, 4, exact=True, beams=4)
    np.testing.assert_allclose(scores, expected[1], atol=1e-4)
    assert items.tolist() == expected[0].tolist()


def test_a_model_that_drops_out_is_not_asked(model):
    with pytest.raises(ValueError, match=r"is in training mode; call its eval\(\)"):
        run(deepcopy(model).train(), prompts(np.random.default_rng(0)), [np.array([END], np.int32)], 1)


def test_logits_stay_within_their_bound(model, monkeypatch):
    rng = np.random.default_rng(13)
    titles, trunks = catalogue(rng, 40), prompts(rng)
    expected = run(model, trunks, titles, 5)
    most = 4 * 4 * VOCABULARY * 3
    monkeypatch.setattr("rosepo_core.engine.head.LOGIT_BYTES", most)
    seen = []
    hook = model.lm_head.register_forward_hook(lambda module, inputs, logits: seen.append(logits.numel() * 4))
    try:
        items, scores = run(model, trunks, titles, 5)
    finally:
        hook.remove()
    assert max(seen) <= most // 4
    assert items.tolist() == expected[0].tolist()
    np.testing.assert_allclose(scores, expected[1], atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_equal_titles_share_what_is_drawn_and_a_beginning_is_what_goes_on_as_no_title(model, temperature):
    """Items 0 and 2 are [3], 3 and 4 are [8], of which 4 is excluded; [3] begins [3, 5] and [3, 6]."""
    titles = [np.array(title, dtype=np.int32) for title in ([3], [3, 5], [3], [8], [8], [3, 6])]
    prompt = np.array([4, 2, 11], dtype=np.int32)
    draws = 6000
    trunks = Trunks([prompt], np.zeros(draws, np.int32), np.full(draws, 3, np.int32))
    items, scores = run(
        model,
        trunks,
        titles,
        5,
        temperature=temperature,
        rng=np.random.default_rng(14),
        exclude=lambda rows: [np.array([4])] * len(rows),
        token_budget=100_000,
    )
    truth = plain_scores(model, Trunks([prompt], np.zeros(1, np.int32), np.full(1, 3, np.int32)), titles)[0]
    np.testing.assert_allclose(scores, truth[items], atol=1e-4)
    assert (np.sort(items, axis=1) == [0, 1, 2, 3, 5]).all()
    with torch.no_grad():
        root, three = (
            model(input_ids=torch.tensor([[*prompt.tolist(), *tokens]])).logits[0, -1].double().softmax(-1).numpy()
            for tokens in ([], [3])
        )
    p3, p8 = root[[3, 8]] ** (1 / temperature) / (root[[3, 8]] ** (1 / temperature)).sum()
    after = np.array([1 - three[5] - three[6], three[5], three[6]]) ** (1 / temperature)
    stop, p5, p6 = after / after.sum()
    p = np.zeros(6)
    p[[0, 1, 2, 3, 5]] = p3 * stop / 2, p3 * p5, p3 * stop / 2, p8, p3 * p6
    expected = draws * p[:, None] * p[None, :] / (1 - p[:, None])
    np.fill_diagonal(expected, 0)
    counts = np.zeros((6, 6))
    np.add.at(counts, (items[:, 0], items[:, 1]), 1)
    assert np.trace(counts) == 0
    common = expected > 5
    assert common[0, 2]
    assert common.sum() >= 8
    # The 99.9 % quantile of chi-square with at most 19 degrees of freedom.
    assert ((counts - expected)[common] ** 2 / expected[common]).sum() < 43.8


# Equal titles, titles that begin others, and titles of one token are all among them.
CATALOGUES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=14)


@settings(max_examples=40, deadline=None)
@given(
    stems=CATALOGUES,
    k=st.integers(1, 6),
    seed=st.integers(0, 2**31),
    exact=st.booleans(),
    beams=st.integers(1, 5),
    budget=st.sampled_from([1, 40, 1000]),
)
def test_any_small_catalogue_equals_brute_force(model, stems, k, seed, exact, beams, budget):
    rng = np.random.default_rng(seed)
    titles = [np.array(stem, dtype=np.int32) for stem in stems]
    trunks = prompts(rng, trunks=2, longest=6)
    excluded = [rng.choice(len(titles), rng.integers(0, len(titles) + 1), replace=False) for _ in range(len(trunks))]
    truth = plain_scores(model, trunks, titles)
    expected, found = best(truth, k, excluded)
    items, scores = run(
        model,
        trunks,
        titles,
        k,
        exclude=lambda rows: [excluded[row] for row in rows],
        exact=exact,
        beams=beams if exact else len(titles),
        token_budget=budget,
    )
    width = expected.shape[1]
    np.testing.assert_allclose(scores[:, :width], found, atol=1e-4)
    assert (items[:, width:] == -1).all()
    distinct = [stems.index(stem) for stem in {tuple(stem): stem for stem in stems}.values()]
    if len(distinct) == 1 or np.diff(np.sort(truth[:, distinct], axis=1)).min() > 1e-4:
        assert items[:, :width].tolist() == expected.tolist()


@settings(max_examples=25, deadline=None)
@given(stems=CATALOGUES, k=st.integers(1, 6), exact=st.booleans(), excluded=st.sets(st.integers(0, 13)))
def test_ties_go_to_the_lower_item_in_any_catalogue(indifferent, stems, k, exact, excluded):
    """Where every token is as likely as any other, the shortest titles are the best."""
    left = [item for item in range(len(stems)) if item not in excluded]
    expected = sorted(left, key=lambda item: (len(stems[item]), item))[:k]
    trunks = prompts(np.random.default_rng(0), trunks=1)
    items, scores = run(
        indifferent,
        trunks,
        [np.array(stem, dtype=np.int32) for stem in stems],
        k,
        exclude=lambda rows: [np.array(sorted(set(range(len(stems))) - set(left)), dtype=np.int64)] * len(rows),
        exact=exact,
        beams=1 if exact else len(stems),
    )
    assert items.tolist() == [expected + [-1] * (k - len(expected))] * len(trunks)
    lengths = [len(stems[item]) for item in expected]
    np.testing.assert_allclose(scores[:, : len(expected)], [np.log(VOCABULARY) * -np.array(lengths)] * 4, rtol=1e-6)
