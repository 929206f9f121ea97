"""Where files are copied to: a folder of a host, or of a Data Store."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from slurmbridge.shell import Files, Kind
from slurmbridge.stores.store import DataStore

_FOLDER_MODE = 0o750


class Writer(Protocol):
    """A file that is being written."""

    def write(self, data: bytes, /) -> int:
        """Write all of it."""
        ...


class Sink(Protocol):
    """A folder to which files are added. Paths are relative to it, "" being the folder itself."""

    @property
    def may_break_off(self) -> bool:
        """Whether what failed may be tried again at once, from the file's beginning."""
        ...

    def make_folder(self, path: str) -> None:
        """See to it that a folder is there, and what is above it."""
        ...

    def create(
        self, path: str, *, executable: bool = False, size: int | None = None
    ) -> AbstractContextManager[Writer]:
        """A new file; `size` is how many bytes will be written, where that is known.

        Raises:
            FileExistsError
        """
        ...

    def size_of(self, path: str) -> int | None:
        """How large a file is; None when there is none."""
        ...


@dataclass(frozen=True, slots=True)
class HostSink:
    """A folder of a host."""

    files: Files
    root: Path

    @property
    def may_break_off(self) -> bool:
        """See Sink."""
        return False

    def make_folder(self, path: str) -> None:
        """See Sink."""
        self.files.make_folder(self._at(path), mode=_FOLDER_MODE, parents=True)

    @contextmanager
    def create(
        self, path: str, *, executable: bool = False, size: int | None = None
    ) -> Iterator[Writer]:
        """See Sink."""
        with self.files.create(self._at(path), mode=0o750 if executable else 0o640) as file:
            yield file

    def size_of(self, path: str) -> int | None:
        """See Sink."""
        try:
            found = self.files.look(self._at(path))
        except FileNotFoundError:
            return None
        return found.size_bytes if found.kind is Kind.FILE else None

    def _at(self, path: str) -> Path:
        return self.root / path if path else self.root


@dataclass(frozen=True, slots=True)
class StoreSink:
    """A folder of a Data Store."""

    store: DataStore
    root: str

    @property
    def may_break_off(self) -> bool:
        """See Sink."""
        return True

    def make_folder(self, path: str) -> None:
        """See Sink."""
        self.store.make_folder(self._at(path))

    @contextmanager
    def create(
        self, path: str, *, executable: bool = False, size: int | None = None
    ) -> Iterator[Writer]:
        """See Sink."""
        with self.store.create(self._at(path), size) as file:
            yield file

    def size_of(self, path: str) -> int | None:
        """See Sink."""
        try:
            found = self.store.look(self._at(path))
        except FileNotFoundError:
            return None
        return found.size_bytes if found.kind is Kind.FILE else None

    def _at(self, path: str) -> str:
        return "/".join(filter(None, (self.root, path)))
