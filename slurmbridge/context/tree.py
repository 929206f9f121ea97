"""Copying trees that somebody else can write to, to a host's files.

Nothing is ever followed. A link that is put in place while a tree is copied may change which names
are found, and never what is read: `Files.open` follows no part of a path.
"""

import errno
import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from slurmbridge.shell import Entry, Files, Kind, NotPlain

DEPTH_LIMIT = 64
# Half of Linux's PATH_MAX: the same path has to fit below another folder.
PATH_BYTES_LIMIT = 2048
# On average over as many files as are allowed: outputs are named in the database and by the API.
MEAN_PATH_LIMIT = 512


@dataclass(frozen=True, slots=True)
class Copied:
    """A file that was copied."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """Something that was not copied, and why."""

    path: str
    why: str

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may be copied."""

    bytes: int
    files: int


class Source(Protocol):
    """A file that is read from front to back."""

    def read(self, size: int, /) -> bytes:
        """Up to so many bytes; none at the end."""
        ...


class Tree(Protocol):
    """Files and folders by their path below one place, of which no part is followed. A Data Store
    is one.

    Raises (all methods):
        FileNotFoundError
        NotPlain: a part of the path is a link.
    """

    def look(self, path: str) -> Entry:
        """What a name stands for."""
        ...

    def list(self, path: str, limit: int | None = None) -> Sequence[Entry]:
        """What a folder holds, sorted by name; no more than `limit` + 1 entries are read."""
        ...

    def open(
        self, path: str, offset: int = 0, version: str | None = None
    ) -> AbstractContextManager[Source]:
        """A plain file, from a byte offset on; with `version`, only as long as it is that one."""
        ...


@dataclass(frozen=True, slots=True)
class Below:
    """What lies below a folder of a host."""

    files: Files
    root: Path

    def look(self, path: str) -> Entry:
        """See Tree."""
        found = self.files.look(self.root)
        place = self.root
        for part in PurePosixPath(path).parts:
            if found.kind is not Kind.FOLDER:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place))
            place /= part
            found = self.files.look(place)
            if found.kind is Kind.LINK:
                raise NotPlain(f"{part} is a symbolic link")
        return found

    def list(self, path: str, limit: int | None = None) -> Sequence[Entry]:
        """See Tree."""
        return self.files.list(self.root / path, limit=limit)

    def open(
        self, path: str, offset: int = 0, version: str | None = None
    ) -> AbstractContextManager[Source]:
        """See Tree. A file of a host is read from its beginning, and has no version."""
        assert offset == 0
        assert version is None
        return self.files.open(self.root, path)


@dataclass(frozen=True, slots=True)
class Spot:
    """A file or folder of a tree."""

    tree: Tree
    path: str

    def below(self, path: str) -> "Spot":
        """What lies in this folder."""
        return Spot(self.tree, f"{self.path}/{path}" if self.path else path)

    def look(self) -> Entry:
        """What it is. Raises FileNotFoundError, NotPlain."""
        return self.tree.look(self.path)


class TooMuch(Exception):
    """A tree is larger than its bounds."""


@dataclass(frozen=True, slots=True)
class Found:
    """A plain file that was seen below a folder."""

    path: str
    # None: not known.
    size_bytes: int | None
    executable: bool
    # None: its tree knows no versions.
    version: str | None
    # Seconds since 1970, by the clock of its host. None: not known.
    modified_at: float | None = None


def plain(name: str) -> Found:
    """A file that is known by its name alone."""
    return Found(name, None, False, None)


def seen(entry: Entry, path: str) -> Found:
    """A plain file that was looked at, by its path."""
    modified_at = entry.modified_at or None
    return Found(path, entry.size_bytes, entry.executable, version_of(entry), modified_at)


class _Survey:
    """What lies below a folder: plain files, and what is not one. Neither without bounds."""

    def __init__(self, limit: int) -> None:
        self.files: list[Found] = []
        self.ignored: list[Ignored] = []
        self._limit = limit
        self._folders = 0
        self._names = 0

    def add(self, entry: Found | Ignored) -> None:
        """Note an entry. Raises TooMuch."""
        if isinstance(entry, Ignored):
            self.ignored.append(entry)
        else:
            self.files.append(entry)
        if max(len(self.files), len(self.ignored)) > self._limit:
            raise TooMuch(f"more than the {self._limit} files that are allowed")
        # As it is written in JSON, where a control character takes six letters.
        self._names += len(json.dumps(entry.path))
        if self._names > (most := self._limit * MEAN_PATH_LIMIT):
            raise TooMuch(f"paths of more than the {most} letters that are allowed together")

    def entries(self, folder: Spot) -> Sequence[Entry]:
        """What a folder holds, in order. Raises TooMuch."""
        self._folders += 1
        if self._folders > self._limit + 1:
            raise TooMuch(f"more than {self._limit} folders, as many as files are allowed")
        # Files, folders and what is ignored, each up to the limit: more cannot be allowed.
        most = 3 * self._limit
        found = folder.tree.list(folder.path, limit=most)
        if len(found) > most:
            raise TooMuch(f"more than the {self._limit} files that are allowed")
        return found


def survey(folder: Spot, limit: int) -> tuple[list[Found], list[Ignored]]:
    """The plain files below a folder, and what is none; at most `limit` of each.

    Raises:
        TooMuch
        NotADirectoryError: it is no folder, or a link to one.
    """
    found = _Survey(limit)
    _survey(folder, "", found)
    return found.files, found.ignored


def version_of(entry: Entry) -> str | None:
    """What changes when the file does, where its tree tells."""
    version: str | None = getattr(entry, "version", None)
    return version or None


def _survey(folder: Spot, prefix: str, found: _Survey) -> None:
    if prefix.count("/") >= DEPTH_LIMIT:
        found.add(Ignored(printable(prefix), f"deeper than {DEPTH_LIMIT} folders"))
        return
    for entry in found.entries(folder):
        path = prefix + entry.name
        if len(path.encode(errors="surrogateescape")) > PATH_BYTES_LIMIT:
            found.add(Ignored(printable(path[:80]) + "...", "its path is too long"))
        elif why := _why_not(entry):
            found.add(Ignored(printable(path), why))
        elif entry.kind is Kind.FOLDER:
            try:
                _survey(folder.below(entry.name), f"{path}/", found)
            except (PermissionError, NotADirectoryError, FileNotFoundError):
                found.add(Ignored(printable(path), "cannot be read"))
        else:
            found.add(seen(entry, path))


def _why_not(entry: Entry) -> str | None:
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if entry.kind is Kind.FOLDER:
        return None
    if entry.kind is not Kind.FILE:
        return "not a plain file"
    return "has a second name (hard link)" if entry.names != 1 else None


def printable(path: str) -> str:
    """A name as it can be shown and stored: a terminal acts on control characters."""
    text = path.encode("utf-8", "backslashreplace").decode()
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
