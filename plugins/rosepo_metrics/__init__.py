"""First-party metrics."""

from rosepo_core.api import Register, hookimpl


@hookimpl
def rosepo_register_metrics(register: Register) -> None:
    """Register metrics of accuracy, hallucination, popularity bias, concentration and genres."""
    register("hr", "rosepo_metrics.accuracy:HitRate", summary="Whether a held-out item is among the first k.")
    register(
        "hr-valid", "rosepo_metrics.accuracy:HitRateOfValid", summary="HR over users whose answer is an item, alone."
    )
    register(
        "ndcg", "rosepo_metrics.accuracy:NDCG", summary="Held-out items in the first k, worth less further down."
    )
    register("mrr", "rosepo_metrics.accuracy:MRR", summary="One over the rank of the first held-out item.")
    register("recall", "rosepo_metrics.accuracy:Recall", summary="Share of several held-out items in the first k.")
    register("auc", "rosepo_metrics.accuracy:AUC", summary="Pairs of a held-out and another item in the right order.")

    register(
        "semantic-hallucination",
        "rosepo_metrics.hallucination:SemanticHallucination",
        summary="Whether an item that means nearly the same outranks the target.",
    )
    register(
        "valid-ratio",
        "rosepo_metrics.hallucination:ValidRatio",
        summary="Share of the answers that are items.",
    )
    register(
        "out-of-catalogue",
        "rosepo_metrics.hallucination:OutOfCatalogue",
        summary="Share of the answers that are no item.",
    )
    register("repeated", "rosepo_metrics.hallucination:Repeated", summary="Share of the list that is there twice.")
    register(
        "already-seen", "rosepo_metrics.hallucination:AlreadySeen", summary="Share of the list that the user had."
    )

    register("arp", "rosepo_metrics.popularity:ARP", summary="Mean training interactions of what is recommended.")
    register(
        "popularity-lift",
        "rosepo_metrics.popularity:PopularityLift",
        summary="How much more popular than the user's own history the list is.",
    )
    register("aplt", "rosepo_metrics.popularity:APLT", summary="Share of long-tail items in the list.")
    register(
        "popularity-confusion",
        "rosepo_metrics.popularity:PopularityConfusion",
        summary="Share of the more popular items that outrank the target.",
    )
    register(
        "popularity-correlation",
        "rosepo_metrics.popularity:PopularityCorrelation",
        summary="Correlation of the score with log popularity.",
    )

    register("coverage", "rosepo_metrics.concentration:Coverage", summary="Share of the catalogue in any list.")
    register("gini", "rosepo_metrics.concentration:Gini", summary="How unevenly items are recommended.")
    register("or-ratio", "rosepo_metrics.concentration:ORRatio", summary="Share of the three most recommended items.")
    register(
        "div-ratio", "rosepo_metrics.concentration:DivRatio", summary="Different items in all lists, as a share."
    )

    register("mgu", "rosepo_metrics.genres:MGU", summary="Mean distance of genre shares from the histories'.")
    register("dgu", "rosepo_metrics.genres:DGU", summary="The most favoured genre against the least.")
    register(
        "intra-list-distance",
        "rosepo_metrics.genres:IntraListDistance",
        summary="How different in genre the items of one list are.",
    )
