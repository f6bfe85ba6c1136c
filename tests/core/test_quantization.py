"""QLoRA: a base model in 4 bits, adapters beside it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from rosepo_core.api import RequestError
from rosepo_core.config import load_config
from rosepo_core.contracts.sections import SFTOptions
from rosepo_core.engine import quantization
from rosepo_core.engine.models import check_quantization, describe
from rosepo_core.engine.policy import PolicySlot
from rosepo_core.engine.preparation import prepared
from rosepo_core.engine.quantization import BITS, nf4_config
from rosepo_core.stages.session import QuietReporter

QUIET = QuietReporter()
LORA = SFTOptions(lora_rank=4)

NF4 = (
    *(-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0),
)
"""Appendix E of the QLoRA paper."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any, tiny_model: LlamaForCausalLM, tiny_tokenizer: Any) -> Path:
    saved = tmp_path_factory.mktemp("quantized") / "model"
    torch.manual_seed(1)
    LlamaForCausalLM(tiny_model.config).to(torch.bfloat16).save_pretrained(saved)
    tiny_tokenizer.save_pretrained(saved)
    return saved


@pytest.fixture
def installed() -> None:
    pytest.importorskip("bitsandbytes", reason="the extra rosepo[gpu] is not installed")


def pretend(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """Let bitsandbytes be installed, or not."""
    monkeypatch.setattr(quantization, "find_spec", lambda name: importlib.util.find_spec("json") if there else None)


@pytest.mark.usefixtures("installed")
def test_layers_hold_the_nearest_of_the_papers_values(folder: Path) -> None:
    from bitsandbytes.functional import dequantize_4bit

    weight = LlamaForCausalLM.from_pretrained(folder).model.layers[0].mlp.up_proj.weight.detach().float()
    layer = PolicySlot(str(folder), "auto", QUIET, "nf4").base().model.layers[0].mlp.up_proj

    blocks = weight.reshape(-1, 64).numpy()
    scale = np.abs(blocks).max(axis=1, keepdims=True)
    nearest = np.abs((blocks / scale)[..., None] - np.array(NF4)).argmin(axis=-1)
    expected = (np.array(NF4)[nearest] * scale).reshape(weight.shape)
    stored = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float().numpy()
    # The scales are in 8 bits, and results in bfloat16.
    np.testing.assert_allclose(stored, expected, atol=0.02 * float(scale.max()))


@pytest.mark.usefixtures("installed")
def test_adapters_train_beside_a_base_that_stays(folder: Path, tmp_path: Path) -> None:
    slot = PolicySlot(str(folder), "auto", QUIET, "nf4")
    model = slot.to_train(LORA, seed=0)
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    frozen = {name: each.detach().clone() for name, each in model.named_parameters() if not each.requires_grad}
    ids = torch.arange(3, 60)[None]

    assert prepared(model).trees
    assert trained
    assert all("lora_" in name and each.dtype == torch.float32 for name, each in trained.items())
    assert {each.dtype for each in frozen.values()} == {torch.uint8, torch.bfloat16}
    optimizer = torch.optim.AdamW(trained.values(), lr=0.01)
    losses = []
    for _ in range(8):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1
    assert all(torch.equal(dict(model.named_parameters())[name], each) for name, each in frozen.items())

    before = model.eval()(input_ids=ids).logits.detach()
    slot.save(tmp_path)
    again = PolicySlot(str(folder), "auto", QUIET, "nf4").trained(tmp_path)
    assert torch.equal(again(input_ids=ids).logits, before)
    assert torch.equal(
        slot.base()(input_ids=ids).logits, PolicySlot(str(folder), "auto", QUIET, "nf4").base()(ids)[0]
    )


@pytest.mark.usefixtures("installed")
def test_a_summary_counts_weights_and_not_bytes(folder: Path) -> None:
    whole = describe(PolicySlot(str(folder), "bfloat16", QUIET).base())
    small = describe(PolicySlot(str(folder), "auto", QUIET, "nf4").base())
    # Two layers of a Llama of 32 with 2 of 4 heads for keys and values, and 64 inside.
    in_layers = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)

    assert small.parameters == whole.parameters
    assert small.dtype == "nf4"
    rest = 2 * (whole.parameters - in_layers)
    # Layers of so few weights do not fill a block of 256 scales.
    assert rest + in_layers * 4.125 / 8 <= small.bytes <= rest + in_layers * 4.2 / 8
    assert pytest.approx(4.127, abs=1e-3) == BITS


def test_quantization_is_part_of_the_fingerprint(folder: Path) -> None:
    plain, small = (PolicySlot(str(folder), "auto", QUIET, each) for each in ("none", "nf4"))
    assert small.fingerprint == f"{plain.fingerprint}:nf4"
    assert small.dtype == "bfloat16"


def test_transformers_is_told_the_papers_settings() -> None:
    told = nf4_config()
    assert (told.load_in_4bit, told.bnb_4bit_quant_type, told.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert told.bnb_4bit_compute_dtype == torch.bfloat16


def test_a_missing_package_is_named_with_its_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, False)
    with pytest.raises(RequestError, match=r"needs the package bitsandbytes: pip install 'rosepo\[gpu\]'"):
        PolicySlot(str(folder), "auto", QUIET, "nf4").check_targets(LORA)


def test_what_is_quantized_already_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, True)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    (tmp_path / "model.safetensors").write_bytes(b"")

    with pytest.raises(RequestError, match=r"is quantized already \(gptq\), and quantizing twice loses more"):
        check_quantization(str(tmp_path), QUIET)
    monkeypatch.setattr("rosepo_core.engine.models.resolve_model", lambda spec, reporter: folder)
    for spec in ("smollm2-135m", "some/model.gguf"):
        with pytest.raises(RequestError, match=f"{spec} is a GGUF file"):
            check_quantization(spec, QUIET)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("sft.method", "full"), "weights of 4 bits cannot be trained"),
        (("model.dtype", "float32"), "its products are in bfloat16"),
    ],
)
def test_what_contradicts_it_is_refused(option: tuple[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load_config(None, [("model.quantization", "nf4"), option])


def test_the_example_for_a_small_card_is_a_configuration() -> None:
    settings = load_config(Path(__file__).parents[2] / "examples" / "qlora-8b-24gb.toml", [])

    assert (settings.model.quantization, settings.sft.method) == ("nf4", "lora")
    assert settings.sft.gradient_checkpointing
    assert settings.sft.token_budget == settings.alignment.token_budget == 4096
