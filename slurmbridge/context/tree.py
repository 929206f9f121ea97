"""Copying trees that somebody else can write to, from one host's files to another's.

Nothing is ever followed. A link that is put in place while a tree is copied may change which names
are found, and never what is read: `Files.open` follows no part of a path.
"""

import errno
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from slurmbridge.shell import Entry, Files, Kind, NotPlain

_CHUNK = 1 << 20
DEPTH_LIMIT = 64
# Half of Linux's PATH_MAX: the same path has to fit below another folder.
PATH_BYTES_LIMIT = 2048
# On average over as many files as are allowed: outputs are named in the database and by the API.
MEAN_PATH_LIMIT = 512
_FOLDER_MODE = 0o750


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


@dataclass(frozen=True, slots=True)
class Spot:
    """A file or folder: `path` below `root`, of which no part is followed."""

    files: Files
    root: Path
    path: str

    def below(self, path: str) -> "Spot":
        """What lies in this folder."""
        return Spot(self.files, self.root, f"{self.path}/{path}" if self.path else path)

    @property
    def full(self) -> Path:
        """Its whole path."""
        return self.root / self.path

    def look(self) -> Entry:
        """What it is.

        Raises:
            FileNotFoundError
            NotPlain: a part of the path is a link.
        """
        found = self.files.look(self.root)
        place = self.root
        for part in PurePosixPath(self.path).parts:
            if found.kind is not Kind.FOLDER:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place))
            place /= part
            found = self.files.look(place)
            if found.kind is Kind.LINK:
                raise NotPlain(f"{part} is a symbolic link")
        return found


class TooMuch(Exception):
    """A tree is larger than its bounds."""


@dataclass(frozen=True, slots=True)
class _Found:
    path: str
    size_bytes: int
    executable: bool


class _Survey:
    """What lies below a folder: plain files, and what is not one. Neither without bounds."""

    def __init__(self, limit: int) -> None:
        self.files: list[_Found] = []
        self.ignored: list[Ignored] = []
        self._limit = limit
        self._folders = 0
        self._names = 0

    def add(self, entry: _Found | Ignored) -> None:
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
        found = folder.files.list(folder.full, limit=most)
        if len(found) > most:
            raise TooMuch(f"more than the {self._limit} files that are allowed")
        return found


def _survey(folder: Spot, prefix: str, found: _Survey) -> None:
    if prefix.count("/") >= DEPTH_LIMIT:
        found.add(Ignored(_printable(prefix), f"deeper than {DEPTH_LIMIT} folders"))
        return
    for entry in found.entries(folder):
        path = prefix + entry.name
        if len(path.encode(errors="surrogateescape")) > PATH_BYTES_LIMIT:
            found.add(Ignored(_printable(path[:80]) + "...", "its path is too long"))
        elif why := _why_not(entry):
            found.add(Ignored(_printable(path), why))
        elif entry.kind is Kind.FOLDER:
            try:
                _survey(folder.below(entry.name), f"{path}/", found)
            except (PermissionError, NotADirectoryError, FileNotFoundError):
                found.add(Ignored(_printable(path), "cannot be read"))
        else:
            found.add(_Found(path, entry.size_bytes, entry.executable))


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


def _printable(path: str) -> str:
    """A name as it can be shown and stored: a terminal acts on control characters."""
    text = path.encode("utf-8", "backslashreplace").decode()
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def copy_tree(
    source: Spot, sink: Files, target: Path, bounds: Bounds, *, programs: bool = False
) -> tuple[list[Copied], list[Ignored]]:
    """Copy the plain files below a folder to the folder `target`, which is made if need be.

    `programs`: whether what its owner may execute stays so.

    Raises:
        TooMuch: before the first byte when the sizes say so, or as soon as files have grown.
        NotADirectoryError: it is no folder, or a link to one.
    """
    found = _Survey(bounds.files)
    _survey(source, "", found)
    files, ignored = found.files, found.ignored
    if (size := sum(file.size_bytes for file in files)) > bounds.bytes:
        raise TooMuch(f"{size} bytes, {bounds.bytes} are allowed")
    sink.make_folder(target, mode=_FOLDER_MODE, parents=True)
    made = {target}
    left = bounds.bytes
    copied = []
    for file in files:
        into = target / file.path
        if into.parent not in made:
            sink.make_folder(into.parent, mode=_FOLDER_MODE, parents=True)
            made.add(into.parent)
        try:
            done = copy_file(
                source.below(file.path), sink, into, left,
                name=file.path, executable=programs and file.executable,
            )  # fmt: skip
        except (NotPlain, FileNotFoundError):
            ignored.append(Ignored(_printable(file.path), "changed while it was copied"))
            continue
        except PermissionError:
            ignored.append(Ignored(_printable(file.path), "cannot be read"))
            continue
        left -= done.size_bytes
        copied.append(done)
    return copied, ignored


def copy_file(
    source: Spot, sink: Files, target: Path, limit: int, *, name: str, executable: bool = False
) -> Copied:
    """Copy a plain file to a new one; `name` is what it is called in what is returned and raised.

    Raises:
        NotPlain: it is no plain file.
        TooMuch: it holds more than `limit` bytes.
    """
    whole = hashlib.sha256()
    size = 0
    with (
        source.files.open(source.root, source.path) as file,
        sink.create(target, mode=0o750 if executable else 0o640) as out,
    ):
        while data := file.read(_CHUNK):
            size += len(data)
            if size > limit:
                raise TooMuch(f"{name} holds more than the {limit} bytes that are allowed")
            whole.update(data)
            out.write(data)
    return Copied(name, size, whole.hexdigest())
