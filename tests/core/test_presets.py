"""Presets: what they set, and what wins over them."""

from __future__ import annotations

import pytest

from rosepo_core.config import load_config
from rosepo_core.contracts.errors import RequestError
from rosepo_core.presets import presets


def loaded(preset, *overrides, file=None):
    return load_config(file, overrides, preset=preset).resolved()


@pytest.mark.parametrize(
    ("name", "sampler", "loss", "negatives"),
    [
        ("dmpo", "uniform", ["dmpo", "sft"], 5),
        ("dynamic-po", "in-candidates", ["dynamic-po"], 15),
        ("rec-po", "uniform", ["rec-po"], 3),
        ("rosepo-popularity-aware", "popularity-aware", ["rosepo"], 1),
        ("rosepo-self-hard", "self-hard", ["rosepo"], 1),
        ("rosepo-semantic-similar", "semantic-similar", ["rosepo"], 1),
        ("s-dpo", "in-candidates", ["s-dpo"], 3),
        ("sprec", "self-hard", ["dpo"], 1),
    ],
)
def test_each_preset_names_its_method(name, sampler, loss, negatives):
    config = load_config(None, preset=name)
    assert [choice.name for choice in config.sampler] == [sampler]
    assert [choice.name for choice in config.loss] == loss
    assert config.preferences.negatives == negatives


def test_these_are_all():
    assert list(presets()) == [
        *("dmpo", "dynamic-po", "rec-po"),
        *("rosepo-popularity-aware", "rosepo-self-hard", "rosepo-semantic-similar", "s-dpo", "sprec"),
    ]


def test_the_numbers_of_the_published_script_of_s_dpo():
    config = loaded("s-dpo")
    assert config["prompt"]["name"] == "chat"
    assert config["prompt"]["candidates"] == 20
    assert config["loss"]["beta"] == 1.0
    sft = config["sft"]
    assert (sft["epochs"], sft["learning_rate"], sft["lr_scheduler_type"], sft["max_grad_norm"]) == (
        5,
        1e-5,
        "cosine",
        0.3,
    )
    assert (sft["lora_rank"], sft["lora_alpha"], sft["lora_dropout"]) == (8, 32, 0.1)
    aligned = config["alignment"]
    assert (aligned["epochs"], aligned["learning_rate"], aligned["batch_size"]) == (3, 1e-5, 128)
    assert (aligned["lr_scheduler_type"], aligned["warmup_ratio"], aligned["max_grad_norm"]) == ("cosine", 0.05, 0.3)


def test_the_numbers_of_the_published_scripts_of_sprec():
    config = loaded("sprec")
    assert config["rounds"] == 3
    assert (config["sampler"][0]["temperature"], config["sampler"][0]["beams"]) == (0.0, 1)
    assert (config["sft"]["epochs"], config["sft"]["learning_rate"], config["sft"]["lora_dropout"]) == (4, 3e-4, 0.05)
    assert (config["alignment"]["epochs"], config["alignment"]["learning_rate"], config["loss"]["beta"]) == (
        1,
        2e-5,
        0.1,
    )


def test_the_file_wins_over_the_preset_and_the_command_line_over_both(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[loss]\nbeta = 0.5\n[sft]\nepochs = 2\nsteps = 7\n[prompt]\nquestion = 'Next?'\n")
    config = loaded("s-dpo", ("sft.epochs", "4"), file=file)
    assert config["loss"] == {**loaded("s-dpo")["loss"], "name": "s-dpo", "beta": 0.5}
    assert (config["sft"]["epochs"], config["sft"]["steps"], config["sft"]["batch_size"]) == (4, 7, 128)
    assert (config["prompt"]["question"], config["prompt"]["candidates"]) == ("Next?", 20)


def test_options_belong_to_their_plugin(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("prompt = 'timeline'\n[[loss]]\nname = 'dmpo'\n[[loss]]\nname = 'dpo'\nweight = 0.5\n")
    config = loaded("s-dpo", ("sampler", "uniform"), file=file)
    assert "candidates" not in config["prompt"]
    assert [(each["name"], each["beta"], each["weight"]) for each in config["loss"]] == [
        ("dmpo", 0.1, 1.0),
        ("dpo", 0.1, 0.5),
    ]
    file.write_text("[[loss]]\nname = 'rec-po'\ndecay = 1.0\n[[loss]]\nname = 'sft'\n[[sampler]]\nname = 'uniform'\n")
    config = loaded("rec-po", file=file)
    assert (config["loss"][0]["margin"], config["loss"][0]["decay"]) == (0.5, 1.0)
    assert config["sampler"][0]["allow_seen"] is True
    assert loaded("rec-po", ("loss", "rec-po"))["loss"]["margin"] == 0.5
    assert loaded("dmpo", ("loss", "sft=0.5"))["loss"] == [{"name": "sft", "weight": 0.5}]


def test_an_unknown_preset_and_errors_of_the_file_are_told_apart(tmp_path):
    with pytest.raises(RequestError, match=r"unknown preset 's-dop' .*presets list.*; did you mean 's-dpo'"):
        load_config(None, preset="s-dop")
    file = tmp_path / "run.toml"
    file.write_text("[loss]\nbetta = 1\n")
    with pytest.raises(RequestError, match=rf"^{file}: .*betta"):
        load_config(file, preset="s-dpo")
