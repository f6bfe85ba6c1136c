"""First-party prompt templates."""

from rosepo_core.api import Register, hookimpl


@hookimpl
def rosepo_register_prompts(register: Register) -> None:
    """Register `timeline` and `chat`."""
    register(
        "timeline",
        "rosepo_prompts.timeline:Timeline",
        summary="The history as one growing text with one title a line; every title is a target.",
    )
    register("chat", "rosepo_prompts.chat:Chat", summary="A question about the history in the model's chat format.")
