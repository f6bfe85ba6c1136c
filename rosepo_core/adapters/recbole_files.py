"""Files for RecBole, which has an environment of its own, see `rosepo_core.adapters.recbole`."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from rosepo_core.contracts.components import Reporter
from rosepo_core.serving.recommender import Recommender
from rosepo_core.stages.split import load_split
from rosepo_core.store import RunStore


def write_predictions(
    run: str | Path, file: str | Path, k: int = 100, *, stage: str | None = None, reporter: Reporter | None = None
) -> int:
    """Write what a finished run recommends to each test user, in the notation of RecBole's atomic files: columns
    ``user_id:token``, ``item_id:token`` and ``score:float``, best first.

    The history is everything before the test item, which is RecBole's, too, with the split ``LS: valid_and_test`` or
    ``test_only`` in the order ``TO``. Items of the history are not recommended.

    Args:
        run: the run folder.
        file: the file to write; it is replaced if it is there.
        k: items for each user; at least the largest ``topk`` that RecBole measures.
        stage: the model of the run: ``"aligned"`` (the default), ``"sft"`` or ``"base"``.
        reporter: receives progress and notes.

    Returns:
        The number of users.

    Raises:
        RequestError: there is no finished run.
    """
    test = load_split(RunStore.open(Path(run)).artifact("split").folder)
    model = Recommender.load(run, stage, reporter)
    ids = test.catalogue.ids
    histories = [
        [ids[item] for item in test.test.sequences[user][:position].tolist()]
        for user, position in zip(test.test.user.tolist(), test.test.position.tolist(), strict=True)
    ]
    found = model.recommend_many(histories, k, by="id")
    rows = [
        (test.users[user], each.item, each.score)
        for user, items in zip(test.test.user.tolist(), found, strict=True)
        for each in items
    ]
    columns = ["user_id:token", "item_id:token", "score:float"]
    pl.DataFrame(rows, schema=columns, orient="row").write_csv(file, separator="\t", quote_style="never")
    return len(found)
