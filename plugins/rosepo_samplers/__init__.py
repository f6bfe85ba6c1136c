"""First-party samplers of rejected items."""

from rosepo_core.api import Register, hookimpl


@hookimpl
def rosepo_register_samplers(register: Register) -> None:
    """Register the first-party samplers."""
    register(
        "self-hard",
        "rosepo_samplers.self_hard:SelfHard",
        summary="The SFT model's own wrong answers: titles that it would recommend instead of the target.",
    )
    register(
        "semantic-similar",
        "rosepo_samplers.semantic:SemanticSimilar",
        summary="Items whose titles mean nearly the same as the target's, or as those of the history.",
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
    register(
        "disliked",
        "rosepo_samplers.disliked:Disliked",
        summary="Items that the user rated low or skipped.",
    )
    register(
        "in-candidates",
        "rosepo_samplers.in_candidates:InCandidates",
        summary="Items from the candidates that the dataset offers with the target, or that the prompt lists.",
    )
    register(
        "in-batch",
        "rosepo_samplers.in_batch:InBatch",
        summary="Targets of other examples, about in proportion to how often they are targets.",
    )
    register(
        "cluster-exposure",
        "rosepo_samplers.cluster_exposure:ClusterExposure",
        summary="The SFT model's wrong answers outside of (or in) the user's genres, rarely (or often) seen first.",
    )
    register("uniform", "rosepo_samplers.uniform:Uniform", summary="Any item, all with the same probability.")
