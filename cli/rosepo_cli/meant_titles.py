"""Finds the titles that a user of the command line means, and asks where there is doubt."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from rosepo_core.console import say
from rosepo_core.contracts.untrusted_text import visible_line

if TYPE_CHECKING:
    from rosepo_core.serving.title_index import TitleIndex

CHOICES = 5
"""The most titles of a question."""


def meant_titles(index: TitleIndex, written: Sequence[str], *, asks: bool) -> list[str]:
    """The titles of the catalogue that are meant.

    If a title is not in the catalogue, one that is very similar is taken, with a note. In case of doubt the user is
    asked, if there is a terminal.

    Args:
        index: finds titles of the catalogue.
        written: what the user wrote.
        asks: whether questions are allowed.

    Raises:
        RequestError: there is doubt, and nobody can be asked.
    """
    asks = asks and sys.stdin.isatty() and sys.stderr.isatty()
    return [_meant(index, title, asks) for title in written]


def _meant(index: TitleIndex, title: str, asks: bool) -> str:
    matches = index.matches(title)
    if len(matches) == 1:
        return index.titles[matches[0]]
    sure = None if matches else index.meant(title)
    if sure is not None:
        say(f"taking '{visible_line(sure.title)}' for '{visible_line(title)}'", stderr=True)
        return sure.title
    choices = [index.titles[item] for item in matches] or [each.title for each in index.close(title, CHOICES)]
    if choices and asks:
        return _answer(title, choices)
    return index.titles[index.find(title)]  # raises the error


def _answer(title: str, choices: Sequence[str]) -> str:
    say(f"'{visible_line(title)}' is not in the catalogue. Which of these do you mean?", stderr=True)
    for place, choice in enumerate(choices, 1):
        say(f"  {place}  {visible_line(choice)}", stderr=True)
    while True:
        number: int = typer.prompt("Number", type=int, default=1, err=True)
        if 1 <= number <= len(choices):
            return choices[number - 1]
