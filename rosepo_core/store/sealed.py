"""JSON documents that show whether they are as they were written, and by whom.

A document has two keys of its own. ``sum`` is the SHA-256 of everything else in it, so a changed, truncated or
replaced document is noticed. ``signed`` is an HMAC-SHA256 of this sum (RFC 2104) under a key that never leaves the
cache folder of its user. It tells the user's own work from that of others, which may come with any sum: what was
downloaded or unpacked belongs to the user, too, as far as the file system says.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rosepo_core.contracts.errors import RequestError
from rosepo_core.packages import cache_folder
from rosepo_core.store import files

KEY_FILE = "key"
"""The file in the cache folder with the user's key. Without it, the user's earlier runs count as those of others."""

_BYTES = 32
_SUM, _SIGNED = "sum", "signed"


def sealed(document: Mapping[str, Any], *, own: bool = True) -> str:
    """The text of a document, with its sum and, if a key can be kept, the user's signature.

    Args:
        document: the document.
        own: false if the document is made from something that others made: then it is not signed.
    """
    digest, key = _digest(document), _key() if own else None
    signature = "" if key is None else _signature(key, digest)
    return json.dumps({**document, _SUM: digest, _SIGNED: signature}, indent=1)


def read_sealed(path: Path, remedy: str) -> dict[str, Any] | None:
    """The document in a file; `None` if there is no such file.

    Args:
        path: the file.
        remedy: the end of the error's message: what to do.

    Raises:
        RequestError: the file is not as it was written.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror}): {remedy}") from None
    try:
        found = json.loads(content)
        if isinstance(found, dict) and found.get(_SUM) == _digest(found):
            return found
    except (ValueError, RecursionError):
        pass
    raise RequestError(f"{path} is damaged, or of another version of rosepo: {remedy}")


def is_own(document: Mapping[str, Any]) -> bool:
    """Whether a document that `read_sealed` read was written by this user."""
    key = _key()
    return key is not None and hmac.compare_digest(str(document.get(_SIGNED, "")), _signature(key, document[_SUM]))


def _digest(document: Mapping[str, Any]) -> str:
    content = {key: value for key, value in document.items() if key not in (_SUM, _SIGNED)}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _signature(key: bytes, digest: str) -> str:
    return hmac.new(key, digest.encode(), hashlib.sha256).hexdigest()


def _key() -> bytes | None:
    """The user's key, which is made when it is first needed; `None` if the cache folder cannot hold it."""
    path = cache_folder() / KEY_FILE
    with suppress(OSError):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.Staging(path.parent, KEY_FILE) as staged:
                handle = os.open(staged / KEY_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(handle, "wb") as file:
                    file.write(secrets.token_bytes(_BYTES))
                with suppress(FileExistsError):
                    # Another process may have been first.
                    os.link(staged / KEY_FILE, path)
        key = path.read_bytes()
        return key if len(key) == _BYTES else None
    return None
