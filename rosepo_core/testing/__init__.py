"""Contract tests that plugin authors inherit. They need pytest and a plugin that is installed, but no language model.

    from rosepo_core.testing import LossContract

    class TestUnitMargin(LossContract):
        name = "unit-margin"

Override the fixture `options` where a component needs options, or smaller ones, to run on a toy world.
"""

import pytest

# Without this, pytest shows no values where an assertion of the kit fails.
pytest.register_assert_rewrite(
    "rosepo_core.testing.component_contract",
    "rosepo_core.testing.dataset_contract",
    "rosepo_core.testing.loss_contract",
    "rosepo_core.testing.metric_contract",
    "rosepo_core.testing.oracle_contract",
    "rosepo_core.testing.prompt_contract",
    "rosepo_core.testing.sampler_contract",
)

from rosepo_core.testing.dataset_contract import DatasetContract  # noqa: E402
from rosepo_core.testing.loss_contract import LossContract  # noqa: E402
from rosepo_core.testing.metric_contract import MetricContract  # noqa: E402
from rosepo_core.testing.oracle_contract import OracleContract  # noqa: E402
from rosepo_core.testing.prompt_contract import PromptContract  # noqa: E402
from rosepo_core.testing.sampler_contract import SamplerContract  # noqa: E402
from rosepo_core.testing.toys import (  # noqa: E402
    FakeLanguageModel,
    SilentReporter,
    prompt_template,
    random_log_probs,
    toy_outcomes,
    toy_split,
    toy_supplied_split,
    toy_tokenizer,
    train_examples,
)

__all__ = [
    "DatasetContract",
    "FakeLanguageModel",
    "LossContract",
    "MetricContract",
    "OracleContract",
    "PromptContract",
    "SamplerContract",
    "SilentReporter",
    "prompt_template",
    "random_log_probs",
    "toy_outcomes",
    "toy_split",
    "toy_supplied_split",
    "toy_tokenizer",
    "train_examples",
]
