"""`rosepo_core.align` on frames, and the run that it leaves on the command line."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import polars as pl
import pytest

import rosepo_core
from rosepo_core.contracts.errors import RequestError

OPTIONS = {
    "model.dtype": "float32",
    "dataset.history_length": 8,
    "sft.steps": 3,
    "sft.batch_size": 4,
    "sft.learning_rate": 0.01,
    "preferences.max_per_user": 3,
    "alignment.steps": 3,
    "alignment.learning_rate": 0.01,
    "evaluation.candidates": 5,
    "evaluation.resamples": 500,
    "seed": 3,
}


ROOT = Path(__file__).parents[2]


class Stages:
    """Which stages were done, and which of them were reused."""

    def __init__(self):
        self.made, self.reused = [], []

    def progress(self, done, total, unit):
        pass

    note = stage_started = numbers = lambda self, _: None

    def stage_finished(self, artifact):
        (self.reused if artifact.reused is not None else self.made).append(artifact.stage)


def align(log, model_folder, run, **arguments):
    return rosepo_core.align(
        log, model=model_folder, sampler="uniform", oracle="constant", options=OPTIONS, run=run, **arguments
    )


@pytest.fixture(scope="module")
def frame(log) -> pl.DataFrame:
    return pl.read_csv(log)


@pytest.fixture(scope="module")
def run(tmp_path_factory, frame, model_folder):
    """A run in its default folder."""
    folder = tmp_path_factory.mktemp("aligned")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        align(frame.lazy(), model_folder, None)
    assert [file.name for file in folder.iterdir()] == ["runs"]
    [run] = (folder / "runs").iterdir()
    return run


def numbers(folder):
    return json.loads((folder / "metrics.json").read_text())["protocols"]


def test_frames_give_the_run_of_the_same_log_in_a_file(run, finished, frame, model_folder):
    assert numbers(run) == numbers(finished)
    history = frame.filter(user="u3")["title"].to_list()
    with_files = rosepo_core.Recommender.load(finished).recommend(history, k=3)
    assert align(frame, model_folder, run).recommend(history, k=3) == with_files
    assert run.name.startswith("frames-uniform-constant-rosepo-")


def test_equal_frames_reuse_the_run_and_others_are_refused(run, frame, model_folder):
    again = Stages()
    align(frame.to_pandas().set_index("user"), model_folder, run, reporter=again)
    # The index of pandas comes first, as the column did.
    assert again.made == []
    assert "aligned" in again.reused
    before = numbers(run)
    with pytest.raises(RequestError, match=r"holds a finished run of another configuration \(dataset\.log\)"):
        align(frame[:-1], model_folder, run)
    assert numbers(run) == before


def test_the_command_line_takes_the_run(run, rosepo, tmp_path):
    done = rosepo("evaluate", run, "--metric=hr", "--metric.ks=[2]")
    assert done.code == 0, done.err
    assert rosepo("report", run, "--out", tmp_path / "report.html").code == 0
    assert rosepo("recommend", run, "--user=u3", "--k=3").code == 0
    # A stage after the log can be made again without the frame.
    done = rosepo("train", "--config", run / "config.toml", "--run", run, "--force=aligned")
    assert done.code == 0, done.err
    done = rosepo("train", "--config", run / "config.toml", "--run", tmp_path / "elsewhere" / "run")
    assert done.code == 2
    assert "was a frame of a Python program, and no file has it: call rosepo_core.align with it again" in done.err
    assert not (tmp_path / "elsewhere" / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"loss": "dpoo"}, "no loss is called 'dpoo'; did you mean 'dpo'"),
        ({"loss": ["dpo=1.0", "sft=0.1"], "options": {"dataset.user": "who"}}, "has no column 'who' (dataset.user)"),
        ({"options": {"sft": {"steps": 3}}}, "'sft' is a section; set one of its options, such as 'sft."),
        ({"options": {"dataset": "table"}}, "the frames are the data set, so there is no 'dataset'"),
        ({"items": "items.csv"}, "the items (builtins str, rows from 0) is no frame"),
    ],
)
def test_bad_requests(frame, model_folder, tmp_path, arguments, said):
    with pytest.raises(RequestError) as caught:
        rosepo_core.align(frame, model=model_folder, run=tmp_path / "run", **arguments)
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_configuration_is_for_train(tmp_path):
    with pytest.raises(RequestError, match=r"a configuration goes to rosepo_core\.train"):
        rosepo_core.align({"dataset": "movielens-100k"}, tmp_path / "run")


def test_the_example(run, frame, model_folder, capsys):
    spec = importlib.util.spec_from_file_location("embed", ROOT / "examples" / "embed_in_your_project.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert example.OPTIONS.keys() >= {"model", "sampler", "sft.steps"}
    names = {"model": model_folder, "sampler": "uniform", "oracle": "constant"}
    recommended = example.main(frame, None, "u3", options=OPTIONS, run=run, **names)
    model = rosepo_core.Recommender.load(run)
    assert recommended == model.recommend(model.history("u3"), 5)
    shown = capsys.readouterr()
    assert [line.split(maxsplit=1)[1] for line in shown.out.splitlines()] == [each.title for each in recommended]
    assert "aligned" in shown.err


def test_the_code_of_the_how_to(frame, model_folder, tmp_path, monkeypatch, capsys):
    """As it stands there, with a small model, few steps and a log with these names."""
    monkeypatch.chdir(tmp_path)
    named = {"The Lighthouse (1995)": "Toy Story (1995)", "Harvest Moon (1987)": "Babe (1995)"}
    log = frame.with_columns(pl.col("title").replace(named), pl.col("user").replace("u3", "42"))
    log.write_csv("log.csv")
    items = log.select("item", "title").unique(maintain_order=True).with_columns(genres=pl.lit("Comedy|Drama"))
    items.write_csv("items.csv")
    small = {**OPTIONS, "sampler": "uniform", "oracle": "constant"}
    align, train = rosepo_core.align, rosepo_core.train

    def small_train(config, run):
        tables = {**config, "model": {"name": str(model_folder), "dtype": "float32"}, "sampler": "uniform"}
        return train({**tables, "oracle": "constant", "sft": {"steps": 1}, "alignment": {"steps": 1}}, run)

    monkeypatch.setattr(
        rosepo_core, "align", lambda *given, model, **more: align(*given, model=model_folder, options=small, **more)
    )
    text = (ROOT / "docs" / "how-to" / "embed.md").read_text(encoding="utf-8")
    before, _, recbole = text.partition("## In a LensKit pipeline")
    blocks = re.findall(r"```python\n(.*?)```", before, re.S)
    assert len(blocks) == 3
    names = {}
    for block in blocks:
        if "rosepo_core.train(" in block:
            monkeypatch.setattr(rosepo_core, "align", align)
            monkeypatch.setattr(rosepo_core, "train", small_train)
        exec(block, names)
    shown = capsys.readouterr().out
    assert "Recommendation(title=" in shown
    assert "'aligned': " in shown
    [write] = [block for block in re.findall(r"```python\n(.*?)```", recbole, re.S) if "write_predictions" in block]
    exec(write, names)
    assert pl.read_csv("predictions.tsv", separator="\t")["user_id:token"].n_unique() == 24
