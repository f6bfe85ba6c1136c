"""Holds one language model in memory, in the trained state that is needed; never two models at once."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from rosepo_core import ranks
from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.contracts.sections import SFTOptions
from rosepo_core.engine.forecast import ModelSize, model_size
from rosepo_core.engine.models import (
    ADAPTER_CONFIG,
    as_request_error,
    check_quantization,
    fingerprint,
    load_adapter,
    load_config,
    load_model,
    load_tokenizer,
    no_progress_bars,
    outline,
    published_name,
    resolve_model,
    save_base_name,
)
from rosepo_core.engine.precision import working_dtype
from rosepo_core.engine.preparation import prepared
from rosepo_core.engine.sharding import is_sharded, whole_weights
from rosepo_core.engine.shared_bases import SharedBases, leaves_base_alone


class PolicySlot:
    """Holds the base model with or without an adapter, or a fully fine-tuned model instead.

    Adapters are trained in float32 on a base model of type `dtype`. In full fine-tuning, all weights are trained and
    saved in float32, because in bfloat16 most updates would be rounded away. If `dtype` is bfloat16, their products
    are still computed in bfloat16 (`autocast`). Fully fine-tuned models are loaded in `dtype` for inference. A base
    model in nf4 (`engine.quantization`) is never trained itself, only adapters are.
    """

    def __init__(
        self,
        spec: str,
        dtype: str,
        reporter: Reporter,
        quantization: str = "none",
        bases: SharedBases | None = None,
    ) -> None:
        """This loads nothing yet.

        Args:
            spec: alias, hub id, folder or GGUF file of the base model.
            dtype: type of its weights in memory: ``bfloat16``, ``float32`` or ``auto``, see `working_dtype`.
            reporter: receives notes.
            quantization: ``none``, or ``nf4`` to keep the weights of the base model's layers in 4 bits.
            bases: weights that this slot shares with others, for inference only. Quantized ones are not shared.
        """
        self._spec = spec
        self._wanted_dtype = dtype
        self._reporter = reporter
        self._quantization = quantization
        self._bases = bases if quantization == "none" else None
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
        """Identifies the content of the base model, and how it is quantized."""
        content = fingerprint(self._spec, self._reporter)
        return content if self._quantization == "none" else f"{content}:{self._quantization}"

    @cached_property
    def dtype(self) -> str:
        """``"bfloat16"`` or ``"float32"``: the type of the model's computations. It is known before loading."""
        if self._quantization != "none":
            return "bfloat16"
        folder = resolve_model(self._spec, self._reporter)
        return working_dtype(folder, load_config(folder), self._wanted_dtype)

    def check_prompts(self, max_length: int) -> None:
        """Check that the model can read the longest prompt with its response.

        Raises:
            RequestError: it cannot; the message has the highest possible `prompt.max_length`.
        """
        text = load_config(resolve_model(self._spec, self._reporter)).get_text_config()
        most = getattr(text, "max_position_embeddings", None)
        if most is not None and max_length > most:
            raise RequestError(
                f"option 'prompt.max_length' = {max_length}: the model reads at most {most} tokens "
                f"(max_position_embeddings of its configuration); set it to {most} or less"
            )

    def check_targets(self, options: SFTOptions) -> None:
        """Check that every module in the options can get an adapter.

        Raises:
            RequestError: a name matches no module, or a module that is not a linear layer, or the model's output
                layer; or PEFT cannot put an adapter on one of them.
        """
        if self._quantization != "none":
            check_quantization(self._spec, self._reporter)
        if options.method != "lora":
            return
        model = outline(resolve_model(self._spec, self._reporter))
        head = model.get_output_embeddings()
        modules = dict(model.named_modules())
        linear = {name for name, each in modules.items() if isinstance(each, (torch.nn.Linear, Conv1D))}
        known = {name.rpartition(".")[2] for name in linear if modules[name] is not head}
        targets = [] if options.target_modules == "all-linear" else options.target_modules.split(",")
        for target in targets:
            # PEFT matches in the same way: the whole name, or its end after a dot.
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

    def size(self, options: SFTOptions) -> ModelSize:
        """Sizes of the model in training, without loading it."""
        model: Any = outline(resolve_model(self._spec, self._reporter))
        if options.method == "lora":
            model = get_peft_model(model, _lora_config(options))
        return model_size(model, self.dtype, self._quantization, options)

    def autocast(self, options: SFTOptions) -> torch.dtype | None:
        """The type of products in training, if it differs from the type of the weights; otherwise `None`."""
        return torch.bfloat16 if options.method == "full" and self.dtype == "bfloat16" else None

    def base(self) -> Any:
        """The base model without any training, for inference."""
        if self._state != "base":
            self._model = self._bare_base()
            self._state = "base"
        self._prepare()
        return self._model.eval().requires_grad_(False)

    def trained(self, weights: Path) -> Any:
        """The model that a stage saved in the folder `weights` (a LoRA adapter or a full model), for inference."""
        if self._state != weights:
            self._read(weights, trainable=False)
            self._state = weights
        self._prepare()
        return self._model.eval().requires_grad_(False)

    def to_continue(self, weights: Path) -> Any:
        """The model that a stage saved in the folder `weights`, to continue its training."""
        self._read(weights, trainable=True)
        self._state = None
        self._prepare()
        return self._model.train()

    def to_train(self, options: SFTOptions, seed: int) -> Any:
        """The base model with a new LoRA adapter, or with all weights trainable."""
        if options.method == "full":
            self._read_whole(self._spec, trainable=True)
            self._state = None
        else:
            base = self._bare_base()
            self._state = None
            torch.manual_seed(seed)
            self._model = get_peft_model(base, _lora_config(options))
            # PEFT would write the folder that the base was loaded from, which other machines do not have.
            self._model.active_peft_config.base_model_name_or_path = published_name(self._spec)
        self._prepare()
        return self._model.train()

    def _prepare(self) -> None:
        """Prepare the model, so that no later call changes it. If it runs in rows, note the reason once."""
        reason = prepared(self._model).reason
        if reason and reason not in self._noted:
            self._noted.add(reason)
            self._reporter.note(f"the model reads one response at a time, slower, with the same results: {reason}")

    def save(self, folder: Path) -> None:
        """Save the model in training and the tokenizer, in the form that PEFT or transformers load. All processes of
        the run must call it. Only rank 0 writes."""
        spread = is_sharded(self._model)
        weights = whole_weights(self._model) if spread else None
        if ranks.is_first():
            self._write(folder, weights)
        if spread:
            # It cannot be put together again in memory.
            self.release()

    def _write(self, folder: Path, weights: Mapping[str, torch.Tensor] | None) -> None:
        if not isinstance(self._model, PeftModel):
            self._model.save_pretrained(folder, state_dict=weights)
        else:
            # Otherwise PEFT asks the hub whether the vocabulary has changed. It has not.
            self._model.save_pretrained(folder, save_embedding_layers=False, state_dict=weights)
            # PEFT writes an empty form as model card.
            (folder / "README.md").unlink(missing_ok=True)
            _sort_sets(folder / "adapter_config.json", self._model.active_peft_config)
            save_base_name(self._spec, folder)
        self.tokenizer.save_pretrained(folder)

    def save_whole(self, folder: Path, dtype: torch.dtype) -> None:
        """Save the model that is in memory as one model, and the tokenizer. An adapter is merged into its base. The
        memory is free afterwards.

        Args:
            folder: where to.
            dtype: type of the saved weights. Merging is done in the type in memory.
        """
        model = self._model
        if isinstance(model, PeftModel):
            # PEFT refuses a merge that gives numbers which are not finite.
            model = model.merge_and_unload(safe_merge=True)
        with no_progress_bars():
            model.to(dtype).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.release()

    def release(self) -> None:
        """Free the memory."""
        if self._model is None:
            return
        self._model = self._state = None
        self._holds_base = False
        gc.collect()

    def _read(self, weights: Path, *, trainable: bool) -> None:
        if (weights / ADAPTER_CONFIG).exists():
            with as_request_error(weights, "adapter"):
                alone = self._bases is None or leaves_base_alone(weights)
            base = self._bare_base() if alone else self._own_base()
            self._model = load_adapter(base, weights, trainable=trainable)
        else:
            self._read_whole(str(weights), trainable=trainable)

    def _read_whole(self, spec: str, *, trainable: bool) -> None:
        """Load a full model. Weights that will be trained are float32, see the class."""
        self.release()
        if self._bases is not None and not trainable:
            self._model = self._bases.get(spec, self.dtype, self._reporter)
            return
        self._model, _ = load_model(spec, "float32" if trainable else self.dtype, self._reporter)
        self._model.requires_grad_(trainable)

    def _bare_base(self) -> Any:
        if self._holds_base and not isinstance(self._model, PeftModel):
            return self._model
        if self._holds_base and _stands_beside(self._model):
            return self._model.unload()
        if self._bases is None:
            return self._own_base()
        self.release()
        model = self._bases.get(self._spec, self.dtype, self._reporter)
        self._holds_base = True
        return model

    def _own_base(self) -> Any:
        """A base model whose weights are not shared."""
        self.release()
        model, _ = load_model(self._spec, self.dtype, self._reporter, self._quantization)
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
    """Sort the sets in an adapter's configuration, such as the modules to adapt. PEFT writes them in an order that
    differs between processes."""
    content = json.loads(file.read_text(encoding="utf-8"))
    content |= {key: sorted(value) for key, value in vars(config).items() if isinstance(value, set)}
    file.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")


def _stands_beside(model: PeftModel) -> bool:
    """Whether an adapter leaves the base model's weights unchanged, so that unloading it gives the base model back.

    With ``modules_to_save``, trained biases or replicated layers, PEFT's unload returns the trained parts. An
    initialization such as PiSSA, or a variant such as KaSA, changes the base weights. Adapters other than plain LoRA
    are treated as if they changed the base model.
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
