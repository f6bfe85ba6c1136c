"""The files of S-DPO: histories, candidates and the chosen title."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from pydantic import Field

from rosepo_core.api import Corpus, Dataset, Reporter, RequestError
from rosepo_datasets.supplied import Example, GivenOptions, find_files, read_rows, require_titles, table_of

HISTORY, CANDIDATES, TARGET = "historyList", "itemList", "trueSelection"
SEPARATOR = "::"


class SDPOOptions(GivenOptions):
    """Options of `s-dpo`."""

    candidates: bool = Field(True, description="Rank the candidates in each row. If false, draw candidates instead.")


class SDPO(Dataset):
    """Examples in the format of S-DPO's repository (Chen et al., "On Softmax Direct Preference Optimization for
    Recommendation", NeurIPS 2024).

    A row has ``historyList`` (titles separated by ``::``, oldest first; or a list of titles), ``itemList`` (the
    candidates) and ``trueSelection`` (the target, one of the candidates). Titles are compared whole. A title is also
    the id of its item. The catalogue contains all titles of all rows, in order of appearance.
    """

    Options = SDPOOptions

    def load(self, reporter: Reporter) -> Corpus:
        """See `Dataset.load`."""
        options: SDPOOptions = self.options
        titles: dict[str, None] = {}
        examples = []
        for part, row in read_rows(options):
            history, candidates, target = row.texts(HISTORY, SEPARATOR), row.texts(CANDIDATES), row.text(TARGET)
            if not history:
                raise RequestError(f"{row}: '{HISTORY}' is empty: take the row out")
            if options.candidates and target not in candidates:
                raise RequestError(
                    f"{row}: '{TARGET}' {target!r} is not among '{CANDIDATES}': mend the row, or set "
                    "dataset.candidates=false to have candidates drawn"
                )
            named = [*history, *candidates, target]
            require_titles(row, named)
            titles.update(dict.fromkeys(named))
            ranked = list(dict.fromkeys(candidates)) if options.candidates else None
            examples.append(Example(row, part, history, target, ranked))
        notes: list[str] = []
        table = table_of(examples, options, notes, find_files(options))
        catalogue = pl.DataFrame({"item": list(titles), "title": list(titles)})
        return Corpus.of_examples("s-dpo", table, catalogue, tuple(notes))

    def files(self) -> Sequence[Path]:
        """See `Dataset.files`."""
        return list(find_files(self.options).values())
