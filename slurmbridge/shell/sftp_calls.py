"""What is asked of an SFTP server for each thing that Files does, and what its refusals mean."""

import errno
import io
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from slurmbridge.shell import sftp_wire as wire
from slurmbridge.shell.files import Entry, Kind, NotPlain
from slurmbridge.shell.sftp_session import Refused, SftpSession
from slurmbridge.shell.sftp_streams import RemoteReader, RemoteWriter
from slurmbridge.shell.sftp_wire import NO_ATTRIBUTES, Ask, Attributes, Open, integer, word

_BUFFER = 1024 * 1024
# Requests that are sent before the first answer is waited for.
_BATCH = 128


def os_error(number: int, path: Path | bytes) -> OSError:
    """An OSError as this host would raise it."""
    return OSError(number, os.strerror(number), os.fsdecode(path))


def error_of(refused: Refused, path: Path | bytes, otherwise: int = errno.EIO) -> OSError:
    """What a refusal means; `otherwise` where the server says only that it failed."""
    number = wire.errno_of(refused.status)
    if number is not None:
        return os_error(number, path)
    if otherwise != errno.EIO:
        return os_error(otherwise, path)
    return OSError(errno.EIO, f"the host says: {refused}", os.fsdecode(path))


@contextmanager
def told(path: Path | bytes, otherwise: int = errno.EIO) -> Iterator[None]:
    """A refusal inside comes out as an OSError."""
    try:
        yield
    except Refused as refused:
        raise error_of(refused, path, otherwise) from refused


def look(session: SftpSession, path: Path) -> Attributes:
    """What a name stands for. Raises OSError."""
    with told(path):
        return session.attributes(session.send(Ask.LSTAT, _word(path)))


def kind(session: SftpSession, path: Path) -> Kind | None:
    """What a name stands for; None when there is nothing, or it cannot be told."""
    try:
        return wire.kind_of(look(session, path).mode or 0)
    except OSError:
        return None


def must_be_folder(session: SftpSession, path: Path) -> None:
    """Raises NotADirectoryError and other OSErrors."""
    if wire.kind_of(look(session, path).mode or 0) is not Kind.FOLDER:
        raise os_error(errno.ENOTDIR, path)


def must_be_plain(session: SftpSession, root: Path, parts: tuple[str, ...]) -> None:
    """Below `root`, nothing on the way is a link, and at its end is a plain file.

    Raises:
        NotPlain
        OSError
    """
    if not parts:
        raise NotPlain(f"{root.name} is not a plain file")
    paths = [root.joinpath(*parts[: end + 1]) for end in range(len(parts))]
    asked = [session.send(Ask.LSTAT, _word(path)) for path in paths]
    for path, number in zip(paths, asked, strict=True):
        with told(path):
            found = wire.kind_of(session.attributes(number).mode or 0)
        if found is Kind.LINK:
            raise NotPlain(f"{path.name} is a symbolic link")
        if path is paths[-1] and found is not Kind.FILE:
            raise NotPlain(f"{path.name} is not a plain file")
        if path is not paths[-1] and found is not Kind.FOLDER:
            raise os_error(errno.ENOENT, paths[-1])


def entries(session: SftpSession, path: Path, limit: int | None) -> list[Entry]:
    """What a folder holds, up to `limit` + 1 names. Raises OSError."""
    found: list[Entry] = []
    with told(path), _handle(session, session.send(Ask.OPENDIR, _word(path))) as handle:
        while limit is None or len(found) <= limit:
            names = session.names(session.send(Ask.READDIR, word(handle)))
            if names is None:
                return found
            for raw, long_name, attributes in names:
                if raw not in {b".", b".."}:
                    found.append(attributes.entry(wire.to_name(raw), wire.names_in(long_name)))
    return found[: limit + 1]


def make_folder(session: SftpSession, path: Path, mode: int) -> None:
    """Raises OSError."""
    try:
        session.done(session.send(Ask.MKDIR, _word(path), wire.with_mode(mode & 0o700)))
    except Refused as refused:
        there = wire.errno_of(refused.status) is None and kind(session, path)
        raise error_of(refused, path, errno.EEXIST if there else errno.EIO) from refused
    # The server's umask may have taken some of it.
    set_mode(session, path, mode)


def set_mode(session: SftpSession, path: Path, mode: int) -> None:
    """Raises OSError."""
    with told(path):
        session.done(session.send(Ask.SETSTAT, _word(path), wire.with_mode(mode)))


def rename(session: SftpSession, old: Path, new: Path) -> None:
    """Raises OSError."""
    try:
        session.done(session.send(Ask.EXTENDED, word(wire.POSIX_RENAME), _word(old), _word(new)))
    except Refused as refused:
        # The server has one word for many errors, and says "no such file" for "no folder" as well.
        match kind(session, old), kind(session, new):
            case Kind.FOLDER, Kind.FOLDER:
                number = errno.ENOTEMPTY
            case Kind.FILE | Kind.LINK | Kind.OTHER, Kind.FOLDER:
                number = errno.EISDIR
            case Kind.FOLDER, Kind.FILE | Kind.LINK | Kind.OTHER:
                raise os_error(errno.ENOTDIR, old) from refused
            case _:
                number = errno.EIO
        raise error_of(refused, old, number) from refused


def hard_link(session: SftpSession, old: Path, new: Path) -> None:
    """Raises OSError. A server that does not know how says that it cannot (ENOTSUP)."""
    try:
        session.done(session.send(Ask.EXTENDED, word(wire.HARD_LINK), _word(old), _word(new)))
    except Refused as refused:
        there = wire.errno_of(refused.status) is None and kind(session, new)
        raise error_of(refused, old, errno.EEXIST if there else errno.EIO) from refused


