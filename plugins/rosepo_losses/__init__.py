"""First-party preference losses."""

from rosepo_core.api import Register, hookimpl


@hookimpl
def rosepo_register_losses(register: Register) -> None:
    """Register `rosepo`, `dpo` and `ipo`."""
    register("rosepo", "rosepo_losses.rosepo:RosePO", summary="DPO with its own smoothing factor for each pair.")
    register("dpo", "rosepo_losses.dpo:DPO", summary="Direct Preference Optimization: every label counts as certain.")
    register("ipo", "rosepo_losses.ipo:IPO", summary="Identity Preference Optimization: a fixed margin per token.")
