"""A folder as a store, on this host or another. Nothing in it is followed."""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import BinaryIO

from slurmbridge.errors import (
    FilesUnavailable,
    StoreChanged,
    StoreFailed,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from slurmbridge.shell import Entry, Files, Kind, LocalFiles, NotPlain
from slurmbridge.stores.paths import check_names, check_path, of, partial_name
from slurmbridge.stores.store import Source, StoreEntry, Target

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_MODE, _FOLDER_MODE = 0o640, 0o750
_AS_THEY_ARE = (FileNotFoundError, FileExistsError, NotADirectoryError)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What a file server that is away or has just come back says.
_PASSING = {
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.EAGAIN,
    errno.ECONNRESET,
}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


@contextmanager
def told(store: str, path: str) -> Iterator[None]:
    """What goes wrong inside comes out as a store says it."""
    try:
        yield
    except OSError as error:
        raise _in_words(error, store, path) from error
    except FilesUnavailable as error:
        raise StoreUnavailable(f"{of(store, path)}: {error}") from error


def _in_words(error: OSError, store: str, path: str) -> Exception:
    for kind in _AS_THEY_ARE:
        if isinstance(error, kind):
            return kind(error.errno, error.strerror, f"{store}:{path}")
    said = f"{of(store, path)}: {error.strerror}"
    if isinstance(error, PermissionError):
        return StoreRefused(f"{said}: the bridge's user has no right to it")
    if error.errno in _FULL:
        return StoreFull(said)
    return StoreUnavailable(said) if error.errno in _PASSING else StoreFailed(said)


class _Reading:
    def __init__(self, stream: BinaryIO, store: str, path: str) -> None:
        self._stream = stream
        self._of = store, path

    def read(self, size: int, /) -> bytes:
        with told(*self._of):
            return self._stream.read(size)


class _Writing:
    def __init__(self, stream: BinaryIO, store: str, path: str) -> None:
        self._stream = stream
        self._of = store, path
        self.written = 0

    def write(self, data: bytes, /) -> int:
        with told(*self._of):
            self._stream.write(data)
        self.written += len(data)
        return len(data)


class FilesStore:
    """A folder of some host's. What its kind of host can do apart from Files stands in methods
    that begin with `_on_host`.
    """

    def __init__(self, name: str, files: Files, root: Path) -> None:
        self._name = name
        self._files = files
        self._root = root

    @property
    def name(self) -> str:
        """See DataStore."""
        return self._name

    def look(self, path: str) -> StoreEntry:
        """See DataStore."""
        check_path(path, root=True)
        with told(self._name, path), self._place(path) as place:
            return _stored(self._files.look(place))

    def list(self, path: str, limit: int | None = None) -> Sequence[StoreEntry]:
        """See DataStore."""
        check_path(path, root=True)
        with told(self._name, path), self._place(path) as place:
            if self._files.look(place).kind is not Kind.FOLDER:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            found = [_stored(entry) for entry in self._files.list(place, limit=limit)]
        check_names(self._name, path, (entry.name for entry in found))
        return found

    @contextmanager
    def open(self, path: str, offset: int = 0, version: str | None = None) -> Iterator[Source]:
        """See DataStore."""
        before = self.look(check_path(path))
        if before.kind is not Kind.FILE:
            raise NotPlain(f"{self._name}:{path} is not a plain file")
        self._must_be(path, version or before.version, before)
        with ExitStack() as held:
            with told(self._name, path):
                stream = held.enter_context(self._on_host_open(path, offset))
            yield _Reading(stream, self._name, path)
        self._must_be(path, before.version, self.look(path))

    def _must_be(self, path: str, version: str, found: StoreEntry) -> None:
        if found.version != version:
            raise StoreChanged(f"{of(self._name, path)}: it changed while it was read")

    @contextmanager
    def create(self, path: str, size: int | None = None) -> Iterator[Target]:
        """See DataStore."""
        check_path(path)
        with ExitStack() as held, ExitStack() as written:
            with told(self._name, path):
                place = held.enter_context(self._place(path))
                self._must_be_free(place)
                partial = place.with_name(partial_name())
                stream = written.enter_context(self._files.create(partial, mode=_FILE_MODE))
            try:
                target = _Writing(stream, self._name, path)
                yield target
                if size not in {None, target.written}:
                    raise StoreFailed(
                        f"{of(self._name, path)}: {target.written} bytes came instead of {size}"
                    )
                with told(self._name, path):
                    written.close()
                    self._on_host_publish(partial, place)
            finally:
                with suppress(OSError, FilesUnavailable):
                    written.close()
                with suppress(OSError, FilesUnavailable):
                    self._files.remove_file(partial)

    def _must_be_free(self, place: Path) -> None:
        with suppress(FileNotFoundError):
            self._files.look(place)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def make_folder(self, path: str) -> None:
        """See DataStore."""
        parts = check_path(path, root=True).split("/") if path else []
        for end in range(len(parts)):
            with told(self._name, path), self._place("/".join(parts[: end + 1])) as place:
                try:
                    self._files.make_folder(place, mode=_FOLDER_MODE)
                except FileExistsError:
                    if self._files.look(place).kind is not Kind.FOLDER:
                        raise

    def remove(self, path: str) -> None:
        """See DataStore."""
        check_path(path)
        with told(self._name, path), self._place(path) as place:
            if self._files.look(place).kind is Kind.FOLDER:
                self._on_host_remove_folder(place)
            else:
                self._files.remove_file(place)

    def check(self) -> None:
        """See DataStore."""
        if self.look("").kind is not Kind.FOLDER:
            raise StoreFailed(f"store {self._name}: {self._root} is no folder")

    def close(self) -> None:
        """See DataStore."""
        self._files.close()

    @contextmanager
    def _place(self, path: str) -> Iterator[Path]:
        """Where a path leads, with no link among its folders."""
        place = self._root
        try:
            found = self._files.look(place)
        except FileNotFoundError as error:
            raise self._no_root() from error
        for part in path.split("/") if path else ():
            if found.kind is Kind.LINK:
                raise NotPlain(f"{place.name} is a symbolic link")
            if found.kind is not Kind.FOLDER:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            place /= part
            if place != self._root / path:
                found = self._files.look(place)
        yield place

    def _no_root(self) -> StoreFailed:
        return StoreFailed(f"store {self._name}: its folder {self._root} is missing")

    def _on_host_open(self, path: str, offset: int) -> AbstractContextManager[BinaryIO]:
        raise NotImplementedError

    def _on_host_publish(self, partial: Path, place: Path) -> None:
        """Give a file its name if nothing has it. Raises FileExistsError."""
        raise NotImplementedError

    def _on_host_remove_folder(self, place: Path) -> None:
        """Remove an empty folder."""
        raise NotImplementedError


class FolderStore(FilesStore):
    """A folder of this host. A link that is put in place meanwhile leads nowhere: of a path, every
    folder is held open before the next one is looked for.
    """

    def __init__(self, name: str, root: Path) -> None:
        super().__init__(name, LocalFiles(), root)

    @contextmanager
    def _place(self, path: str) -> Iterator[Path]:
        if not path:
            if not os.path.lexists(self._root):
                raise self._no_root()
            yield self._root
            return
        *folders, leaf = path.split("/")
        with ExitStack() as held:
            try:
                folder = os.open(self._root, _FOLDER)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise self._no_root() from error
            held.callback(os.close, folder)
            for part in folders:
                folder = _step(folder, part)
                held.callback(os.close, folder)
            yield Path(f"/proc/self/fd/{folder}", leaf)

    @contextmanager
    def _on_host_open(self, path: str, offset: int) -> Iterator[BinaryIO]:
        with self._files.open(self._root, path) as file:
            file.seek(offset)
            yield file

    def _on_host_publish(self, partial: Path, place: Path) -> None:
        try:
            os.link(partial, place, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # Without hard links, the name is taken first: a crash just then leaves an empty file.
            place.touch(mode=_FILE_MODE, exist_ok=False)
            partial.rename(place)

    def _on_host_remove_folder(self, place: Path) -> None:
        place.rmdir()


def _step(folder: int, part: str) -> int:
    try:
        return os.open(part, _FOLDER, dir_fd=folder)
    except NotADirectoryError as error:
        if stat.S_ISLNK(os.lstat(part, dir_fd=folder).st_mode):
            raise NotPlain(f"{part} is a symbolic link") from error
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error


def _stored(entry: Entry) -> StoreEntry:
    known = {field.name: getattr(entry, field.name) for field in fields(Entry)}
    version = f"{entry.size_bytes}-{entry.modified_at!r}" if entry.kind is Kind.FILE else ""
    return StoreEntry(**known, version=version)
