"""`rosepo train --rounds`: SFT and alignment in turn, with rejected items drawn again from the current model."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rosepo_cli.progress import ConsoleReporter
from rosepo_core.contracts.records import Examples
from rosepo_core.engine.saved_template import load_template
from rosepo_core.stages.split import load_split

ARGUMENTS = (
    *("--sampler=self-hard", "--sampler.beams=1", "--loss=dpo", "--loss.beta=0.3"),
    # All that a training reads is in each of its steps.
    *("--sft.max_users=10", "--sft.batch_size=100", "--alignment.batch_size=100"),
    *("--alignment.steps=2", "--alignment.learning_rate=0.004", "--preferences.max_users=8"),
    *("--metric=hr", "--metric=arp"),
)
LATER = ("sampling", "sft", "reference", "preferences", "aligned")


@pytest.fixture(scope="module")
def three(tmp_path_factory, train) -> Path:
    """A finished run of three rounds; not to be changed."""
    folder = tmp_path_factory.mktemp("rounds") / "runs" / "three"
    done = train("--run", folder, "--rounds=3", *ARGUMENTS)
    assert done.code == 0, done.err
    stages = [
        *("dataset", "split", "candidates", "sft", "sampling", "reference", "preferences", "round-1-aligned"),
        *(f"round-2-{name}" for name in LATER),
        *(f"round-3-{name}" for name in LATER[:-1]),
        "aligned",
    ]
    assert list(done.stages)[: len(stages)] == stages
    return folder


def model_in(folder, model_folder):
    """The model that a stage saved, as PEFT loads it."""
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), str(folder)).eval()


def template_of(run):
    return load_template(run / "sft", AutoTokenizer.from_pretrained(run / "sft"))


def pairs_of(run, name):
    """The pairs of a stage, and the prompt of each."""
    pairs = pl.read_parquet(run / name / "pairs.parquet")
    examples = Examples.of(load_split(run / "split").train, pairs["user"].to_numpy(), pairs["position"].to_numpy())
    return pairs, template_of(run).prompts(examples, shared=True)


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]


def log_probability(model, prompt, response):
    """Of a response after a prompt, by one plain forward pass."""
    ids = [*prompt.tolist(), *response.tolist()]
    steps = logits(model, ids)[:-1].log_softmax(-1)
    return float(steps.gather(1, torch.tensor(ids[1:])[:, None])[len(prompt) - 1 :].sum())


def greedy_answer(model, prompt, responses, possible):
    """The title to which the most probable next tokens lead, among the possible ones."""
    written: list[int] = []
    while True:
        following = {int(responses[item][len(written)]) for item in possible}
        steps = logits(model, [*prompt.tolist(), *written])[-1]
        written.append(max(following, key=lambda token: float(steps[token])))
        possible = [item for item in possible if int(responses[item][len(written) - 1]) == written[-1]]
        if len(possible) == 1:
            return possible[0]


def test_what_is_rejected_in_a_round_is_the_greedy_answer_of_the_model_before(three, model_folder):
    split, responses = load_split(three / "split"), template_of(three).response_ids
    pairs, prompts = pairs_of(three, "round-2-preferences")
    right = {"round-1-aligned": 0, "sft": 0, "round-2-sft": 0}
    rows = list(zip(pairs.iter_rows(named=True), prompts, strict=True))
    for name in right:
        model = model_in(three / name, model_folder)
        for row, prompt in rows:
            seen = set(split.train[row["user"]].tolist()) | {row["chosen_item"]}
            possible = [item for item in range(40) if item not in seen]
            right[name] += greedy_answer(model, prompt, responses, possible) == row["rejected_item"]
    assert right["round-1-aligned"] == len(rows) == 24
    assert max(right["sft"], right["round-2-sft"]) < 24


def test_the_reference_of_a_round_is_the_model_after_its_sft(three, model_folder):
    pairs, prompts = pairs_of(three, "round-2-preferences")
    responses = template_of(three).response_ids
    found = {
        name: [
            log_probability(model, prompt, responses[item])
            for prompt, item in zip(prompts, pairs["rejected_item"], strict=True)
        ]
        for name in ("round-1-aligned", "round-2-sft", "sft")
        for model in [model_in(three / name, model_folder)]
    }
    reference = pairs["reference_rejected"].to_numpy()
    assert reference == pytest.approx(np.array(found["round-2-sft"]), abs=1e-3)
    for other in ("round-1-aligned", "sft"):
        assert np.abs(reference - found[other]).max() > 0.01
    # Alignment begins at its reference.
    (first, _) = json.loads((three / "round-2-aligned" / "log.json").read_text())[:2]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_sft_of_a_round_goes_on_with_the_model_before_on_other_users_at_the_rate_of_alignment(three, model_folder):
    from rosepo_core.config import load_config
    from rosepo_core.plugins.registry import load_plugins
    from rosepo_core.stages import sft
    from rosepo_core.stages.rounds import Round
    from rosepo_core.stages.session import QuietReporter, Session
    from rosepo_core.store.run_store import RunStore

    registry, data = load_plugins(), load_split(three / "split")
    session = Session(load_config(three / "config.toml", [], registry), RunStore(three), registry, QuietReporter())
    first, second = (sft.token_sequences(session, template_of(three), data, Round(number, 3)) for number in (1, 2))
    assert {ids.tobytes() for ids, _ in first} != {ids.tobytes() for ids, _ in second}
    model, losses = model_in(three / "round-1-aligned", model_folder), []
    for ids, learned in second:
        steps = logits(model, ids.tolist())[:-1].log_softmax(-1)
        own = -steps.gather(1, torch.tensor(ids[1:].astype(np.int64))[:, None])[:, 0].numpy()
        losses += own[learned[1:]].tolist()
    log = [entry for entry in json.loads((three / "round-2-sft" / "log.json").read_text()) if "loss" in entry]
    assert log[0]["loss"] == pytest.approx(np.mean(losses), abs=1e-4)
    assert [entry["step"] for entry in log] == [1, 2, 3]
    assert max(entry["learning_rate"] for entry in log) == pytest.approx(0.004)


def test_each_round_draws_its_examples_anew(three):
    users = [
        set(load_file(three / name / "rejected.safetensors")["user"].tolist())
        for name in ("sampling", "round-2-sampling", "round-3-sampling")
    ]
    assert [len(each) for each in users] == [8, 8, 8]
    assert users[0] != users[1] != users[2] != users[0]


def test_tables_and_comparisons_have_a_row_for_each_round(three):
    document = json.loads((three / "metrics.json").read_text())["protocols"]["candidates-5"]
    assert list(document) == ["popularity", "base", "sft", "round-1-aligned", "round-2-aligned", "aligned"]
    lines = pl.read_parquet(three / "evaluation" / "per_user.parquet")
    assert lines["model"].unique(maintain_order=True).to_list() == list(document)
    comparisons = json.loads((three / "metrics.json").read_text())["comparisons"]["candidates-5"]
    assert [(each["model"], each["baseline"]) for each in comparisons if each["column"] == "hr@1"] == [
        ("sft", "base"),
        ("round-1-aligned", "sft"),
        ("round-2-aligned", "round-1-aligned"),
        ("aligned", "sft"),
        ("aligned", "round-2-aligned"),
    ]


def test_the_report_and_the_card_tell_of_the_rounds(three):
    report = (three / "report.html").read_text()
    training, pairs = (
        report.split(f'<section id="{part}">')[1].split("</section>")[0] for part in ("training", "preferences")
    )
    for part in (training, pairs):
        assert [part.count(f">Round {number}</h3>") for number in (1, 2, 3, 4)] == [1, 1, 1, 0]
    assert training.count("<h3>SFT: loss</h3>") == training.count("<h3>Alignment: loss</h3>") == 3
    assert "Aligned does not clearly differ from Round 2 in" in report or "Aligned is above Round 2 in" in report
    card = (three / "aligned" / "README.md").read_text()
    assert "Both were done 3 times in turn" in card
    assert "`ref` is the model after supervised fine-tuning of the same round" in card


def test_the_models_of_rounds_recommend(three, rosepo):
    history = ("--history", "Quiet Rivers (1994)", "--history", "Copper Sun (1968)", "--json")
    found = {
        stage: rosepo("recommend", three, f"--stage={stage}", *history).json["recommendations"]
        for stage in ("round-1-aligned", "round-2-aligned", "aligned")
    }
    assert len({json.dumps(each) for each in found.values()}) == 3
    done = rosepo("recommend", three, "--stage=round-3-aligned", *history)
    assert (done.code, "unknown model 'round-3-aligned'; did you mean 'round-" in done.err) == (2, True)


def test_runs_with_fewer_rounds_share_what_is_equal(three, train, rosepo):
    done = train("--run", three.parent / "two", "--rounds=2", *ARGUMENTS)
    assert (done.code, done.made) == (0, {"evaluation"}), done.err
    assert done.stages["aligned"] == f"reused from {three}"
    manifest = json.loads((three.parent / "two" / "aligned" / "manifest.json").read_text())
    before = json.loads((three / "round-2-aligned" / "manifest.json").read_text())
    assert (manifest["stage"], manifest["files"]) == ("aligned", before["files"])
    # What it was made from has its own names there.
    scores = json.loads((three.parent / "two" / "scores-aligned" / "manifest.json").read_text())
    assert scores["inputs"]["aligned"] == manifest["fingerprint"]
    assert rosepo("report", three.parent / "two", "--out", three.parent / "two.html").code == 0

    other = train("--run", three.parent / "other", "--rounds=2", *ARGUMENTS, "--loss.beta=0.1", "--until=aligned")
    assert other.made == {"round-1-aligned", *(f"round-2-{name}" for name in LATER[:-1]), "aligned"}, other.err


def test_a_finished_run_gets_more_rounds(three, train, tmp_path):
    """Its model becomes that of the first round."""
    run = tmp_path / "runs" / "run"
    assert train("--run", three.parent / "one", "--rounds=1", *ARGUMENTS).made == {"evaluation"}
    shutil.copytree(three.parent / "one", run)
    refused = train("--run", run, "--rounds=2", *ARGUMENTS)
    assert (refused.code, "a finished run of another configuration (rounds)" in refused.err) == (2, True)
    done = train("--run", run, "--rounds=2", *ARGUMENTS, "--overwrite")
    made = {f"round-2-{name}" for name in LATER[:-1]} | {"aligned", "scores-aligned", "evaluation"}
    assert (done.code, done.made) == (0, made), done.err
    assert same(run / "round-1-aligned", three / "round-1-aligned")
    assert same(run / "aligned", three / "round-2-aligned")
    assert train("--run", run, "--rounds=2", *ARGUMENTS).made == set()


def same(one, other):
    """Whether two artifacts have the same files, bit for bit."""
    files, others = (
        {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("manifest.json", "README.md")}
        for folder in (one, other)
    )
    return files == others


def test_an_interrupted_round_goes_on(three, train, tmp_path, monkeypatch):
    """In another folder, where nothing can be reused."""
    run, left = tmp_path / "runs" / "run", ["round-2-sft", "aligned"]
    arguments = ("--run", run, "--rounds=2", *ARGUMENTS, "--checkpoint.minutes=0", "--until=aligned")
    before, reports = ConsoleReporter.progress, list[str]()

    def progress(self: ConsoleReporter, done: int, total: int, unit: str) -> None:
        before(self, done, total, unit)
        reports.append(self._stage)
        if left and reports.count(left[0]) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(ConsoleReporter, "progress", progress)
    while left:
        done = train(*arguments)
        assert done.code == 130, done.err
        assert (run / f"{left.pop(0)}.partial").is_dir()
        reports.clear()
    done = train(*arguments)
    assert (done.code, done.made) == (0, {"aligned"}), done.err
    for name in LATER[:-1]:
        assert same(run / f"round-2-{name}", three / f"round-2-{name}")
    assert same(run / "aligned", three / "round-2-aligned")


def test_a_plan_counts_all_rounds(three, train, tmp_path):
    dry = train("--run", tmp_path / "run", "--dry-run", "--json", "--rounds=3", *ARGUMENTS)
    rows = {row["stage"]: row for row in dry.json["plan"]["stages"]}
    assert list(rows) == [
        *("dataset", "split", "sft", "sampling", "reference", "preferences", "round-1-aligned"),
        *(f"round-2-{name}" for name in LATER),
        *(f"round-3-{name}" for name in LATER[:-1]),
        *("aligned", "scores"),
    ]
    # 24 test users, 5 candidates each; base, SFT and three aligned models.
    assert rows["scores"]["examples"] == 24 * 5 * 5
    # As many steps with as many timelines.
    assert rows["round-2-sft"]["tokens"] == rows["sft"]["tokens"]


@pytest.mark.parametrize("value", ["0", "-2"])
def test_a_run_has_at_least_one_round(train, tmp_path, value):
    done = train("--run", tmp_path / "run", f"--rounds={value}")
    assert done.code == 2
    assert done.err.splitlines() == [f"error: option 'rounds' = {value}: input should be greater than or equal to 1"]
    assert not (tmp_path / "run").exists()


def test_a_stage_of_a_round_that_the_run_has_not_is_unknown(train, tmp_path):
    done = train("--run", tmp_path / "run", "--rounds=2", "--until=round-3-sft")
    assert done.code == 2
    assert done.err.startswith("error: unknown stage 'round-3-sft'; did you mean 'round-2-sft' or ")


def test_an_oracle_that_asks_the_model_asks_the_first_sft_model_in_all_rounds(train, model_folder, tmp_path):
    run = tmp_path / "runs" / "run"
    # Margins of the tiny model are far apart, and calibrated flips would all be at the limit.
    asked = (
        "--oracle=llm",
        "--oracle.calibration_users=4",
        "--oracle.calibration_items=2",
        "--oracle.temperature=20",
    )
    done = train("--run", run, "--rounds=2", *ARGUMENTS, *asked, "--loss=rosepo", "--until=round-2-preferences")
    assert done.code == 0, done.err
    pairs, prompts = pairs_of(run, "round-2-preferences")
    model, responses = model_in(run / "sft", model_folder), template_of(run).response_ids
    margins = np.array(
        [
            log_probability(model, prompt, responses[row["chosen_item"]])
            - log_probability(model, prompt, responses[row["rejected_item"]])
            for row, prompt in zip(pairs.iter_rows(named=True), prompts, strict=True)
        ]
    )
    assert pairs["eps"].to_numpy() == pytest.approx(np.minimum(1 / (1 + np.exp(margins / 20)), 0.45), abs=1e-5)
    # The reference of the round is another model.
    assert np.abs((pairs["reference_chosen"] - pairs["reference_rejected"]).to_numpy() - margins).max() > 0.01
