"""The language model of a run: its type, what of it is trained, and what is refused before any work."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from benchmarks.architectures import make
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Sequences
from rosepo_core.contracts.sections import SFTOptions
from rosepo_core.engine import precision
from rosepo_core.engine.models import ALIASES, find_adapter, load_model, published_name
from rosepo_core.engine.policy import PolicySlot
from rosepo_core.engine.precision import bfloat16_pays
from rosepo_core.engine.shared_bases import SharedBases
from rosepo_core.engine.training import TrainingSettings, fine_tune
from rosepo_core.stages.session import QuietReporter
from rosepo_core.testing import prompt_template

QUIET = QuietReporter()


def pays(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    """Let bfloat16 be the faster type here, or the slower."""
    monkeypatch.setattr(precision, "bfloat16_pays", lambda width, inner: answer)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: Any, tiny_model: LlamaForCausalLM, tiny_tokenizer: Any) -> dict[str, Path]:
    """The tiny model by the type that it was saved in."""
    folders = {}
    for name in ("float32", "bfloat16", "float16"):
        folders[name] = tmp_path_factory.mktemp("models") / name
        LlamaForCausalLM(tiny_model.config).to(getattr(torch, name)).save_pretrained(folders[name])
        tiny_tokenizer.save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize(
    ("kept", "wanted", "faster", "expected"),
    [
        ("float32", "auto", True, "float32"),
        ("bfloat16", "auto", True, "bfloat16"),
        ("bfloat16", "auto", False, "float32"),
        ("float16", "auto", True, "bfloat16"),
        ("float16", "auto", False, "float32"),
        ("float16", "bfloat16", False, "bfloat16"),
        ("bfloat16", "float32", True, "float32"),
    ],
)
def test_the_type_is_known_before_the_model_is_loaded(monkeypatch, saved, kept, wanted, faster, expected):
    pays(monkeypatch, faster)
    slot = PolicySlot(str(saved[kept]), wanted, QUIET)
    assert slot.dtype == expected
    assert slot._model is None
    assert slot.base().dtype == getattr(torch, expected)


def test_the_type_of_weights_whose_configuration_has_none(monkeypatch, saved, tmp_path):
    pays(monkeypatch, True)
    for file in saved["float16"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert PolicySlot(str(tmp_path), "auto", QUIET).dtype == "bfloat16"


@pytest.mark.parametrize(("seconds", "faster"), [(2.0, False), (0.5, True)], ids=["slower", "faster"])
def test_whether_bfloat16_pays_is_measured(monkeypatch, seconds, faster):
    """A clock on which a product in float32 takes a second."""
    clock = [0.0]

    def product(states: Any, weight: Any) -> None:
        clock[0] += seconds if weight.dtype == torch.bfloat16 else 1.0

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.nn.functional, "linear", product)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: clock[0])
    assert bfloat16_pays.__wrapped__(576, 1536) == faster


def test_on_a_gpu_bfloat16_pays(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert bfloat16_pays.__wrapped__(576, 1536)


def trained(slot: PolicySlot, options: SFTOptions, tokenizer: Any, catalogue: Any, folder: Path) -> Path:
    """One step of SFT with a rate of 1e-5, by which Adam moves every weight that has a gradient."""
    template = prompt_template({}, tokenizer, catalogue, 5)
    sequences = template.sft_sequences(Sequences(np.arange(12, dtype=np.int32), np.array([0, 6, 12])))
    settings = TrainingSettings(
        batch_size=2, token_budget=512, learning_rate=1e-5, steps=1, products=slot.autocast(options)
    )
    fine_tune(slot.to_train(options, seed=0), sequences, settings, QUIET)
    slot.save(folder)
    return folder


def test_updates_of_a_hundred_thousandth_arrive(saved, tiny_tokenizer, catalogue, tmp_path):
    """In bfloat16, whose numbers around 0.1 are 5e-4 apart, almost all of them would round away."""
    slot = PolicySlot(str(saved["bfloat16"]), "bfloat16", QUIET)
    options = SFTOptions(method="full")
    assert slot.autocast(options) == torch.bfloat16
    folder = trained(slot, options, tiny_tokenizer, catalogue, tmp_path / "sft")
    before, after = (load_file(each / "model.safetensors") for each in (saved["bfloat16"], folder))
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    moved = torch.cat([(after[name] - weight.float()).abs().flatten() for name, weight in before.items()])
    assert (moved > 5e-6).float().mean() > 0.5
    assert moved.max() < 2e-5
    # Asked in bfloat16, trained on in float32.
    assert slot.trained(folder).dtype == torch.bfloat16
    assert slot.to_continue(folder).dtype == torch.float32
    assert all(weight.requires_grad for weight in slot.to_continue(folder).parameters())


@pytest.mark.parametrize("kept", ["bfloat16", "float16"])
def test_an_adapter_is_float32_on_a_base_of_bfloat16(saved, tiny_tokenizer, catalogue, tmp_path, kept):
    slot = PolicySlot(str(saved[kept]), "bfloat16", QUIET)
    folder = trained(slot, SFTOptions(), tiny_tokenizer, catalogue, tmp_path / "sft")
    for model in (slot.to_train(SFTOptions(), 0), slot.to_continue(folder)):
        types = {weight.requires_grad: weight.dtype for weight in model.parameters()}
        assert types == {True: torch.float32, False: torch.bfloat16}
    assert slot.autocast(SFTOptions()) is None


def test_a_saved_adapter_names_its_base_as_others_find_it(saved, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(saved["float32"].parent)
    slot = PolicySlot(saved["float32"].name, "float32", QUIET)
    model = slot.to_train(SFTOptions(), 0)
    slot.save(tmp_path / "sft")
    config = json.loads((tmp_path / "sft" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(saved["float32"])
    monkeypatch.chdir(tmp_path)
    plain = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "sft"))
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, model.cpu().eval()(ids).logits)
    found = find_adapter(str(tmp_path / "sft"), QUIET)
    assert found is not None
    assert found.base == str(saved["float32"])


def test_an_adapter_of_an_alias_names_the_hubs_model_and_is_read_on_the_alias(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("rosepo_core.engine.models._packaged", lambda alias, reporter: saved["float32"])
    asked: list[str] = []
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda name, file: asked.append(name))
    alias, source = next(iter(ALIASES.items()))
    assert published_name(alias) == source.hub_id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    slot = PolicySlot(alias, "float32", QUIET)
    slot.to_train(SFTOptions(), 0)
    slot.save(tmp_path / "sft")
    for _ in range(2):
        config = json.loads((tmp_path / "sft" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == source.hub_id
        found = find_adapter(str(tmp_path / "sft"), QUIET)
        assert found is not None
        assert found.base == alias
        # Alignment writes what it read.
        slot.to_continue(tmp_path / "sft")
        slot.save(tmp_path / "sft")
    assert asked == [], "the hub was asked"
    (tmp_path / "sft" / "base_model.json").write_text("{}")
    with pytest.raises(RequestError, match=r"base_model\.json cannot be read"):
        find_adapter(str(tmp_path / "sft"), QUIET)


def test_blanks_between_target_modules_do_no_harm(saved):
    options = SFTOptions(target_modules=" q_proj, v_proj ,")
    slot = PolicySlot(str(saved["float32"]), "float32", QUIET)
    slot.check_targets(options)
    names = {name for name, weight in slot.to_train(options, 0).named_parameters() if weight.requires_grad}
    assert {name.split(".")[-4] for name in names} == {"q_proj", "v_proj"}
    with pytest.raises(ValueError, match="name at least one"):
        SFTOptions(target_modules=" , ")


def test_a_model_that_peft_cannot_adapt_as_a_whole_is_refused_before_it_is_loaded(tiny_tokenizer, tmp_path):
    make("Mamba", vocab_size=len(tiny_tokenizer)).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    slot = PolicySlot(str(tmp_path), "float32", QUIET)
    with pytest.raises(RequestError) as raised:
        slot.check_targets(SFTOptions())
    assert str(raised.value).startswith("option 'sft.target_modules' = 'all-linear': PEFT puts no such adapter on")
    assert str(raised.value).endswith("; name some of dt_proj, in_proj, out_proj, x_proj")
    slot.check_targets(SFTOptions(target_modules="in_proj,x_proj"))


def test_a_model_that_runs_in_rows_says_so_once(tiny_tokenizer, tmp_path):
    make("Mamba", vocab_size=len(tiny_tokenizer)).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    notes = []
    slot = PolicySlot(str(tmp_path), "float32", SimpleNamespace(note=notes.append))
    slot.base()
    slot.base()
    slot.to_train(SFTOptions(target_modules="in_proj"), 0)
    assert notes == [
        "the model reads one response at a time, slower, with the same results: "
        "it has layers of type linear_attention"
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("q_proj,v_porj", "'v_porj' is no module of the model; did you mean 'v_proj'"),
        ("proj", "'proj' is no module of the model; "),
        ("all-linear,q_proj", "'all-linear' is no module of the model; "),
        ("q_proj,lm_head", "'lm_head' is the model's output layer, which an adapter leaves as it is; leave it out"),
        ("embed_tokens", "'embed_tokens' is of type Embedding, and adapters go on linear layers; known: down_proj, "),
        ("mlp", "'mlp' is of type LlamaMLP, and adapters go on linear layers; "),
    ],
)
def test_a_module_that_cannot_have_an_adapter_is_refused(saved, names, message):
    slot = PolicySlot(str(saved["float32"]), "float32", QUIET)
    with pytest.raises(RequestError) as raised:
        slot.check_targets(SFTOptions(target_modules=names))
    assert str(raised.value).startswith(f"option 'sft.target_modules': {message}")
    assert "lm_head" not in str(raised.value).partition("known")[2]
    assert slot._model is None


@pytest.mark.parametrize("option", [{"lora_rank": 8}, {"target_modules": "q_proj"}, {"lora_dropout": 0.1}])
def test_options_of_adapters_are_refused_where_there_is_none(option):
    with pytest.raises(ValueError, match="method = 'full' trains no adapter; leave it out"):
        SFTOptions(method="full", **option)
    # As a run's config.toml has them.
    whole = SFTOptions(method="full")
    assert SFTOptions(**whole.model_dump()) == whole


def test_prompts_longer_than_what_the_model_reads_are_refused(saved):
    """The tiny model reads 2048 tokens."""
    slot = PolicySlot(str(saved["float32"]), "float32", QUIET)
    slot.check_prompts(2048)
    with pytest.raises(RequestError) as raised:
        slot.check_prompts(2049)
    assert str(raised.value) == (
        "option 'prompt.max_length' = 2049: the model reads at most 2048 tokens (max_position_embeddings of its "
        "configuration); set it to 2048 or less"
    )
    assert slot._model is None


def test_a_model_is_loaded_in_the_type_that_was_found(monkeypatch, saved):
    pays(monkeypatch, True)
    assert load_model(str(saved["float16"]), "auto", QUIET)[0].dtype == torch.bfloat16


@pytest.fixture(scope="module")
def adapters(saved: dict[str, Path], tmp_path_factory: Any) -> dict[str, Path]:
    """Adapters of the tiny model: two that leave it alone, and one that brings an output layer of its own."""
    folders = {}
    for name, more in {"one": {}, "two": {}, "head": {"modules_to_save": ["lm_head"]}}.items():
        torch.manual_seed(len(folders))
        base = LlamaForCausalLM.from_pretrained(saved["float32"])
        config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights="gaussian", **more)
        model = get_peft_model(base, config)
        for weight in model.parameters():
            if weight.requires_grad:
                torch.nn.init.normal_(weight, std=0.1)
        folders[name] = tmp_path_factory.mktemp("adapters") / name
        model.save_pretrained(folders[name])
    return folders


def shared_weights(one: Any, other: Any) -> int:
    """How many weights of two models are the same memory."""
    places = {weight.data_ptr() for weight in one.parameters()}
    return sum(weight.data_ptr() in places for weight in other.parameters())


def test_adapters_share_a_base_and_change_nothing_for_each_other(saved, adapters):
    ids, bases = torch.tensor([[3, 9, 27, 4]]), SharedBases()
    found = {}
    for name, weights in adapters.items():
        found[name] = PolicySlot(str(saved["float32"]), "float32", QUIET, bases=bases).trained(weights)
    plain = PolicySlot(str(saved["float32"]), "float32", QUIET, bases=bases).base()
    assert shared_weights(found["one"], found["two"]) == shared_weights(plain, found["two"]) == 20
    assert shared_weights(plain, found["head"]) == 0
    with torch.no_grad():
        for name, model in found.items():
            alone = PolicySlot(str(saved["float32"]), "float32", QUIET).trained(adapters[name])
            assert torch.equal(model(ids).logits, alone(ids).logits), name
        alone = PolicySlot(str(saved["float32"]), "float32", QUIET).base()
        assert torch.equal(plain(ids).logits, alone(ids).logits)
    assert not torch.equal(found["one"](ids).logits, found["two"](ids).logits)


def test_a_base_with_other_content_is_loaded_and_the_old_one_goes_with_its_last_model(saved, tmp_path):
    folder, bases = tmp_path / "model", SharedBases()
    shutil.copytree(saved["float32"], folder)
    first = PolicySlot(str(folder), "float32", QUIET, bases=bases).base()
    again = PolicySlot(str(folder), "float32", QUIET, bases=bases).base()
    assert shared_weights(first, again) == 20
    with torch.no_grad():
        changed = LlamaForCausalLM.from_pretrained(folder)
        changed.model.norm.weight += 1.0
        changed.save_pretrained(folder)
    other = PolicySlot(str(folder), "float32", QUIET, bases=bases).base()
    assert shared_weights(first, other) == 0
    assert torch.equal(other.model.norm.weight, first.model.norm.weight + 1.0)
    gone = weakref.ref(first.model.norm.weight)
    del first, again
    gc.collect()
    assert gone() is None
