"""What must be settled in a process before torch and the trainers are imported.

`rosepo_core` settles it when it is imported, for the command line and for other projects alike. So import rosepo_core
before torch: libraries that are there already have read their settings.
"""

from __future__ import annotations

import os
import sys

FIXED = {
    # TRL reports every trainer that is made, and the hub's client every request; both read this variable.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # datasets counts what is loaded.
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
}
"""Nothing is reported to anyone, whatever was set before."""

DEFAULTS = {
    # Idle OpenMP threads spin on their core while they wait for work. Two processes on one machine then take each
    # other's cores: a run of 2 minutes took 10.
    "OMP_WAIT_POLICY": "PASSIVE",
    # cuBLAS repeats its results bit for bit only with a workspace of fixed size (`RunConfig.deterministic`).
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    # Worker processes of the trainers would each warn of tokenizer threads.
    "TOKENIZERS_PARALLELISM": "false",
}
"""What holds where the user has not said otherwise."""


def prepare() -> None:
    """Set the environment variables of `FIXED` and `DEFAULTS`."""
    os.environ.update(FIXED)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    # The hub's client has read its variable already if another project imported it first.
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_DISABLE_TELEMETRY = True  # type: ignore[attr-defined]
