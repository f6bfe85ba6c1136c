"""The one module that touches GGUF: turns such a file into a folder of safetensors, tokenizer and chat template."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import RequestError
from rosepo_core.packages import cache_folder

if TYPE_CHECKING:
    from gguf import GGUFReader

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
