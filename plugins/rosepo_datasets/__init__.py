"""First-party datasets."""

from rosepo_core.api import Register, hookimpl


@hookimpl
def rosepo_register_datasets(register: Register) -> None:
    """See `rosepo_core.hookspecs`."""
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
