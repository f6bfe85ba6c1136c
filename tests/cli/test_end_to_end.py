"""`rosepo train` whole, on a small log and a tiny model: what it leaves, what it reuses, and what others can read."""

from __future__ import annotations

import gc
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tomllib
import weakref
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import rosepo_core
from rosepo_core import pipeline
from rosepo_core.engine.models import load_model
from rosepo_core.engine.saved_template import load_template
from rosepo_core.evaluation.candidates import load_candidates
from rosepo_core.pipeline import STAGES
from rosepo_core.stages.split import load_split
from rosepo_core.store.trusting import trust

ACCURACY = {"hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr"}
BEYOND = {
    f"{metric}@{k}"
    for metric in ("arp", "popularity-lift", "aplt", "coverage", "gini", "or-ratio", "div-ratio")
    for k in (1, 5, 10)
} | {"auc", "semantic-hallucination", "popularity-confusion", "popularity-correlation"}
ALIGNED = {"aligned", "scores-aligned", "evaluation"}
RESCORED = {f"scores-{name}" for name in ("popularity", "oracle", "base", "sft", "aligned")}
SLOWER = ("--alignment.steps=9", "--alignment.learning_rate=0.002")


def metrics_of(run):
    return json.loads((run / "metrics.json").read_text())


def log_of(run, stage):
    return json.loads((run / stage / "log.json").read_text())


def test_a_run_shows_itself_and_its_progress(finished, capsys):
    config = tomllib.loads((finished / "config.toml").read_text())
    with rosepo_core.ConsoleReporter().live() as reporter:
        done = rosepo_core.train(config, finished, reporter=reporter)
    assert re.search(r"^aligned +reused from this run$", capsys.readouterr().err, re.MULTILINE)
    table = metrics_of(finished)["protocols"]["candidates-5"]
    expected = f"aligned NDCG@10 {table['aligned']['ndcg@10']:.3f}, 24 test users, candidates-5"
    assert repr(done) == f"<Run {finished}: {expected}>"
    page = ElementTree.fromstring(done._repr_html_())
    assert [row.findtext("th") for row in page.findall("tr")[1:]] == ["popularity", "base", "sft", "aligned"]
    titles = [cell.text for cell in page.find("tr").findall("th")[1:]]
    shown = dict(zip(titles, [cell.text for cell in page.findall("tr")[-1].findall("td")], strict=True))
    assert shown["NDCG@10"] == f"{table['aligned']['ndcg@10']:.3f}"
    assert repr(pipeline.Run(Path("runs/x"))) == "<Run runs/x: not evaluated>"


def test_what_a_run_leaves(finished):
    document = metrics_of(finished)
    assert list(document) == [
        *("schema", "dataset", "seed", "protocols", "intervals", "users", "comparisons", "oracle_quality"),
        *("fusions", "confidence", "pool_recall", "seconds"),
    ]
    assert (document["schema"], document["dataset"], document["seed"]) == (3, "table", 3)
    models = document["protocols"]["candidates-5"]
    # The constant oracle ranks nothing.
    assert list(models) == ["popularity", "base", "sft", "aligned"]
    assert all(set(values) == ACCURACY | BEYOND for values in models.values())
    # A constant oracle answers 0.1, whatever happened.
    quality = document["oracle_quality"]["candidates-5"]
    assert quality == json.loads((finished / "evaluation" / "oracle_quality.json").read_text())
    assert (quality["pairs"], quality["auc"], quality["ece"]) == (24 * 4 * 2, 0.5, pytest.approx(0.4))
    users = pl.read_parquet(finished / "evaluation" / "per_user.parquet")
    aligned = users.filter(model="aligned")
    told = document["users"]["candidates-5"]["aligned"]
    assert told["hr@5"] == 24
    assert told["semantic-hallucination"] == aligned["semantic-hallucination"].is_not_null().sum() < 24
    assert "gini@5" not in told
    assert users.columns[:2] == ["protocol", "model"]
    assert aligned["hr@5"].mean() == models["aligned"]["hr@5"]
    assert aligned["popularity-lift@1"].mean() == pytest.approx(models["aligned"]["popularity-lift@1"])
    assert set(STAGES) <= set(document["seconds"])
    for stage in STAGES:
        manifest = json.loads((finished / stage / "manifest.json").read_text())
        assert manifest["stage"] == stage
        assert all((finished / stage / file).is_file() for file in manifest["files"])
    config = tomllib.loads((finished / "config.toml").read_text())
    assert (config["sft"]["steps"], config["loss"]["name"], config["sampler"][0]["name"]) == (3, "rosepo", "uniform")
    assert json.loads((finished / "environment.json").read_text())["loss rosepo"].startswith("rosepo ")
    assert (finished / "report.html").read_text().startswith("<!doctype html>")
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    logged = [{"stage": stage} | entry for stage in ("sft", "aligned") for entry in log_of(finished, stage)]
    assert lines == logged
    pickled = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
    assert not [path for path in finished.rglob("*") if path.suffix in pickled or path.name.startswith(".")]


