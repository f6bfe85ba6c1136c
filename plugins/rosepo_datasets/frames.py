"""Your own log as a frame of the calling program."""

from __future__ import annotations

from pydantic import Field

from rosepo_core.api import Corpus, Frame, Reporter, RequestError, TableContent
from rosepo_datasets.interactions import ColumnOptions, ColumnsDataset


class FramesOptions(ColumnOptions):
    """Options of `frames`."""

    log: Frame = Field(description="Interactions, one in each row. In a file, the sum of their content.")
    items: Frame | None = Field(
        None, description="Items: item, title and more columns. If unset, titles are in 'log'."
    )


class Frames(ColumnsDataset):
    """A log and its items as frames of pandas, Polars or Arrow, or as ``datasets.Dataset``: see `rosepo_core.align`.

    Columns are found and read as `table` does. A configuration file has the sums of the frames. With it, a finished
    run can be evaluated and asked, and stages after `dataset` can be made again. The stage `dataset` itself needs the
    frames. Row numbers in errors start at 0.
    """

    Options = FramesOptions
    titles_from = "give a second frame that has the items' titles"

    def load(self, reporter: Reporter) -> Corpus:
        """See `Dataset.load`."""
        options: FramesOptions = self.options
        items = None if options.items is None else _content(options.items, "items")
        return self.corpus("frames", _content(options.log, "log"), items)


def _content(frame: Frame, name: str) -> TableContent:
    if frame.content is None:
        raise RequestError(
            f"the {name} of this run ({frame.sum}) was a frame of a Python program, and no file has it: call "
            "rosepo_core.align with it again, or name a file, --dataset table --dataset.path FILE"
        )
    return frame.content
