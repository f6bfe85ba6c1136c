"""First-party preference oracles."""

from rosepo_core.api import Register, hookimpl


@hookimpl
def rosepo_register_oracles(register: Register) -> None:
    """Register `sasrec` and `constant`."""
    register(
        "sasrec",
        "rosepo_oracles.sasrec:SASRec",
        summary="Self-attention over the user's items, trained on the same log; its score margins are calibrated.",
    )
    register("constant", "rosepo_oracles.constant:Constant", summary="One smoothing factor for every pair.")
