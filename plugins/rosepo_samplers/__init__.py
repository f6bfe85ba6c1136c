"""First-party samplers of rejected items."""

from rosepo_core.api import Register, hookimpl


@hookimpl
def rosepo_register_samplers(register: Register) -> None:
    """Register `self-hard`, `semantic-similar`, `popularity-aware`, `oracle-hard` and `uniform`."""
    register(
        "self-hard",
        "rosepo_samplers.self_hard:SelfHard",
        summary="The SFT model's own wrong answers: titles that it would recommend instead of the target.",
    )
    register(
        "semantic-similar",
        "rosepo_samplers.semantic:SemanticSimilar",
        summary="Items whose titles mean nearly the same as the target's.",
    )
    register(
        "popularity-aware",
        "rosepo_samplers.popularity:PopularityAware",
        summary="Items in proportion to their popularity, to a power.",
    )
    register(
        "oracle-hard",
        "rosepo_samplers.oracle_hard:OracleHard",
        summary="Items that the preference oracle ranks highest for the user.",
    )
    register("uniform", "rosepo_samplers.uniform:Uniform", summary="Any item, all with the same probability.")
