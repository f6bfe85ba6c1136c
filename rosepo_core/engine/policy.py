"""One language model in memory, in whichever trained state is asked for; never two."""

from __future__ import annotations

import gc
import json
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.contracts.sections import SFTOptions
from rosepo_core.engine.models import (
    as_request_error,
    fingerprint,
    load_config,
    load_model,
    load_tokenizer,
    outline,
    published_name,
    resolve_model,
    save_base_name,
)
from rosepo_core.engine.precision import working_dtype
from rosepo_core.engine.preparation import prepared


class PolicySlot:
    """Holds the base model, bare or with an adapter on it, or in its stead a model with all weights its own.

    Adapters are trained in float32 on a base of `dtype`. All the weights are trained in float32, for in bfloat16 most
    updates would round to nothing, and saved so; where `dtype` is bfloat16, their products are computed in it
    (`autocast`), and models that are only asked are loaded in it.
    """

    def __init__(self, spec: str, dtype: str, reporter: Reporter) -> None:
        """Nothing is loaded yet.

        Args:
            spec: alias, hub id, folder or GGUF file of the base model.
            dtype: of its weights in memory: ``bfloat16``, ``float32`` or ``auto``, see `working_dtype`.
        """
        self._spec = spec
        self._wanted_dtype = dtype
        self._reporter = reporter
        self._model: Any = None
        self._holds_base = False
        self._state: Path | str | None = None
        self._noted: set[str] = set()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer."""
        return load_tokenizer(self._spec, self._reporter)

    @cached_property
    def fingerprint(self) -> str:
        """Content identity of the base model."""
        return fingerprint(self._spec, self._reporter)

    @cached_property
    def dtype(self) -> str:
        """``"bfloat16"`` or ``"float32"``, the type that the model is computed in; known before it is loaded."""
        folder = resolve_model(self._spec, self._reporter)
        return working_dtype(folder, load_config(folder), self._wanted_dtype)

    def check_prompts(self, max_length: int) -> None:
        """See that the longest prompt with its response is no longer than what the model reads.

        Raises:
            RequestError: it is; the message has the most that `prompt.max_length` may be.
        """
        text = load_config(resolve_model(self._spec, self._reporter)).get_text_config()
        most = getattr(text, "max_position_embeddings", None)
        if most is not None and max_length > most:
            raise RequestError(
                f"option 'prompt.max_length' = {max_length}: the model reads at most {most} tokens "
                f"(max_position_embeddings of its configuration); set it to {most} or less"
            )

    def check_targets(self, options: SFTOptions) -> None:
        """See that an adapter can be put on every module that the options name.

        Raises:
            RequestError: a name matches no module, or one that is no linear layer, or the model's output layer; or
                PEFT puts no adapter on one of them.
        """
        if options.method != "lora":
            return
        model = outline(resolve_model(self._spec, self._reporter))
        head = model.get_output_embeddings()
        modules = dict(model.named_modules())
        linear = {name for name, each in modules.items() if isinstance(each, (torch.nn.Linear, Conv1D))}
        known = {name.rpartition(".")[2] for name in linear if modules[name] is not head}
        targets = [] if options.target_modules == "all-linear" else options.target_modules.split(",")
        for target in targets:
            # As PEFT matches: the whole name, or its end behind a dot.
            found = [name for name in modules if name == target or name.endswith(f".{target}")]
            where = f"option 'sft.target_modules': '{target}'"
            if not found:
                raise RequestError(f"{where} is no module of the model{nearest(target, known)}")
            if any(modules[name] is head for name in found):
                raise RequestError(
                    f"{where} is the model's output layer, which an adapter leaves as it is; leave it out, or train "
                    "all weights with sft.method = 'full'"
                )
            other = next((name for name in found if name not in linear), None)
            if other is not None:
                raise RequestError(
                    f"{where} is of type {type(modules[other]).__name__}, and adapters go on linear layers"
                    f"{nearest(target, known)}"
                )
        try:
            get_peft_model(model, _lora_config(options))
        except ValueError as error:
            raise RequestError(
                f"option 'sft.target_modules' = '{options.target_modules}': PEFT puts no such adapter on this model "
                f"({next(iter(str(error).strip().splitlines()), '')}); name some of {', '.join(sorted(known))}"
            ) from None

    def autocast(self, options: SFTOptions) -> torch.dtype | None:
        """The type that products of weights are computed in while training, where it is not the weights' own."""
        return torch.bfloat16 if options.method == "full" and self.dtype == "bfloat16" else None

    def base(self) -> Any:
        """The base model as it was published, for inference."""
        if self._state != "base":
            self._model = self._bare_base()
            self._state = "base"
        self._prepare()
        return self._model.eval().requires_grad_(False)

    def trained(self, weights: Path) -> Any:
        """The model that a stage left in the folder `weights` (a LoRA adapter, or a full model), for inference."""
        if self._state != weights:
            self._read(weights, trainable=False)
            self._state = weights
        self._prepare()
        return self._model.eval().requires_grad_(False)

    def to_continue(self, weights: Path) -> Any:
        """The model that a stage left in `weights`, to go on training what that stage trained."""
        self._read(weights, trainable=True)
        self._state = None
        self._prepare()
        return self._model.train()

    def to_train(self, options: SFTOptions, seed: int) -> Any:
        """The base model with a fresh LoRA adapter, or with all its weights to be trained."""
        if options.method == "full":
            self._read_whole(self._spec, trainable=True)
            self._state = None
        else:
            base = self._bare_base()
            self._state = None
            torch.manual_seed(seed)
            self._model = get_peft_model(base, _lora_config(options))
            # PEFT writes where the base was loaded from, a folder that other machines do not have.
            self._model.active_peft_config.base_model_name_or_path = published_name(self._spec)
        self._prepare()
        return self._model.train()

    def _prepare(self) -> None:
        """Let no later call change the model, and say once why it runs in rows."""
        reason = prepared(self._model).reason
        if reason and reason not in self._noted:
            self._noted.add(reason)
            self._reporter.note(f"the model reads one response at a time, slower and as right: {reason}")

    def save(self, folder: Path) -> None:
        """Write the model that is being trained, and the tokenizer, as PEFT or transformers load them."""
        if not isinstance(self._model, PeftModel):
            self._model.save_pretrained(folder)
        else:
            # PEFT would ask the hub whether the base model's vocabulary is still what it was. It is.
            self._model.save_pretrained(folder, save_embedding_layers=False)
            # PEFT writes a model card full of blanks.
            (folder / "README.md").unlink(missing_ok=True)
            _sort_sets(folder / "adapter_config.json", self._model.active_peft_config)
            save_base_name(self._spec, folder)
        self.tokenizer.save_pretrained(folder)

    def release(self) -> None:
        """Free the memory."""
        self._model = self._state = None
        self._holds_base = False
        gc.collect()

    def _read(self, weights: Path, *, trainable: bool) -> None:
        if (weights / "adapter_config.json").exists():
            base = self._bare_base()
            with as_request_error(weights, "adapter"), warnings.catch_warnings():
                # PEFT only warns of an adapter that lacks weights, and leaves the base model as it is there.
                warnings.filterwarnings("error", message="Found missing adapter keys")
                self._model = PeftModel.from_pretrained(base, str(weights), is_trainable=trainable)
        else:
            self._read_whole(str(weights), trainable=trainable)

    def _read_whole(self, spec: str, *, trainable: bool) -> None:
        """A model with all weights its own; those that are trained are float32, see the class."""
        self.release()
        self._model, _ = load_model(spec, "float32" if trainable else self.dtype, self._reporter)
        self._model.requires_grad_(trainable)

    def _bare_base(self) -> Any:
        if self._holds_base and not isinstance(self._model, PeftModel):
            return self._model
        if self._holds_base and _stands_beside(self._model):
            return self._model.unload()
        self.release()
        model, _ = load_model(self._spec, self.dtype, self._reporter)
        self._holds_base = True
        return model


def _lora_config(options: SFTOptions) -> LoraConfig:
    modules = options.target_modules
    return LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=modules if modules == "all-linear" else modules.split(","),
        task_type="CAUSAL_LM",
    )


def _sort_sets(file: Path, config: PeftConfig) -> None:
    """PEFT writes sets, as of the modules to adapt, in an order that differs between processes."""
    content = json.loads(file.read_text(encoding="utf-8"))
    content |= {key: sorted(value) for key, value in vars(config).items() if isinstance(value, set)}
    file.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")


def _stands_beside(model: PeftModel) -> bool:
    """Whether an adapter leaves the base model's own weights as they are, so that unloading gives that model back.

    PEFT hands back the trained copies of ``modules_to_save``, trained biases and replicated layers, and takes from
    the base model what an initialization such as PiSSA, or a variant such as KaSA, puts into the adapter. Adapters
    other than plain LoRA are not relied on.
    """
    config = model.active_peft_config
    return (
        type(config) is LoraConfig
        and config.bias == "none"
        and not config.modules_to_save
        and not config.layer_replication
        and config.init_lora_weights in (True, False, "gaussian")
        and not any(layer.lora_variant for layer in model.modules() if isinstance(layer, LoraLayer))
    )
