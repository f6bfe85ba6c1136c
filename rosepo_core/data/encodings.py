"""Reads the text of a file: gzip, byte order marks and encodings."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from rosepo_core.contracts.errors import RequestError

_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def read_bytes(path: Path) -> bytes:
    """The content of a file. A gzip archive is unpacked, even if its name does not end in .gz.

    Raises:
        RequestError: it cannot be read, or the archive is damaged.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RequestError(f"{path}: the gzip archive is damaged or cut off ({error}): fetch it again") from None
    except OSError as error:
        raise RequestError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def read_text(path: Path, encoding: str | None, option: str) -> tuple[str, str]:
    """The text of a file, and the name of its encoding.

    A byte order mark decides first. UTF-16 without a mark is recognized by its zero bytes. Text that is valid UTF-8
    and has characters outside ASCII is UTF-8. Other files have the encoding that the user named, or UTF-8.

    Args:
        path: the file.
        encoding: the encoding of files that are not UTF-8, by its name in Python, e.g. ``"latin-1"``.
        option: the name of the encoding option in error messages.

    Raises:
        RequestError: as `read_bytes`, or the text does not have this encoding; the message has the line.
    """
    content = read_bytes(path)
    name = next((name for mark, name in _MARKS if content.startswith(mark)), None) or _utf_16(content)
    if name is None:
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            if encoding is None:
                raise RequestError(_not_utf_8(path, content, error, option)) from None
        else:
            if encoding is None or not text.isascii():
                return text, "UTF-8"
    name = name or encoding or "utf-8"
    try:
        return content.decode(name), name.removesuffix("-sig").upper() if name.startswith("utf") else name
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        line = content.count(b"\n", 0, start) + 1
        raise RequestError(
            f"{path} line {line}: not {name} text ({error}): name the file's encoding with {option}"
        ) from None


def _utf_16(content: bytes) -> str | None:
    """Recognize UTF-16 without a mark: tables begin with two ASCII characters, and then every second byte is zero."""
    start = content[:4]
    if len(start) == 4 and len(content) % 2 == 0:
        if start[1] == start[3] == 0 and start[0] and start[2]:
            return "utf-16-le"
        if start[0] == start[2] == 0 and start[1] and start[3]:
            return "utf-16-be"
    return None


def _not_utf_8(path: Path, content: bytes, error: UnicodeDecodeError, option: str) -> str:
    line = content.count(b"\n", 0, error.start) + 1
    word = content[: error.start].split()[-1:] if content[error.start - 1 : error.start].strip() else []
    shown = (b"".join(word)[-20:] + content[error.start : error.start + 20].splitlines()[0]).decode("latin-1")
    return (
        f"{path} line {line}: not UTF-8 text: name the encoding with {option}, e.g. {option}=latin-1, which reads "
        f"{shown!r} there"
    )
