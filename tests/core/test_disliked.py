"""What users dislike and what they are offered, from the dataset to the samplers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from rosepo_core.config import read_config
from rosepo_core.contracts.components import LogOptions
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Corpus, SeenItems, Split
from rosepo_core.contracts.sections import SplitOptions
from rosepo_core.data.filters import filter_corpus
from rosepo_core.data.splitting import split_corpus
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.stages.dataset import load_corpus, save_corpus
from rosepo_core.stages.sampling import check_split, stage
from rosepo_core.stages.session import Handle
from rosepo_core.stages.split import load_split, save_split
from rosepo_core.store.artifacts import Artifact

# User u likes a, b, d and e. She disliked c at 30, twin (the title of b) at 5 and f at 45; d at 40 is her validation
# target. User w takes care that all items stay. User v likes nothing.
ROWS = [
    *(("u", "a", 10, 5.0), ("u", "b", 20, 5.0), ("u", "c", 30, 2.0), ("u", "d", 40, 4.0), ("u", "f", 45, 1.0)),
    *(("u", "e", 50, 4.0), ("u", "twin", 5, 1.0), ("v", "a", 1, 1.0)),
    *(("w", item, time, 5.0) for time, item in enumerate("abcdef")),
]


def corpus() -> Corpus:
    schema = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64, "rating": pl.Float64}
    items = [*"abcdef", "twin"]
    titles = [f"Title {'b' if item == 'twin' else item}" for item in items]
    log = pl.DataFrame(ROWS, schema=schema, orient="row")
    return Corpus("invented", log, pl.DataFrame({"item": items, "title": titles}))


def disliked(split: Split) -> dict[str, list[str]]:
    assert split.disliked is not None
    of = {user: split.disliked.of_user(number) for number, user in enumerate(split.users)}
    return {user: [split.catalogue.ids[item] for item in items] for user, items in of.items() if len(items)}


def through_folders(corpus: Corpus, folder: Path) -> Split:
    """Filtered corpus to split, each written and read."""
    for name in ("corpus", "split"):
        (folder / name).mkdir()
    save_corpus(corpus, folder / "corpus")
    save_split(split_corpus(load_corpus(folder / "corpus"), SplitOptions(strategy="leave-one-out")), folder / "split")
    return load_split(folder / "split")


def test_what_the_lowest_rating_drops_is_disliked_until_the_first_held_out_interaction(tmp_path: Path) -> None:
    split = through_folders(filter_corpus(corpus(), LogOptions(min_rating=3)), tmp_path)
    assert [split.catalogue.ids[item] for item in split.train[0]] == ["a", "b"]
    assert disliked(split) == {"u": ["b", "c"]}  # twin is b now


def test_a_dataset_may_know_more_and_a_log_without_ratings_may_know_nothing(tmp_path: Path) -> None:
    # Without the filter, f at 45 is her validation target.
    skipped = pl.DataFrame({"user": ["u", "u"], "item": ["e", "f"], "timestamp": [44, 45]})
    known = replace(corpus(), disliked=skipped)
    assert disliked(through_folders(filter_corpus(known, LogOptions()), tmp_path)) == {"u": ["e"]}

    assert filter_corpus(corpus(), LogOptions()).disliked is None
    assert split_corpus(filter_corpus(corpus(), LogOptions()), SplitOptions()).disliked is None


def offered_corpus() -> Corpus:
    examples = pl.DataFrame(
        {
            "user": ["x", "y", "z", "t"],
            "part": ["train", "validation", "train", "test"],
            "history": [["a", "b"], ["a"], ["d", "e"], ["b"]],
            "target": ["c", "b", "a", "c"],
            "candidates": [["d", "c", "e"], ["b", "a"], ["f", "a"], ["c", "d"]],
        }
    )
    catalogue = pl.DataFrame({"item": list("abcdef"), "title": [f"Title {item}" for item in "abcdef"]})
    return Corpus.of_examples("invented", examples, catalogue)


def test_candidates_of_training_examples_come_with_their_last_target(tmp_path: Path) -> None:
    """The places of x are after one item (b comes next) and after two (c); of z likewise, with candidates f and a."""
    (tmp_path / "split").mkdir()
    save_split(split_corpus(offered_corpus(), SplitOptions()), tmp_path / "split")
    split = load_split(tmp_path / "split")
    assert split.offered is not None
    assert [split.offered[user].tolist() for user in range(4)] == [[3, 2, 4], [], [5, 0], []]

    rejected = sampled(Run(tmp_path, "in-candidates", split), split)
    assert [(user, position) for user, position, _ in rejected] == [(0, 2), (2, 2)]
    assert [set(items) for _, _, items in rejected] == [{3, 4}, {5, -1}]


def test_disliked_items_are_rejected(tmp_path: Path) -> None:
    split = split_corpus(filter_corpus(corpus(), LogOptions(min_rating=3)), SplitOptions())
    rejected = sampled(Run(tmp_path, "disliked", split), split)
    # User u has one pair; b is her target, so c is left. User w dislikes nothing.
    assert rejected == [(0, 1, [2, -1])]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("disliked", "sampler 'disliked' takes what users rated low or skipped, and dataset 'table' does not say"),
        ("in-candidates", "sampler 'in-candidates' takes items from lists of candidates, and there are none"),
    ],
)
def test_data_without_what_a_sampler_needs_is_refused(tmp_path: Path, name: str, said: str) -> None:
    split = split_corpus(filter_corpus(corpus(), LogOptions()), SplitOptions())
    run = Run(tmp_path, name, split)
    with pytest.raises(RequestError, match=said):
        check_split(run, run.split)  # type: ignore[arg-type]

    # With what it needs, nothing is refused.
    split = replace(split, disliked=SeenItems(np.zeros(0, dtype=np.int64), 6))
    run = Run(tmp_path, name, split)
    run.listed_count = 5
    check_split(run, run.split)  # type: ignore[arg-type]


class Run:
    """What the sampling stage uses of a session with one sampler."""

    listed_count = 0

    def __init__(self, folder: Path, name: str, split: Split) -> None:
        self.folder = folder
        self.sampler = load_plugins().create("sampler", name, {})
        self.reporter = SimpleNamespace(note=lambda message: None, progress=lambda *_: None)
        self.config = read_config(
            {
                "dataset": {"name": "table", "path": "log.csv"},
                "model": "tiny",
                "sampler": name,
                "preferences": {"negatives": 2},
            }
        )
        self.that_decides = self.config.that_decides()
        self.split: Handle[Split] = Handle(Artifact("split", folder, "s", None, 0.0), lambda _: split)

    def component(self, section: str, index: int) -> Any:
        return self.sampler

    def plugin_settings(self, section: str) -> Any:
        return []

    def rng(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng(0)

    def lists(self, examples: Any, items: int, rejected: Any = None) -> None:
        return None

    def artifact(self, stage: str, settings: Any, inputs: Any, build: Any, load: Any, *, by_all: bool) -> Handle[Any]:
        build(self.folder)
        return Handle(Artifact(stage, self.folder, "f", None, 0.0), load)


def sampled(run: Run, split: Split) -> list[tuple[int, int, list[int]]]:
    """User, position and rejected items of each pair."""
    unused: Any = None
    found = stage(run, run.split, unused, unused).content  # type: ignore[arg-type]
    places = zip(found.examples.user.tolist(), found.examples.position.tolist(), found.items.tolist(), strict=True)
    return list(places)
