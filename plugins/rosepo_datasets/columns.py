"""Finds the columns of a table (user, item, time, ...) by their names."""

from __future__ import annotations

import re

import polars as pl

from rosepo_core.api import RequestError, TableContent, nearest

_ITEM_NAMES = (
    "itemid item iid movieid movie parentasin asin productid product sku bookid isbn businessid videoid articleid "
    "newsid trackid songid artistid gameid appid animeid showid recipeid beerid eventid contentid gmapid poiid"
)
USUAL_NAMES = {
    "user": "userid user uid reviewerid customerid customer visitorid memberid accountid username reviewer",
    "item": _ITEM_NAMES,
    "catalogue_item": f"{_ITEM_NAMES} id",
    "timestamp": (
        "timestamp time datetime date ts unixtime unixreviewtime createdat eventtime dateadded dateupdated ratedat "
        "viewedat watchedat playedat orderdate purchasedate"
    ),
    "rating": "rating ratings stars score overall",
    "title": (
        "title itemtitle movietitle producttitle booktitle gametitle itemname productname moviename bookname "
        "trackname appname name caption"
    ),
}
"""Usual names of columns, the most certain first. Case, `_`, `-`, blanks and RecBole's ``:type`` do not matter."""

_NAMES = frozenset(name for names in USUAL_NAMES.values() for name in names.split())
_REVIEW_NAMES = ("text", "reviewtext", "review", "reviewbody", "comment", "comments", "feedback")

TYPED_NAME = re.compile(r"(.+):(token|token_seq|float|float_seq)")
"""A column's name in RecBole's atomic files, and its type."""


def normal(name: str) -> str:
    """The form of a name that is compared."""
    typed = TYPED_NAME.fullmatch(name.strip())
    return re.sub(r"[^a-z0-9]", "", (typed[1] if typed else name).lower())


def is_usual_name(cell: str) -> bool:
    """Whether a cell is a usual name of a column."""
    return normal(cell) in _NAMES


def find_column(role: str, asked: str | None, table: TableContent, guessed: dict[str, str], remedy: str = "") -> str:
    """As `find_optional_column`, but the column must exist.

    Args:
        role: a key of `USUAL_NAMES`.
        asked: the option's value.
        table: the table to search.
        guessed: receives the column if it was guessed.
        remedy: another way to solve the problem, for the error message.

    Raises:
        RequestError: as `find_optional_column`, or there is no such column.
    """
    column = find_optional_column(role, asked, table, guessed)
    if column is None:
        listed = ", ".join(f"'{column}'" for column in (*table.frame.columns, *table.nested))
        raise RequestError(
            f"{table.path}: none of its columns {listed} is called like a {role}: name one with "
            f"dataset.{role}{remedy}"
        )
    return column


def find_optional_column(role: str, asked: str | None, table: TableContent, guessed: dict[str, str]) -> str | None:
    """The column with a role: the one that the user named, or the one with the most certain usual name, if any; for
    times, else the only column of the type of times.

    Args:
        role: a key of `USUAL_NAMES`.
        asked: the option's value.
        table: the table to search.
        guessed: receives the column if it was guessed.

    Raises:
        RequestError: the named column does not exist, or contains no text or numbers.
    """
    columns = table.frame.columns
    if asked is not None:
        if asked in columns:
            return asked
        if asked in table.nested:
            raise RequestError(
                f"{table.path}: column '{asked}' (dataset.{role}) holds lists or objects, not text or numbers: name "
                "another"
            )
        raise RequestError(f"{table.path} has no column '{asked}' (dataset.{role}){nearest(asked, columns)}")
    by_name = {normal(column): column for column in reversed(columns)}
    for name in USUAL_NAMES[role].split():
        if name in by_name:
            guessed[role] = by_name[name]
            return by_name[name]
    typed = [name for name, dtype in table.frame.schema.items() if dtype == pl.Datetime]
    if role == "timestamp" and len(typed) == 1:
        guessed[role] = typed[0]
        return typed[0]
    return None


def review_column(table: TableContent) -> str | None:
    """A column that looks like the text of a review, if any."""
    return next((column for column in table.frame.columns if normal(column) in _REVIEW_NAMES), None)


def like_times(table: TableContent) -> list[str]:
    """Columns whose names contain "date" or "time"."""
    return [name for name in table.frame.columns if re.search("date|time", normal(name))]


def note_guessed(notes: list[str], table: TableContent, guessed: dict[str, str]) -> None:
    """Add a note with the guessed columns."""
    if guessed:
        shown = ", ".join(f"{role}='{column}'" for role, column in guessed.items())
        notes.append(f"{table.path.name}: guessed {shown}")
