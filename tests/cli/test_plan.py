"""`rosepo train --dry-run`: what would be done, counted for real; and nothing is done."""

from __future__ import annotations

import re

import numpy as np
import pytest
from transformers import AutoTokenizer

from rosepo_core.engine.prompt_trees import prompt_trees
from rosepo_core.engine.saved_template import load_template
from rosepo_core.stages import preferences
from rosepo_core.stages.split import load_split


def test_nothing_is_written(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = train("--dry-run")
    assert done.code == 0, done.err
    assert list(tmp_path.iterdir()) == []
    assert "[sft]" in done.out
    assert "72 pairs" in done.out


def test_what_is_counted_is_what_is_done(train, finished, tmp_path):
    arguments = ("--sft.steps=6", "--preferences.negatives=2", "--seed=5", "--sampler=self-hard")
    dry = train("--run", tmp_path / "runs" / "run", "--dry-run", "--json", *arguments)
    assert dry.code == 0, dry.err
    assert not (tmp_path / "runs").exists()
    plan = dry.json["plan"]
    rows = {row["stage"]: row for row in plan["stages"]}
    assert train("--run", tmp_path / "runs" / "run", *arguments, "--until=preferences").code == 0

    run = tmp_path / "runs" / "run"
    template = load_template(run / "sft", AutoTokenizer.from_pretrained(run / "sft"))
    split = load_split(run / "split")
    lengths = [len(ids) for ids, _ in template.sft_sequences(split.train)]
    # Six steps of 4 of the sequences.
    assert rows["sft"]["examples"] == len(lengths)
    assert rows["sft"]["longest"] == max(lengths)
    assert rows["sft"]["tokens"] == pytest.approx(6 * 4 * sum(lengths) / len(lengths), abs=1)
    pairs = load_pairs(run, split)
    responses = np.concatenate([pairs.examples.target[:, None], pairs.rejected], axis=1)
    trees = prompt_trees(template, pairs.examples, responses, shared=True)
    # Which titles will be rejected is not known before, only how long titles are; a model prefers short ones.
    assert rows["reference"]["tokens"] == pytest.approx(sum(map(len, trees)), rel=0.25)
    # 24 users, three targets each, two rejected titles.
    assert (plan["pairs"], rows["preferences"]["examples"], rows["sampling"]["examples"]) == (144, 144, 72)
    # 24 test users, 5 candidates each, three language models.
    assert rows["scores"]["examples"] == 360
    assert rows["dataset"]["examples"] == 253
    assert all(row["reused"] is None for row in rows.values())
    assert rows["oracle"]["seconds"] is None
    assert plan["seconds"] == pytest.approx(sum(row["seconds"] or 0 for row in rows.values()))
    assert plan["train_rate"] > 0
    assert plan["score_rate"] > 0


def load_pairs(run, split):
    return preferences.load_pairs(run / "preferences", split)


def test_memory_of_full_fine_tuning_holds_the_optimizer(train, tmp_path):
    lora, full = (
        train("--run", tmp_path / "run", "--dry-run", "--json", f"--sft.method={method}").json["plan"]["memory"]
        for method in ("lora", "full")
    )
    # A gradient and two moments of every weight, all float32.
    assert (full["gradients"], full["optimizer"]) == (full["weights"], 2 * full["weights"])
    assert (lora["gradients"], lora["optimizer"]) == (lora["adapters"], 2 * lora["adapters"])
    assert lora["weights"] == full["weights"]
    assert full["adapters"] == 0 < lora["adapters"]


def test_a_model_that_does_not_fit_is_forecast_without_loading_it(train, tmp_path, monkeypatch):
    monkeypatch.setattr("rosepo_core.planning.available_memory", lambda: 0)
    monkeypatch.setattr("rosepo_core.engine.policy.load_model", None)
    arguments = ("--run", tmp_path / "run", "--dry-run", "--sampler=self-hard", "--processes=4")

    plan = train(*arguments, "--json").json["plan"]
    shown = " ".join(train(*arguments).out.split())

    assert plan["train_rate"] is plan["score_rate"] is None
    assert {row["seconds"] for row in plan["stages"] if row["tokens"]} == {None}
    assert plan["memory"]["activations"] > 0
    assert plan["shared_memory"]["weights"] == -(-plan["memory"]["weights"] // 4)
    assert "time unknown" in shown
    assert "in each of 4 processes under FSDP or ZeRO-3" in shown
    assert "the model does not fit into this machine and was not loaded" in shown


def test_the_token_budget_bounds_memory_and_counts_what_is_done_twice(train, tmp_path):
    arguments = ("--preferences.negatives=6", "--preferences.max_per_user=9", "--sft.token_budget=50")
    plans = {
        budget: train(
            "--run", tmp_path / "run", "--dry-run", "--json", *arguments, f"--alignment.token_budget={budget}"
        ).json["plan"]
        for budget in (100_000, 300)
    }
    rows = {budget: {row["stage"]: row for row in plan["stages"]} for budget, plan in plans.items()}
    longest = rows[100_000]["reference"]["longest"]
    assert rows[100_000]["aligned"]["longest"] == longest > 300 >= rows[300]["aligned"]["longest"]
    assert rows[300]["reference"]["longest"] == longest
    # Each part of a tree has the trunk up to its examples again.
    assert rows[300]["aligned"]["tokens"] > 1.05 * rows[100_000]["aligned"]["tokens"]
    # Eight of the longest trees in a pass against 300 tokens.
    assert plans[300]["memory"]["activations"] < plans[100_000]["memory"]["activations"] / 4


def test_a_plan_says_what_is_reused(train, finished):
    dry = train("--run", finished.parent / "planned", "--dry-run", "--json", "--loss.beta=0.2")
    reused = {row["stage"]: row["reused"] for row in dry.json["plan"]["stages"]}
    assert reused == {
        **dict.fromkeys(
            ("dataset", "split", "sft", "oracle", "sampling", "reference", "preferences", "embeddings"), str(finished)
        ),
        "aligned": None,
        "scores": None,
    }
    assert not (finished.parent / "planned").exists()


def test_a_wrong_request_is_found_by_planning(train, tmp_path):
    done = train("--run", tmp_path / "run", "--dry-run", "--evaluation.candidates=60")
    assert done.code == 2
    assert "set evaluation.candidates to at most" in done.err
    assert not (tmp_path / "run").exists()


def test_candidates_of_the_validation_part_that_cannot_be_drawn_are_found_by_planning(train, finished, tmp_path):
    split = load_split(finished / "split")
    unseen = ~split.seen.contains(split.validation.user, np.broadcast_to(np.arange(40), (len(split.validation), 40)))
    popular = (unseen & (split.catalogue.popularity > 0)).sum(axis=1).min()
    # Uniform ones could be drawn.
    assert popular + 1 <= unseen.sum(axis=1).min()
    asked = ("--evaluation.part=validation", "--evaluation.negatives=popularity")
    dry = train("--run", tmp_path / "run", "--dry-run", *asked, f"--evaluation.candidates={popular + 2}")
    assert dry.code == 2
    assert f"has {popular} unseen items with training interactions, too few for {popular + 2} candidates" in dry.err


def test_a_run_that_takes_long_says_how_long_before_it_begins(train, tmp_path, monkeypatch):
    monkeypatch.setattr("rosepo_core.planning.SMALL_MODEL", 0)
    first = train("--run", tmp_path / "run", "--until=oracle")
    assert first.code == 0, first.err
    told, *after = first.err.splitlines()
    assert re.fullmatch(
        r"  about \d+ s on this machine: sft \d+ s, oracle unknown and not counted \(--dry-run shows the plan\)", told
    )
    assert any(line.startswith("dataset ") for line in after)
    again = train("--run", tmp_path / "run", "--until=oracle")
    assert "about" not in again.err


def test_of_seeds_it_says_how_long_each_takes(train, tmp_path, monkeypatch):
    monkeypatch.setattr("rosepo_core.planning.SMALL_MODEL", 0)
    done = train("--run", tmp_path / "run", "--seeds=2")
    assert done.code == 0, done.err
    assert done.err.splitlines()[0].startswith("  2 runs, each about ")
