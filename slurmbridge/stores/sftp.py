"""A folder of another host as a store, over this project's own SFTP: host keys are checked."""

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from slurmbridge.shell import sftp_calls as calls
from slurmbridge.shell import sftp_wire as wire
from slurmbridge.shell.connection import SshConnection
from slurmbridge.shell.sftp import SftpFiles
from slurmbridge.shell.sftp_session import Refused
from slurmbridge.shell.sftp_wire import Ask
from slurmbridge.shell.target import SshTarget
from slurmbridge.stores.folder import FilesStore
from slurmbridge.stores.settings import SftpSettings

# OpenSSH's PROTOCOL, section 4.5: what SFTP's version 3 lacks to name a file without replacing one.
_HARD_LINK = b"hardlink@openssh.com"
_BUFFER = 1024 * 1024


def open_sftp(name: str, settings: SftpSettings) -> "SftpStore":
    """A store as configured. Nothing is connected yet."""
    target = SshTarget(
        settings.host,
        settings.user,
        settings.known_hosts,
        port=settings.port,
        key=settings.key,
        connect_seconds=settings.timeout_seconds,
        channels=settings.parallel + 1,
    )
    return SftpStore(name, SshConnection(target), settings.folder, settings)


class _LinkingFiles(SftpFiles):
    """SFTP with what a store needs apart from Files."""

    @contextmanager
    def open_at(self, root: Path, path: str, offset: int) -> Iterator[BinaryIO]:
        """As `open`, from a byte offset on."""
        parts = PurePosixPath(path).parts
        with self._session() as session:
            calls.must_be_plain(session, root, parts)
            with (
                calls.opened(session, root.joinpath(*parts), begin=offset) as reader,
                io.BufferedReader(reader, _BUFFER) as file,
            ):
                yield cast(BinaryIO, file)
                reader.settle()

    def link(self, old: Path, new: Path) -> None:
        """Give a second name. Raises FileExistsError."""
        words = [wire.word(wire.to_bytes(path)) for path in (old, new)]
        with self._session() as session:
            try:
                session.done(session.send(Ask.EXTENDED, wire.word(_HARD_LINK), *words))
            except Refused as refused:
                # The server has one word for many errors.
                there = wire.errno_of(refused.status) is None and calls.kind(session, new)
                number = errno.EEXIST if there else errno.EIO
                raise calls.error_of(refused, new, number) from refused

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        with self._session() as session:
            try:
                session.done(session.send(Ask.RMDIR, wire.word(wire.to_bytes(path))))
            except Refused as refused:
                full = wire.errno_of(refused.status) is None
                number = errno.ENOTEMPTY if full else errno.EIO
                raise calls.error_of(refused, path, number) from refused


class SftpStore(FilesStore):
    """A folder of a host that is reached by ssh. Links are looked for before each step: who may
    write to the folder could put one there in between (see SftpFiles).
    """

    def __init__(
        self, name: str, connection: SshConnection, root: Path, settings: SftpSettings
    ) -> None:
        self._linking = _LinkingFiles(
            connection,
            answer_seconds=settings.timeout_seconds,
            spare_sessions=settings.parallel,
        )
        super().__init__(name, self._linking, root)
        self._connection = connection

    def close(self) -> None:
        """See DataStore."""
        super().close()
        self._connection.close()

    @contextmanager
    def _on_host_open(self, path: str, offset: int) -> Iterator[BinaryIO]:
        with self._linking.open_at(self._root, path, offset) as file:
            yield file

    def _on_host_publish(self, partial: Path, place: Path) -> None:
        self._linking.link(partial, place)

    def _on_host_remove_folder(self, place: Path) -> None:
        self._linking.remove_folder(place)
