"""The files of SPRec: instructions with histories in quotes, the catalogue's titles, and their genres."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field

from rosepo_core.api import Corpus, Dataset, Reporter, RequestError, expanded
from rosepo_datasets.supplied import (
    Example,
    GivenOptions,
    Row,
    find_files,
    read_json,
    read_rows,
    require_titles,
    table_of,
)

HISTORY, TARGET = "input", "output"
SEPARATOR = '", "'
SHOWN_ROWS = 10


class SPRecOptions(GivenOptions):
    """Options of `sprec`."""

    id2name: Path | None = Field(
        None,
        description="The catalogue, id to title. If unset, id2name.json beside 'path', or all titles in the rows.",
    )
    name2genre: Path | None = Field(
        None, description="From title to genres. If unset, name2genre.json beside 'path', or no genres."
    )
    unknown_titles: Literal["error", "drop"] = Field(
        "error", description="What to do with rows that contain a title which is not in the catalogue."
    )


class SPRec(Dataset):
    """Examples in the format of SPRec's repository (Gao et al., "SPRec: Self-Play to Debias LLM-based
    Recommendation", WWW 2025).

    A row has ``input`` (a sentence with the titles of the history, oldest first, each in quotes, separated by commas)
    and ``output`` (the target in quotes). Titles may contain quotes and commas. So a history is read as the sequence
    of catalogue titles that gives exactly its text. Without a catalogue it is split at every ``", "``.
    """

    Options = SPRecOptions

    def load(self, reporter: Reporter) -> Corpus:
        """See `Dataset.load`."""
        file = self._file("id2name")
        catalogue = _read_catalogue(file) if file else {}
        ids: dict[str, str] = {}
        for item, title in catalogue.items():
            ids.setdefault(title, item)
        examples, unknown = [], []
        for part, row in read_rows(self.options):
            history, target = _quoted(row, HISTORY), _quoted(row, TARGET)
            titles = [*(_read_titles(row, history, ids) if file else history.split(SEPARATOR)), target]
            require_titles(row, titles)
            if file is None:
                ids.update({title: title for title in titles})
            if missing := [title for title in titles if title not in ids]:
                unknown.append((row, missing[0]))
            else:
                examples.append(Example(row, part, [ids[title] for title in titles[:-1]], ids[target]))
        notes: list[str] = []
        if file is None:
            catalogue = {title: title for title in ids}
            notes.append(
                f"no id2name.json: the catalogue is all titles named; histories were split at every {SEPARATOR}"
            )
        elif unknown:
            self._drop(unknown, file, notes)
        table = table_of(examples, self.options, notes, find_files(self.options))
        items = pl.DataFrame({"item": list(catalogue), "title": list(catalogue.values())})
        return Corpus.of_examples("sprec", table, self._with_genres(items, notes), tuple(notes))

    def files(self) -> Sequence[Path]:
        """See `Dataset.files`."""
        beside = (self._file("id2name"), self._file("name2genre"))
        return [*find_files(self.options).values(), *(file for file in beside if file)]

    def _file(self, option: str) -> Path | None:
        """The file that an option names, or the file with the option's name beside the rows, if it exists."""
        named: Path | None = getattr(self.options, option)
        if named:
            return expanded(named)
        path = expanded(self.options.path)
        beside = (path if path.is_dir() else path.parent) / f"{option}.json"
        return beside if beside.is_file() else None

    def _drop(self, unknown: Sequence[tuple[Row, str]], file: Path, notes: list[str]) -> None:
        row, title = unknown[0]
        if self.options.unknown_titles == "error":
            raise RequestError(
                f"{row}: '{title}' is not among the titles of {file.name}: add it there, or set "
                f"dataset.unknown_titles='drop' to leave out the {len(unknown)} rows with such titles"
            )
        more = "" if len(unknown) <= SHOWN_ROWS else ", ..."
        notes.append(
            f"left out {len(unknown)} rows with titles that are not in {file.name}, e.g. '{title}': "
            f"{row.file.name} rows {', '.join(str(each.number) for each, _ in unknown[:SHOWN_ROWS])}{more}"
        )

    def _with_genres(self, items: pl.DataFrame, notes: list[str]) -> pl.DataFrame:
        file = self._file("name2genre")
        if file is None:
            return items
        genres = read_json(file)
        if not isinstance(genres, dict):
            raise RequestError(f"{file} is no object of titles with their genres")
        for title, names in genres.items():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise RequestError(f"{file}: the genres of '{title}' are no list of texts: mend them")
        lacking = sum(title not in genres for title in items["title"])
        if lacking:
            notes.append(f"{file.name} has no genres for {lacking} of {items.height} titles")
        column = [genres.get(title, []) for title in items["title"]]
        return items.with_columns(pl.Series("genres", column, pl.List(pl.String)))


def readings(text: str, titles: Container[str]) -> list[list[str]]:
    """The ways to read a text as titles separated by ``", "``, each of them in `titles`; at most two ways."""
    ends = [match.start() for match in re.finditer(f"(?={SEPARATOR})", text)] + [len(text)]
    starts = [0, *(end + len(SEPARATOR) for end in ends[:-1])]
    from_here: dict[int, list[list[str]]] = {len(text) + len(SEPARATOR): [[]]}
    for start in reversed(starts):
        from_here[start] = [
            [text[start:end], *rest]
            for end in ends
            if start <= end and text[start:end] in titles
            for rest in from_here[end + len(SEPARATOR)]
        ][:2]
    return from_here[0]


def _read_titles(row: Row, text: str, titles: Container[str]) -> list[str]:
    """The titles of a history; if it cannot be read as titles of the catalogue, it is split at every separator."""
    found = readings(text, titles)
    if len(found) > 1:
        raise RequestError(f"{row}: '{HISTORY}' can be read as {found[0]} and as {found[1]}: take the row out")
    return found[0] if found else text.split(SEPARATOR)


def _quoted(row: Row, key: str) -> str:
    """The text between the first quote and the last."""
    text = row.text(key)
    first, last = text.find('"'), text.rfind('"')
    if last <= first + 1:
        raise RequestError(f"{row}: '{key}' has no title in quotes: mend the row or take it out")
    return text[first + 1 : last]


def _read_catalogue(file: Path) -> dict[str, str]:
    catalogue = read_json(file)
    if not isinstance(catalogue, dict) or not catalogue:
        raise RequestError(f"{file} is no object of ids with their titles")
    for item, title in catalogue.items():
        if not isinstance(title, str) or not title.strip():
            raise RequestError(f"{file}: the title of '{item}' is {title!r}: give it one or take it out")
    return catalogue
