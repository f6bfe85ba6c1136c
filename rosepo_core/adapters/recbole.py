"""The predictions of a run as a model of RecBole (Zhao et al. 2021, arXiv:2011.01731), so that RecBole measures them.

RecBole needs numpy 1, and rosepo numpy 2, so each has an environment of its own, and a file goes between them:
`rosepo_core.adapters.recbole_files.write_predictions` writes it. In RecBole's environment, ``pip install --no-deps
rosepo`` is enough for this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from rosepo_core.contracts.errors import RequestError


class RosepoPredictions(SequentialRecommender):  # type: ignore[misc]
    """Gives the items of a file of predictions their scores, and all other items none.

    It is for ranking all items (``mode: full``) of the test part. The file must have at least as many items for
    each user as the largest ``topk``.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config: Any, dataset: Any, file: str | Path) -> None:
        """
        Args:
            config: RecBole's configuration.
            dataset: RecBole's data set, of the same log as the run.
            file: what `write_predictions` wrote.

        Raises:
            RequestError: the file has a user or an item that the data set does not have, or too few items.
        """
        super().__init__(config, dataset)
        # RecBole's trainers make an optimizer, which needs a parameter.
        self.unused = torch.nn.Parameter(torch.zeros(1))
        table = pd.read_csv(file, sep="\t", dtype={0: str, 1: str}, names=["user", "item", "score"], header=0)
        most, lengths = max(config["topk"]), table.groupby("user").size()
        if lengths.min() < most:
            raise RequestError(
                f"{file} has {lengths.min()} items for user '{lengths.idxmin()}', and topk asks for {most}: write "
                "more (k), or lower topk"
            )
        users = _numbers(table["user"], dataset, self.USER_ID, file)
        items = _numbers(table["item"], dataset, self.ITEM_ID, file)
        scores = torch.tensor(table["score"].to_numpy(), dtype=torch.float32)
        self._scores = torch.full((dataset.user_num, dataset.item_num), -torch.inf)
        self._scores[users, items] = scores

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """The scores of all items for the users of a batch, float [n, items]; -inf for items without one."""
        return self._scores.to(interaction[self.USER_ID].device)[interaction[self.USER_ID]]


def _numbers(names: pd.Series[str], dataset: Any, field: str, file: str | Path) -> Tensor:
    """RecBole's numbers of users or items."""
    known = dataset.field2token_id[field]
    for name in names.unique():
        if name not in known:
            raise RequestError(f"{file}: RecBole's data set has no {field} '{name}': is it the log of the run?")
    return torch.tensor([known[name] for name in names])
