"""Recommendations for a file of histories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Catalogue
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.serving import batch
from rosepo_core.serving.batch import Job, read_histories, recommend_to_file
from rosepo_core.serving.filters import Filter
from rosepo_core.serving.recommender import Recommender
from rosepo_core.testing import SilentReporter, prompt_template


class Counting(Recommender):
    """Knows how many histories it was asked for, and can be interrupted."""

    asked = 0
    interrupted_after: int | None = None

    def recommend_many(self, histories: Any, *arguments: Any, **options: Any) -> Any:
        if self.interrupted_after is not None and self.asked >= self.interrupted_after:
            raise KeyboardInterrupt
        self.asked += len(histories)
        return super().recommend_many(histories, *arguments, **options)


@pytest.fixture
def recommender(tiny_model: Any, tiny_tokenizer: Any, catalogue: Catalogue) -> Counting:
    template = prompt_template({}, tiny_tokenizer, catalogue, 8)
    users = {"ann": np.array([3, 1], dtype=np.int32), "bob": np.array([5], dtype=np.int32)}
    return Counting(TitleModel(tiny_model, template, SilentReporter(), 0), catalogue, users=lambda: users)


@pytest.fixture
def log(tmp_path: Path, catalogue: Catalogue) -> Path:
    """Five users, whose rows are mixed."""
    rows = [(f"u{row % 5}", catalogue.ids[(row * 3) % len(catalogue)]) for row in range(15)]
    path = tmp_path / "histories.csv"
    path.write_text("user,item\n" + "".join(f"{user},{item}\n" for user, item in rows))
    return path


def run(recommender: Recommender, source: Path, target: Path, job: Job, about: str = "it") -> pl.DataFrame:
    recommend_to_file(lambda: recommender, about, source, target, job, reporter=SilentReporter())
    return pl.read_parquet(target)


def test_each_user_gets_what_the_recommender_gives(recommender, log, tmp_path, catalogue):
    found = run(recommender, log, tmp_path / "out.parquet", Job(3, Filter(deny=[catalogue.titles[0]])))
    assert found.columns == ["user", "rank", "item", "title", "score", "new", "answered_by", "confidence"]
    assert found["user"].to_list() == [f"u{user}" for user in range(5) for _ in range(3)]
    assert found["rank"].to_list() == [1, 2, 3] * 5
    history = [catalogue.ids[(row * 3) % len(catalogue)] for row in (1, 6, 11)]
    expected = recommender.recommend(history, 3, by="id", filter=Filter(deny=[catalogue.ids[0]]))
    of_user = found.filter(user="u1")
    assert of_user["item"].to_list() == [each.item for each in expected]
    assert of_user["title"].to_list() == [each.title for each in expected]
    np.testing.assert_allclose(of_user["score"], [each.score for each in expected], atol=1e-4)
    assert list(tmp_path.glob("*.parts")) == []


def test_an_interrupted_job_goes_on_where_it_was(recommender, log, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "BLOCK", 2)
    whole = run(recommender, log, tmp_path / "whole.parquet", Job(3, Filter()))
    recommender.asked, recommender.interrupted_after = 0, 4
    with pytest.raises(KeyboardInterrupt):
        run(recommender, log, tmp_path / "out.parquet", Job(3, Filter()))
    recommender.asked, recommender.interrupted_after = 0, None
    with pytest.raises(RequestError, match="holds blocks of another request"):
        run(recommender, log, tmp_path / "out.parquet", Job(4, Filter()))
    with pytest.raises(RequestError, match="holds blocks of another request"):
        run(recommender, log, tmp_path / "out.parquet", Job(3, Filter()), about="another model")
    assert run(recommender, log, tmp_path / "out.parquet", Job(3, Filter())).equals(whole)
    assert recommender.asked == 1


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("titles.csv", "user,title,timestamp\n1,B,10\n2,C,5\n1,A,9\n"),
        ("dated.csv", "user,title,timestamp\n1,B,2020-02-01\n2,C,2020-01-01\n1,A,2020-01-31\n"),
        ("titles.jsonl", '{"user": 1, "history": ["A", "B"]}\n{"user": 2, "history": ["C"]}\n'),
    ],
)
def test_the_layouts_of_a_file(tmp_path, name, rows):
    path = tmp_path / name
    path.write_text(rows)
    found = read_histories(path, "title")
    assert (found.users, found.items, found.by) == (("1", "2"), (("A", "B"), ("C",)), "title")


def test_users_of_the_log(recommender, tmp_path):
    path = tmp_path / "users.parquet"
    pl.DataFrame({"user": ["bob", "ann"]}).write_parquet(path)
    found = run(recommender, path, tmp_path / "out.parquet", Job(2, Filter()))
    expected = [each.item for user in ("bob", "ann") for each in recommender.recommend(recommender.history(user), 2)]
    assert found["item"].to_list() == expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("user,item\nu1,nothing\n", r"user 'u1': item id 'nothing' is not in the run's catalogue"),
        ("user,item\nu1,i3\nu1,\n", r"histories.csv row 3: 'item' is empty"),
        ("person,item\nu1,i3\n", r"has the columns person, item: give 'user' and one of"),
        ("user,item,title\nu1,i3,x\n", r"has the columns user, item, title: give 'user' and one of"),
        ("user\nzoe\n", r"user 'zoe' is not in the run's log"),
    ],
)
def test_files_that_cannot_be_meant(recommender, tmp_path, rows, message):
    path = tmp_path / "histories.csv"
    path.write_text(rows)
    with pytest.raises(RequestError, match=message):
        run(recommender, path, tmp_path / "out.parquet", Job(2, Filter()))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["histories.csv"]
    assert recommender.asked == 0


def test_unknown_items_can_be_skipped(recommender, tmp_path, catalogue):
    path = tmp_path / "histories.csv"
    path.write_text(f"user,item\nu1,nothing\nu1,{catalogue.ids[3]}\n")
    found = run(recommender, path, tmp_path / "out.parquet", Job(2, Filter(), on_unknown="skip"))
    assert found["item"].to_list() == [each.item for each in recommender.recommend([catalogue.titles[3]], 2)]


def test_nothing_is_written_over(recommender, log, tmp_path):
    target = tmp_path / "out.parquet"
    target.write_text("mine")
    with pytest.raises(RequestError, match="exists already"):
        run(recommender, log, target, Job(2, Filter()))
    with pytest.raises(RequestError, match=r"let the name end in \.parquet"):
        run(recommender, log, tmp_path / "out.csv", Job(2, Filter()))
    assert target.read_text() == "mine"
