"""A LensKit pipeline with rosepo as its scorer, in an environment with the real LensKit."""

from __future__ import annotations

import json

import polars as pl
import pytest
from environments import other_libraries, run_python

import rosepo_core

PACKAGES = (
    *("lenskit==2025.8.1", "pandas==2.3.3", "pytz==2026.6", "structlog==26.1.0", "more-itertools==11.2.1"),
    *("deepmerge==4.0.0", "humanize==4.17.0", "lazy-loader==0.6", "prettytable==3.18.0", "wcwidth==0.9.4"),
    *("pydantic-settings==2.16.3", "python-dotenv==1.2.4", "xopen==2.1.0", "py-cpuinfo==9.0.0", "pyzmq==27.3.0"),
    *("backports.zstd==1.8.0", "isal==1.9.1", "zlib-ng==1.1.0"),
)
SMALL = {
    "model.dtype": "float32",
    "prompt.titles": "full",
    "dataset.history_length": 8,
    "sft.steps": 3,
    "sft.batch_size": 4,
    "oracle": "constant",
    "sampler": "uniform",
    "preferences.max_per_user": 3,
    "alignment.steps": 2,
    "evaluation.candidates": 5,
    "evaluation.resamples": 500,
}
SCRIPT = """
import contextlib, io, json, os, re, pickle, sys
from pathlib import Path
sys.path.insert(0, "examples")
import lenskit_pipeline as example
import polars as pl, numpy as np
from lenskit.data import ItemList, RecQuery
from lenskit.operations import recommend, score
from lenskit.pipeline import topn_pipeline
from lenskit.splitting import LastN, sample_users
from rosepo_core.adapters.lenskit import RosepoScorer

page = Path("docs/how-to/embed.md").read_text()
log, options = pl.read_csv(sys.argv[1]), json.loads(sys.argv[2])
os.chdir(sys.argv[3])
items = log.select(item_id="item", title="title").unique("item_id", maintain_order=True)
data = example.dataset(log.select("rating", "timestamp", user_id="user", item_id="item"), items)
found = example.main(data, options, users=4, k=5)

split = sample_users(data, 4, LastN(1), rng=0)
(folder,) = Path("runs").iterdir()
pipeline = topn_pipeline(RosepoScorer(run=folder, stage="sft"), n=5)
pipeline.train(split.train)
scorer = pipeline.component("scorer")
again = pickle.loads(pickle.dumps(scorer))
query = RecQuery(session_items=ItemList(["i3", "unknown", "i1"]))
asked = ItemList(["i5", "nothing", "i2", "i0"])
block = re.search("```python\\n(from lenskit.*?)```", page, re.S)[1]
with contextlib.redirect_stdout(io.StringIO()) as shown:
    exec(block.replace("runs/mine", str(folder)).replace('"42"', '"u3"'), {"data": data})
def listed(values): return [None if np.isnan(value) else float(value) for value in values.scores()]
print(json.dumps({
    "how-to": shown.getvalue(),
    "recommended": {str(key.user_id): [str(item) for item in each.ids()] for key, each in found["rosepo"].items()},
    "train": {str(user): list(split.train.user_row(user).ids()) for user in split.train.users.ids()},
    "folder": str(folder.resolve()),
    "scores": listed(scorer(query, asked)),
    "by another process": listed(again(query, asked)),
    "of nobody": listed(scorer("nobody", asked)),
    "config": json.loads(json.dumps(scorer.dump_config())),
    "best of one": [str(item) for item in recommend(pipeline, query, 1, items=asked).ids()],
}))
"""


@pytest.fixture(scope="module")
def done(log, model_folder, tmp_path_factory):
    libraries = other_libraries("lenskit", *PACKAGES)
    options = {**SMALL, "model": str(model_folder)}
    folder = tmp_path_factory.mktemp("lenskit")
    printed = run_python(libraries, "-c", SCRIPT, log, json.dumps(options), folder)
    assert printed.startswith("rosepo ")
    assert "popularity " in printed
    return json.loads(printed.splitlines()[-1])


def test_a_pipeline_trains_on_its_part_of_the_log_and_ranks(done, log):
    frame = pl.read_csv(log)
    model = rosepo_core.Recommender.load(done["folder"])
    assert len(done["recommended"]) == 4
    for user, items in done["recommended"].items():
        history = frame.filter(user=user).sort("timestamp")["item"].to_list()[:-1]
        # The last item of each of these users is LensKit's, and no part of the run has it.
        assert sorted(done["train"][user]) == sorted(history) == sorted(model.history(user, by="id"))
        candidates = [item for item in model.catalogue.ids if item not in history]
        assert items == [each.item for each in model.rank(history, candidates, by="id")][:5]
        assert items == [each.item for each in model.recommend(history, 5, by="id")]


def test_the_scorer_of_a_finished_run(done):
    model = rosepo_core.Recommender.load(done["folder"], "sft")
    expected = {each.item: each.score for each in model.rank(["i3", "i1"], ["i5", "i2", "i0"], by="id")}
    five, nothing, two, zero = done["scores"]
    assert nothing is None
    assert [five, two, zero] == pytest.approx([expected["i5"], expected["i2"], expected["i0"]], abs=1e-4)
    assert done["by another process"] == done["scores"]
    assert "<ItemList of 10 items" in done["how-to"]
    assert done["of nobody"] == [None] * 4
    assert done["best of one"] == [max(expected, key=expected.get)]
    assert done["config"]["stage"] == "sft"
