"""Runs whose prompts list candidates: SFT, sampler, reference, pairs and alignment, with one list a pair."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rosepo_core.engine.saved_template import load_template
from rosepo_core.engine.title_trie import TitleTrie
from rosepo_core.stages.preferences import load_pairs
from rosepo_core.stages.split import load_split

CHAT = ("--prompt=chat", "--prompt.candidates=5", "--sampler=self-hard", "--preferences.negatives=2", "--metric=hr")


class Counted:
    """How often each text is tokenized, and how many tries of titles are built."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.texts: Counter[str] = Counter()
        self.tries = 0
        call, of = PreTrainedTokenizerBase.__call__, TitleTrie.of

        def count_texts(tokenizer, text=None, *args, **options):
            self.texts.update([text] if isinstance(text, str) else text)
            return call(tokenizer, text, *args, **options)

        def count_tries(*args):
            self.tries += 1
            return of(*args)

        patch.setattr(PreTrainedTokenizerBase, "__call__", count_texts)
        patch.setattr(TitleTrie, "of", count_tries)


@pytest.fixture(scope="module")
def chat_run(train, tmp_path_factory):
    """A run that went through, and what was tokenized for it."""
    run = tmp_path_factory.mktemp("chat") / "run"
    with pytest.MonkeyPatch.context() as patch:
        counted = Counted(patch)
        done = train("--run", run, *CHAT)
    assert done.code == 0, done.err
    return run, counted


def test_chosen_and_rejected_titles_are_listed_in_the_prompt_of_their_pair(chat_run):
    run, _ = chat_run
    pairs = pl.read_parquet(run / "preferences" / "pairs.parquet")
    split = load_split(run / "split")
    # 24 users, three targets each, two rejected titles.
    assert pairs.height == 144
    for row in pairs.iter_rows(named=True):
        listed = [split.catalogue.titles[item] for item in row["listed"]]
        shown = row["prompt"].split("Candidates:\n")[1].split("\nWhich title")[0]
        assert shown == "\n".join(f"- {title}" for title in listed)
        assert len(set(listed)) == 5
        assert {split.catalogue.titles[row["chosen_item"]], split.catalogue.titles[row["rejected_item"]]} < set(
            listed
        )
    assert load_file(run / "sampling" / "rejected.safetensors")["listed"].shape == (72, 5)
    # The targets are not always at the same place: 72 of them, at each of five.
    examples = pairs.unique(["user", "position"], maintain_order=True)
    places = [row["listed"].index(row["chosen_item"]) for row in examples.iter_rows(named=True)]
    # Four standard deviations of a count of mean 14.4.
    assert abs(np.bincount(places, minlength=5) - 14.4).max() < 13.6


def test_reference_and_alignment_see_the_prompts_of_the_pairs(chat_run):
    run, _ = chat_run
    # At its first step the policy is the reference, if both are asked with the same prompts.
    first = json.loads((run / "aligned" / "log.json").read_text())[0]
    for reward in ("rewards/chosen", "rewards/rejected"):
        assert first[reward] == pytest.approx(0, abs=1e-4)
    template = load_template(run / "aligned", AutoTokenizer.from_pretrained(run / "aligned"))
    pairs = load_pairs(run / "preferences", load_split(run / "split"))
    table = pl.read_parquet(run / "preferences" / "pairs.parquet").unique(["user", "position"], maintain_order=True)
    assert template.prompt_texts(pairs.examples, candidates=pairs.listed) == table["prompt"].to_list()


def test_each_title_is_tokenized_once_as_a_line_and_once_as_a_response(chat_run, catalogue):
    _, counted = chat_run
    # In the prompt a title follows a blank, which makes other tokens of it.
    assert {counted.texts[title] for title in catalogue.titles} == {1}
    assert {counted.texts[f" {title}"] for title in catalogue.titles} == {1}
    assert counted.tries == 1


def test_planning_training_and_evaluating_tokenize_each_title_once(train, rosepo, tmp_path, catalogue):
    run = tmp_path / "run"
    arguments = ("--run", run, "--sampler=self-hard", "--metric=hr")
    for command in (
        lambda: train(*arguments, "--dry-run"),
        lambda: train(*arguments),
        lambda: rosepo("evaluate", run, "--protocol=catalogue"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            counted = Counted(patch)
            done = command()
        assert done.code == 0, done.err
        assert {counted.texts[title] for title in catalogue.titles} == {1}
        assert counted.tries <= 1


def test_a_plan_counts_the_tokens_of_lists(train, chat_run, tmp_path):
    run, _ = chat_run
    dry = train("--run", tmp_path / "run", *CHAT, "--dry-run", "--json")
    assert dry.code == 0, dry.err
    rows = {row["stage"]: row for row in dry.json["plan"]["stages"]}
    template = load_template(run / "sft", AutoTokenizer.from_pretrained(run / "sft"))
    prompts = pl.read_parquet(run / "preferences" / "pairs.parquet").unique(["user", "position"])["prompt"]
    tokens = sum(len(template.encode(prompt)) for prompt in prompts)
    # Beside the prompt a tree has three titles, and which titles will be rejected and listed is not known before.
    planned = rows["reference"]["tokens"]
    assert planned == pytest.approx(tokens + 3 * 72 * template.response_lengths.mean(), rel=0.1)
    without = train("--run", tmp_path / "run", *CHAT, "--prompt.candidates=0", "--dry-run", "--json").json["plan"]
    bare = next(row["tokens"] for row in without["stages"] if row["stage"] == "reference")
    assert planned - bare > 72 * 5 * 0.9 * template.item_costs.mean()


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--prompt=chat", "--prompt.candidates=3", "--preferences.negatives=3"),
            "option 'prompt.candidates' = 3: set it to 4 or more",
        ),
        (
            ("--preferences.max_pairs=2", "--preferences.negatives=3"),
            "option 'preferences.max_pairs' = 2: set it to 3 or more, or preferences.negatives to 2 at most",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_before_any_work(train, tmp_path, arguments, message, dry):
    done = train("--run", tmp_path / "run", *arguments, *dry)
    assert done.code == 2
    assert message in done.err
    assert done.made == set()
    assert not (tmp_path / "run").exists()
