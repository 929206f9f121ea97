"""What it is to be a Data Store: as much as staging and carrying need.

Paths are relative to the store, with `/` between their parts; "" is the store itself.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from slurmbridge.shell import Entry


@dataclass(frozen=True, slots=True)
class StoreEntry(Entry):
    """A name in a store. Where the store knows no rights, they are 0640 and 0750."""

    # Changes when the content does, as far as the store tells; "" for folders of some stores.
    version: str = ""


class Source(Protocol):
    """A file that is read from front to back."""

    def read(self, size: int, /) -> bytes:
        """Up to so many bytes; none at the end, which is there only when all came.

        Raises:
            StoreUnavailable: it broke off, or nothing came in time.
        """
        ...


class Target(Protocol):
    """A file that is written from front to back."""

    def write(self, data: bytes, /) -> int:
        """Write all of it.

        Raises:
            StoreFailed
        """
        ...


class DataStore(Protocol):
    """A Data Store, for any number of threads.

    Raises (all methods):
        StoreFailed: with `transient` set where a later attempt may do better.
        StoreForbids: the path cannot be one, or the store is not there for this.
        FileNotFoundError, FileExistsError, NotADirectoryError: with `store:path`.
        NotPlain: a part of the path is a link or a special file.
    """

    @property
    def name(self) -> str:
        """As the configuration has it."""
        ...

    def look(self, path: str) -> StoreEntry:
        """What a name stands for."""
        ...

    def list(self, path: str, limit: int | None = None) -> Sequence[StoreEntry]:
        """What a folder holds, sorted by name; no more than `limit` + 1 entries are read.

        Names hold no `/` and are not `.` or `..`, and each is there once. Some may not be usable
        in a path all the same: see `why_unusable`.
        """
        ...

    def open(
        self, path: str, offset: int = 0, version: str | None = None
    ) -> AbstractContextManager[Source]:
        """A plain file, from a byte offset on. With `version`, only as long as it is that one.

        Raises:
            StoreChanged: it is not that version, or became another while it was read.
        """
        ...

    def create(self, path: str, size: int | None = None) -> AbstractContextManager[Target]:
        """A new file in a folder that is there. It appears whole when the block ends without an
        exception, or not at all. With `size`, the number of bytes that will be written.

        Raises:
            FileExistsError: at the latest when the block ends; what is there is left as it is.
        """
        ...

    def make_folder(self, path: str) -> None:
        """See to it that a folder is there, and what is above it.

        Raises:
            FileExistsError: there is a file of that name.
        """
        ...

    def remove(self, path: str) -> None:
        """Remove a file or an empty folder: what a broken carrying left."""
        ...

    def check(self) -> None:
        """Whether it answers and lets us in."""
        ...

    def close(self) -> None:
        """Let go of whatever is held."""
        ...
