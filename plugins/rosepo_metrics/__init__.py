"""First-party metrics."""

from rosepo_core.api import Register, hookimpl


@hookimpl
def rosepo_register_metrics(register: Register) -> None:
    """Register metrics of accuracy, hallucination, popularity bias, concentration and genres."""
    register("hr", "rosepo_metrics.accuracy:HitRate", summary="Whether a held-out item is among the first k.")
    register(
        "hr-valid", "rosepo_metrics.accuracy:HitRateOfValid", summary="HR over the users whose answer is an item."
    )
    register("ndcg", "rosepo_metrics.accuracy:NDCG", summary="Held-out items in the first k; lower ranks count less.")
    register("mrr", "rosepo_metrics.accuracy:MRR", summary="One over the rank of the first held-out item.")
    register("recall", "rosepo_metrics.accuracy:Recall", summary="Share of several held-out items in the first k.")
    register("auc", "rosepo_metrics.accuracy:AUC", summary="Share of pairs with the held-out item ranked higher.")

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
    register("repeated", "rosepo_metrics.hallucination:Repeated", summary="Share of the list that is repeated.")
    register(
        "already-seen",
        "rosepo_metrics.hallucination:AlreadySeen",
        summary="Share of the list that is in the user's history.",
    )

    register("arp", "rosepo_metrics.popularity:ARP", summary="Mean training interactions of the recommended items.")
    register(
        "popularity-lift",
        "rosepo_metrics.popularity:PopularityLift",
        summary="How much more popular the list is than the user's history.",
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
        "div-ratio", "rosepo_metrics.concentration:DivRatio", summary="Number of different items as a share of all."
    )

    register(
        "mgu", "rosepo_metrics.genres:MGU", summary="Mean difference of genre shares between lists and histories."
    )
    register("dgu", "rosepo_metrics.genres:DGU", summary="Gap between the most and the least favoured genre.")
    register(
        "intra-list-distance",
        "rosepo_metrics.genres:IntraListDistance",
        summary="How different the genres within one list are.",
    )
