"""Data sets of the package ``datasets``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rosepo_core.api import Corpus, Reporter, RequestError, expanded
from rosepo_datasets.table import Table

_SAVED = ("state.json", "dataset_dict.json")


class HuggingFace(Table):
    """A folder that ``save_to_disk`` of the package ``datasets`` wrote (Lhoest et al., EMNLP 2021), or a folder of
    the hub with shards as Parquet, Arrow or JSON lines. All splits are read as one log, because rosepo makes its own
    split.

    The options are those of `table`: name the columns that it does not guess. ``catalogue`` may be a folder, too.
    """

    def load(self, reporter: Reporter) -> Corpus:
        """See `Dataset.load`."""
        self.files()
        return super().load(reporter)

    def files(self) -> Sequence[Path]:
        """See `Dataset.files`.

        Raises:
            RequestError: the folder has no data set.
        """
        folder: Path = expanded(self.options.path)
        shards = (
            file for end in ("parquet", "arrow", "jsonl", "jsonl.gz", "csv") for file in folder.rglob(f"*.{end}")
        )
        if not folder.is_dir() or not (any((folder / name).is_file() for name in _SAVED) or next(shards, None)):
            raise RequestError(
                f"{folder} (dataset.path) is no folder with {' or '.join(_SAVED)}, or with shards such as "
                ".parquet: name a folder that save_to_disk of the package datasets wrote, or a copy of one of the hub"
            )
        return super().files()
