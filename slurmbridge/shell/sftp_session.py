"""One SFTP session on a channel: requests go out, answers come back, none waits for ever."""

from collections.abc import Callable, Iterable
from struct import Struct
from typing import TypeVar

from paramiko import Channel

from slurmbridge.errors import FilesUnavailable
from slurmbridge.shell import sftp_wire as wire
from slurmbridge.shell.connection import Session
from slurmbridge.shell.link import TROUBLE
from slurmbridge.shell.quoting import in_short
from slurmbridge.shell.sftp_wire import Answer, Ask, Attributes, Malformed, Reader

_NOISE_BYTES = 1024 * 1024
# All that has come: what stays behind is moved by each reading.
_CHUNK = 1 << 30
# The largest packet that sshd takes on a session's channel.
_SENT_BYTES = 32 * 1024
# What every server takes; OpenSSH's says that it takes more.
_PIECE_BYTES = 32 * 1024
_LARGEST_PACKET = 4 * 1024 * 1024
_HEAD = Struct(">IBI")
T = TypeVar("T")


class Refused(Exception):
    """The server does not do what was asked. `status` is SFTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class SftpSession:
    """For one thread at a time. After FilesUnavailable it is of no use any more."""

    def __init__(
        self, session: Session, clock: Callable[[], float], answer_seconds: float, host: str
    ) -> None:
        """Raises FilesUnavailable."""
        self.session = session
        self.broken = False
        self._channel: Channel = session.channel
        self._clock = clock
        self._answer_seconds = answer_seconds
        self._host = host
        self._buffer = bytearray()
        self._number = 0
        self._early: dict[int, tuple[int, bytes]] = {}
        self.read_bytes = self.write_bytes = _PIECE_BYTES
        self._begin()

    @property
    def usable(self) -> bool:
        """Whether something can still be asked."""
        return not self.broken and self.session.link.alive and not self._channel.closed

    def send(self, ask: Ask, *fields: bytes) -> int:
        """Ask for something; the number under which `answer` knows it."""
        self._number = (self._number + 1) & 0xFFFFFFFF
        self._transmit(wire.packet(ask, self._number, *fields))
        return self._number

    def answer(self, number: int) -> tuple[int, bytes]:
        """What kind of answer came, and its fields."""
        while number not in self._early:
            kind, found, body = self._receive()
            self._early[found] = (kind, body)
        return self._early.pop(number)

    def done(self, number: int) -> None:
        """Wait until something is done. Raises Refused."""
        kind, body = self.answer(number)
        status, message = self._status(kind, body)
        if status != wire.OK:
            raise Refused(status, message)

    def all_done(self, numbers: Iterable[int]) -> list[Refused | None]:
        """Wait for several things; what was wrong with each."""
        found: list[Refused | None] = []
        for number in numbers:
            try:
                self.done(number)
                found.append(None)
            except Refused as error:
                found.append(error)
        return found

    def handle(self, number: int) -> bytes:
        """What was opened. Raises Refused."""
        return Reader(self._expect(number, Answer.HANDLE)).word()

    def attributes(self, number: int) -> Attributes:
        """What is known of a file. Raises Refused."""
        return self._read(Reader(self._expect(number, Answer.ATTRS)).attributes)

    def data(self, number: int) -> bytes | None:
        """What was read; None at the end. Raises Refused."""
        kind, body = self.answer(number)
        if kind == Answer.DATA:
            return body[4:]
        status, message = self._status(kind, body)
        if status == wire.END:
            return None
        raise Refused(status, message)

    def names(self, number: int) -> list[tuple[bytes, bytes, Attributes]] | None:
        """Names with their long names; None when there are no more. Raises Refused."""
        kind, body = self.answer(number)
        if kind != Answer.NAME:
            status, message = self._status(kind, body)
            if status == wire.END:
                return None
            raise Refused(status, message)
        reader = Reader(body)
        return self._read(
            lambda: [
                (reader.word(), reader.word(), reader.attributes()) for _ in range(reader.number())
            ]
        )

    def _expect(self, number: int, wanted: Answer) -> bytes:
        kind, body = self.answer(number)
        if kind == wanted:
            return body
        raise Refused(*self._status(kind, body))

    def _status(self, kind: int, body: bytes) -> tuple[int, str]:
        if kind != Answer.STATUS:
            raise self._lost(f"an answer of kind {kind} fits nothing that was asked")
        reader = Reader(body)
        status = self._read(reader.number)
        message = self._read(reader.word) if reader.more else b""
        return status, in_short(message)

    def _read(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except Malformed as error:
            raise self._lost(str(error)) from error

    def _begin(self) -> None:
        with self.session.link.guard(self._clock() + self._answer_seconds):
            try:
                self._channel.invoke_subsystem(b"sftp")
            except TROUBLE as error:
                raise self._lost("sshd has no subsystem sftp for us") from error
        self._transmit(wire.integer(5) + bytes([Ask.INIT]) + wire.integer(wire.VERSION))
        while (at := wire.find_version(self._buffer)) is None:
            if len(self._buffer) > _NOISE_BYTES:
                raise self._lost(f"what came is not SFTP: {in_short(self._buffer)}")
            try:
                self._fill()
            except FilesUnavailable:
                if not self._buffer:
                    raise
                raise self._lost(f"what came is not SFTP: {in_short(self._buffer)}") from None
        del self._buffer[:at]
        _, _, body = self._receive()
        reader = Reader(body)
        extensions = dict(self._read(lambda: list(_pairs(reader))))
        if wire.POSIX_RENAME not in extensions:
            raise self._lost("its SFTP server cannot replace files (posix-rename@openssh.com)")
        if wire.LIMITS in extensions:
            self._ask_limits()

    def _ask_limits(self) -> None:
        number = self.send(Ask.EXTENDED, wire.word(wire.LIMITS))
        reader = Reader(self._expect(number, Answer.EXTENDED))
        _, read, write = (self._read(reader.long) for _ in range(3))
        self.read_bytes = min(read or _PIECE_BYTES, 256 * 1024)
        self.write_bytes = min(write or _PIECE_BYTES, 256 * 1024)

    def _transmit(self, data: bytes) -> None:
        deadline = self._clock() + self._answer_seconds
        try:
            with self.session.link.guard(deadline):
                at = 0
                while at < len(data):
                    self._channel.settimeout(max(0.001, deadline - self._clock()))
                    sent = self._channel.send(data[at : at + _SENT_BYTES])
                    if not sent:
                        raise self._lost("it closed the session")
                    at += sent
        except TimeoutError:
            raise self._late(deadline) from None
        except TROUBLE as error:
            raise self._lost("the connection was lost") from error

    def _receive(self) -> tuple[int, int, bytes]:
        while len(self._buffer) < _HEAD.size:
            self._fill()
        size, kind, number = _HEAD.unpack_from(self._buffer)
        if not 5 <= size <= _LARGEST_PACKET:
            raise self._lost(f"a packet of {size} bytes is no SFTP")
        while len(self._buffer) < size + 4:
            self._fill()
        with memoryview(self._buffer) as view:
            body = bytes(view[_HEAD.size : size + 4])
        del self._buffer[: size + 4]
        return kind, number, body

    def _fill(self) -> None:
        deadline = self._clock() + self._answer_seconds
        try:
            with self.session.link.guard(deadline):
                self._channel.settimeout(self._answer_seconds)
                data = self._channel.recv(_CHUNK)
        except TimeoutError:
            raise self._late(deadline) from None
        except TROUBLE as error:
            raise self._lost("the connection was lost") from error
        if not data:
            raise self._lost(self.session.link.dropped_why or "it closed the session")
        self._buffer += data

    def _late(self, deadline: float) -> FilesUnavailable:
        self.session.link.doubt(deadline - self._answer_seconds)
        return self._lost(f"it did not answer within {self._answer_seconds:g} s")

    def _lost(self, why: str) -> FilesUnavailable:
        self.broken = True
        return FilesUnavailable(f"files on {self._host} cannot be reached: {why}")


def _pairs(reader: Reader) -> Iterable[tuple[bytes, bytes]]:
    while reader.more:
        yield reader.word(), reader.word()
