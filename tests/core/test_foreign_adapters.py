"""Adapters that rosepo did not train: each gets the scores that plain PEFT gives it, or is refused."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import (
    AdaptionPromptConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoraConfig,
    MultitaskPromptTuningConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from peft.tuners.lora.config import BdLoraConfig, KasaConfig

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Examples, Sequences
from rosepo_core.engine.models import find_adapter
from rosepo_core.engine.policy import PolicySlot
from rosepo_core.engine.scoring import score_items
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.testing import SilentReporter, prompt_template

SEQUENCES = Sequences(np.array([0, 1, 2, 3, 5, 4, 5, 9, 7, 9, 8], dtype=np.int32), np.array([0, 4, 8, 11]))
EXAMPLES = Examples.of(SEQUENCES, np.arange(3, dtype=np.int32), np.array([3, 3, 1], dtype=np.int32))
REPORTER = SilentReporter()


def lora(**options):
    return LoraConfig(
        **{"r": 2, "target_modules": "all-linear", "init_lora_weights": False, "task_type": "CAUSAL_LM", **options}
    )


@pytest.fixture
def base(tiny_model, tiny_tokenizer, tmp_path) -> Path:
    tiny_model.save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture(scope="module")
def template(tiny_tokenizer, catalogue):
    return prompt_template({}, tiny_tokenizer, catalogue, 8)


@pytest.fixture(scope="module")
def of_base(tiny_model, template) -> np.ndarray:
    return plain(tiny_model, template)


@pytest.fixture
def saved(tiny_model, base, tmp_path):
    """Save an adapter as plain PEFT does; everything that it trains is changed before."""

    def save(config) -> Path:
        model = deepcopy(tiny_model)
        model.name_or_path = str(base)
        torch.manual_seed(1)
        adapted = get_peft_model(model, config)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn_like(parameter))
        adapted.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    return save


def plain(model, template) -> np.ndarray:
    """Every title after every prompt as a sequence of its own, by the model's own forward pass."""
    rows = []
    for prompt in template.prompts(EXAMPLES):
        for response in template.response_ids:
            ids = torch.tensor(np.concatenate([prompt, response]))[None].long()
            with torch.no_grad():
                # An adapter may have put vectors before the prompt.
                steps = model(input_ids=ids).logits[0, -len(response) - 1 : -1].log_softmax(-1)
            rows.append(float(steps.gather(1, torch.tensor(response).long()[:, None]).sum()))
    return np.array(rows).reshape(len(EXAMPLES), -1)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(lora(), id="lora"),
        pytest.param(lora(use_rslora=True, r=4), id="rslora"),
        pytest.param(lora(lora_dropout=0.5), id="dropout"),
        pytest.param(lora(lora_bias=True), id="lora-bias"),
        pytest.param(lora(use_dora=True), id="dora"),
        pytest.param(lora(kasa_config=KasaConfig()), id="kasa"),
        pytest.param(
            lora(
                use_bdlora=BdLoraConfig(target_modules_bd_a=["q_proj"], target_modules_bd_b=["v_proj"], nblocks=2),
                target_modules=["q_proj", "v_proj"],
            ),
            id="bdlora",
        ),
        pytest.param(lora(init_lora_weights="pissa"), id="pissa"),
        pytest.param(lora(init_lora_weights="olora"), id="olora"),
        pytest.param(lora(target_modules=["q_proj", "lm_head", "embed_tokens"]), id="head-adapted"),
        pytest.param(lora(modules_to_save=["lm_head"]), id="head-trained"),
        pytest.param(lora(modules_to_save=["norm", "input_layernorm"]), id="norms-trained"),
        pytest.param(lora(trainable_token_indices={"embed_tokens": [1, 2, 40]}), id="tokens-trained"),
        pytest.param(lora(layer_replication=[(0, 2), (1, 2)]), id="layers-replicated"),
        pytest.param(
            IA3Config(
                target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
            ),
            id="ia3",
        ),
        pytest.param(
            LoHaConfig(r=2, target_modules=["q_proj"], init_weights=False, task_type="CAUSAL_LM"), id="loha"
        ),
        pytest.param(LNTuningConfig(target_modules=["input_layernorm"], task_type="CAUSAL_LM"), id="layer-norms"),
        pytest.param(PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), id="prefix-tuning"),
        pytest.param(PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), id="prompt-tuning"),
        pytest.param(
            PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=8, task_type="CAUSAL_LM"), id="p-tuning"
        ),
    ],
)
def test_an_adapter_gets_what_plain_peft_gives_it_and_the_base_model_comes_back(
    config, saved, base, tiny_model, template, of_base, catalogue
):
    folder = saved(config)
    expected = plain(PeftModel.from_pretrained(deepcopy(tiny_model), str(folder)).eval(), template)
    assert np.abs(expected - of_base).max() > 0.1, "an adapter that changes nothing would show nothing"
    found = find_adapter(str(folder), REPORTER)
    assert found is not None
    assert found.base == str(base)
    slot = PolicySlot(found.base, "float32", REPORTER)
    items = np.tile(np.arange(len(catalogue), dtype=np.int32), (len(EXAMPLES), 1))

    def scored(model):
        return score_items(model, template, EXAMPLES, items, 4096, REPORTER)

    np.testing.assert_allclose(scored(slot.trained(found.folder)), expected, atol=2e-4)
    top, scores = TitleModel(slot.trained(found.folder), template, REPORTER, 0).top(
        EXAMPLES, 10, exclude=[np.array([], dtype=np.int32)] * len(EXAMPLES), beams=10, exact=True
    )
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :10], atol=2e-4)
    np.testing.assert_allclose(np.take_along_axis(expected, top, axis=1), scores, atol=2e-4)
    # What is asked of the base model later (title embeddings) is asked of that model, and the adapter can come back.
    np.testing.assert_allclose(scored(slot.base()), of_base, atol=2e-4)
    np.testing.assert_allclose(scored(slot.trained(found.folder)), expected, atol=2e-4)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            MultitaskPromptTuningConfig(num_virtual_tokens=2, num_tasks=2, task_type="CAUSAL_LM"),
            "of type MULTITASK_PROMPT_TUNING needs more than the prompt",
        ),
        (
            AdaptionPromptConfig(adapter_len=3, adapter_layers=1, task_type="CAUSAL_LM"),
            "of type ADAPTION_PROMPT changes how the whole model runs",
        ),
        (lora(alora_invocation_tokens=[5]), "with alora_invocation_tokens starts at a place in the prompt"),
    ],
)
def test_an_adapter_that_needs_more_than_its_layers_is_refused(config, said, saved):
    folder = saved(config)
    with pytest.raises(RequestError) as raised:
        find_adapter(str(folder), REPORTER)
    assert str(raised.value).startswith(f"{folder}: an adapter {said}")
    assert str(raised.value).endswith("; take one that only changes layers, such as LoRA")
