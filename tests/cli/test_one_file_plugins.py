"""Plugins in one file, ``./my_loss.py:MyLoss``."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import pytest

from rosepo_core.testing import LossContract

EXAMPLE = Path(__file__).parents[2] / "examples" / "one_file_loss.py"
LOSS = EXAMPLE.read_text() + "\n\nclass Other: ...\n"
MARKED = "from pathlib import Path\nPath(__file__).with_suffix('.imported').touch()\n"
"""Shows that a file was imported."""

PARTS = {
    "dataset": "from rosepo_datasets.table import Table\nclass Mine(Table): 'A table.'\n",
    "prompt": "from rosepo_prompts.timeline import Timeline\nclass Mine(Timeline): 'A prompt.'\n",
    "sampler": "from rosepo_samplers.uniform import Uniform\nclass Mine(Uniform): 'A sampler.'\n",
    "oracle": "from rosepo_oracles.popularity import Popularity\nclass Mine(Popularity): 'An oracle.'\n",
    "loss": "from rosepo_losses.rosepo import RosePO\nclass Mine(RosePO): 'A loss.'\n",
    "metric": "from rosepo_metrics.accuracy import HitRate\nclass Mine(HitRate): 'A metric.'\n",
}


@pytest.fixture
def loss(tmp_path, monkeypatch) -> Path:
    """A file in the working folder."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my_loss.py"
    file.write_text(LOSS)
    return file


def test_a_loss_in_a_file_trains_and_an_edit_trains_anew(train, rosepo, loss, monkeypatch, tmp_path):
    run = tmp_path / "runs" / "a"
    arguments = (
        "--loss=./my_loss.py:Margin=0.5",
        "--loss=sft=0.1",
        "--loss.beta=0.2",
        "--run",
        run,
    )
    first = train(*arguments, "--json")
    assert first.code == 0, first.err
    config = tomllib.loads((run / "config.toml").read_text())
    assert config["loss"][0] == {"name": f"{loss}:Margin", "weight": 0.5, "beta": 0.2, "margin": 1.0}
    environment = json.loads((run / "environment.json").read_text())
    assert environment["loss Margin"].startswith("my_loss.py ")
    assert not (tmp_path / "__pycache__").exists()
    assert train(*arguments).made == set()

    # The run's own configuration works in another folder, too.
    monkeypatch.chdir("/")
    again = rosepo("train", "--config", run / "config.toml", "--run", tmp_path / "runs" / "b")
    assert again.code == 0, again.err
    assert again.made <= {"evaluation"}

    loss.write_text(LOSS.replace(".sum(1)", ".mean(1)"))
    monkeypatch.chdir(tmp_path)
    edited = train(*arguments)
    assert edited.code == 0, edited.err
    assert {"aligned", "evaluation"} <= edited.made
    assert "sft" not in edited.made


