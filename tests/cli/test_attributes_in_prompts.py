"""A run whose prompts show attributes of items and cut titles, from the log to recommending."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

import rosepo_core
from rosepo_core.engine.saved_template import load_template

HEADER = "Titles that one person chose, oldest first:\n"


@pytest.fixture(scope="module")
def shop(tmp_path_factory, log):
    """The log with a catalogue: every second item has a brand."""
    folder = tmp_path_factory.mktemp("shop")
    items = pl.read_csv(log).unique("item", maintain_order=True).select("item", "title")
    brand = [f"Maker {at}" if at % 2 else None for at in range(items.height)]
    items.with_columns(pl.Series("brand", brand)).write_csv(folder / "items.csv")
    return folder / "items.csv"


@pytest.fixture(scope="module")
def run(tmp_path_factory, train, shop):
    folder = tmp_path_factory.mktemp("runs") / "attributes"
    options = (f"--dataset.catalogue={shop}", "--prompt.attributes=brand", "--prompt.title-tokens=6")
    done = train("--run", folder, *options)
    assert done.code == 0, done.err
    return folder


def written(titles: Sequence[str], shop: Path, texts: dict[str, str]) -> str:
    """The prompt, written by hand."""
    brands = dict(pl.read_csv(shop).select("title", "brand").iter_rows())
    lines = (f"{texts[title]}\n" + (f"(brand: {brands[title]})\n" if brands[title] else "") for title in titles)
    return HEADER + "".join(lines)


def test_recommending_shows_attributes_and_gives_whole_titles(run, shop):
    recommender = rosepo_core.Recommender.load(run)
    model = AutoPeftModelForCausalLM.from_pretrained(run / "aligned").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "aligned")
    template = load_template(run / "aligned", tokenizer)
    texts = dict(zip(recommender.titles, template.texts, strict=True))
    assert any(text != title for title, text in texts.items())
    assert all(title.startswith(text) for title, text in texts.items())
    assert len(set(texts.values())) == len(texts)

    history = recommender.titles[:4]
    prompt = tokenizer(written(history, shop, texts))["input_ids"]
    plain = {}
    for title, text in texts.items():
        response = tokenizer(text)["input_ids"] + tokenizer("\n")["input_ids"]
        ids = torch.tensor([*prompt, *response])[None]
        with torch.no_grad():
            of_tokens = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])
        plain[title] = float(of_tokens[-len(response) :].sum())
    expected = sorted(plain.keys() - set(history), key=plain.__getitem__, reverse=True)
    found = recommender.recommend(history, 5)
    assert [each.title for each in found] == expected[:5]
    np.testing.assert_allclose([each.score for each in found], [plain[title] for title in expected[:5]], atol=1e-4)


def test_reference_and_alignment_see_the_prompts_of_the_pairs(run, shop):
    first = json.loads((run / "aligned" / "log.json").read_text())[0]
    for reward in ("rewards/chosen", "rewards/rejected"):
        assert first[reward] == pytest.approx(0, abs=1e-4)
    prompts = pl.read_parquet(run / "preferences" / "pairs.parquet")["prompt"].to_list()
    assert sum("(brand: Maker " in prompt for prompt in prompts) > len(prompts) / 2


def test_the_configuration_says_it(run):
    config = tomllib.loads((run / "config.toml").read_text())
    assert (config["prompt"]["attributes"], config["prompt"]["title_tokens"]) == (["brand"], 6)


def test_an_attribute_that_the_data_set_lacks_stops_the_run(tmp_path, train, shop):
    done = train("--run", tmp_path / "run", f"--dataset.catalogue={shop}", "--prompt.attributes=brnd")
    assert done.code == 2
    assert (
        "option 'prompt.attributes': no attribute 'brnd'; did you mean 'brand'?; the data set has brand" in done.err
    )
    assert not (tmp_path / "run").exists()
