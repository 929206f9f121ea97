"""Reading and writing a file over SFTP without waiting for each answer."""

import io
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from slurmbridge.shell import sftp_wire as wire
from slurmbridge.shell.sftp_session import Refused, SftpSession
from slurmbridge.shell.sftp_wire import Ask

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

# So much may be on its way: what a line of 1 Gbit/s with 60 ms takes.
_AHEAD_BYTES = 8 * 1024 * 1024
Translate = Callable[[Refused], OSError]


class RemoteReader(io.RawIOBase):
    """A file that is open on the host, between two byte offsets. The longer one reads, the more is
    asked for ahead, up to the size that the file is known to have.
    """

    def __init__(
        self,
        session: SftpSession,
        handle: bytes,
        failed: Translate,
        *,
        size: int,
        begin: int = 0,
        end: int = 1 << 62,
    ) -> None:
        self._session = session
        self._handle = handle
        self._failed = failed
        self._size = size
        self._end = end
        # Where each piece begins, how long it is, and the number of its request.
        self._asked: deque[tuple[int, int, int]] = deque()
        self._next = begin
        self._ahead = 1
        self._piece = memoryview(b"")
        self._at = 0
        self._position = begin

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """See io.RawIOBase."""
        view = memoryview(buffer).cast("B")
        if self._at == len(self._piece):
            self._piece, self._at = memoryview(self._next_piece()), 0
        found = self._piece[self._at : self._at + len(view)]
        view[: len(found)] = found
        self._at += len(found)
        self._position += len(found)
        return len(found)

    def tell(self) -> int:
        """Where the next byte comes from."""
        return self._position

    def settle(self) -> None:
        """Wait for what was asked for and is not needed any more."""
        while self._asked and not self._session.broken:
            _, _, number = self._asked.popleft()
            self._session.answer(number)

    def _next_piece(self) -> bytes:
        self._ask_ahead()
        if not self._asked:
            return b""
        begin, length, number = self._asked.popleft()
        try:
            data = self._session.data(number) or b""
        except Refused as error:
            raise self._failed(error) from error
        if len(data) == length:
            return data
        rest = begin + len(data)
        if data and rest < self._size:
            # A server may give less than was asked for: the rest comes before what follows.
            missing = length - len(data)
            self._asked.appendleft((rest, missing, self._ask(rest, missing)))
        else:
            # The end as it was; it is asked for again, as the file may have grown.
            self.settle()
            self._next = rest
        return data

    def _ask_ahead(self) -> None:
        while len(self._asked) < self._ahead and (self._next < self._size or not self._asked):
            length = min(self._session.read_bytes, self._end - self._next)
            if length <= 0:
                return
            self._asked.append((self._next, length, self._ask(self._next, length)))
            self._next += length
        self._ahead = min(self._ahead * 2, max(2, _AHEAD_BYTES // self._session.read_bytes))

    def _ask(self, begin: int, length: int) -> int:
        return self._session.send(
            Ask.READ, wire.word(self._handle), wire.long(begin), wire.integer(length)
        )


class RemoteWriter(io.RawIOBase):
    """A file that is open for writing on the host. What is wrong is raised a little later."""

    def __init__(self, session: SftpSession, handle: bytes, failed: Translate) -> None:
        self._session = session
        self._handle = handle
        self._failed = failed
        self._asked: deque[int] = deque()
        self._most = max(2, _AHEAD_BYTES // session.write_bytes)
        self._position = 0

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: "ReadableBuffer") -> int:
        """See io.RawIOBase; it takes all."""
        view = memoryview(data).cast("B")
        piece = self._session.write_bytes
        for at in range(0, len(view), piece):
            part = bytes(view[at : at + piece])
            place = (wire.word(self._handle), wire.long(self._position))
            self._asked.append(self._session.send(Ask.WRITE, *place, wire.word(part)))
            self._position += len(part)
            if len(self._asked) > self._most:
                self._wait()
        return len(view)

    def tell(self) -> int:
        """How many bytes have been written."""
        return self._position

    def confirm(self) -> None:
        """Wait until all is there. Raises OSError when it is not."""
        while self._asked:
            self._wait()

    def settle(self) -> None:
        """Wait for all answers, whatever they are."""
        while self._asked and not self._session.broken:
            self._session.answer(self._asked.popleft())

    def _wait(self) -> None:
        try:
            self._session.done(self._asked.popleft())
        except Refused as error:
            raise self._failed(error) from error
