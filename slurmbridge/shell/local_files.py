"""Files on this host. The last part of a path is never followed; below a `root`, no part is.

What is opened is opened with O_NOFOLLOW, so that a link put in place meanwhile leads nowhere.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from slurmbridge.shell.files import Entry, Kind, NotPlain

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class LocalFiles:
    """This host."""

    def make_folder(self, path: Path, *, mode: int, parents: bool = False) -> None:
        """See Files."""
        missing = []
        while parents and not os.path.lexists(path):
            missing.append(path)
            path = path.parent
        if parents and not missing and not stat.S_ISDIR(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        for one in reversed(missing) if parents else [path]:
            try:
                one.mkdir(mode=mode & 0o700)
            except FileExistsError:
                # Somebody else may have made it just now.
                if not parents or not stat.S_ISDIR(one.lstat().st_mode):
                    raise
            else:
                # The umask may have taken some of it.
                one.chmod(mode)

    def look(self, path: Path) -> Entry:
        """See Files."""
        return _entry(path.name, path.lstat())

    def list(self, path: Path, *, limit: int | None = None) -> Sequence[Entry]:
        """See Files."""
        with _folder(path) as folder, os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, None if limit is None else limit + 1)]
            found = []
            for name in names:
                # It may have gone meanwhile.
                with suppress(FileNotFoundError):
                    found.append(_entry(name, os.lstat(name, dir_fd=folder)))
        return sorted(found, key=lambda entry: entry.name)

    def read(self, path: Path, *, limit: int, offset: int = 0) -> bytes:
        """See Files."""
        with self.open(path.parent, path.name) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(offset)
            # A file may grow meanwhile; no more memory is asked for than it needs.
            return file.read(min(limit, max(0, size - offset)))

    def read_link(self, path: Path) -> str:
        """See Files."""
        return str(path.readlink())

    def write(self, path: Path, content: bytes, *, mode: int = 0o640) -> None:
        """See Files."""
        partial = path.with_name(f".partial-{secrets.token_hex(8)}")
        try:
            with self.create(partial, mode=mode) as file:
                file.write(content)
            partial.rename(path)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            raise

    @contextmanager
    def open(self, root: Path, path: str) -> Iterator[BinaryIO]:
        """See Files."""
        parts = PurePosixPath(path).parts
        if ".." in parts or path.startswith("/"):
            raise NotPlain(f"{path} leads out of its folder")
        if not parts:
            raise NotPlain(f"{root.name} is not a plain file")
        with ExitStack() as held:
            folder = held.enter_context(_folder(root))
            for part in parts[:-1]:
                folder = _below(folder, part, os.O_DIRECTORY)
                held.callback(os.close, folder)
            descriptor = _below(folder, parts[-1], os.O_NONBLOCK)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise NotPlain(f"{path} is not a plain file")
            with os.fdopen(descriptor, "rb") as file:
                yield file

    @contextmanager
    def create(self, path: Path, *, mode: int) -> Iterator[BinaryIO]:
        """See Files."""
        with os.fdopen(os.open(path, _NEW, mode & 0o600), "wb") as file:
            os.fchmod(file.fileno(), mode)
            yield file

    def rename(self, old: Path, new: Path) -> None:
        """See Files."""
        old.rename(new)

    def hard_link(self, old: Path, new: Path) -> None:
        """See Files."""
        os.link(old, new, follow_symlinks=False)

    def set_mode(self, path: Path, mode: int) -> None:
        """See Files."""
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if stat.S_ISLNK(os.fstat(descriptor).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            # fchmod takes no descriptor of this kind, and all others ask for rights to read.
            Path(f"/proc/self/fd/{descriptor}").chmod(mode)
        finally:
            os.close(descriptor)

    def remove_file(self, path: Path) -> None:
        """See Files."""
        path.unlink()

    def remove_tree(self, path: Path) -> None:
        """See Files."""
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        _remove(path)

    def close(self) -> None:
        """Nothing is held."""


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, _READ | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _below(folder: int, part: str, flags: int) -> int:
    try:
        return os.open(part, _READ | flags, dir_fd=folder)
    except OSError as error:
        mode = os.lstat(part, dir_fd=folder).st_mode
        if stat.S_ISLNK(mode):
            raise NotPlain(f"{part} is a symbolic link") from error
        if flags & os.O_DIRECTORY and not stat.S_ISDIR(mode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), part) from error
        if not flags & os.O_DIRECTORY and not stat.S_ISREG(mode):
            raise NotPlain(f"{part} is not a plain file") from error
        raise


def _entry(name: str, status: os.stat_result) -> Entry:
    mode = status.st_mode
    if stat.S_ISREG(mode):
        kind = Kind.FILE
    elif stat.S_ISDIR(mode):
        kind = Kind.FOLDER
    else:
        kind = Kind.LINK if stat.S_ISLNK(mode) else Kind.OTHER
    return Entry(name, kind, status.st_size, stat.S_IMODE(mode), status.st_nlink, status.st_mtime)


def _remove(root: Path) -> None:
    """Remove a tree without recursion: a program can nest folders deeper than any stack.

    Every folder is moved up to `root` first, so that no path is ever long.
    """
    root.chmod(0o700)
    folders = [root]
    token = secrets.token_hex(4)
    moved = 0
    while folders:
        folder = folders.pop()
        with os.scandir(folder) as entries:
            found = [(Path(entry.path), entry.is_dir(follow_symlinks=False)) for entry in entries]
        for path, is_folder in found:
            if not is_folder:
                path.unlink()
                continue
            # Most are empty by now, or always were.
            with suppress(OSError):
                path.rmdir()
                continue
            moved += 1
            up = root / f".removed-{token}-{moved}"
            path.chmod(0o700)
            path.rename(up)
            folders.append(up)
        if folder != root:
            folder.rmdir()
    root.rmdir()
