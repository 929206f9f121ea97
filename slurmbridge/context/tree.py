"""Copying trees that somebody else can write to. Nothing is ever followed.

Every step is taken from an open directory (openat) with O_NOFOLLOW, so that a link put in place
while the copy runs leads nowhere.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20
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


class TooMuch(Exception):
    """A tree is larger than its bounds."""


class NotPlain(Exception):
    """Something on the way is a link or a special file."""


@contextmanager
def opened(folder: Path, path: str) -> Iterator[int]:
    """A descriptor of the file or folder `path` below `folder`.

    Raises:
        FileNotFoundError
        NotPlain: a part of the path is a link.
    """
    held = [os.open(folder, _READ | os.O_DIRECTORY)]
    try:
        for part in PurePosixPath(path).parts:
            try:
                held.append(os.open(part, _READ | os.O_NONBLOCK, dir_fd=held[-1]))
            except NotADirectoryError:
                raise FileNotFoundError(path) from None
            except OSError as error:
                if stat.S_ISLNK(os.lstat(part, dir_fd=held[-1]).st_mode):
                    raise NotPlain(f"{part} is a symbolic link") from error
                raise
        yield held[-1]
    finally:
        for descriptor in held:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Found:
    path: str
    size_bytes: int


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

    def names(self, folder: int) -> list[bytes]:
        """What a folder holds, in order. Raises TooMuch."""
        self._folders += 1
        if self._folders > self._limit + 1:
            raise TooMuch(f"more than {self._limit} folders, as many as files are allowed")
        # Files, folders and what is ignored, each up to the limit: more cannot be allowed.
        most = 3 * self._limit
        with os.scandir(folder) as entries:
            found = [os.fsencode(entry.name) for entry in islice(entries, most + 1)]
        if len(found) > most:
            raise TooMuch(f"more than the {self._limit} files that are allowed")
        return sorted(found)


def _survey(folder: int, prefix: str, found: _Survey) -> None:
    if prefix.count("/") >= DEPTH_LIMIT:
        found.add(Ignored(_printable(prefix), f"deeper than {DEPTH_LIMIT} folders"))
        return
    for raw in found.names(folder):
        name = os.fsdecode(raw)
        path = prefix + name
        if len(os.fsencode(path)) > PATH_BYTES_LIMIT:
            found.add(Ignored(_printable(path[:80]) + "...", "its path is too long"))
            continue
        status = os.lstat(name, dir_fd=folder)
        if why := _why_not(name, status):
            found.add(Ignored(_printable(path), why))
        elif stat.S_ISDIR(status.st_mode):
            try:
                with _below(folder, name) as inner:
                    _survey(inner, f"{path}/", found)
            except PermissionError:
                found.add(Ignored(_printable(path), "cannot be read"))
        else:
            found.add(_Found(path, status.st_size))


def _why_not(name: str, status: os.stat_result) -> str | None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if stat.S_ISDIR(status.st_mode):
        return None
    if not stat.S_ISREG(status.st_mode):
        return "not a plain file"
    return "has a second name (hard link)" if status.st_nlink != 1 else None


def _printable(path: str) -> str:
    """A name as it can be shown and stored: a terminal acts on control characters."""
    text = path.encode("utf-8", "backslashreplace").decode()
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


@contextmanager
def _below(folder: int, name: str) -> Iterator[int]:
    inner = os.open(name, _READ | os.O_DIRECTORY, dir_fd=folder)
    try:
        yield inner
    finally:
        os.close(inner)


def copy_tree(
    root: int, target: Path, bounds: Bounds, *, programs: bool = False
) -> tuple[list[Copied], list[Ignored]]:
    """Copy the plain files below an open folder to `target`, which is made.

    `programs`: whether what its owner may execute stays so.

    Raises:
        TooMuch: before the first byte when the sizes say so, or as soon as files have grown.
    """
    found = _Survey(bounds.files)
    _survey(root, "", found)
    files, ignored = found.files, found.ignored
    if (size := sum(file.size_bytes for file in files)) > bounds.bytes:
        raise TooMuch(f"{size} bytes, {bounds.bytes} are allowed")
    target.mkdir(mode=0o750)
    left = bounds.bytes
    copied = []
    for file in files:
        parts = PurePosixPath(file.path)
        (target / parts.parent).mkdir(mode=0o750, parents=True, exist_ok=True)
        try:
            done = _copy_below(root, parts, target / parts, left, programs=programs)
        except PermissionError:
            ignored.append(Ignored(_printable(file.path), "cannot be read"))
            continue
        left -= done.size_bytes
        copied.append(done)
    return copied, ignored


def _copy_below(
    root: int, path: PurePosixPath, target: Path, limit: int, *, programs: bool
) -> Copied:
    folder = os.dup(root)
    try:
        for part in path.parts[:-1]:
            inner = os.open(part, _READ | os.O_DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = inner
        descriptor = os.open(path.name, _READ | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        return copy_file(descriptor, target, limit, name=str(path), programs=programs)
    finally:
        os.close(descriptor)


def copy_file(
    source: int, target: Path, limit: int, *, name: str, programs: bool = False
) -> Copied:
    """Copy an open plain file to a new one, with its name and `programs` as in copy_tree.

    Raises:
        NotPlain: it is no plain file.
        TooMuch: it holds more than `limit` bytes.
    """
    mode = os.fstat(source).st_mode
    if not stat.S_ISREG(mode):
        raise NotPlain(f"{name} is not a plain file")
    whole = hashlib.sha256()
    size = 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    rights = 0o750 if programs and mode & stat.S_IXUSR else 0o640
    with os.fdopen(os.open(target, flags, rights), "wb") as out:
        while data := os.read(source, _CHUNK):
            size += len(data)
            if size > limit:
                raise TooMuch(f"{name} holds more than the {limit} bytes that are allowed")
            whole.update(data)
            out.write(data)
    return Copied(name, size, whole.hexdigest())
