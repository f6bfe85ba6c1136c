"""First-party preference oracles."""

from rosepo_core.api import Register, hookimpl


@hookimpl
def rosepo_register_oracles(register: Register) -> None:
    """Register the first-party oracles."""
    register(
        "sasrec",
        "rosepo_oracles.sasrec:SASRec",
        summary="Self-attention over the user's items, trained on the same log; its score margins are calibrated.",
    )
    register(
        "gru4rec",
        "rosepo_oracles.gru4rec:GRU4Rec",
        summary="Gated recurrent units over the user's items, trained on the same log.",
    )
    register(
        "item-knn",
        "rosepo_oracles.item_knn:ItemKNN",
        summary="Items that the same people took as those of the history: nearest neighbours by cosine.",
    )
    register(
        "scores",
        "rosepo_oracles.score_file:ScoreFile",
        summary="The scores of any recommender, from a table of user, item and score.",
    )
    register(
        "popularity",
        "rosepo_oracles.popularity:Popularity",
        summary="How many training interactions an item has, for every user.",
    )
    register(
        "ensemble",
        "rosepo_oracles.ensemble:Ensemble",
        summary="Several oracles, weighted by how well they tell what validation users take.",
    )
    register(
        "llm",
        "rosepo_oracles.language_model:SFTPreference",
        summary="The SFT model's own preference between the two titles.",
    )
    register("constant", "rosepo_oracles.constant:Constant", summary="One smoothing factor for every pair.")
