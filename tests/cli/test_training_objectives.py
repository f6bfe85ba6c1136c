"""Runs with SFT on choices and with the prior as reference: their first losses by hand, what is made, what is reused,
and what is refused."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rosepo_core.config import load_config
from rosepo_core.contracts.records import Examples, Sequences
from rosepo_core.engine.saved_template import load_template
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.stages import sft
from rosepo_core.stages.session import QuietReporter, Session
from rosepo_core.stages.split import load_split
from rosepo_core.store.run_store import RunStore

QUICK = ("--metric=hr", "--evaluation.resamples=100")
# All trees in the first step, so that its loss is the mean over all pairs.
AT_ONCE = ("--alignment.batch_size=100", "--alignment.reference=prior", "--loss=dpo", "--loss.beta=0.3")
CHOICE = ("--sft.objective=choice", "--sft.negatives=2", "--sft.beta=0.2", "--sft.batch_size=100")
EMPTY = Examples.of(Sequences(np.zeros(1, np.int32), np.array([0, 1])), np.zeros(1, np.int32), np.zeros(1, np.int32))


def fault(done):
    assert (done.code, done.out) == (2, "")
    return done.err.splitlines()[-1].removeprefix("error: ")


def log_probability(model, prompt, response):
    """Of a response after a prompt, by one plain forward pass."""
    ids = torch.tensor([*prompt.tolist(), *response.tolist()])
    with torch.no_grad():
        steps = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
    return float(steps.gather(1, ids[1:, None])[len(prompt) - 1 :].sum())


def first_loss(stage):
    return json.loads((stage / "log.json").read_text())[0]["loss"]


@pytest.fixture(scope="module")
def with_prior(train, finished):
    """A run with the prior as reference, beside the finished one; and what the command said."""
    run = finished.parent / "with-prior"
    done = train("--run", run, *QUICK, *AT_ONCE)
    assert done.code == 0, done.err
    return run, done


@pytest.fixture(scope="module")
def with_choice(train, finished):
    """A run with SFT on choices, beside the finished one; and what the command said."""
    run = finished.parent / "with-choice"
    done = train("--run", run, *QUICK, *CHOICE)
    assert done.code == 0, done.err
    return run, done


def test_the_first_loss_against_the_prior_is_that_of_plain_forward_passes(with_prior, model_folder):
    run, _ = with_prior
    template = load_template(run / "sft", AutoTokenizer.from_pretrained(run / "sft"))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), str(run / "sft")).eval()
    train, pairs = load_split(run / "split").train, pl.read_parquet(run / "preferences" / "pairs.parquet")
    examples = Examples.of(train, pairs["user"].to_numpy(), pairs["position"].to_numpy())
    (start,) = template.prompts(EMPTY)
    priors = [log_probability(model, start, response) for response in template.response_ids]
    losses = []
    for row, prompt in zip(pairs.iter_rows(named=True), template.prompts(examples, shared=True), strict=True):
        chosen, rejected = (
            log_probability(model, prompt, template.response_ids[item]) - priors[item]
            for item in (row["chosen_item"], row["rejected_item"])
        )
        losses.append(np.log1p(np.exp(-0.3 * (chosen - rejected))))
        assert (row["reference_chosen"], row["reference_rejected"]) == pytest.approx(
            (priors[row["chosen_item"]], priors[row["rejected_item"]]), abs=1e-3
        )
    assert len(losses) == 72
    assert first_loss(run / "aligned") == pytest.approx(np.mean(losses), abs=1e-4)
    assert abs(np.mean(losses) - np.log(2)) > 0.01, "the SFT model after the history would do as well"


def test_the_first_loss_of_choices_is_that_of_plain_forward_passes(with_choice, model_folder):
    run, _ = with_choice
    registry, data = load_plugins(), load_split(run / "split")
    session = Session(load_config(run / "config.toml", [], registry), RunStore(run), registry, QuietReporter())
    template = load_template(run / "sft", AutoTokenizer.from_pretrained(run / "sft"))
    model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    examples, sampled = sft.choices(session, template, data)
    # Every place of a user with a history.
    assert len(examples) == (data.train.lengths - 1).sum()
    seen = data.train_seen.contains(examples.user, sampled)
    assert not seen.any()
    (start,) = template.prompts(EMPTY)
    priors = [log_probability(model, start, response) for response in template.response_ids]
    losses = []
    prompts = template.prompts(examples, shared=True)
    for prompt, target, others in zip(prompts, examples.target.tolist(), sampled.tolist(), strict=True):
        assert len({target, *others}) == 3
        scores = [
            log_probability(model, prompt, template.response_ids[item]) - priors[item] for item in (target, *others)
        ]
        losses.append(-float(torch.log_softmax(0.2 * torch.tensor(scores), 0)[0]))
    assert first_loss(run / "sft") == pytest.approx(np.mean(losses), abs=1e-4)
    log = json.loads((run / "sft" / "log.json").read_text())
    assert [entry["step"] for entry in log] == [1, 2, 3]
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[0]["num_tokens"] > 0


def test_what_is_made_again_for_another_reference(with_prior, train, finished):
    run, done = with_prior
    assert done.made >= {"prior-sft", "reference", "preferences", "aligned"}
    assert not done.made & {"dataset", "split", "sft", "oracle", "sampling"}
    none = train("--run", finished.parent / "none", *AT_ONCE, "--alignment.reference=none", "--until=aligned")
    assert none.made == {"reference", "preferences", "aligned"}, none.err
    pairs = pl.read_parquet(finished.parent / "none" / "preferences" / "pairs.parquet")
    assert (pairs["reference_chosen"] == 0).all()
    assert (pairs["reference_rejected"] == 0).all()
    again = train("--run", run, *QUICK, *AT_ONCE)
    assert (again.code, again.made) == (0, set()), again.err


def test_choices_are_made_of_the_prior_of_the_base_model(with_choice, train, finished):
    run, done = with_choice
    assert {"prior-base", "sft"} <= done.made
    assert not done.made & {"dataset", "split", "oracle", "sampling"}
    prior = load_file(run / "prior-base" / "prior.safetensors")["log_probs"]
    assert (prior.shape, prior.dtype) == ((40,), np.float32)
    # The number of sampled titles is part of SFT alone.
    other = train("--run", finished.parent / "other", *QUICK, *CHOICE, "--sft.negatives=1", "--until=sft")
    assert other.made == {"sft"}, other.err


def test_evaluation_takes_the_priors_of_training(with_prior, with_choice, rosepo, tmp_path):
    for run, _ in (with_prior, with_choice):
        priors = {path.name for path in run.glob("prior-*")}
        before = {name: (run / name / "manifest.json").read_bytes() for name in priors}
        corrected = rosepo("evaluate", run, "--ranking.score=prior-corrected")
        assert corrected.code == 0, corrected.err
        assert not corrected.made & {*priors, "sft", "aligned"}
        # Training depends on them, so they stay as they are.
        assert {name: (run / name / "manifest.json").read_bytes() for name in priors} == before
        report = rosepo("report", run, "--out", tmp_path / "report.html")
        assert (report.code, report.made) == (0, set()), report.err


def test_a_forced_stage_makes_its_prior_again_once(with_prior, train, tmp_path):
    changed = ("--force=sft", "--ranking.score=prior-corrected", "--overwrite")
    forced = train("--run", with_prior[0], *QUICK, *AT_ONCE, *changed)
    assert forced.code == 0, forced.err
    said = [line for line in forced.err.splitlines() if line.startswith("prior-sft")]
    assert [line.endswith(" s") for line in said] == [True], said
    evaluated = train("--run", with_prior[0], *QUICK, *AT_ONCE, "--force=evaluation")
    assert evaluated.code == 0, evaluated.err
    assert "scores-sft" in evaluated.made
    assert not evaluated.made & {"prior-sft", "reference", "aligned"}


def test_the_plan_counts_trees_and_priors(with_prior, with_choice, train, finished, tmp_path):
    def plan(*arguments):
        dry = train("--run", tmp_path / "run", "--dry-run", "--json", *arguments)
        assert dry.code == 0, dry.err
        return {row["stage"]: row for row in dry.json["plan"]["stages"]}

    log = json.loads((with_choice[0] / "sft" / "log.json").read_text())
    counted = plan(*CHOICE)
    # Each of the three steps has all trees.
    assert counted["sft"]["tokens"] == log[-1]["num_tokens"]
    template = load_template(finished / "sft", AutoTokenizer.from_pretrained(finished / "sft"))
    (start,) = template.prompts(EMPTY)
    # The model does not read the last token of a title.
    assert counted["prior-base"]["tokens"] == len(start) + (template.response_lengths - 1).sum()
    assert "prior-sft" not in counted
    counted = plan(*AT_ONCE)
    assert counted["prior-sft"]["examples"] == 40
    assert (counted["reference"]["tokens"], "prior-base" in counted) == (0, False)
    assert {"prior-base", "prior-sft", "prior-aligned"} <= plan("--ranking.score=prior-corrected").keys()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            ("--sft.negatives=5",),
            "option 'sft.negatives' = 5: value error, objective = 'tokens' trains on the targets alone; leave it "
            "out, or set 'choice'",
        ),
        (
            ("--sft.beta=0.5",),
            "option 'sft.beta' = 0.5: value error, objective = 'tokens' trains on the targets alone; leave it out, "
            "or set 'choice'",
        ),
        (
            ("--sft.objective=choice", "--sft.lora_dropout=0.1"),
            "option 'sft.lora_dropout' = 0.1: value error, objective = 'choice' trains without dropout; leave it out",
        ),
        (
            ("--sft.objective=choice", "--sft.negatives=35"),
            "option 'sft.negatives' = 35: set it to 30 or less; of 40 items, no more are new to one of the users",
        ),
        (
            ("--sft.objective=choice", "--prompt=chat", "--prompt.candidates=5"),
            "sft.objective = 'choice' needs the probability of each title on its own, and the prompts list "
            "candidates: set prompt.candidates = 0",
        ),
        (
            ("--alignment.reference=prior", "--prompt=chat", "--prompt.candidates=5"),
            "alignment.reference = 'prior' needs the probability of each title on its own, and the prompts list "
            "candidates: set prompt.candidates = 0",
        ),
    ],
)
@pytest.mark.parametrize("dry", [("--dry-run",), ()], ids=["dry run", "train"])
def test_what_is_refused(train, tmp_path, keys, said, dry):
    assert fault(train("--run", tmp_path / "run", *keys, *dry)) == said
    assert not (tmp_path / "run").exists()


def test_sft_ends_when_it_gets_no_better(train, tmp_path):
    """By a score that needs no fit, although the run ranks by one that does; and the trainer's own options arrive."""
    run = tmp_path / "runs" / "run"
    options = ("--sft.patience=1", "--sft.validate_every=1", "--sft.validation_users=9", "--ranking.score=fusion")
    own = ("--sft.steps=6", "--sft.trainer.logging_steps=2", "--sft.lr_scheduler_type=constant")
    done = train("--run", run, *options, *own, "--until=sft")
    assert done.code == 0, done.err
    curve = json.loads((run / "sft" / "curve.json").read_text())
    steps, values = zip(*((point["step"], point["value"]) for point in curve["points"]), strict=True)
    assert list(steps) == list(range(len(steps)))
    best = values.index(max(values))
    assert curve["kept"] == best
    assert steps[-1] == min(best + 1, 6)
    logged = [entry["step"] for entry in json.loads((run / "sft" / "log.json").read_text())]
    assert logged == [step for step in (1, 2, 4, 6) if step <= steps[-1]]
    again = train("--run", run, *options, *own, "--sft.validation_users=8", "--until=sft")
    assert "sft" in again.made


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--alignment.trainer.adam_bata1=0.8", "unknown option 'alignment.trainer.adam_bata1'; did you mean"),
        ("--sft.optim=adam", "option 'sft.optim' = 'adam': unknown; did you mean"),
    ],
)
def test_wrong_options_of_the_trainer_are_refused_before_any_work(train, tmp_path, option, message):
    done = train("--run", tmp_path / "run", option)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "run").exists()
