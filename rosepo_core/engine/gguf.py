"""The one module that touches GGUF: turns such a file into a folder of safetensors, tokenizer and chat template, and
writes such files for models of the Llama architecture."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import RequestError
from rosepo_core.packages import cache_folder

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter

FORMAT = 1
"""Increase this when the conversion changes, so that folders of an older conversion are not used."""


def content_hash(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def converted_folder(name: str, digest: str) -> Path:
    """The folder for the converted GGUF file with the SHA-256 `digest`. If it exists, it is complete."""
    return cache_folder() / "models" / f"{name}-{digest[:16]}-{FORMAT}"


def convert(path: Path, name: str, digest: str, reporter: Reporter) -> Path:
    """Dequantize the GGUF file `path` into the cache, once.

    Weights are dequantized in float32. If the file's matrices are quantized or bfloat16, they are saved in bfloat16:
    the rounding error is much smaller than that of the quantization. If they are float32 or float16, they are saved
    in float32.

    Args:
        path: the file; read only if its folder is not in the cache.
        name: a readable beginning for the folder's name.
        digest: SHA-256 of the file, or of the package that contains it.

    Returns:
        the folder.

    Raises:
        RequestError: the file is damaged, or transformers cannot convert its kind of model.
    """
    final = converted_folder(name, digest)
    if final.exists():
        return final
    reporter.note(f"Converting {path.name} to safetensors in {final}, once")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{final.name}-", dir=final.parent) as temporary:
            folder = Path(temporary) / "model"
            _convert(path, folder)
            for file in folder.iterdir():
                file.chmod(0o644)
                with file.open("rb+") as written:
                    os.fsync(written.fileno())
            # Another process may have been faster; its folder is the same.
            with contextlib.suppress(FileExistsError):
                _rename(folder, final)
    except OSError as error:
        raise RequestError(
            f"cannot write to the cache folder {final.parent} ({error.strerror or error}): "
            "free space there or set ROSEPO_CACHE to another folder"
        ) from error
    return final


def _rename(folder: Path, final: Path) -> None:
    try:
        os.rename(folder, final)
    except OSError:
        if final.exists():
            raise FileExistsError(final) from None
        raise


def _convert(path: Path, folder: Path) -> None:
    from gguf import GGUFReader

    source = {"pretrained_model_name_or_path": str(path.parent.absolute()), "gguf_file": path.name}
    try:
        # The loader shows its own progress bar on stderr, even if bars are off in transformers.
        with contextlib.redirect_stderr(io.StringIO()):
            reader = GGUFReader(path)
            tokenizer = AutoTokenizer.from_pretrained(**source)
            model = AutoModelForCausalLM.from_pretrained(
                **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
            )
            if not _keeps_float32(reader):
                model = model.to(torch.bfloat16)
            split = reader.get_field("tokenizer.ggml.pre")
            if split is not None and split.contents() == "smollm":
                # transformers 5.23 does not know the splitting rule of this name: SmolLM first separates all digits.
                tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
                )
            tokenizer.model_max_length = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except (ValueError, KeyError, IndexError, RuntimeError, NotImplementedError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RequestError(
            f"{path}: not a GGUF file that can be converted ({cause}): give a folder with the model in safetensors"
        ) from error


def _keeps_float32(reader: GGUFReader) -> bool:
    from gguf import GGMLQuantizationType

    floats = (GGMLQuantizationType.F32, GGMLQuantizationType.F16)
    return any(tensor.tensor_type in floats for tensor in reader.tensors if len(tensor.shape) > 1)


SPLITS: Mapping[str, str] = {"digits": "smollm", "bytes": "gpt-2"}
"""Names of llama.cpp for how text is split before byte-level BPE: single digits first, or by GPT-2's rule alone."""

