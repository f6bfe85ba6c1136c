"""The options of the trainer: those that pass through to TRL's configurations, and those that are refused."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch

from rosepo_core.config import load_config
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Sequences
from rosepo_core.engine.training import TrainingSettings
from rosepo_core.engine.training.configuration import AlignmentConfig, FineTuningConfig, arguments, check_settings
from rosepo_core.engine.training.fine_tuning import fine_tune
from rosepo_core.stages.session import QuietReporter
from rosepo_core.testing import prompt_template


def settings(**options: Any) -> TrainingSettings:
    return TrainingSettings(**{"learning_rate": 1e-3, "batch_size": 2, "token_budget": 512, "steps": 4, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainer": {"adam_beta": 0.9}}, "unknown option 'sft.trainer.adam_beta'; did you mean 'adam_beta"),
        ({"trainer": {"adam_beta2": "much"}}, "option 'sft.trainer.adam_beta2' = 'much': Input should be a valid"),
        ({"trainer": {"weight_decay": 0.1}}, "option 'sft.trainer.weight_decay': set sft.weight_decay instead"),
        ({"trainer": {"output_dir": "there"}}, "option 'sft.trainer.output_dir': set --run instead"),
        ({"trainer": {"seed": 3}}, "option 'sft.trainer.seed': set seed instead"),
        ({"trainer": {"report_to": "wandb"}}, "option 'sft.trainer.report_to': set --track instead"),
        ({"trainer": {"hub_model_id": "me/mine"}}, "option 'sft.trainer.hub_model_id': rosepo does not use it"),
        ({"optim": "adamw_torc"}, "option 'sft.optim' = 'adamw_torc': unknown; did you mean 'adamw_torch'"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "option 'sft.lr_scheduler_type': One of min_lr or min_lr_rate"),
    ],
)
def test_what_the_trainer_cannot_do_is_refused_before_any_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        check_settings(FineTuningConfig, "sft", settings(**options))


@pytest.mark.parametrize("configuration", [FineTuningConfig, AlignmentConfig])
def test_what_is_passed_arrives(configuration: type, tmp_path: Any) -> None:
    schedule = {"lr_scheduler_type": "cosine_with_min_lr", "optim": "adamw_torch"}
    passed = {"adam_beta2": 0.95, "logging_steps": 5, "lr_scheduler_kwargs": {"min_lr_rate": 0.1}}
    given = settings(**schedule, gradient_accumulation_steps=3, trainer=passed)
    check_settings(configuration, "alignment", given)
    made = configuration(**arguments(given, str(tmp_path)))
    assert (made.adam_beta2, made.logging_steps, made.lr_scheduler_kwargs) == (0.95, 5, {"min_lr_rate": 0.1})
    assert (made.lr_scheduler_type, made.optim, made.gradient_accumulation_steps) == (*schedule.values(), 3)


def test_a_table_of_the_trainer_is_set_in_the_file_and_on_the_command_line(tmp_path: Any) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[sft.trainer]\nadam-beta1 = 0.8\nlogging_steps = 5\n")
    config = load_config(file, [("sft.trainer.logging-steps", "2"), ("alignment.trainer.adam_beta2", "0.95")])
    assert config.sft.trainer == {"adam_beta1": 0.8, "logging_steps": 2}
    assert config.alignment.trainer == {"adam_beta2": 0.95}
    again = tmp_path / "again.toml"
    again.write_text(config.to_toml())
    assert load_config(again) == config
    plain = load_config(None)
    assert plain.that_decides()["sft"] != config.that_decides()["sft"]


def test_the_schedule_and_the_optimizer_are_those_that_are_named(tiny_model, tiny_tokenizer, catalogue) -> None:
    """Cosine from the peak to 0: (1 + cos(pi t / 4)) / 2 of it in step t."""
    template = prompt_template({}, tiny_tokenizer, catalogue, 5)
    sequences = template.sft_sequences(Sequences(np.arange(12, dtype=np.int32), np.array([0, 6, 12])))
    model = copy.deepcopy(tiny_model).train()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    options = settings(lr_scheduler_type="cosine", optim="sgd", max_grad_norm=1e-3, learning_rate=0.5)
    log = fine_tune(model, sequences, options, QuietReporter())
    assert [entry["learning_rate"] for entry in log] == pytest.approx([0.5, 0.4267767, 0.25, 0.0732233], abs=1e-6)
    # Plain descent along gradients of norm 1e-3 goes at most so far.
    moved = sum(float((weight - before[name]).square().sum()) for name, weight in model.named_parameters()) ** 0.5
    assert 1e-5 < moved <= 1e-3 * (0.5 + 0.4267767 + 0.25 + 0.0732233) + 1e-6
    assert torch.isfinite(torch.tensor(log[0]["grad_norm"]))