def remove_file(session: SftpSession, path: Path) -> None:
    """Raises OSError."""
    try:
        session.done(session.send(Ask.REMOVE, _word(path)))
    except Refused as refused:
        folder = kind(session, path) is Kind.FOLDER
        raise error_of(refused, path, errno.EISDIR if folder else errno.EIO) from refused


@contextmanager
def opened(
    session: SftpSession, path: Path, *, begin: int = 0, end: int = 1 << 62
) -> Iterator[RemoteReader]:
    """A plain file, for reading. Raises NotPlain and OSError."""
    with told(path), _handle(session, _open(session, path, Open.READ, NO_ATTRIBUTES)) as handle:
        found = session.attributes(session.send(Ask.FSTAT, word(handle)))
        if wire.kind_of(found.mode or 0) is not Kind.FILE:
            raise NotPlain(f"{path.name} is not a plain file")
        reader = RemoteReader(
            session,
            handle,
            lambda refused: error_of(refused, path),
            size=found.size or 0,
            begin=begin,
            end=end,
        )
        try:
            yield reader
        finally:
            reader.settle()
            reader.close()


@contextmanager
def created(session: SftpSession, path: Path, mode: int) -> Iterator[BinaryIO]:
    """A new file, for writing; all is there when the block ends. Raises OSError."""
    flags = Open.WRITE | Open.CREATE | Open.EXCLUSIVE
    number = _open(session, path, flags, wire.with_mode(mode & 0o600))
    try:
        handle = session.handle(number)
    except Refused as refused:
        there = wire.errno_of(refused.status) is None and kind(session, path)
        raise error_of(refused, path, errno.EEXIST if there else errno.EIO) from refused
    writer = RemoteWriter(session, handle, lambda refused: error_of(refused, path))
    try:
        with told(path):
            session.done(session.send(Ask.FSETSTAT, word(handle), wire.with_mode(mode)))
        file = io.BufferedWriter(writer, _BUFFER)
        yield cast(BinaryIO, file)
        file.flush()
        writer.confirm()
        with told(path):
            session.done(session.send(Ask.CLOSE, word(handle)))
    except BaseException:
        if not session.broken:
            writer.settle()
            with suppress(Refused):
                session.done(session.send(Ask.CLOSE, word(handle)))
        raise
    finally:
        # What its buffer still holds is not written when it is forgotten.
        writer.close()


def remove_tree(session: SftpSession, root: Path) -> None:
    """Remove a tree without recursion, as deep as it may be: every folder is moved up to `root`
    first, so that no path is ever long. Raises OSError.
    """
    top = wire.to_bytes(root)
    with told(root, errno.ENOTEMPTY):
        session.done(session.send(Ask.SETSTAT, word(top), wire.with_mode(0o700)))
        folders = [top]
        token = secrets.token_hex(4)
        moved = 0
        while folders:
            folder = folders.pop()
            files, inner = _below(session, folder)
            _all_or_error(session, [(Ask.REMOVE, word(path)) for path in files])
            ask_rmdir = [(Ask.RMDIR, word(path)) for path in inner]
            # Most are empty by now, or always were.
            full = [
                path
                for path, refused in zip(inner, _all(session, ask_rmdir), strict=True)
                if refused
            ]
            for path in full:
                moved += 1
                up = b"%s/.removed-%s-%d" % (top, token.encode(), moved)
                rights = (Ask.SETSTAT, word(path), wire.with_mode(0o700))
                move = (Ask.EXTENDED, word(wire.POSIX_RENAME), word(path), word(up))
                _all_or_error(session, [rights, move])
                folders.append(up)
            if folder != top:
                session.done(session.send(Ask.RMDIR, word(folder)))
        session.done(session.send(Ask.RMDIR, word(top)))


_Request = tuple[Ask, *tuple[bytes, ...]]


def _all(session: SftpSession, requests: Sequence[_Request]) -> list[Refused | None]:
    found: list[Refused | None] = []
    for begin in range(0, len(requests), _BATCH):
        numbers = [session.send(*request) for request in requests[begin : begin + _BATCH]]
        found += session.all_done(numbers)
    return found


def _all_or_error(session: SftpSession, requests: Sequence[_Request]) -> None:
    for refused in _all(session, requests):
        if refused:
            raise refused


def _below(session: SftpSession, folder: bytes) -> tuple[list[bytes], list[bytes]]:
    files: list[bytes] = []
    folders: list[bytes] = []
    with _handle(session, session.send(Ask.OPENDIR, word(folder))) as handle:
        while names := session.names(session.send(Ask.READDIR, word(handle))):
            for raw, _, attributes in names:
                if raw not in {b".", b".."}:
                    path = folder + b"/" + raw
                    is_folder = wire.kind_of(attributes.mode or 0) is Kind.FOLDER
                    (folders if is_folder else files).append(path)
    return files, folders


def _open(session: SftpSession, path: Path, flags: int, attributes: bytes) -> int:
    return session.send(Ask.OPEN, _word(path), integer(flags), attributes)


@contextmanager
def _handle(session: SftpSession, number: int) -> Iterator[bytes]:
    """What was opened, until it is closed. Raises Refused."""
    handle = session.handle(number)
    try:
        yield handle
    finally:
        if not session.broken:
            with suppress(Refused):
                session.done(session.send(Ask.CLOSE, word(handle)))


def _word(path: Path) -> bytes:
    return word(wire.to_bytes(path))
