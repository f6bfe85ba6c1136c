"""Base models in memory that several trained models share, so that another adapter needs no second base.

Each user of a base model gets modules of its own over the same weights. An adapter is then put between these modules
and leaves those of others as they are. Two models share weights only if their fingerprints are equal
(`engine.models.fingerprint`), and only if the adapter is one that leaves the base model's weights alone.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

from peft import LoraConfig, PeftConfig

from rosepo_core.contracts.components import Reporter
from rosepo_core.engine.models import fingerprint, load_model

_FREE = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "exclude_modules",
        "init_lora_weights",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "peft_version",
        "r",
        "rank_pattern",
        "revision",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)
"""Settings of a LoRA adapter that say only where it is, how strong, and what it began with (`leaves_base_alone` looks
closer at that)."""


class SharedBases:
    """Base models that are in memory. One lives as long as a model that uses its weights. Several threads may ask."""

    def __init__(self) -> None:
        """Starts with none."""
        self._lock = Lock()
        self._known: WeakValueDictionary[tuple[str, str], Any] = WeakValueDictionary()

    def get(self, spec: str, dtype: str, reporter: Reporter) -> Any:
        """A model for inference whose weights are shared; it is loaded if it is not in memory yet.

        Nobody may change the weights. The arguments are those of `load_model`.

        Raises:
            RequestError: as `load_model`.
        """
        with self._lock:
            key = fingerprint(spec, reporter), dtype
            base = self._known.get(key)
            if base is None:
                base, _ = load_model(spec, dtype, reporter)
                self._known[key] = base
        # With this memo, the copy has the same tensors.
        twin = deepcopy(base, {id(weight): weight for weight in base.parameters()})
        # Not as an attribute, which would make it a part of the model.
        vars(twin)["shared_base"] = base
        return twin


def leaves_base_alone(adapter: Path) -> bool:
    """Whether loading a saved adapter surely does not change the weights of its base model: it is LoRA with PEFT's
    defaults in all that is not known to be harmless."""
    config = PeftConfig.from_pretrained(str(adapter))
    if type(config) is not LoraConfig or config.init_lora_weights not in (True, False, "gaussian"):
        return False
    plain = vars(LoraConfig())
    return all(name in _FREE or value == plain.get(name) for name, value in vars(config).items())
