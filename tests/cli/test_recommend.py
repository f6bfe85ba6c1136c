"""`rosepo recommend`: titles in, real titles out."""

from __future__ import annotations

import shutil

import numpy as np
import polars as pl
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

import rosepo_core
from rosepo_core.contracts.errors import RequestError
from rosepo_core.engine.saved_template import load_template
from rosepo_core.serving import batch
from rosepo_core.serving.explanations import explain
from rosepo_core.serving.title_index import TitleIndex
from rosepo_core.store.trusting import trust

HISTORY = ("Quiet Rivers (1994)", "Night Train (1974)")


@pytest.fixture(scope="module")
def recommender(finished):
    return rosepo_core.Recommender.load(finished)


def test_the_most_probable_titles_come_first(recommender, finished):
    """All titles of the catalogue but those of the history, by their plain log-probabilities."""
    model = AutoPeftModelForCausalLM.from_pretrained(finished / "aligned").eval()
    tokenizer = AutoTokenizer.from_pretrained(finished / "aligned")
    template = load_template(finished / "aligned", tokenizer)
    prompt = "Titles that one person chose, oldest first:\n" + "".join(f"{title}\n" for title in HISTORY)
    plain = {}
    for title, response in zip(recommender.titles, template.response_ids, strict=True):
        ids = torch.tensor([*tokenizer(prompt)["input_ids"], *response.tolist()])[None]
        with torch.no_grad():
            of_tokens = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])
        plain[title] = float(of_tokens[-len(response) :].sum())
    expected = sorted(plain.keys() - set(HISTORY), key=plain.__getitem__, reverse=True)
    found = recommender.recommend(HISTORY, 5)
    assert [each.title for each in found] == expected[:5]
    np.testing.assert_allclose([each.score for each in found], [plain[title] for title in expected[:5]], atol=1e-4)


def test_all_titles_but_the_history_at_most(recommender):
    found = recommender.recommend(HISTORY, 1000)
    assert len(found) == len(recommender.titles) - 2
    assert {each.title for each in found} == set(recommender.titles) - set(HISTORY)


def test_the_order_of_the_history_counts(recommender):
    forward, backward = recommender.recommend(HISTORY, 3), recommender.recommend(HISTORY[::-1], 3)
    assert [each.score for each in forward] != [each.score for each in backward]


def test_the_aligned_folder_is_enough_and_so_is_a_merged_model(finished, tmp_path, recommender):
    alone = shutil.copytree(finished / "aligned", tmp_path / "elsewhere" / "aligned")
    merged = tmp_path / "merged"
    AutoPeftModelForCausalLM.from_pretrained(alone).merge_and_unload().save_pretrained(merged)
    AutoTokenizer.from_pretrained(alone).save_pretrained(merged)
    for name in ("prompt_template.json", "title_trie.safetensors", "catalogue.parquet"):
        shutil.copy(alone / name, merged)
    expected = recommender.recommend(HISTORY, 5)
    for folder in (alone, merged):
        found = rosepo_core.Recommender.load(folder)
        assert [each.item for each in found.recommend(HISTORY, 5)] == [each.item for each in expected]
        np.testing.assert_allclose(
            [each.score for each in found.recommend(HISTORY, 5)], [each.score for each in expected], atol=1e-4
        )
        assert found.catalogue.popularity.tolist() == recommender.catalogue.popularity.tolist()
        assert repr(found) == f"<Recommender {folder}: 40 items by likelihood>"
        with pytest.raises(RequestError, match="user 'u1' is not known: this is a model without the log of its run"):
            found.history("u1")
    with pytest.raises(RequestError, match="aligned does not hold what the score 'fusion' needs beside the model"):
        rosepo_core.Recommender.load(alone, score="fusion")
    with pytest.raises(RequestError, match="aligned holds one model: leave --stage sft out"):
        rosepo_core.Recommender.load(alone, "sft")
    (merged / "catalogue.parquet").unlink()
    with pytest.raises(RequestError, match=r"merged has no catalogue.parquet, which recommending needs"):
        rosepo_core.Recommender.load(merged)
    with pytest.raises(RequestError, match=r"neither a run \(run.json\) nor a model with its prompts"):
        rosepo_core.Recommender.load(tmp_path)


@pytest.mark.parametrize("stage", ["aligned", "sft", "base"])
def test_the_command(rosepo, finished, stage):
    titles = [part for title in HISTORY for part in ("--history", title)]
    done = rosepo("recommend", finished, *titles, "--k", 3, "--stage", stage, "--json")
    assert done.code == 0, done.err
    expected = rosepo_core.Recommender.load(finished, stage).recommend(HISTORY, 3)
    assert done.json["ranked_by"] == "likelihood"
    found = done.json["recommendations"]
    assert [each["title"] for each in found] == [each.title for each in expected]
    assert [each["score"] for each in found] == pytest.approx([each.score for each in expected], abs=1e-5)


def test_the_command_shows_a_table(rosepo, finished, recommender):
    shown = rosepo("recommend", finished, "--history", HISTORY[0], "--k", 2).out.splitlines()
    expected = recommender.recommend(HISTORY[:1], 2)
    assert [line.split(maxsplit=1)[0] for line in shown[-2:]] == ["1", "2"]
    assert [title in line for line, title in zip(shown[-2:], [each.title for each in expected], strict=True)] == [
        True,
        True,
    ]


