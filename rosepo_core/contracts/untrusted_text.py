"""What happens to titles, ids, attributes and other text from outside where it leaves rosepo.

There is one function for each way out; docs/safety.md says the same in words.

The text itself is never changed: these functions are for what people read and for prompts. What programs read (JSON,
Parquet, CSV) has the text as it is, in the quoting of the format.
"""

from __future__ import annotations

import re
import unicodedata

LONGEST_LINE = 200
"""Characters of a title in a table of the terminal."""

LONGEST_MESSAGE = 4000
"""Characters of an error or a note."""

_ACTING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of characters that act instead of being shown: control, format (bidirectional controls, zero
width), halves of surrogate pairs, separators of lines and paragraphs."""

_SHAPING = frozenset("\u200c\u200d")
"""Zero-width characters that decide which letters join. Persian, many scripts of India and emoji need them."""


def one_line(text: str) -> str:
    """For prompts: the text on one line, in which every run of white space is one blank, so that it cannot begin a
    line of its own. Names of control tokens stay: `prompts.token_ids.plain_ids` encodes them as plain text."""
    return " ".join(text.split())


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: it has only white space and characters that act."""
    return all(character.isspace() or unicodedata.category(character) in _ACTING for character in text)


def visible(text: str) -> str:
    r"""For terminals, logs, HTML and Markdown: every character that acts instead of being shown as an escape sequence
    of Python, such as ``\x1b`` or ``\u202e``. Line breaks, tabs and the joiners of letters stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def visible_line(text: str, most: int = LONGEST_LINE) -> str:
    """For one cell or line of a terminal: `visible`, on one line, its end cut off behind `most` characters."""
    found = visible(one_line(text))
    return found if len(found) <= most else f"{found[: most - 3]}..."


def message(text: str) -> str:
    """For errors and notes: `visible`, at most `LONGEST_MESSAGE` characters. Each line after the first is indented,
    so that a text with line breaks does not look like a message of its own."""
    found = visible(text)
    if len(found) > LONGEST_MESSAGE:
        found = f"{found[: LONGEST_MESSAGE - 3]}..."
    first, *others = found.split("\n")
    return "\n".join([first, *(line if line.startswith("  ") else f"  {line}" for line in others)])


def markdown(text: str) -> str:
    """For Markdown: the text on one line, which Markdown shows unchanged."""
    return re.sub(r"([\\`*_~!\[\]<>|#&$])", r"\\\1", visible(one_line(text)))


def markdown_code(text: str) -> str:
    """For a code span of Markdown, which has no escapes: the text on one line, without backticks."""
    return visible(one_line(text.replace("`", "'")))


def _shown(character: str) -> str:
    if character in "\n\t" or character in _SHAPING or unicodedata.category(character) not in _ACTING:
        return character
    return character.encode("unicode_escape").decode("ascii")
