"""One language model in memory, in whichever trained state is asked for; never two."""

from __future__ import annotations

import gc
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedTokenizerBase

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.sections import SFTOptions
from rosepo_core.engine.models import as_request_error, fingerprint, load_model, load_tokenizer


class PolicySlot:
    """Holds the base model, bare or with an adapter on it, or in its stead a model with all weights its own."""

    def __init__(self, spec: str, dtype: str, reporter: Reporter) -> None:
        """Nothing is loaded yet.

        Args:
            spec: alias, hub id, folder or GGUF file of the base model.
            dtype: of its weights in memory: ``bfloat16``, ``float32`` or ``auto``.
        """
        self._spec = spec
        self._dtype = dtype
        self._reporter = reporter
        self._model: Any = None
        self._holds_base = False
        self._state: Path | str | None = None

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer."""
        return load_tokenizer(self._spec, self._reporter)

    @cached_property
    def fingerprint(self) -> str:
        """Content identity of the base model."""
        return fingerprint(self._spec, self._reporter)

    def base(self) -> Any:
        """The base model as it was published, for inference."""
        if self._state != "base":
            self._model = self._bare_base()
            self._state = "base"
        return self._model.eval().requires_grad_(False)

    def trained(self, weights: Path) -> Any:
        """The model that a stage left in the folder `weights` (a LoRA adapter, or a full model), for inference."""
        if self._state != weights:
            self._read(weights, trainable=False)
            self._state = weights
        return self._model.eval().requires_grad_(False)

    def to_continue(self, weights: Path) -> Any:
        """The model that a stage left in `weights`, to go on training what that stage trained."""
        self._read(weights, trainable=True)
        self._state = None
        return self._model.train()

    def to_train(self, options: SFTOptions, seed: int) -> Any:
        """The base model with a fresh LoRA adapter, or with all its weights to be trained."""
        base = self._bare_base()
        self._state = None
        if options.method == "full":
            self._holds_base = False
            self._model = base.requires_grad_(True)
        else:
            torch.manual_seed(seed)
            modules = options.target_modules
            self._model = get_peft_model(
                base,
                LoraConfig(
                    r=options.lora_rank,
                    lora_alpha=options.lora_alpha,
                    lora_dropout=options.lora_dropout,
                    target_modules=modules if modules == "all-linear" else modules.split(","),
                    task_type="CAUSAL_LM",
                ),
            )
        return self._model.train()

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
            self.release()
            self._model, _ = load_model(str(weights), self._dtype, self._reporter)
            self._model.requires_grad_(trainable)

    def _bare_base(self) -> Any:
        if self._holds_base and not isinstance(self._model, PeftModel):
            return self._model
        if self._holds_base and _stands_beside(self._model):
            return self._model.unload()
        self.release()
        model, _ = load_model(self._spec, self._dtype, self._reporter)
        self._holds_base = True
        return model


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
