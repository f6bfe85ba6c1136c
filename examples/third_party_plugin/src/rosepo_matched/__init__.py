"""An example of a plugin for rosepo. Listing plugins imports this module, so it imports nothing heavy."""

from rosepo_core.api import Register, hookimpl


@hookimpl
def rosepo_register_losses(register: Register) -> None:
    register(
        "squared-hinge", "rosepo_matched.loss:SquaredHinge", summary="No loss beyond a margin, quadratic within."
    )


@hookimpl
def rosepo_register_samplers(register: Register) -> None:
    register("popularity-matched", "rosepo_matched.sampler:PopularityMatched", summary="As popular as the target.")


@hookimpl
def rosepo_register_prompts(register: Register) -> None:
    register("alpaca", "rosepo_matched.prompt:Alpaca", summary="An instruction, the history as its input.")


@hookimpl
def rosepo_register_metrics(register: Register) -> None:
    register("self-information", "rosepo_matched.metric:SelfInformation", summary="How surprising the list is.")
