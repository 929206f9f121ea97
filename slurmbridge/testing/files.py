"""Files of a host that is not there: in memory, held to the contract that the real ones keep.

There is one user, who may do everything: rights are kept and told, and forbid nothing.
"""

import errno
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from slurmbridge.shell import Entry, Kind, NotPlain

_LINKS_FOLLOWED = 40


class Node:
    """A file, a folder, a link, or something else."""

    __slots__ = ("below", "content", "kind", "mode", "modified_at", "names", "target")

    def __init__(self, kind: Kind, mode: int, modified_at: float) -> None:
        self.kind = kind
        self.mode = mode
        self.modified_at = modified_at
        self.names = 1
        self.below: dict[str, Node] = {}
        self.content = bytearray()
        self.target = ""

    @property
    def size_bytes(self) -> int:
        """As a file system tells it."""
        return len(self.target) if self.kind is Kind.LINK else len(self.content)


class MemoryFiles:
    """Implements Files. `clock` gives the seconds since 1970 of the host's own clock."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.root = Node(Kind.FOLDER, 0o755, clock())
        self._clock = clock
        self._partials = 0

    # --- the seam ---

    def make_folder(self, path: Path, *, mode: int, parents: bool = False) -> None:
        """See Files."""
        if not parents:
            self._add(path, Node(Kind.FOLDER, mode, self._clock()))
            return
        missing: list[Path] = []
        while (found := self._find(path)) is None:
            missing.append(path)
            path = path.parent
        if not missing and found.kind is not Kind.FOLDER:
            raise _wrong(errno.EEXIST, path)
        for one in reversed(missing):
            self._add(one, Node(Kind.FOLDER, mode, self._clock()))

    def look(self, path: Path) -> Entry:
        """See Files."""
        return _entry(path.name, self._get(path))

    def list(self, path: Path, *, limit: int | None = None) -> Sequence[Entry]:
        """See Files."""
        folder = self._get(path)
        if folder.kind is not Kind.FOLDER:
            raise _wrong(errno.ENOTDIR, path)
        names = list(folder.below)[: None if limit is None else limit + 1]
        return sorted((_entry(name, folder.below[name]) for name in names), key=_name)

    def read(self, path: Path, *, limit: int, offset: int = 0) -> bytes:
        """See Files."""
        with self.open(path.parent, path.name) as file:
            file.seek(offset)
            return file.read(limit)

    def read_link(self, path: Path) -> str:
        """See Files."""
        node = self._get(path)
        if node.kind is not Kind.LINK:
            raise _wrong(errno.EINVAL, path)
        return node.target

    def write(self, path: Path, content: bytes, *, mode: int = 0o640) -> None:
        """See Files."""
        self._partials += 1
        partial = path.with_name(f".partial-{self._partials}")
        with self.create(partial, mode=mode) as file:
            file.write(content)
        try:
            self.rename(partial, path)
        except OSError:
            self.remove_file(partial)
            raise

    @contextmanager
    def open(self, root: Path, path: str) -> Iterator[BinaryIO]:
        """See Files."""
        parts = PurePosixPath(path).parts
        if ".." in parts or path.startswith("/"):
            raise NotPlain(f"{path} leads out of its folder")
        if not parts:
            raise NotPlain(f"{root.name} is not a plain file")
        node = self._get(root)
        for part in parts:
            if node.kind is not Kind.FOLDER or part not in node.below:
                raise _wrong(errno.ENOENT, root / path)
            node = node.below[part]
            if node.kind is Kind.LINK:
                raise NotPlain(f"{part} is a symbolic link")
        if node.kind is not Kind.FILE:
            raise NotPlain(f"{path} is not a plain file")
        with io.BytesIO(bytes(node.content)) as file:
            yield file

    @contextmanager
    def create(self, path: Path, *, mode: int) -> Iterator[BinaryIO]:
        """See Files."""
        node = Node(Kind.FILE, mode, self._clock())
        self._add(path, node)
        with _Writer(node) as file:
            yield file
        node.modified_at = self._clock()

    def rename(self, old: Path, new: Path) -> None:
        """See Files."""
        node = self._get(old)
        folder = self._folder_of(new)
        there = folder.below.get(new.name)
        if there is not None and there is not node:
            self._may_replace(node, there, new)
        del self._folder_of(old).below[old.name]
        folder.below[new.name] = node

    def _may_replace(self, node: Node, there: Node, path: Path) -> None:
        if node.kind is Kind.FOLDER:
            if there.kind is not Kind.FOLDER:
                raise _wrong(errno.ENOTDIR, path)
            if there.below:
                raise _wrong(errno.ENOTEMPTY, path)
        elif there.kind is Kind.FOLDER:
            raise _wrong(errno.EISDIR, path)
        there.names -= 1

    def hard_link(self, old: Path, new: Path) -> None:
        """See Files."""
        node = self._get(old)
        if node.kind is Kind.FOLDER:
            raise _wrong(errno.EPERM, old)
        self._add(new, node)
        node.names += 1

    def set_mode(self, path: Path, mode: int) -> None:
        """See Files."""
        node = self._get(path)
        if node.kind is Kind.LINK:
            raise _wrong(errno.ELOOP, path)
        node.mode = mode

    def remove_file(self, path: Path) -> None:
        """See Files."""
        node = self._get(path)
        if node.kind is Kind.FOLDER:
            raise _wrong(errno.EISDIR, path)
        node.names -= 1
        del self._folder_of(path).below[path.name]

    def remove_tree(self, path: Path) -> None:
        """See Files."""
        node = self._get(path)
        if node.kind is not Kind.FOLDER:
            raise _wrong(errno.ENOTDIR, path)
        del self._folder_of(path).below[path.name]
        _let_go(node)

    def close(self) -> None:
        """See Files."""

    # --- what Files do not do, and programs do ---

    def link(self, path: Path, target: str) -> None:
        """Make a symbolic link. Raises FileExistsError."""
        node = Node(Kind.LINK, 0o777, self._clock())
        node.target = target
        self._add(path, node)

    def make_other(self, path: Path, mode: int = 0o644) -> None:
        """Make something that is no file, folder or link, such as a FIFO."""
        self._add(path, Node(Kind.OTHER, mode, self._clock()))

    # --- names ---

    def _add(self, path: Path, node: Node) -> None:
        folder = self._folder_of(path)
        if path.name in folder.below:
            raise _wrong(errno.EEXIST, path)
        folder.below[path.name] = node
        folder.modified_at = self._clock()

    def _get(self, path: Path) -> Node:
        if path == path.parent:
            return self.root
        node = self._folder_of(path).below.get(path.name)
        if node is None:
            raise _wrong(errno.ENOENT, path)
        return node

    def _find(self, path: Path) -> Node | None:
        try:
            return self._get(path)
        except FileNotFoundError:
            return None

    def _folder_of(self, path: Path) -> Node:
        """The folder above. Links on the way are followed, as in every file system."""
        node = self.root
        left = list(reversed(path.parts[1:-1]))
        above: list[Node] = []
        followed = 0
        while left:
            part = left.pop()
            if part == "..":
                node = above.pop() if above else self.root
                continue
            found = node.below.get(part)
            if found is None:
                raise _wrong(errno.ENOENT, path)
            if found.kind is Kind.LINK:
                followed += 1
                if followed > _LINKS_FOLLOWED:
                    raise _wrong(errno.ELOOP, path)
                target = PurePosixPath(found.target)
                if target.is_absolute():
                    node, above = self.root, []
                left += reversed([part for part in target.parts if part != "/"])
                continue
            if found.kind is not Kind.FOLDER:
                raise _wrong(errno.ENOTDIR, path)
            above.append(node)
            node = found
        return node


class _Writer(io.BytesIO):
    """What is written is in the file as soon as it is closed, or the block is left."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node

    def close(self) -> None:
        if not self.closed:
            self._node.content = bytearray(self.getvalue())
        super().close()


def _let_go(node: Node) -> None:
    """What lies in a folder that is removed has a name less."""
    folders = [node]
    while folders:
        for inner in folders.pop().below.values():
            inner.names -= 1
            if inner.kind is Kind.FOLDER:
                folders.append(inner)


def _name(entry: Entry) -> str:
    return entry.name


def _entry(name: str, node: Node) -> Entry:
    return Entry(name, node.kind, node.size_bytes, node.mode, node.names, node.modified_at)


def _wrong(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))
