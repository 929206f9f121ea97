"""Copying from a Data Store or a folder to a host's files: whole, and hashed on the way."""

import hashlib
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Protocol, TypeVar

from slurmbridge.context.sinks import HostSink, Sink
from slurmbridge.context.tree import (
    Bounds,
    Copied,
    Found,
    Ignored,
    Spot,
    TooMuch,
    Tree,
    plain,
    printable,
    survey,
)
from slurmbridge.errors import StoreForbids, StoreUnavailable
from slurmbridge.shell import Files, NotPlain

_CHUNK = 1 << 20
_LONGEST_PAUSE_SECONDS = 30.0


class Watching(Protocol):
    """Somebody who looks on while files are moved. What it raises ends that."""

    def expect(self, files: int, size: int) -> None:
        """So many files, of so many bytes, will be moved."""
        ...

    def moved(self, size: int, files: int = 0) -> None:
        """So many bytes were, and with them so many files are whole."""
        ...


class _Nobody:
    def expect(self, files: int, size: int) -> None: ...

    def moved(self, size: int, files: int = 0) -> None: ...


NOBODY: Watching = _Nobody()


@dataclass(frozen=True, slots=True)
class Pace:
    """How many files are copied at a time, and how often one that broke off is gone on with."""

    at_once: int = 1
    attempts: int = 5
    sleep: Callable[[float], None] = time.sleep
    watch: Watching = NOBODY

    def pause(self, failures: int, error: StoreUnavailable) -> None:
        """Wait before the next try, for as long as the store has asked for."""
        seconds = error.retry_after_seconds or 0.5 * 2**failures
        self.sleep(min(seconds, _LONGEST_PAUSE_SECONDS))


@dataclass(frozen=True, slots=True)
class Reading:
    """Where inputs come from, and how they are copied."""

    tree: Tree
    pace: Pace = Pace()


# As many as of a store that says nothing else. One after the other, a distant host would be
# waited for four times for each file.
IN_FOLDERS = 4

T = TypeVar("T")


def patiently(action: Callable[[], T], pace: Pace) -> T:
    """Do something that can be done again where a store breaks off."""
    failures = 0
    while True:
        try:
            return action()
        except StoreUnavailable as error:
            failures += 1
            if failures >= pace.attempts:
                raise
            pace.pause(failures, error)


class Allowance:
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

    def give(self, size: int) -> None:
        """So many of them were not, in the end."""
        with self._lock:
            self._left += size


class Copying(Protocol):
    """How one plain file gets from a tree to a sink, under the name that it has there."""

    def __call__(
        self, source: Spot, sink: Sink, name: str, allowance: Allowance, file: Found, pace: Pace, /
    ) -> Copied:
        """Raises NotPlain, TooMuch, and what store and sink raise."""
        ...


def copy_one(
    source: Spot, sink: Sink, name: str, allowance: Allowance, file: Found, pace: Pace, /
) -> Copied:
    """Copy, again from the beginning where the sink breaks off."""
    failures = 0
    before: _Done | None = None
    while True:
        done = _Done()
        try:
            return _copy(source, sink, name, allowance, file, pace, done)
        except FileExistsError:
            # Of the try before, whose answer was lost; nobody else writes here.
            if before and sink.size_of(name) == before.size_bytes:
                return Copied(file.path, before.size_bytes, before.sha256)
            raise
        except StoreUnavailable as error:
            failures += 1
            if not sink.may_break_off or failures >= pace.attempts:
                raise
            allowance.give(done.size_bytes)
            pace.pause(failures, error)
            before = done


def copy_tree(
    source: Spot,
    sink: Files,
    target: Path,
    bounds: Bounds,
    *,
    programs: bool = False,
    pace: Pace = Pace(),
    copying: Copying = copy_one,
) -> tuple[list[Copied], list[Ignored]]:
    """`carry_tree` to the folder `target` of a host, which is made if need be."""
    place = HostSink(sink, target)
    return carry_tree(source, place, bounds, programs=programs, pace=pace, copying=copying)


