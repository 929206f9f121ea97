"""Answers to PROPFIND (RFC 4918): pure. They come from somebody else, and may be made to harm."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import unquote_to_bytes, urlsplit
from xml.parsers import expat

from slurmbridge.shell import Kind
from slurmbridge.stores.store import StoreEntry

ASKED = (
    b'<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:"><prop><resourcetype/>'
    b"<getcontentlength/><getlastmodified/><getetag/></prop></propfind>"
)
_WANTED = {
    "DAV: href", "DAV: status", "DAV: getcontentlength", "DAV: getlastmodified", "DAV: getetag",
}  # fmt: skip
_TEXT_LIMIT = 64 * 1024
_DEPTH_LIMIT = 64
# A resource takes about 1 KiB.
_RESOURCE_LIMIT = 1024 * 1024


class Unreadable(Exception):
    """It is no answer to PROPFIND."""


@dataclass(frozen=True, slots=True)
class Found:
    """A resource: its path on the server, decoded and in parts, and what is known of it."""

    parts: tuple[str, ...]
    folder: bool
    size_bytes: int | None
    modified_at: float
    # The ETag without the mark that it is a weak one; "" where there is none.
    tag: str

    def entry(self) -> StoreEntry:
        """As all stores tell it.

        Raises:
            Unreadable: the size of a file is missing.
        """
        name = self.parts[-1] if self.parts else ""
        if self.folder:
            return StoreEntry(name, Kind.FOLDER, 0, 0o750, 1, self.modified_at)
        if self.size_bytes is None:
            raise Unreadable("the size of a file is missing")
        version = version_of(self.tag, self.size_bytes, self.modified_at)
        return StoreEntry(
            name, Kind.FILE, self.size_bytes, 0o640, 1, self.modified_at, version=version
        )


def version_of(tag: str, size_bytes: int, modified_at: float) -> str:
    """What changes when the content does."""
    return tag or f"{size_bytes}-{modified_at:.0f}"


def bare_tag(text: str) -> str:
    """An ETag without the mark that it is a weak one. Apache's is weak for a second."""
    return text.strip().removeprefix("W/")


def seconds_of(text: str) -> float:
    """A date of HTTP in seconds since 1970; 0 where it is none."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError, TypeError):
        return 0.0


def parts_of(href: str) -> tuple[str, ...]:
    """The path of an address, decoded after it was taken apart: what is encoded parts nothing.

    Raises:
        Unreadable
    """
    try:
        path = urlsplit(href.strip()).path
    except ValueError:
        raise Unreadable("an address is none") from None
    if not path.startswith("/"):
        raise Unreadable("an address is not absolute")
    # The end of a folder's address is a slash.
    raw = path.strip("/").split("/") if path.strip("/") else []
    return tuple(unquote_to_bytes(part).decode("utf-8", "surrogateescape") for part in raw)


def read(chunks: Iterable[bytes]) -> Iterator[Found]:
    """The resources of an answer, as they come.

    Raises:
        Unreadable: it is not well-formed, declares a document type, or is nested too deep.
    """
    reader = _Reader()
    ended = False
    for chunk in chunks:
        reader.feed(chunk)
        yield from reader.take()
        ended = not chunk
    if not ended:
        reader.feed(b"")
    yield from reader.take()


class _Reader:
    def __init__(self) -> None:
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.EntityDeclHandler = self._refuse
        self._parser.StartElementHandler = self._begin
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._depth = 0
        self._said: list[str] = []
        self._said_size = 0
        self._response: dict[str, str] = {}
        self._properties: dict[str, str] = {}
        self._found: list[Found] = []
        self._since_found = 0

    def feed(self, chunk: bytes) -> None:
        """More of the answer; b"" at its end."""
        self._since_found += len(chunk)
        if self._since_found > _RESOURCE_LIMIT:
            raise Unreadable("it is far too long for one resource")
        try:
            self._parser.Parse(chunk, not chunk)
        except expat.ExpatError as error:
            raise Unreadable(f"no well-formed XML: {expat.ErrorString(error.code)}") from None

    def take(self) -> list[Found]:
        """What was completed since."""
        found, self._found = self._found, []
        return found

    def _refuse(self, *_: object) -> None:
        raise Unreadable("it declares a document type, which such answers have not")

    def _begin(self, name: str, _: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1 and name != "DAV: multistatus":
            raise Unreadable("it is no multistatus")
        if self._depth > _DEPTH_LIMIT:
            raise Unreadable("it is nested too deep")
        self._said, self._said_size = [], 0
        if name == "DAV: response":
            self._response = {}
        elif name == "DAV: propstat":
            self._properties = {}
        elif name == "DAV: collection":
            self._properties[name] = ""

    def _text(self, text: str) -> None:
        self._said_size += len(text)
        if self._said_size > _TEXT_LIMIT:
            raise Unreadable("a text in it is too long")
        self._said.append(text)

    def _end(self, name: str) -> None:
        self._depth -= 1
        if name in _WANTED:
            self._properties[name] = "".join(self._said)
            if name == "DAV: href" and self._depth == 2:
                self._response[name] = self._properties[name]
        elif name == "DAV: propstat":
            if re.match(r"HTTP/\S+ 200\b", self._properties.get("DAV: status", "").strip()):
                self._response = {**self._properties, **self._response}
        elif name == "DAV: response":
            self._found.append(_found(self._response))
            self._since_found = 0
        self._said, self._said_size = [], 0


def _found(told: dict[str, str]) -> Found:
    if "DAV: href" not in told:
        raise Unreadable("an address is missing")
    size = told.get("DAV: getcontentlength", "").strip()
    if size and not (size.isascii() and size.isdigit() and len(size) < 20):
        raise Unreadable("a size is no number")
    return Found(
        parts_of(told["DAV: href"]),
        "DAV: collection" in told,
        int(size) if size else None,
        seconds_of(told.get("DAV: getlastmodified", "")),
        bare_tag(told.get("DAV: getetag", "")),
    )