def test_the_model_card_shows_an_invented_history(finished):
    prompt = (finished / "aligned" / "README.md").read_text().partition("## Prompt")[2].partition("\n## ")[0]
    assert "\nTitle 1\nTitle 2\nTitle 3\n" in prompt
    assert "```text\nTitle 4\n" in prompt
    titles = pl.read_parquet(finished / "split" / "catalogue.parquet")["title"]
    assert [title for title in titles if title in prompt] == []


def test_plain_trl_reads_the_pairs(finished):
    pairs = pl.read_parquet(finished / "preferences" / "pairs.parquet")
    # 24 users, the latest three targets of each.
    assert pairs.height == 72
    first = pairs.row(0, named=True)
    assert first["prompt"].startswith("Titles that one person chose, oldest first:\n")
    assert first["chosen"].endswith("\n")
    assert first["chosen"] != first["rejected"]
    assert pairs["eps"].unique().to_list() == [pytest.approx(0.1)]


def test_all_is_reused_when_nothing_changes(train, finished):
    again = train("--run", finished)
    assert (again.code, again.made) == (0, set())
    assert set(again.stages.values()) == {"reused from this run"}
    assert [stage for stage in again.stages if stage in STAGES] == list(STAGES)


@pytest.mark.parametrize(
    ("change", "made"),
    [
        # Pairs for a loss without smoothing have no factors.
        ("--loss=ipo", {"preferences"} | ALIGNED),
        # These decide no result.
        ("--alignment.token_budget=100", set()),
        # The reference's log-probabilities know of no oracle.
        ("--oracle.value=0.2", {"oracle", "preferences", "scores-oracle"} | ALIGNED),
        ("--sampler=popularity-aware", {"sampling", "reference", "preferences"} | ALIGNED),
        # A log is not read anew, and what knows of no prompt is not made anew, for a longer history.
        (
            "--dataset.history_length=7",
            {"sft", "reference", "preferences", "scores-base", "scores-sft"} | ALIGNED,
        ),
        ("--evaluation.candidates=4", RESCORED | {"candidates", "evaluation"}),
    ],
    ids=["loss", "token budget", "oracle", "sampler", "history", "candidates"],
)
def test_only_what_changes_is_made_anew(train, finished, change, made):
    run = finished.parent / change.strip("-").partition("=")[0]
    done = train("--run", run, change)
    assert done.code == 0, done.err
    assert done.made == made
    reused = {stage: said for stage, said in done.stages.items() if stage not in made}
    assert set(reused.values()) == {f"reused from {finished}"}
    assert {"dataset", "split"} <= set(reused)
    shutil.rmtree(run)


def test_a_damaged_artifact_is_made_anew(train, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "runs" / "copy")
    with (run / "oracle" / "fit.json").open("a") as file:
        file.write(" ")
    done = train("--run", run, "--until=oracle")
    assert (done.code, done.made) == (0, {"oracle"})


def test_one_seed_gives_one_result(train, finished, tmp_path):
    runs = [finished]
    for name, seed in (("same", 3), ("other", 4)):
        runs.append(tmp_path / name / "run")
        assert train("--run", runs[-1], f"--seed={seed}").code == 0
    first, same, other = (metrics_of(run)["protocols"] for run in runs)
    assert first == same
    assert first != other
    assert log_of(finished, "aligned")[-1]["loss"] == log_of(runs[1], "aligned")[-1]["loss"]


