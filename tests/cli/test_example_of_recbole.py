"""RecBole's atomic files in, predictions out, and RecBole's own metrics of them, in an environment of its own."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import polars as pl
import pytest
from environments import other_libraries, run_python

import rosepo_core

EXAMPLES = Path(__file__).parents[2] / "examples"
PACKAGES = (
    *("recbole==1.2.1", "numpy==1.26.4", "pandas==2.3.3", "pytz==2026.6", "colorlog==4.7.2", "colorama==0.4.4"),
    *("texttable==1.7.2", "tensorboard==2.21.0", "absl-py==2.5.1", "protobuf==7.36.2"),
)
SMALL = {
    "sft": {"steps": 3, "batch_size": 4, "learning_rate": 0.01},
    "oracle": "constant",
    "sampler": "uniform",
    "preferences": {"max_per_user": 3},
    "alignment": {"steps": 2},
    "evaluation": {"protocols": ["catalogue"], "decoding": "exact", "resamples": 500},
}


@pytest.fixture(scope="module")
def folder(log, model_folder, tmp_path_factory):
    """NAME.inter and NAME.item of the log, the run, and its predictions."""
    folder = tmp_path_factory.mktemp("recbole") / "films"
    folder.mkdir()
    frame = pl.read_csv(log)
    interactions = {"user": "user_id:token", "item": "item_id:token", "timestamp": "timestamp:float"}
    frame.select(*interactions).rename(interactions).write_csv(folder / "films.inter", separator="\t")
    items = {"item": "item_id:token", "title": "title:token_seq"}
    frame.select(*items).unique("item", maintain_order=True).rename(items).write_csv(
        folder / "films.item", separator="\t", quote_style="never"
    )
    spec = importlib.util.spec_from_file_location("recbole_predictions", EXAMPLES / "recbole_predictions.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    settings = {**SMALL, "model": {"name": str(model_folder), "dtype": "float32"}}
    example.main(str(folder), str(folder / "run"), str(folder / "predictions.tsv"), settings)
    return folder


def read(folder):
    return pl.read_csv(folder / "predictions.tsv", separator="\t")


def test_predictions_are_the_best_items_of_each_test_user(folder, log):
    predictions = read(folder)
    assert predictions.columns == ["user_id:token", "item_id:token", "score:float"]
    model = rosepo_core.Recommender.load(folder / "run")
    frame = pl.read_csv(log).sort("user", "timestamp")
    assert set(predictions["user_id:token"]) == set(frame["user"])
    for user in ("u3", "u17"):
        history = frame.filter(user=user)["item"].to_list()[:-1]
        expected = [(each.item, each.score) for each in model.recommend(history, 100, by="id")]
        assert len(expected) == len(model.catalogue) - len(history)
        rows = predictions.filter(pl.col("user_id:token") == user)
        assert rows["item_id:token"].to_list() == [item for item, _ in expected]
        assert rows["score:float"].to_list() == pytest.approx([score for _, score in expected], abs=1e-3)


def test_recbole_measures_what_rosepo_measures(folder, log):
    libraries = other_libraries("recbole", *PACKAGES)
    script = EXAMPLES / "recbole_metrics.py"
    measured = json.loads(run_python(libraries, script, folder, folder / "predictions.tsv").splitlines()[-1])
    table = json.loads((folder / "run" / "metrics.json").read_text())["protocols"]["catalogue"]["aligned"]
    assert measured["ndcg@10"] == pytest.approx(table["ndcg@10"], abs=1e-6)
    assert measured["hit@10"] == pytest.approx(table["hr@10"], abs=1e-6)

    last = dict(pl.read_csv(log).sort("timestamp").group_by("user").agg(pl.col("item").last()).iter_rows())
    listed = read(folder).group_by("user_id:token").agg("item_id:token").iter_rows()
    ranks = [items.index(last[user]) for user, items in listed]
    expected = sum(1 / math.log2(rank + 2) for rank in ranks if rank < 10) / len(ranks)
    assert measured["ndcg@10"] == pytest.approx(expected, abs=1e-6)
    assert 0 < expected < 1