def carry_tree(
    source: Spot,
    sink: Sink,
    bounds: Bounds,
    *,
    programs: bool = False,
    pace: Pace = Pace(),
    wanted: Callable[[str], str | None] = lambda _path: None,
    copying: Copying = copy_one,
) -> tuple[list[Copied], list[Ignored]]:
    """Copy the plain files below a folder.

    `programs`: whether what its owner may execute stays so. `wanted` says of a path why it is not
    copied; None: it is.

    Raises:
        TooMuch: before the first byte when the sizes say so, or as soon as files have grown.
        NotADirectoryError: it is no folder, or a link to one.
    """
    files, ignored = survey(source, bounds.files)
    refused = {file.path: why for file in files if (why := wanted(file.path))}
    ignored += [Ignored(printable(path), why) for path, why in refused.items()]
    files = [file for file in files if file.path not in refused]
    if (size := sum(file.size_bytes or 0 for file in files)) > bounds.bytes:
        raise TooMuch(f"{size} bytes, {bounds.bytes} are allowed")
    pace.watch.expect(len(files), size)
    for folder in sorted({file.path.rpartition("/")[0] for file in files} | {""}):
        try:
            sink.make_folder(folder)
        except StoreForbids as error:
            left = [file for file in files if file.path.startswith(f"{folder}/")]
            ignored += [Ignored(printable(file.path), str(error)) for file in left]
            files = [file for file in files if file not in left]
    allowance = Allowance(bounds.bytes)

    def copy(file: Found) -> Copied | Ignored:
        try:
            meant = file if programs else replace(file, executable=False)
            return copying(source.below(file.path), sink, file.path, allowance, meant, pace)
        except (NotPlain, FileNotFoundError):
            return Ignored(printable(file.path), "changed while it was copied")
        except PermissionError:
            return Ignored(printable(file.path), "cannot be read")
        except StoreForbids as error:
            return Ignored(printable(file.path), str(error))

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
    source: Spot,
    sink: Files,
    target: Path,
    limit: int,
    file: Found,
    pace: Pace = Pace(),
    copying: Copying = copy_one,
) -> Copied:
    """Copy a plain file to a new one. `file` says what it is called in what is returned and raised,
    and whether the copy may be executed; its size does not count.

    Raises:
        NotPlain: it is no plain file.
        TooMuch: it holds more than `limit` bytes.
    """
    place = HostSink(sink, target.parent)
    return copying(source, place, target.name, Allowance(limit), file, pace)


def carry_file(source: Spot, sink: Sink, name: str, limit: int, pace: Pace = Pace()) -> Copied:
    """Copy a plain file, of which the size is not known, to a new one of this name.

    Raises:
        NotPlain, TooMuch: as `copy_file`.
    """
    return copy_one(source, sink, name, Allowance(limit), plain(name), pace)


class _Done:
    """How much of a file has been read. From its second piece on, each is hashed by a thread of
    its own while it is written and the next one comes: hashing takes longer than either.
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self._whole = hashlib.sha256()
        self._beside: ThreadPoolExecutor | None = None
        self._hashing: Future[None] | None = None

    @property
    def sha256(self) -> str:
        return self._whole.hexdigest()

    def add(self, data: bytes) -> None:
        if not self.size_bytes:
            self._whole.update(data)
        else:
            # One at a time, and in order; no more than two pieces are held.
            self._wait()
            self._beside = self._beside or ThreadPoolExecutor(1, thread_name_prefix="hash")
            self._hashing = self._beside.submit(self._whole.update, data)
        self.size_bytes += len(data)

    @contextmanager
    def hashing(self) -> Iterator[None]:
        """While the block lasts there may be a thread."""
        try:
            yield
            self._wait()
        finally:
            if self._beside:
                self._beside.shutdown()

    def _wait(self) -> None:
        if self._hashing:
            self._hashing.result()
            self._hashing = None


def _copy(
    source: Spot,
    sink: Sink,
    name: str,
    allowance: Allowance,
    file: Found,
    pace: Pace,
    done: _Done,
) -> Copied:
    with closing(_chunks(source, file.version, pace)) as chunks, done.hashing():
        # Nothing is made for what cannot be read.
        first = next(chunks, b"")
        pace.watch.moved(0)
        with sink.create(name, executable=file.executable, size=file.size_bytes) as out:
            for data in chain((first,), chunks):
                allowance.take(len(data), file.path)
                done.add(data)
                pace.watch.moved(len(data))
                out.write(data)
    pace.watch.moved(0, files=1)
    return Copied(file.path, done.size_bytes, done.sha256)


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
            pace.pause(failures, error)