def test_the_command_for_a_user_of_the_log(rosepo, finished, recommender):
    known = recommender.history("u1")
    done = rosepo(
        "recommend", finished, "--user", "u1", "--exclude", recommender.recommend(known, 1)[0].title, "--json"
    )
    assert done.code == 0, done.err
    expected = recommender.recommend(known, 11)[1:]
    assert [each["title"] for each in done.json["recommendations"]] == [each.title for each in expected]
    by_id = [part for item in recommender.history("u1", by="id") for part in ("--history", item)]
    again = rosepo("recommend", finished, *by_id, "--by", "id", "--candidate", expected[2].item, "--json")
    assert [each["item"] for each in again.json["recommendations"]] == [expected[2].item]


def test_the_command_explains(rosepo, finished, recommender):
    titles = [part for title in HISTORY for part in ("--history", title)]
    done = rosepo("recommend", finished, *titles, "--k", 2, "--explain", "--json")
    expected = explain(recommender, HISTORY, recommender.recommend(HISTORY, 2))
    for found, each in zip(done.json["recommendations"], expected, strict=True):
        assert found["popularity_rank"] == each.popularity_rank
        assert [influence["title"] for influence in found["influences"]] == [it.title for it in each.influences]
    shown = rosepo("recommend", finished, *titles, "--k", 2, "--explain").out
    for each in expected:
        assert (
            f"{each.recommendation.title}  {each.recommendation.score:.2f}, popularity {each.popularity_rank} of"
            in shown
        )
        assert f"{each.influences[0].change:+.2f}  {each.influences[0].title}" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_command_takes_a_title_that_is_meant_without_doubt(rosepo, finished, recommender):
    done = rosepo("recommend", finished, "--history", "Night Trian", "--k", 1, "--json")
    assert "taking 'Night Train (1974)' for 'Night Trian'" in done.err
    assert done.json["recommendations"][0]["title"] == recommender.recommend(HISTORY[1:], 1)[0].title


def test_the_command_for_a_file_with_two_processes(rosepo, finished, recommender, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "BLOCK", 1)
    (tmp_path / "users.csv").write_text("user\nu1\nu2\n")
    to = tmp_path / "found.parquet"
    done = rosepo("recommend", finished, "--from", tmp_path / "users.csv", "--to", to, "--k", 2, "--processes", 2)
    assert done.code == 0, done.err
    assert f"recommendations for 2 users are in {to}" in done.err
    expected = [
        (user, each.item) for user in ("u1", "u2") for each in recommender.recommend(recommender.history(user), 2)
    ]
    assert pl.read_parquet(to).select("user", "item").rows() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "histories.csv"], "--from FILE and --to FILE.parquet belong together"),
        (["--from", "histories.csv", "--to", "x.parquet", "--user", "u1"], "are for one history, not for --from"),
        ([], "give a history (--history TITLE, once for each title) or a user of the log (--user ID)"),
        (["--user", "u1", "--history", "x"], "give a history"),
        (["--user", "nobody"], "user 'nobody' is not in the run's log"),
        (["--user", "u1", "--having", "genres"], "'genres' is no attribute; write COLUMN=VALUE"),
        (["--user", "u1", "--having", "genres=Comedy"], "the catalogue has no attribute 'genres'; it has none"),
        (["--user", "u1", "--candidate", "x", "--exclude", "y"], "--candidate ranks all that it names"),
    ],
)
def test_requests_that_cannot_be_meant(rosepo, finished, arguments, message):
    done = rosepo("recommend", finished, *arguments)
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Alien (1979)", "Alien (1979)"),
        ("  alien  (1979) ", "Alien (1979)"),
        ("ALIEN", "Alien (1979)"),
        ("brazil (1985)", "Brazil"),
        ("Cafe\u0301 (1990)", "Café (1990)"),
        ("Diva (1981)", "Diva (1981)"),
    ],
)
def test_a_title_is_found_however_it_is_written(written, meant):
    titles = ("Alien (1979)", "Brazil", "Café (1990)", "Diva (1981)", "DIVA (1981)")
    assert titles[TitleIndex(titles).find(written)] == meant


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("karate (1981)", "title 'karate (1981)' may be 'Karate (1981)' or 'KARATE (1981)'; write one of them"),
        (
            "Alien (1992)",
            "title 'Alien (1992)' is not in the run's catalogue; did you mean 'Alien (1979)'?",
        ),
    ],
)
def test_a_title_that_may_be_another_is_not_guessed(written, said):
    titles = ("Alien (1979)", "Brazil", "Karate (1981)", "KARATE (1981)")
    with pytest.raises(RequestError) as raised:
        TitleIndex(titles).find(written)
    assert str(raised.value) == said


def test_the_plugins_that_made_a_run_need_not_be_there(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    config = run / "config.toml"
    config.write_text(config.read_text().replace('name = "rosepo"', 'name = "gone"'))
    trust(run)
    assert rosepo_core.Recommender.load(run).recommend(HISTORY, 1)
