"""Copying from a Data Store or a folder to a host's files: whole, and hashed on the way."""

import hashlib
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from slurmbridge.context.tree import (
    Bounds,
    Copied,
    Found,
    Ignored,
    Spot,
    TooMuch,
    Tree,
    printable,
    survey,
)
from slurmbridge.errors import StoreUnavailable
from slurmbridge.shell import Files, NotPlain

_CHUNK = 1 << 20
_FOLDER_MODE = 0o750
_LONGEST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How many files are copied at a time, and how often one that broke off is gone on with."""

    at_once: int = 1
    attempts: int = 5
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Reading:
    """Where inputs come from, and how they are copied."""

    tree: Tree
    pace: Pace = Pace()


class _Allowance:
    """The bytes that may still be written, by whatever thread."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._left = size
        self._lock = threading.Lock()

    def take(self, size: int, name: str) -> None:
        """So many of them are. Raises TooMuch."""
        with self._lock:
            self._left -= size
            if self._left < 0:
                raise TooMuch(f"{name} holds more than the {self.size} bytes that are allowed")


def copy_tree(
    source: Spot,
    sink: Files,
    target: Path,
    bounds: Bounds,
    *,
    programs: bool = False,
    pace: Pace = Pace(),
) -> tuple[list[Copied], list[Ignored]]:
    """Copy the plain files below a folder to the folder `target`, which is made if need be.

    `programs`: whether what its owner may execute stays so.

    Raises:
        TooMuch: before the first byte when the sizes say so, or as soon as files have grown.
        NotADirectoryError: it is no folder, or a link to one.
    """
    files, ignored = survey(source, bounds.files)
    if (size := sum(file.size_bytes for file in files)) > bounds.bytes:
        raise TooMuch(f"{size} bytes, {bounds.bytes} are allowed")
    folders = {(target / file.path).parent for file in files} | {target}
    for folder in sorted(folders):
        sink.make_folder(folder, mode=_FOLDER_MODE, parents=True)
    allowance = _Allowance(bounds.bytes)

    def copy(file: Found) -> Copied | Ignored:
        try:
            meant = file if programs else replace(file, executable=False)
            return _copy(source.below(file.path), sink, target / file.path, allowance, meant, pace)
        except (NotPlain, FileNotFoundError):
            return Ignored(printable(file.path), "changed while it was copied")
        except PermissionError:
            return Ignored(printable(file.path), "cannot be read")

    copied: list[Copied] = []
    for done in _each(copy, files, pace.at_once):
        if isinstance(done, Copied):
            copied.append(done)
        else:
            ignored.append(done)
    return copied, ignored


def _each(
    copy: Callable[[Found], Copied | Ignored], files: list[Found], at_once: int
) -> Iterator[Copied | Ignored]:
    """In order. After the first that fails, no other is begun."""
    if min(at_once, len(files)) <= 1:
        yield from map(copy, files)
        return
    with ThreadPoolExecutor(at_once, thread_name_prefix="copy") as pool:
        try:
            yield from pool.map(copy, files)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def copy_file(
    source: Spot, sink: Files, target: Path, limit: int, file: Found, pace: Pace = Pace()
) -> Copied:
    """Copy a plain file to a new one. `file` says what it is called in what is returned and raised,
    and whether the copy may be executed; its size does not count.

    Raises:
        NotPlain: it is no plain file.
        TooMuch: it holds more than `limit` bytes.
    """
    return _copy(source, sink, target, _Allowance(limit), file, pace)


def _copy(
    source: Spot, sink: Files, target: Path, allowance: _Allowance, file: Found, pace: Pace
) -> Copied:
    whole = hashlib.sha256()
    size = 0
    with closing(_chunks(source, file.version, pace)) as chunks:
        # Nothing is made for what cannot be read.
        first = next(chunks, b"")
        with sink.create(target, mode=0o750 if file.executable else 0o640) as out:
            for data in chain((first,), chunks):
                allowance.take(len(data), file.path)
                size += len(data)
                whole.update(data)
                out.write(data)
    return Copied(file.path, size, whole.hexdigest())


def _chunks(source: Spot, version: str | None, pace: Pace) -> Generator[bytes, None, None]:
    """What it holds. Where a store breaks off, it is gone on with from there, as long as the file
    is known to be the same.
    """
    offset = failures = 0
    while True:
        try:
            with source.tree.open(source.path, offset, version) as file:
                while data := file.read(_CHUNK):
                    offset += len(data)
                    failures = 0
                    yield data
            return
        except StoreUnavailable as error:
            failures += 1
            if failures >= pace.attempts or (offset and not version):
                raise
            pause = error.retry_after_seconds or 0.5 * 2**failures
            pace.sleep(min(pause, _LONGEST_PAUSE_SECONDS))
