"""HTTP as stores need it: streams in both directions, kept connections, nothing followed.

`http.client` asks no environment for proxies, follows no redirect, and shows no header in an error.
"""

import http.client
import select
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from pydantic import SecretStr

from slurmbridge.errors import (
    ConfigurationError,
    StoreAnswerUnreadable,
    StoreFailed,
    StoreRefused,
    StoreUnavailable,
)
from slurmbridge.stores.paths import of

_BLOCK = 1024 * 1024
# So much of an answer that nobody wants is read, so that the connection can be used again.
_DRAINED = 64 * 1024
_MOST_SENT = 1 << 22
# Asking once more does no harm, where a kept connection turns out to be closed.
_HARMLESS = {"GET", "HEAD", "PROPFIND"}


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Certificates are verified, by the system's authorities or by those of a file.

    Raises:
        ConfigurationError: the file cannot be used.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"ca_file: {ca_file} cannot be used: {error.strerror}") from error


@dataclass(frozen=True)
class HttpTarget:
    """A server, and what is said to it each time."""

    store: str
    url: str
    timeout_seconds: float
    kept: int
    tls: ssl.SSLContext | None
    # The header Authorization.
    authorization: SecretStr | None = None


@dataclass
class Answer:
    """What came back. Its body is read once, and has to be whole."""

    status: int
    # By their names in small letters.
    headers: Mapping[str, str]
    _response: http.client.HTTPResponse
    _of: str
    _timeout_seconds: float
    _left: int | None = field(init=False)

    def __post_init__(self) -> None:
        self._left = self._response.length
        self.read_bytes = 0

    @property
    def length(self) -> int | None:
        """How long the body says that it is."""
        return self._left

    @property
    def framed(self) -> bool:
        """Whether it can be told when the body was cut."""
        return self._left is not None or self._response.chunked

    def read(self, size: int, /) -> bytes:
        """See Source."""
        if size <= 0 or self._left == 0:
            self._response.read(0)
            return b""
        with self._told():
            data = self._response.read(size)
        self.read_bytes += len(data)
        if self._left is not None:
            self._left -= len(data)
            if not data:
                raise self._cut()
        return data

    @property
    def whole(self) -> bool:
        """Whether the body was read to its end, so that the connection can be used again."""
        return self._response.isclosed() and not self._left

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except http.client.IncompleteRead:
            raise self._cut() from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise_lost(error, self._of, self._timeout_seconds)

    def _cut(self) -> StoreUnavailable:
        more = f", {self._left} more were due" if self._left else ""
        return StoreUnavailable(
            f"{self._of}: the connection broke after {self.read_bytes} bytes{more}"
        )


class Upload:
    """A body that is being sent, in one piece when its size is known and in chunks otherwise."""

    def __init__(
        self, connection: http.client.HTTPConnection, size: int | None, said: "_Said"
    ) -> None:
        self._connection = connection
        self._size = size
        self._said = said
        self.written = 0
        # The server has answered before it had all, as it does when it refuses.
        self.refused = False

    def write(self, data: bytes, /) -> int:
        """See Target."""
        if self.refused or not data:
            return len(data)
        if self._size is not None and self.written + len(data) > self._size:
            raise StoreFailed(f"{self._said.of}: more than the {self._size} bytes that were said")
        self.written += len(data)
        view = memoryview(data)
        for at in range(0, len(view), _MOST_SENT):
            self._send(view[at : at + _MOST_SENT])
            if self.refused:
                break
        return len(data)

    def _send(self, piece: memoryview) -> None:
        if has_answered(self._connection):
            self.refused = True
            return
        with self._said.told():
            try:
                if self._size is None:
                    self._connection.send(b"%x\r\n" % len(piece))
                self._connection.send(piece)
                if self._size is None:
                    self._connection.send(b"\r\n")
            except (BrokenPipeError, ConnectionResetError):
                # Why can stand in an answer that is there already.
                self.refused = True

    def end(self) -> None:
        """All has been written. Raises StoreFailed when that is not true."""
        if self.refused:
            return
        if self._size not in {None, self.written}:
            raise StoreFailed(f"{self._said.of}: {self.written} bytes came instead of {self._size}")
        if self._size is None:
            with self._said.told():
                self._connection.send(b"0\r\n\r\n")


@dataclass(frozen=True)
class _Said:
    of: str
    timeout_seconds: float

    @contextmanager
    def told(self) -> Iterator[None]:
        """What goes wrong with the connection comes out as a store says it."""
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            raise_lost(error, self.of, self.timeout_seconds)


def raise_lost(error: Exception, what: str, timeout_seconds: float) -> NoReturn:
    """Say in one sentence how a connection failed."""
    if isinstance(error, TimeoutError):
        raise StoreUnavailable(f"{what}: no answer within {timeout_seconds:g} s") from error
    if isinstance(error, ssl.SSLCertVerificationError):
        raise StoreRefused(
            f"{what}: the server's certificate is not accepted: {error.verify_message}"
        ) from error
    if isinstance(error, ssl.SSLError):
        raise StoreUnavailable(f"{what}: TLS failed: {error.reason}") from error
    if isinstance(error, socket.gaierror):
        raise StoreUnavailable(f"{what}: the server's name is not known") from error
    if isinstance(error, ConnectionRefusedError):
        raise StoreUnavailable(f"{what}: nobody listens there") from error
    if isinstance(error, OSError):
        raise StoreUnavailable(f"{what}: the connection broke") from error
    # The error's own text is the server's.
    raise StoreAnswerUnreadable(f"{what}: what came is not HTTP") from None