@pytest.fixture(scope="module")
def process(finished, tmp_path_factory):
    """The configuration of `finished` in a real process, whose sets have another order."""
    again = tmp_path_factory.mktemp("process") / "again"
    rosepo = Path(sys.executable).parent / "rosepo"
    arguments = ["train", "--config", finished / "config.toml", "--run", again, "--json"]
    # torch has one thread here. The products of NumPy have as many as were allowed when it was imported, and the
    # last bits of their results depend on this number.
    threads = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count())
    environment = {**os.environ, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": threads}
    done = subprocess.run([rosepo, *arguments], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return again, done


def test_the_streams_of_a_real_process(process):
    run, done = process
    assert json.loads(done.stdout) == {"run": str(run), "metrics": metrics_of(run)}
    # One line a stage, notes indented, and nothing that a library says.
    shown = [line.split()[0] for line in done.stderr.splitlines() if line and not line.startswith(" ")]
    assert [stage for stage in shown if stage in STAGES] == list(STAGES)
    assert {stage for stage in shown if stage not in STAGES} == {"candidates", "embeddings", *RESCORED}


def test_equal_runs_are_equal_byte_for_byte(finished, process):
    again, _ = process
    first, second = (
        {
            str(path.relative_to(run)): path.read_bytes()
            for path in run.rglob("*")
            if path.is_file() and path.name != "report.html"
        }
        for run in (finished, again)
    )
    assert first.keys() == second.keys()
    # Only how long it took may differ.
    timed = {name for name in first if name.endswith("manifest.json") or name in ("metrics.json", "run.json")}
    assert [name for name in first if first[name] != second[name] and name not in timed] == []
    for name in timed:
        one, other = (json.loads(files[name]) for files in (first, second))
        # The sums of manifests, and of what has them, are of the seconds, too.
        for found in (one, other):
            found.update(dict.fromkeys(("seconds", "sum", "signed")))
            if name == "run.json":
                found["files"] = sorted(found["files"])
        assert one == other, name


def sequence_log_prob(model, prompt, response):
    """The plain computation: one sequence, one forward pass, the sum over the response's tokens."""
    ids = torch.tensor(np.concatenate([prompt, response]), dtype=torch.long)[None]
    with torch.no_grad():
        of_tokens = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])
    return float(of_tokens[-len(response) :].sum())


def scores_of_plain_model(run, model, tokenizer):
    """What the run's aligned model gives the candidates of the first three test users."""
    template = load_template(run / "aligned", tokenizer)
    split = load_split(run / "split")
    items = load_candidates(run / "candidates").items[:3]
    prompts = template.prompts(split.test.take(np.arange(3)))
    return [
        [sequence_log_prob(model, prompt, template.response_ids[item]) for item in row]
        for prompt, row in zip(prompts, items.tolist(), strict=True)
    ]


def scores_of_run(run, model):
    return load_file(run / f"scores-{model}" / "scores.safetensors")["scores"][:3]


def test_plain_peft_loads_the_aligned_model_and_gives_the_same_scores(finished):
    model = AutoPeftModelForCausalLM.from_pretrained(finished / "aligned").eval()
    tokenizer = AutoTokenizer.from_pretrained(finished / "aligned")
    plain = scores_of_plain_model(finished, model, tokenizer)
    np.testing.assert_allclose(scores_of_run(finished, "aligned"), plain, atol=1e-4)
    assert np.abs(scores_of_run(finished, "sft") - plain).max() > 0.01


