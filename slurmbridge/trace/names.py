r"""Names as text: whatever bytes a name has, it can be printed, and had back.

What is printable UTF-8 stands as it is, a backslash is doubled, and every other byte is `\xNN`.
A name that is too long ends with `\...LENGTH:DIGEST`, which no escape begins with: its length in
bytes and the first half of its SHA-256, so that two long names are never taken for one.
"""

import re
from functools import lru_cache
from hashlib import sha256

_EASY = re.compile(rb"[ !-\[\]-~]*").fullmatch
_ESCAPE = re.compile(r"\\(?:(\\)|x([0-9a-f]{2})|(.?))", re.DOTALL)
_CUT = "\\..."


def _sign(sign: str) -> str:
    if sign == "\\":
        return "\\\\"
    if sign.isprintable():
        return sign
    return "".join(f"\\x{byte:02x}" for byte in sign.encode("utf-8", "surrogateescape"))


@lru_cache(maxsize=2048)
def _escaped(name: bytes) -> str:
    if _EASY(name):
        return name.decode("ascii")
    return "".join(_sign(sign) for sign in name.decode("utf-8", "surrogateescape"))


def escaped(name: bytes, limit: int) -> str:
    """A name as text; of one that is longer than `limit` bytes, only the beginning."""
    if len(name) <= limit:
        return _escaped(name)
    return f"{_escaped(name[:limit])}{_CUT}{len(name)}:{sha256(name).hexdigest()[:32]}"


def is_whole(text: str) -> bool:
    """Whether nothing of a name was cut."""
    return all(found[1] or found[2] for found in _ESCAPE.finditer(text))


def original(text: str) -> bytes:
    """The bytes of a name.

    Raises:
        ValueError: it was cut, or `escaped` did not make it.
    """

    def byte(found: re.Match[str]) -> str:
        if found[1]:
            return "\\"
        if not found[2]:
            raise ValueError(f"{text!r} is not a whole name")
        value = int(found[2], 16)
        return chr(value) if value < 128 else chr(0xDC00 + value)

    return _ESCAPE.sub(byte, text).encode("utf-8", "surrogateescape")


def printable(text: str) -> str:
    """Text for a terminal, wherever it comes from; what `escaped` made stays as it is."""
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii")
        for sign in text
    )
