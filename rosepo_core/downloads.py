"""Files of a publisher by their URLs: fetched once, checked by their sums, unpacked, and kept in the cache."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import lzma
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import RequestError
from rosepo_core.packages import cache_folder

PATIENCE = 60.0
"""Seconds without an answer after which a download ends with an error."""

_BLOCK = 1 << 20
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError),
    *(RuntimeError, NotImplementedError),  # of a zip with a password, or with a compression that Python lacks
)
"""What Python raises where an archive cannot be unpacked."""


def downloaded(urls: Sequence[str], sums: Sequence[str], reporter: Reporter) -> Path:
    """The folder with the files of `urls`, unpacked if they are zip or tar archives. It is fetched once.

    If everything in the archives is in one folder, this is the folder that is returned.

    Args:
        urls: addresses that begin with https:// or http://, at least one.
        sums: the SHA-256 sum of each file, hex, in the order of `urls`.
        reporter: shows the progress, and gets a note about each download.

    Raises:
        RequestError: a URL cannot be fetched; a sum is missing or another one; an archive is damaged, or would write
            outside the folder.
    """
    for url in urls:
        if urllib.parse.urlsplit(url).scheme not in ("https", "http"):
            raise RequestError(f"{url} (dataset.url) is no address that begins with https:// or http://")
    wanted = [each.strip().lower() for each in sums]
    # Files that are no archives keep their names, so these count, too.
    content_of = repr([(_name(url), each) for url, each in zip(urls, wanted, strict=False)])
    folder = cache_folder() / "downloads" / hashlib.sha256(content_of.encode()).hexdigest()[:16]
    if len(wanted) == len(urls) and folder.is_dir():
        return _innermost(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as temporary:
            files = [_fetched(url, Path(temporary), reporter) for url in urls]
            _check(urls, [_sha256(file) for file in files], wanted)
            content = Path(temporary) / "content"
            content.mkdir()
            for url, file in zip(urls, files, strict=True):
                _unpack(url, file, content)
            try:
                os.rename(content, folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
    except OSError as error:
        raise RequestError(
            f"cannot write to {folder.parent} ({error.strerror or error}): free space there or set ROSEPO_CACHE to "
            "another folder"
        ) from error
    return _innermost(folder)


def _name(url: str) -> str:
    """The name of the file at an address."""
    return PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name or "download"


def _fetched(url: str, folder: Path, reporter: Reporter) -> Path:
    """The file of a URL, in a folder of its own."""
    name = _name(url)
    file = Path(tempfile.mkdtemp(dir=folder)) / name
    reporter.note(f"Fetching {url}")
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer, file.open("wb") as written:
            total, done = int(answer.headers.get("Content-Length") or 0), 0
            while block := answer.read(_BLOCK):
                written.write(block)
                done += len(block)
                reporter.progress(done, max(total, done), f"bytes of {name}")
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise RequestError(
            f"{url} (dataset.url) cannot be fetched ({reason}): fetch it in another way and name the unpacked folder "
            "with dataset.path"
        ) from error
    if total and done < total:
        raise RequestError(f"{url} (dataset.url) broke off after {done:,} of {total:,} bytes: try again")
    return file


def _check(urls: Sequence[str], found: Sequence[str], wanted: Sequence[str]) -> None:
    if len(wanted) != len(urls):
        raise RequestError(
            f"dataset.sha256 must have the sum of each of the {len(urls)} files of dataset.url; what came has "
            f"{','.join(found)}: compare this with what the publisher says, and set it"
        )
    for url, here, there in zip(urls, found, wanted, strict=True):
        if here != there:
            raise RequestError(
                f"{url} (dataset.url) has the SHA-256 {here}, and dataset.sha256 says {there}: the publisher has "
                "changed the file, or this is not the publisher's"
            )


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _unpack(url: str, file: Path, content: Path) -> None:
    """Put a file, or the files of an archive, into a folder. ``.gz`` alone is read as it is."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                # Names that lead out of the folder are changed so that they do not.
                archive.extractall(content)
        elif tarfile.is_tarfile(file):
            with tarfile.open(file) as packed:
                packed.extractall(content, filter="data")
        else:
            shutil.move(file, content / file.name)
    except _DAMAGED as error:
        raise RequestError(f"{url} (dataset.url): the archive cannot be unpacked ({error})") from error


def _innermost(folder: Path) -> Path:
    """The only folder in a folder, in turn; macOS leaves a folder of its own in archives."""
    while True:
        inside = [each for each in folder.iterdir() if each.name != "__MACOSX" and not each.name.startswith(".")]
        if len(inside) != 1 or not inside[0].is_dir():
            return folder
        folder = inside[0]
