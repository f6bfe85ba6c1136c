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
        "frames",
        "rosepo_datasets.frames:Frames",
        summary="your own log from Python: pandas, Polars or Arrow frames, or datasets.Dataset",
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
    register(
        "movielens-1m",
        "rosepo_datasets.layouts.movielens:MovieLens1M",
        summary="1 million ratings of 3,900 films (GroupLens 2003); a local copy of ml-1m",
    )
    register(
        "movielens-latest-small",
        "rosepo_datasets.layouts.movielens:MovieLensLatestSmall",
        summary="100,000 ratings of 9,000 films (GroupLens 2018); a local copy of ml-latest-small",
    )
    register(
        "movielens-25m",
        "rosepo_datasets.layouts.movielens:MovieLens25M",
        summary="25 million ratings of 62,000 films (GroupLens 2019); a local copy of ml-25m",
    )
    register(
        "movielens-32m",
        "rosepo_datasets.layouts.movielens:MovieLens32M",
        summary="32 million ratings of 87,585 films (GroupLens 2024); a local copy of ml-32m",
    )
    register(
        "amazon-2018",
        "rosepo_datasets.layouts.amazon:Amazon2018",
        summary="Amazon Reviews 2018 with categories, brands and prices; a local copy",
    )
    register(
        "amazon-2023",
        "rosepo_datasets.layouts.amazon:Amazon2023",
        summary="Amazon Reviews 2023 with categories, stores, brands and prices; a local copy",
    )
    register(
        "steam",
        "rosepo_datasets.layouts.steam:Steam",
        summary="reviews of games on Steam, rated by the hours played; a local copy",
    )
    register(
        "goodreads",
        "rosepo_datasets.layouts.goodreads:Goodreads",
        summary="books on the shelves of Goodreads' users; a local copy",
    )
    register(
        "lastfm-hetrec",
        "rosepo_datasets.layouts.hetrec:LastFM",
        summary="artists that 1,892 users of Last.fm played (HetRec 2011), with tags; a local copy",
    )
    register(
        "yelp",
        "rosepo_datasets.layouts.yelp:Yelp",
        summary="reviews of businesses (Yelp Open Dataset), with categories and cities; a local copy",
    )
    register(
        "kuairec",
        "rosepo_datasets.layouts.kuairec:KuaiRec",
        summary="videos that users watched to the end, or not (KuaiRec); a local copy",
    )
    register(
        "mind",
        "rosepo_datasets.layouts.mind:MIND",
        summary="news that users clicked, and news that they skipped (MIND); a local copy",
    )
    register(
        "recbole",
        "rosepo_datasets.layouts.recbole:RecBole",
        summary="RecBole's atomic files: NAME.inter and NAME.item",
    )
    register(
        "hugging-face",
        "rosepo_datasets.layouts.hugging_face:HuggingFace",
        summary="a folder of the package datasets: saved by save_to_disk, or shards of the hub",
    )
    register(
        "lenskit",
        "rosepo_datasets.layouts.lenskit:LensKit",
        summary="a folder that LensKit's Dataset.save wrote",
    )
    register(
        "minionerec",
        "rosepo_datasets.minionerec:MiniOneRec",
        summary="examples as MiniOneRec publishes them: CSV with lists of titles and ids, and a file of items",
    )
