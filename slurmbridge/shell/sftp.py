"""Files on another host, over SFTP."""

import errno
import io
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from slurmbridge.errors import FilesUnavailable, ShellUnavailable
from slurmbridge.shell import sftp_calls as calls
from slurmbridge.shell import sftp_wire as wire
from slurmbridge.shell.connection import SshConnection
from slurmbridge.shell.files import Entry, Kind, NotPlain
from slurmbridge.shell.sftp_session import SftpSession
from slurmbridge.shell.sftp_wire import Ask

_BUFFER = 1024 * 1024
# For commands and short calls, while files are read and written.
_FREE_CHANNELS = 2


class SftpFiles:
    """Another host, over a connection that others may use, too.

    SFTP has no way to open a file without following a link. So everything is looked at before:
    who may write to a folder could put a link there in between. Use `open` and `read` in folders
    to which nobody else writes at the time, such as those of a job that has ended.

    `answer_seconds` is how long the host may take for each answer; a long transfer has many.
    `spare_sessions` are kept for the next call, each of which takes a channel until somebody
    needs it. What is opened and created may take long: so many files are read at a time, and so
    many written, that channels stay free for all else; the others wait for their turn.
    """

    def __init__(
        self, connection: SshConnection, *, answer_seconds: float = 30.0, spare_sessions: int = 2
    ) -> None:
        self._connection = connection
        self._answer_seconds = answer_seconds
        self._spare_sessions = spare_sessions
        self._lock = threading.Lock()
        self._spare: list[SftpSession] = []
        # One for each direction, so that who copies within the host does not wait for himself.
        at_once = max(1, (connection.target.channels - _FREE_CHANNELS) // 2)
        self._reading = threading.BoundedSemaphore(at_once)
        self._writing = threading.BoundedSemaphore(at_once)
        connection.share(self._give_spare)

    def make_folder(self, path: Path, *, mode: int, parents: bool = False) -> None:
        """See Files."""
        with self._session() as session:
            if not parents:
                calls.make_folder(session, path, mode)
                return
            missing = []
            while (found := calls.kind(session, path)) is None:
                missing.append(path)
                path = path.parent
            if found is not Kind.FOLDER and not missing:
                raise calls.os_error(errno.EEXIST, path)
            for one in reversed(missing):
                try:
                    calls.make_folder(session, one, mode)
                except FileExistsError:
                    # Somebody else may have made it just now.
                    calls.must_be_folder(session, one)

    def look(self, path: Path) -> Entry:
        """See Files. How many names a file has is not told: SFTP does so in lists alone."""
        with self._session() as session:
            return calls.look(session, path).entry(path.name)

    def list(self, path: Path, *, limit: int | None = None) -> Sequence[Entry]:
        """See Files."""
        with self._session() as session:
            calls.must_be_folder(session, path)
            found = calls.entries(session, path, limit)
        return sorted(found, key=lambda entry: entry.name)

    def read(self, path: Path, *, limit: int, offset: int = 0) -> bytes:
        """See Files."""
        with self._session() as session:
            calls.must_be_plain(session, path.parent, (path.name,))
            with calls.opened(session, path, begin=offset, end=offset + limit) as file:
                return file.read()

    def read_link(self, path: Path) -> str:
        """See Files."""
        with self._session() as session, calls.told(path):
            names = session.names(session.send(Ask.READLINK, wire.word(wire.to_bytes(path))))
            return wire.to_name(names[0][0]) if names else ""

    def write(self, path: Path, content: bytes, *, mode: int = 0o640) -> None:
        """See Files."""
        partial = path.with_name(f".partial-{secrets.token_hex(8)}")
        with self._session() as session:
            try:
                with calls.created(session, partial, mode) as file:
                    file.write(content)
                calls.rename(session, partial, path)
            except OSError:
                with suppress(OSError):
                    calls.remove_file(session, partial)
                raise

    @contextmanager
    def open(self, root: Path, path: str) -> Iterator[BinaryIO]:
        """See Files."""
        parts = PurePosixPath(path).parts
        if ".." in parts or path.startswith("/"):
            raise NotPlain(f"{path} leads out of its folder")
        with self._reading, self._session() as session:
            calls.must_be_plain(session, root, parts)
            with (
                calls.opened(session, root.joinpath(*parts)) as reader,
                io.BufferedReader(reader, _BUFFER) as file,
            ):
                yield cast(BinaryIO, file)
                reader.settle()

    @contextmanager
    def create(self, path: Path, *, mode: int) -> Iterator[BinaryIO]:
        """See Files."""
        with (
            self._writing,
            self._session() as session,
            calls.created(session, path, mode) as file,
        ):
            yield file

    def rename(self, old: Path, new: Path) -> None:
        """See Files."""
        with self._session() as session:
            calls.rename(session, old, new)

    def hard_link(self, old: Path, new: Path) -> None:
        """See Files."""
        with self._session() as session:
            calls.hard_link(session, old, new)

    def set_mode(self, path: Path, mode: int) -> None:
        """See Files."""
        with self._session() as session:
            if wire.kind_of(calls.look(session, path).mode or 0) is Kind.LINK:
                raise calls.os_error(errno.ELOOP, path)
            calls.set_mode(session, path, mode)

    def remove_file(self, path: Path) -> None:
        """See Files."""
        with self._session() as session:
            calls.remove_file(session, path)

    def remove_tree(self, path: Path) -> None:
        """See Files."""
        with self._session() as session:
            calls.must_be_folder(session, path)
            calls.remove_tree(session, path)

    def close(self) -> None:
        """Give back all spare sessions. The connection is not closed."""
        while self._give_spare():
            pass

    @contextmanager
    def _session(self) -> Iterator[SftpSession]:
        session = self._take()
        try:
            yield session
        except (OSError, NotPlain):
            raise
        except BaseException:
            # Whether all answers were taken is not known.
            session.broken = True
            raise
        finally:
            self._give_back(session)

    def _take(self) -> SftpSession:
        while True:
            with self._lock:
                session = self._spare.pop() if self._spare else None
            if session is None:
                return self._begin()
            if session.usable:
                return session
            self._connection.release(session.session)

    def _begin(self) -> SftpSession:
        clock = self._connection.clock
        try:
            opened = self._connection.open(clock() + self._answer_seconds)
        except ShellUnavailable as error:
            raise FilesUnavailable(str(error)) from error
        try:
            return SftpSession(opened, clock, self._answer_seconds, str(self._connection.target))
        except BaseException:
            self._connection.release(opened)
            raise

    def _give_back(self, session: SftpSession) -> None:
        with self._lock:
            if session.usable and len(self._spare) < self._spare_sessions:
                self._spare.append(session)
                return
        self._connection.release(session.session)

    def _give_spare(self) -> bool:
        with self._lock:
            session = self._spare.pop() if self._spare else None
        if session:
            self._connection.release(session.session)
        return session is not None