PARTS: Mapping[str, str] = {
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
"""The names of the parts of a layer in GGUF."""

WHOLE: Mapping[str, str] = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def check_writable(folder: Path) -> None:
    """Check that `write` can write the model in a folder.

    Raises:
        RequestError: its architecture or its tokenizer is another.
    """
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    if config.model_type != "llama":
        raise RequestError(f"GGUF is written for the architecture 'llama', and this model is '{config.model_type}'")
    rope = config.rope_parameters or {}
    unusual = {
        "biases": config.attention_bias or config.mlp_bias,
        "scaled rotary positions": rope.get("rope_type", "default") != "default",
        f"the activation {config.hidden_act}": config.hidden_act != "silu",
    }
    for what, there in unusual.items():
        if there:
            raise RequestError(f"GGUF is written for plain Llama models, and this one has {what}")
    _split_rule(_tokenizer(folder))


def _tokenizer(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except OSError:
        raise RequestError(f"{folder} has no tokenizer.json, which GGUF is written from") from None
    return content


def _split_rule(tokenizer: Mapping[str, Any]) -> str:
    """The name of how the tokenizer splits text.

    Raises:
        RequestError: it is no byte-level BPE, or splits in another way.
    """
    first = tokenizer.get("pre_tokenizer") or {}
    steps = first.get("pretokenizers", [first])
    kinds = [each.get("type") for each in steps]
    last = steps[-1]
    plain = last.get("use_regex", True) and not last.get("add_prefix_space") and not tokenizer.get("normalizer")
    if tokenizer["model"]["type"] == "BPE" and plain:
        if kinds == ["ByteLevel"]:
            return SPLITS["bytes"]
        if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
            return SPLITS["digits"]
    raise RequestError(
        "GGUF is written for byte-level BPE tokenizers that split like GPT-2 or SmolLM, and the tokenizer of this "
        "model does not"
    )


def write(folder: Path, path: Path, name: str) -> None:
    """Write the model in a folder, with its tokenizer and chat template, as one GGUF file. Matrices have the type
    that they have in the folder, and vectors float32.

    Args:
        folder: a model that `check_writable` accepts, as safetensors in float32 or bfloat16.
        path: the file.
        name: what the model is called in it.

    Raises:
        RequestError: as `check_writable`.
    """
    from gguf import GGUFWriter, LlamaFileType

    check_writable(folder)
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    writer = GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, folder, config.vocab_size)
    half = False
    for file in sorted(folder.glob("*.safetensors")):
        if file.name.startswith("model"):
            half |= _add_weights(writer, file, config)
    writer.add_file_type(LlamaFileType.MOSTLY_BF16 if half else LlamaFileType.ALL_F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: GGUFWriter, folder: Path, size: int) -> None:
    from gguf import TokenType

    content = _tokenizer(folder)
    model, added = content["model"], content["added_tokens"]
    numbers = {**model["vocab"], **{each["content"]: each["id"] for each in added}}
    tokens = [f"[PAD{number}]" for number in range(size)]
    kinds = [TokenType.UNUSED] * size
    for token, number in numbers.items():
        tokens[number], kinds[number] = token, TokenType.NORMAL
    for each in added:
        kinds[each["id"]] = TokenType.CONTROL if each["special"] else TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split_rule(content))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    for name, number in (
        ("bos", tokenizer.bos_token_id),
        ("eos", tokenizer.eos_token_id),
        ("pad", tokenizer.pad_token_id),
        ("unk", tokenizer.unk_token_id),
    ):
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    # Prompts have their own tokens, and none is put before them.
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _add_weights(writer: GGUFWriter, file: Path, config: Any) -> bool:
    """Add the weights of one file. Returns whether matrices are bfloat16."""
    from gguf import GGMLQuantizationType, quantize

    half = False
    with safe_open(file, framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118 - it is no mapping
            tensor = weights.get_tensor(name)
            array = tensor.float().numpy()
            if name.startswith("model.layers."):
                _, _, layer, part = name.removesuffix(".weight").split(".", 3)
                heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}.get(part[10:11])
                if part.startswith("self_attn.") and heads:
                    # llama.cpp rotates neighbouring pairs, transformers the two halves of a head.
                    array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
                named = f"blk.{layer}.{PARTS[part]}.weight"
            else:
                named = WHOLE[name]
            if tensor.dtype == torch.bfloat16 and tensor.ndim > 1:
                half, kind = True, GGMLQuantizationType.BF16
                writer.add_tensor(named, quantize(array, kind), raw_dtype=kind)
            else:
                writer.add_tensor(named, np.ascontiguousarray(array))
    return half


def unpack(path: Path, folder: Path) -> None:
    """Write what transformers reads from a GGUF file as a new folder, as `convert` does.

    Raises:
        RequestError: as `convert`.
    """
    _convert(path, folder)