def test_plain_transformers_loads_a_fully_fine_tuned_model(train, tmp_path):
    run = tmp_path / "runs" / "full"
    done = train("--run", run, "--sft.method=full", "--sft.learning_rate=0.001", "--alignment.learning_rate=0.001")
    assert done.code == 0, done.err
    model = AutoModelForCausalLM.from_pretrained(run / "aligned").eval()
    plain = scores_of_plain_model(run, model, AutoTokenizer.from_pretrained(run / "aligned"))
    np.testing.assert_allclose(scores_of_run(run, "aligned"), plain, atol=1e-4)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_reference_is_never_a_second_model_in_memory(train, tmp_path, monkeypatch, method):
    alive = weakref.WeakSet()
    counts = []

    def counted(*arguments):
        model, tokenizer = load_model(*arguments)
        alive.add(model)
        gc.collect()
        counts.append(len(alive))
        return model, tokenizer

    monkeypatch.setattr("rosepo_core.engine.policy.load_model", counted)
    done = train("--run", tmp_path / "runs" / "run", f"--sft.method={method}", "--sft.learning_rate=0.001")
    assert done.code == 0, done.err
    assert max(counts) == 1
    # With adapters the base stays; a full model is read again after another has been trained or asked for.
    assert (len(counts) > 1) == (method == "full")


def test_dpo_starts_at_ln_2_and_is_rosepo_without_smoothing(train, finished):
    logs = {}
    for name, arguments in {"dpo": ["--loss=dpo"], "rosepo": ["--loss=rosepo", "--oracle.value=0"]}.items():
        run = finished.parent / f"{name}-until-aligned"
        assert train("--run", run, "--until=aligned", *SLOWER, *arguments).code == 0
        logs[name] = log_of(run, "aligned")
        shutil.rmtree(run)
    first = logs["dpo"][0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "logps/chosen", "logps/rejected"} <= set(
        first
    )
    assert logs["dpo"][-1]["loss"] < math.log(2) - 0.005
    assert logs["dpo"][-1]["rewards/margins"] > 0
    assert [entry["loss"] for entry in logs["dpo"]] == [entry["loss"] for entry in logs["rosepo"]]


def test_everything_else_at_once(train, tmp_path):
    run = tmp_path / "runs" / "chat"
    oracle = ["--oracle=sasrec", "--oracle.layers=1", "--oracle.hidden_size=8", "--oracle.temperature=1"]
    samplers = ["--sampler=self-hard=0.5", "--sampler=semantic-similar=0.5", "--preferences.negatives=2"]
    prompt = ["--prompt=chat", "--prompt.titles=short", "--split.strategy=temporal"]
    done = train("--run", run, *oracle, *samplers, *prompt, "--sft.max_users=6", "--preferences.max_pairs=41")
    assert done.code == 0, done.err
    assert list(metrics_of(run)["protocols"]["candidates-5"]) == ["popularity", "oracle", "base", "sft", "aligned"]
    pairs = pl.read_parquet(run / "preferences" / "pairs.parquet")
    assert set(pairs["sampler"]) == {"self-hard", "semantic-similar"}
    assert set(pairs["slot"]) == {0, 1}
    # 20 examples with two rejected titles each; one more pair would be half an example.
    assert pairs.height == 40
    assert pairs.select("user", "position").n_unique() == 20
    assert pairs["eps"].is_between(0, 0.45).all()
    assert pairs["eps"].n_unique() > 10


def test_what_was_done_before_an_interruption_is_kept(train, tmp_path, monkeypatch):
    run = tmp_path / "runs" / "run"
    with monkeypatch.context() as patch:
        patch.setattr("rosepo_core.stages.oracle.stage", interrupt)
        done = train("--run", run)
    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines()[-2] == "interrupted; what is done is kept, and the same command goes on:"
    again = train("--run", run, "--until=oracle")
    assert again.code == 0
    assert again.made == {"oracle"}


def interrupt(*_):
    raise KeyboardInterrupt


def test_json_is_one_document_on_stdout(train, finished):
    done = train("--run", finished, "--json")
    assert done.json == {"run": str(finished), "metrics": metrics_of(finished)}
    half = finished.parent / "half"
    assert train("--run", half, "--until=sft", "--json").json == {"run": str(half)}
    shutil.rmtree(half)


