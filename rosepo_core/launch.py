"""Environment variables that must be set before torch and the trainers are imported.

`rosepo_core` sets them when it is imported, on the command line and in other projects. Import rosepo_core before
torch: a library that is already imported has already read its settings.
"""

from __future__ import annotations

import os
import sys

FIXED = {
    # TRL reports every trainer that is made, and the hub's client every request; both read this variable.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # The package datasets counts every load of a dataset.
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
}
"""Switches off all telemetry, whatever was set before."""

DEFAULTS = {
    # Idle OpenMP threads spin on their core while they wait for work. Two processes on one machine then take each
    # other's cores: a run of 2 minutes took 10.
    "OMP_WAIT_POLICY": "PASSIVE",
    # cuBLAS repeats its results bit for bit only with a workspace of fixed size (`RunConfig.deterministic`).
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    # Otherwise each worker process of the trainers warns about tokenizer threads.
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set only if the user has not set them."""


def prepare() -> None:
    """Set the environment variables of `FIXED` and `DEFAULTS`."""
    os.environ.update(FIXED)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    # The hub's client has read its variable already if another project imported it first.
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_DISABLE_TELEMETRY = True  # type: ignore[attr-defined]
