"""A finished run is read after the plugins that it was made with were uninstalled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from installing import Distribution, on_path, pip_install, uninstall

BASES = {
    "dataset": "rosepo_datasets.table:Table",
    "prompt": "rosepo_prompts.timeline:Timeline",
    "sampler": "rosepo_samplers.oracle_hard:OracleHard",
    "oracle": "rosepo_oracles.popularity:Popularity",
    "loss": "rosepo_losses.rosepo:RosePO",
    "metric": "rosepo_metrics.accuracy:HitRate",
}
SOURCE = """
    from rosepo_core.api import hookimpl
    from {module} import {base}

    class Own({base}):
        '''Acme's own {kind}.'''

    @hookimpl
    def {hook}(register):
        register("acme-{kind}", "acme_{kind}:Own", summary="Acme's.")
"""


def distribution(kind: str) -> Distribution:
    module, _, base = BASES[kind].partition(":")
    hook = "rosepo_register_losses" if kind == "loss" else f"rosepo_register_{kind}s"
    return Distribution(f"acme-{kind}", SOURCE.format(module=module, base=base, hook=hook, kind=kind), "3.1")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    return pip_install(map(distribution, BASES), tmp_path_factory.mktemp("acme"))


@pytest.fixture(scope="module")
def made(tmp_path_factory, installed, train, log) -> Path:
    """A run in which every part is a plugin of acme's."""
    folder = tmp_path_factory.mktemp("acme-runs") / "run"
    names = [f"--{kind}=acme-{kind}" for kind in BASES]
    with on_path(installed, map(distribution, BASES)):
        done = train(*names, "--metric=ndcg", f"--dataset.path={log}", "--run", folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def run(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "runs" / "run", symlinks=True)


@pytest.fixture
def without(installed, tmp_path) -> Iterator[Callable[..., None]]:
    """Uninstall the plugins of these kinds for a test."""
    site = shutil.copytree(installed, tmp_path / "site-packages")
    with on_path(site, map(distribution, BASES)):
        yield lambda *kinds: [uninstall(distribution(kind), site) for kind in kinds]


def state(folder: Path) -> dict[str, bytes]:
    """The files of a run, without those of a change that waits for its other stages."""
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {str(path): (folder / path).read_bytes() for path in files if path.parts[0] != "unfinished"}


def test_a_run_is_reported_compared_and_listed_without_any_of_its_plugins(rosepo, run, finished, without, tmp_path):
    before = state(run)
    without(*BASES)
    page = tmp_path / "page.html"
    reported = rosepo("report", run, "--out", page)
    assert reported.code == 0, reported.err
    assert (
        "metric 'acme-metric' of acme-metric 3.1 is left out: it is not installed; install acme-metric 3.1"
        in reported.err
    )
    text = page.read_text()
    assert "acme-loss 3.1" in text
    assert "acme-sampler" in text
    compared = rosepo("compare", run, finished, "--metric=ndcg@10", "--json")
    assert compared.code == 0, compared.err
    listed = rosepo("runs", run.parent, "--json")
    assert [each["method"] for each in listed.json] == ["acme-sampler acme-oracle acme-loss"]
    assert state(run) == before


def test_a_run_is_evaluated_and_recommends_without_the_plugins_of_its_training(rosepo, run, without, catalogue):
    before = json.loads((run / "metrics.json").read_text())["protocols"]["candidates-5"]
    without("dataset", "sampler", "oracle", "loss")
    done = rosepo("evaluate", run, "--metric=mrr", "--json")
    assert done.code == 0, done.err
    assert done.made == {"evaluation"}
    after = done.json["metrics"]["protocols"]["candidates-5"]
    for model, values in before.items():
        assert {name: after[model][name] for name in values} == values
        assert "mrr" in after[model]
    environment = json.loads((run / "environment.json").read_text())
    assert environment["loss acme-loss"] == "acme-loss 3.1"
    assert 'name = "acme-oracle"' in (run / "config.toml").read_text()
    assert "Acme's own loss." in (run / "aligned" / "README.md").read_text()
    # Once more: nothing of what is known of them was lost.
    assert rosepo("evaluate", run, "--metric=auc").code == 0
    found = rosepo("recommend", run, "--history", catalogue.titles[3], "--json")
    assert found.code == 0, found.err


@pytest.mark.parametrize(
    ("kind", "command", "where"),
    [
        ("metric", ("evaluate", "{run}", "--metric=mrr"), "{run}"),
        ("prompt", ("evaluate", "{run}", "--metric=mrr"), "{run}"),
        ("oracle", ("evaluate", "{run}", "--evaluation.negatives=popularity"), "{run}"),
        ("prompt", ("recommend", "{run}", "--history", "Lantern Street (1999)"), "{run}/aligned"),
        ("oracle", ("recommend", "{run}", "--history", "Lantern Street (1999)", "--score=mean"), "{run}/oracle"),
    ],
)
def test_where_its_code_is_needed_one_error_says_what_to_install(rosepo, run, without, kind, command, where):
    without(kind)
    before = state(run)
    done = rosepo(*(part.format(run=run) for part in command))
    assert done.code == 2
    (error,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert error == (
        f"error: this needs the code of {kind} 'acme-{kind}' of acme-{kind} 3.1, with which {where.format(run=run)} "
        f"was made: it is not installed; install acme-{kind} 3.1"
    )
    assert state(run) == before


def test_a_plugin_that_no_longer_loads_is_named_with_its_error(rosepo, run, without, tmp_path):
    without()
    (tmp_path / "site-packages" / "acme_metric.py").write_text("import acme_missing")
    done = rosepo("evaluate", run, "--metric=mrr")
    assert done.code == 2
    assert "of acme-metric 3.1" in done.err
    assert "did not load: ModuleNotFoundError: No module named 'acme_missing'" in done.err


def test_the_plugin_of_another_distribution_with_its_name_does_not_take_its_place(rosepo, run, without, tmp_path):
    without("metric", "prompt", "loss")
    others = [replace(distribution(kind), name=f"other-{kind}") for kind in ("metric", "prompt", "loss")]
    renamed = [replace(each, source=each.source.replace("acme_", "other_")) for each in others]
    with on_path(pip_install(renamed, tmp_path / "others"), renamed):
        reported = rosepo("report", run, "--out", tmp_path / "page.html")
        evaluated = rosepo("evaluate", run, "--metric=mrr")
        found = rosepo("recommend", run, "--history", "Lantern Street (1999)")
    assert reported.code == 0, reported.err
    told = "'acme-metric' is now a metric of other-metric 3.1; install acme-metric 3.1"
    assert f"metric 'acme-metric' of acme-metric 3.1 is left out: {told}" in reported.err
    assert evaluated.code == 2
    assert evaluated.err.endswith(f"made: {told}\n")
    assert found.code == 2
    assert found.err.endswith("made: 'acme-prompt' is now a prompt of other-prompt 3.1; install acme-prompt 3.1\n")


def test_a_new_run_with_an_unknown_plugin_is_an_error_at_once(rosepo, train, run, without, tmp_path):
    without("loss")
    for command in (
        train("--loss=acme-loss", "--run", tmp_path / "new"),
        rosepo("train", "--config", run / "config.toml", "--run", tmp_path / "new"),
    ):
        assert command.code == 2
        assert "no loss is called 'acme-loss'" in command.err
    assert not (tmp_path / "new").exists()
    # A name that the run does not have is not forgiven, either.
    assert "no metric is called 'nonsense'" in rosepo("evaluate", run, "--metric=nonsense").err