def test_the_table_fits_80_columns(train, finished, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = train("--run", finished).out
    lines = shown.splitlines()
    assert [line.split()[0] for line in lines if line.startswith(("popularity", "base", "sft", "aligned"))] == [
        # All accuracies, then the main one with its intervals.
        *("popularity", "base", "sft", "aligned"),
        *("popularity", "base", "sft", "aligned"),
    ]
    assert [line.split("  ")[0] for line in lines if line.startswith(("ARP", "Popularity lift", "Semantic"))] == [
        *("Semantic hallucination \N{DOWNWARDS ARROW}", "ARP@1 \N{DOWNWARDS ARROW}", "Popularity lift@1"),
    ]
    assert re.search(r"^over \d+ of them: Semantic hallucination of popularity, base, sft, aligned$", shown, re.M)
    # A path cannot be broken.
    assert max(len(line) for line in lines if str(finished) not in line) <= 80
    assert lines[-1] == f"run     {finished}"


def test_the_default_folder_is_of_the_configuration(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (["--until=dataset"], ["--until=dataset"], ["--until=dataset", "--loss=rosepo/dpo"]):
        assert train(*arguments).code == 0
    folders = sorted(folder.name.rsplit("-", 1)[0] for folder in (tmp_path / "runs").iterdir())
    assert folders == ["table-uniform-constant-dpo", "table-uniform-constant-rosepo"]


def test_evaluate_shows_a_finished_run_without_its_log(rosepo, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "runs" / "copy")
    config = run / "config.toml"
    config.write_text(config.read_text().replace("log.csv", "moved.csv"))
    trust(run)
    done = rosepo("evaluate", run, "--json")
    assert done.code == 0, done.err
    assert done.made == set()
    assert done.json["metrics"] == metrics_of(finished)


def test_evaluate_with_another_protocol_trains_nothing(rosepo, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "runs" / "copy")
    done = rosepo("evaluate", run, "--evaluation.candidates", "4", "--set", "evaluation.ks=[1, 2]")
    assert done.code == 0, done.err
    assert done.made == RESCORED | {"candidates", "evaluation"}
    assert "24 test users, 4 candidates each, the target among them" in done.out
    models = metrics_of(run)["protocols"]["candidates-4"]
    assert "hr@2" in models["aligned"]
    assert tomllib.loads((run / "config.toml").read_text())["evaluation"]["candidates"] == 4
    assert metrics_of(run)["seconds"]["sft"] == metrics_of(finished)["seconds"]["sft"]


def test_evaluate_measures_other_things_without_scoring_again(rosepo, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "runs" / "copy")
    before, config = metrics_of(run)["protocols"]["candidates-5"], tomllib.loads((run / "config.toml").read_text())

    done = rosepo(
        "evaluate", run, "--metric", "mrr", "--metric", "recall", "--metric", "rosepo/hr", "--metric.ks=[2]"
    )

    assert done.code == 0, done.err
    assert done.made == {"evaluation"}
    after = metrics_of(run)["protocols"]["candidates-5"]
    # They stand beside what was measured before.
    assert {model: {key: values[key] for key in before[model]} for model, values in after.items()} == before
    assert after["sft"].keys() - before["sft"].keys() == {"hr@2", "recall@2"}
    assert after["sft"]["recall@2"] == after["sft"]["hr@2"]
    metrics = tomllib.loads((run / "config.toml").read_text())["metric"]
    assert [each["name"] for each in metrics] == [*(each["name"] for each in config["metric"]), "recall"]
    assert metrics[0] == {"name": "hr", "ks": [1, 2, 5, 10]}
    assert metrics[-1] == {"name": "recall", "ks": [2]}


def test_a_metric_is_not_measured_in_another_way_in_its_place(rosepo, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "runs" / "copy")
    done = rosepo("evaluate", run, "--metric=aplt", "--metric.head=0.5")
    assert done.code == 2
    assert "the run has measured 'aplt' with other options (head), and its tables are added to, never" in done.err
    assert metrics_of(run) == metrics_of(finished)


def test_train_does_what_the_command_does(finished, log, model_folder, tmp_path):
    assert rosepo_core.train(tomllib.loads((finished / "config.toml").read_text()), finished).folder == finished
    tables = {"dataset": {"name": "table", "path": str(log)}, "model": str(model_folder), "oracle": "constant"}
    run = rosepo_core.train(tables, tmp_path / "run", until="split")
    assert run.evaluations == ()
    assert (run.folder / "split").is_dir()
    with pytest.raises(rosepo_core.contracts.errors.RequestError, match=r"^unknown option 'loss\.betta'"):
        rosepo_core.train(tables | {"loss": {"betta": 1}}, tmp_path / "wrong")
