"""What an HTTP status of a store means: pure."""

import errno
import os
from collections.abc import Mapping
from http import HTTPStatus

from slurmbridge.errors import (
    StoreFailed,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from slurmbridge.stores.paths import of

_PASSING = {408, 423, 425, 429, 500, 502, 503, 504}
_LONGEST_WAIT_SECONDS = 86_400.0


def in_words(status: int) -> str:
    """A status in words that are the standard's and not the server's."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def error_of(
    status: int, headers: Mapping[str, str], store: str, path: str, credential: str | None
) -> Exception:
    """The error for a status that is none of success. `credential`: the file it is read from;
    `headers` by their names in small letters."""
    said = f"{of(store, path)}: {in_words(status)}"
    whose = f"the credential in {credential}" if credential else "nobody without a credential"
    if status in {404, 410}:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{store}:{path}")
    if status in _PASSING:
        return StoreUnavailable(said, retry_after_seconds=retry_after(headers))
    match status:
        case 401:
            return StoreRefused(f"{said}: {whose} is not accepted")
        case 403:
            return StoreRefused(f"{said}: {whose} may not do this")
        case 507:
            return StoreFull(f"{said}: the store is full, or a quota is used up")
    led = ": it leads elsewhere, which is not followed" if 300 <= status < 400 else ""
    return StoreFailed(said + led)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """How long a server asks to be left alone; None where it does not say in seconds."""
    text = headers.get("retry-after", "")
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        return None
    return min(float(text), _LONGEST_WAIT_SECONDS)