def has_news(connection: http.client.HTTPConnection) -> bool:
    """Whether something has come that nobody has asked for, or the other side has closed."""
    if connection.sock is None:
        return True
    if isinstance(connection.sock, ssl.SSLSocket):
        return _has_encrypted_news(connection.sock)
    return _is_readable(connection.sock)


def _has_encrypted_news(sock: ssl.SSLSocket) -> bool:
    """What TLS 1.3 says for itself, such as session tickets, is none, and is taken away here."""
    seconds = sock.gettimeout()
    try:
        sock.setblocking(False)
        sock.recv(1)
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return False
    except OSError:
        return True
    finally:
        sock.settimeout(seconds)
    return True


def has_answered(connection: http.client.HTTPConnection) -> bool:
    """Whether an answer has begun to come while a body is being sent. Where that is encrypted, it
    cannot be told from what TLS says for itself, and is found when all has been sent.
    """
    sock = connection.sock
    return sock is None or (not isinstance(sock, ssl.SSLSocket) and _is_readable(sock))


def _is_readable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


class HttpServer:
    """A server for any number of threads; `target.kept` connections wait for the next one."""

    def __init__(self, target: HttpTarget) -> None:
        self.target = target
        parts = urlsplit(target.url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if target.tls else 80)
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []

    @contextmanager
    def ask(
        self, method: str, place: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Iterator[Answer]:
        """A request with a small body. `path` is for sentences; `place` is what is sent."""
        said = _Said(of(self.target.store, path), self.target.timeout_seconds)
        connection, kept = self._take()
        try:
            # Raised here, a kept connection that is closed would be somebody else's error.
            with said.told():
                try:
                    response = self._ask(connection, method, place, headers, body)
                except (http.client.RemoteDisconnected, ConnectionError):
                    if not kept or method not in _HARMLESS:
                        raise
                    connection.close()
                    connection = self._new()
                    response = self._ask(connection, method, place, headers, body)
            answer = self._answer(response, said)
            yield answer
        except BaseException:
            connection.close()
            raise
        self._give_back(connection, response, answer)

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        place: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> http.client.HTTPResponse:
        connection.request(method, place, body or None, self._headers(headers))
        return connection.getresponse()

    @contextmanager
    def send(
        self, method: str, place: str, path: str, size: int | None
    ) -> Iterator[tuple[Upload, "Sending"]]:
        """A request whose body is written inside; its answer is had from `Sending.answer`."""
        said = _Said(of(self.target.store, path), self.target.timeout_seconds)
        connection, _ = self._take()
        try:
            with said.told():
                connection.putrequest(method, place, skip_accept_encoding=True)
                for name, value in self._headers({}).items():
                    connection.putheader(name, value)
                if size is None:
                    connection.putheader("Transfer-Encoding", "chunked")
                else:
                    connection.putheader("Content-Length", str(size))
                connection.endheaders()
            upload = Upload(connection, size, said)
            sending = Sending(self, connection, upload, said)
            yield upload, sending
        except BaseException:
            connection.close()
            raise
        if not sending.kept:
            connection.close()

    def close(self) -> None:
        """Close what waits for the next one."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _headers(self, more: Mapping[str, str]) -> dict[str, str]:
        headers = {"User-Agent": "slurmbridge", "Accept-Encoding": "identity", **more}
        if self.target.authorization:
            headers["Authorization"] = self.target.authorization.get_secret_value()
        return headers

    def _answer(self, response: http.client.HTTPResponse, said: _Said) -> Answer:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise StoreAnswerUnreadable(f"{said.of}: the answer is encoded, and was not to be")
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, headers, response, said.of, said.timeout_seconds)

    def _take(self) -> tuple[http.client.HTTPConnection, bool]:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._new(), False
            if not has_news(connection):
                return connection, True
            connection.close()

    def _new(self) -> http.client.HTTPConnection:
        seconds = self.target.timeout_seconds
        if self.target.tls is None:
            return http.client.HTTPConnection(
                self._host, self._port, timeout=seconds, blocksize=_BLOCK
            )
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=seconds, blocksize=_BLOCK, context=self.target.tls
        )

    def _give_back(
        self,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
        answer: Answer,
    ) -> None:
        with suppress(StoreFailed):
            if answer.length is None or answer.length <= _DRAINED:
                answer.read(_DRAINED)
                if answer.length is None:
                    answer.read(1)
        if answer.whole and not response.will_close and connection.sock is not None:
            with self._lock:
                if len(self._idle) < self.target.kept:
                    self._idle.append(connection)
                    return
        connection.close()


class Sending:
    """How a request ends whose body has been written."""

    def __init__(
        self,
        server: HttpServer,
        connection: http.client.HTTPConnection,
        upload: Upload,
        said: _Said,
    ) -> None:
        self._server = server
        self._connection = connection
        self._upload = upload
        self._said = said
        self.kept = False

    def answer(self) -> tuple[int, Mapping[str, str]]:
        """The server's answer, be it that it has all or that it wants no more."""
        self._upload.end()
        with self._said.told():
            response = self._connection.getresponse()
        answer = self._server._answer(response, self._said)
        if self._upload.refused:
            return answer.status, answer.headers
        self._server._give_back(self._connection, response, answer)
        self.kept = True
        return answer.status, answer.headers
