"""What it is to work with files on a host. What a path names is never followed when it is a link;
the folders above it may be links, as administrators make them, except below a `root`.

All paths are absolute, as in `shutil` and `os`; names that are no UTF-8 come with surrogate
escapes. What is wrong with a file is an OSError with its errno (FileNotFoundError, ...), as if it
were on this host; a host that cannot be reached is FilesUnavailable.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Protocol


class Kind(StrEnum):
    """What a name stands for."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a folder, and what it stands for."""

    name: str
    kind: Kind
    size_bytes: int
    # The permission bits alone.
    mode: int
    # How many names the file has; 1 where the way to the host does not tell.
    names: int
    # Seconds since 1970, by the clock of the file's host.
    modified_at: float

    @property
    def executable(self) -> bool:
        """Whether its owner may execute it."""
        return bool(self.mode & 0o100)


class NotPlain(Exception):
    """Something on the way is a link or a special file."""


class Files(Protocol):
    """Files on one host.

    Raises (all methods):
        FilesUnavailable: whether anything was done is not known.
        OSError: with the errno of what went wrong on the host.
    """

    def make_folder(self, path: Path, *, mode: int, parents: bool = False) -> None:
        """Make a folder with exactly these rights. With `parents`, one that is there is fine, and
        what is missing above it is made with the same rights.

        Raises:
            FileExistsError
        """
        ...

    def look(self, path: Path) -> Entry:
        """What a name stands for: a link is a link. Raises FileNotFoundError."""
        ...

    def list(self, path: Path, *, limit: int | None = None) -> Sequence[Entry]:
        """What a folder holds, sorted by name; no more than `limit` + 1 entries are read.

        Raises:
            NotADirectoryError: it is no folder, or a link to one.
        """
        ...

    def read(self, path: Path, *, limit: int, offset: int = 0) -> bytes:
        """Up to `limit` bytes of a plain file, from a byte offset on.

        Raises:
            NotPlain: it is no plain file.
        """
        ...

    def read_link(self, path: Path) -> str:
        """Where a link leads."""
        ...

    def write(self, path: Path, content: bytes, *, mode: int = 0o640) -> None:
        """Make a file that is there whole or not at all; it replaces an earlier one."""
        ...

    def open(self, root: Path, path: str) -> AbstractContextManager[BinaryIO]:
        """A plain file below `root`, for reading. Of `path`, no part is followed.

        Raises:
            NotPlain: a part of the path is a link, or it is no plain file.
        """
        ...

    def create(self, path: Path, *, mode: int) -> AbstractContextManager[BinaryIO]:
        """A new file with exactly these rights, for writing. All has been written when the block
        ends; what is wrong is raised then at the latest.

        Raises:
            FileExistsError
        """
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Give another name. What had the new name before is replaced, if it is a file."""
        ...

    def hard_link(self, old: Path, new: Path) -> None:
        """Give a plain file another name beside the one that it has.

        Raises:
            FileExistsError
            OSError: also where the host or its file system knows no second names, or allows a file
                no more of them.
        """
        ...

    def set_mode(self, path: Path, mode: int) -> None:
        """Set the rights of a file or folder."""
        ...

    def remove_file(self, path: Path) -> None:
        """Remove a file or a link. Raises FileNotFoundError."""
        ...

    def remove_tree(self, path: Path) -> None:
        """Remove a folder with all that is in it, whatever its rights, depth and size.

        Raises:
            FileNotFoundError
        """
        ...

    def close(self) -> None:
        """Let go of whatever is held."""
        ...
