"""First-party datasets."""

from rosepo_core.api import Register, hookimpl


@hookimpl
def rosepo_register_datasets(register: Register) -> None:
    """See `rosepo_core.contracts.hookspecs`."""
    register(
        "movielens-100k",
        "rosepo_datasets.movielens:MovieLens100K",
        summary="100,000 ratings of 1,682 films by 943 people (GroupLens 1998); fetched, or a local copy",
    )
    register(
        "table",
        "rosepo_datasets.table:Table",
        summary="your own log: CSV, TSV, Parquet or JSONL of interactions, with titles in it or in a catalogue file",
    )
    register(
        "sprec",
        "rosepo_datasets.sprec:SPRec",
        summary="examples as SPRec publishes them: histories in quotes, id2name.json, name2genre.json",
    )
    register(
        "s-dpo",
        "rosepo_datasets.s_dpo:SDPO",
        summary="examples as S-DPO publishes them: histories, candidates to rank, the chosen title",
    )