def test_every_kind_can_be_a_file(rosepo, train, log, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind, source in PARTS.items():
        (tmp_path / f"my_{kind}.py").write_text(source)
    names = [f"--{kind}=my_{kind}.py:Mine" for kind in PARTS]
    done = train(*names, f"--dataset.path={log}", "--json")
    assert done.code == 0, done.err
    run = Path(done.json["run"])
    assert run.name.startswith("Mine-Mine-Mine-Mine-")
    assert "Mine@10" in done.json["metrics"]["protocols"]["candidates-5"]["aligned"]
    assert "my_sampler.py" not in (run / "report.html").read_text().partition("<h2")[0]
    found = rosepo("runs", "runs", "--json")
    assert found.json[0]["method"] == "Mine Mine Mine"
    assert rosepo("data", "check", log, "--dataset", "my_dataset.py:Mine").code == 0
    seeds = train(*names, f"--dataset.path={log}", "--seeds=1", "--run", tmp_path / "seeds")
    assert seeds.code == 0, seeds.err
    planned = train(*names, f"--dataset.path={log}", "--dry-run")
    assert planned.code == 0, planned.err
    evaluated = rosepo("evaluate", run, "--metric=mrr")
    assert evaluated.code == 0, evaluated.err
    assert evaluated.made == {"evaluation"}
    listed = rosepo("recommend", run, "--history", "Lantern Street (1999)")
    assert listed.code == 0, listed.err


def test_a_file_can_be_shown(rosepo, loss):
    shown = rosepo("plugins", "show", "./my_loss.py:Margin")
    assert shown.code == 0, shown.err
    assert "max(0, margin - (r_w - r_l))" in shown.out
    assert "Scale of the implicit rewards." in shown.out
    described = rosepo("plugins", "show", "./my_loss.py:Margin", "--json").json
    assert [(each["kind"], each["name"], each["distribution"]) for each in described] == [
        ("loss", "Margin", "my_loss.py")
    ]
    assert described[0]["command"] == f"rosepo train --loss {Path('my_loss.py').absolute()}:Margin --loss.beta 0.1"


class TestTheExampleKeepsTheContract(LossContract):
    name = f"{EXAMPLE}:Margin"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./my_los.py:Margin", "my_los.py cannot be read: No such file or directory"),
        ("./my_loss.py", "my_loss.py' names no class: write my_loss.py:CLASS; it has MarginOptions, Margin, Other"),
        ("./my_loss.py:Magrin", "has no class 'Magrin'; did you mean 'Margin'"),
        ("./my_loss.py:Other", "is no subclass of PreferenceLoss"),
        ("./sampler.py:Mine", "is no loss, but a sampler"),
        ("./syntax.py:Mine", "syntax.py cannot be imported: SyntaxError: '(' was never closed (syntax.py, line 2)"),
        ("./null\0.py:Mine", "cannot be read: embedded null byte"),
        ("~nobody-here/x.py:Mine", "cannot be read: No such file or directory"),
        ("./raises.py:Mine", "raises.py cannot be imported: ValueError: no luck (line 3)"),
        ("./exits.py:Mine", "exits.py cannot be imported: SystemExit: 0 (line 1)"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_error(train, loss, tmp_path, name, message):
    (tmp_path / "sampler.py").write_text(PARTS["sampler"])
    (tmp_path / "syntax.py").write_text("import json\nprint(\n")
    (tmp_path / "raises.py").write_text("import json\n\nraise ValueError('no\\nluck')\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(0)")
    done = train(f"--loss={name}", "--run", tmp_path / "run")
    assert done.code in (1, 2)
    (error,) = done.err.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "run").exists()


def test_using_the_run_of_a_stranger_imports_nothing(rosepo, finished, tmp_path, monkeypatch, as_a_stranger):
    run = shutil.copytree(finished, tmp_path / "runs" / "stranger", symlinks=True)
    monkeypatch.chdir(tmp_path)
    config = (run / "config.toml").read_text()
    for kind, name in {"loss": "rosepo", "sampler": "uniform", "oracle": "constant", "metric": "hr"}.items():
        (tmp_path / f"{kind}.py").write_text(MARKED + PARTS[kind])
        # A relative path, and an absolute one.
        file = f"./{kind}.py:Mine" if kind in ("loss", "oracle") else f"{tmp_path}/{kind}.py:Mine"
        assert f'name = "{name}"' in config
        config = config.replace(f'name = "{name}"', f'name = "{file}"')
    (run / "config.toml").write_text(config)
    known = (run / "plugins.json").read_text()
    for kind, name in {"loss": "rosepo", "sampler": "uniform", "oracle": "constant"}.items():
        (table,) = tomllib.loads(config)[kind] if kind == "sampler" else [tomllib.loads(config)[kind]]
        known = known.replace(f'"name": "{name}"', f'"name": "{table["name"]}"')
    (run / "plugins.json").write_text(known)
    as_a_stranger(run)
    page = tmp_path / "page.html"
    for command in (
        ("runs", "runs"),
        ("report", run, "--out", page),
        ("compare", run, finished, "--metric=ndcg@10"),
        ("recommend", run, "--history", "Lantern Street (1999)"),
    ):
        done = rosepo(*command)
        assert done.code == 0, done.err
        assert list(tmp_path.glob("*.imported")) == []
    evaluated = rosepo("evaluate", run, "--metric=mrr")
    assert evaluated.code == 2
    assert "is not signed with your key, so others may have written it" in evaluated.err
    assert list(tmp_path.glob("*.imported")) == []
    assert "./loss.py:Mine" in (run / "config.toml").read_text()


def test_no_file_in_a_strangers_model_is_imported(rosepo, finished, log, tmp_path, monkeypatch, as_a_stranger):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompt.py").write_text(MARKED + PARTS["prompt"])
    model = shutil.copytree(finished / "aligned", tmp_path / "model")
    template = json.loads((model / "prompt_template.json").read_text())
    (model / "prompt_template.json").unlink()
    # An absolute path that leads to where the program runs.
    (model / "prompt_template.json").write_text(json.dumps({**template, "name": "/proc/self/cwd/prompt.py:Mine"}))
    as_a_stranger(model)
    data = ("--dataset=table", f"--dataset.path={log}", "--run", tmp_path / "run")
    for command in (
        ("evaluate", "--model", model, *data),
        ("recommend", model, "--history", "Lantern Street (1999)"),
    ):
        done = rosepo(*command)
        assert done.code == 2, done.err
        assert "is not signed with your key, so others may have written it" in done.err
    assert list(tmp_path.glob("*.imported")) == []
