"""One connection to a host, as long as it lasts."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, cast

from paramiko import Channel, SSHException, Transport

from slurmbridge.errors import ShellUnavailable
from slurmbridge.shell.certificates import SUFFIX, CertificateUnreadable, read_certificate
from slurmbridge.shell.hostkeys import HostKey, KnownHosts
from slurmbridge.shell.login import log_in
from slurmbridge.shell.target import SshTarget

# What goes wrong comes as an exception, and is said once.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)

TROUBLE = (SSHException, EOFError, OSError)
# A host that is alive answers a question about that within this time.
_ANSWER_SECONDS = 2.0
# For the call to end on its own at its deadline, before its connection is cut.
_GRACE_SECONDS = 0.25
_CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
_WINDOW = 8 * 1024 * 1024
_PACKET = 128 * 1024


class _Bytes(Protocol):
    def settimeout(self, seconds: float | None) -> None: ...
    def recv(self, most: int) -> bytes: ...
    def send(self, data: bytes) -> int: ...
    def close(self) -> None: ...


class _Heard:
    """What paramiko takes for a socket. It remembers when something came, and reads ahead."""

    def __init__(self, inner: _Bytes, clock: Callable[[], float]) -> None:
        self._inner = inner
        self._clock = clock
        self._ahead = b""
        self._at = 0
        self.heard_at = clock()
        self._closed = False

    def recv(self, most: int) -> bytes:
        if self._at == len(self._ahead):
            self._ahead, self._at = self._inner.recv(256 * 1024), 0
            self.heard_at = self._clock()
        found = self._ahead[self._at : self._at + most]
        self._at += len(found)
        return found

    def send(self, data: bytes) -> int:
        return self._inner.send(data)

    def settimeout(self, seconds: float | None) -> None:
        self._inner.settimeout(seconds)

    def close(self) -> None:
        self._closed = True
        # A channel of another connection says goodbye there, and that may be lost as well.
        with suppress(*TROUBLE):
            self._inner.close()


class _Transport(Transport):
    """A Transport that asks for the host keys that are known."""

    def __init__(self, through: _Heard, algorithms: tuple[str, ...]) -> None:
        self._algorithms = algorithms
        super().__init__(
            cast(socket.socket, through),
            default_window_size=_WINDOW,
            default_max_packet_size=_PACKET,
        )

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        return self._algorithms

    @property
    def preferred_ciphers(self) -> tuple[str, ...]:
        # One pass over the data instead of two; the rest is for hosts that do without.
        return _CIPHERS


class Link:
    """A host that one is logged in to, until the connection is dropped or lost."""

    def __init__(self, target: SshTarget, seconds: float, clock: Callable[[], float]) -> None:
        """Reach the host and log in, within so many seconds of a monotonic clock.

        Raises:
            ShellUnavailable, HostKeyRefused: nothing was begun there.
        """
        self._clock = clock
        self._until = clock() + seconds
        self._raw: socket.socket | None = None
        self._transports: list[_Transport] = []
        self._guards: dict[object, float] = {}
        self._asked_at: float | None = None
        self.dropped_why: str | None = None
        # Whether it was ever of use.
        self.served = False
        try:
            self._heard = self._reach(target)
        except BaseException:
            self.drop("it was never up")
            raise
        self._transport = self._transports[-1]

    @property
    def alive(self) -> bool:
        """Whether it can be used, as far as is known."""
        return self.dropped_why is None and self._transport.is_active()

    @property
    def heard_at(self) -> float:
        """When something last came from the host, by the clock."""
        return self._heard.heard_at

    @property
    def doubtful(self) -> bool:
        """Whether the host was asked for a sign of life, and has not answered yet."""
        return self._asked_at is not None and self.heard_at < self._asked_at

    def open(self, seconds: float) -> Channel:
        """A new session on the host.

        Raises:
            ChannelException: the host has none to give.
            SSHException, EOFError, OSError: the connection is lost or does not answer.
        """
        channel = self._transport.open_session(timeout=seconds)
        self.served = True
        return channel

    @contextmanager
    def guard(self, deadline: float) -> Iterator[None]:
        """What is done inside ends soon after its deadline, if need be with the connection.

        Some of what paramiko does waits without an end, such as for room in a socket.
        """
        token = object()
        self._guards[token] = deadline
        try:
            yield
        finally:
            self._guards.pop(token, None)

    def doubt(self, since: float) -> None:
        """A call ended at its deadline: whether the host is still there has to be seen.

        When nothing has come since the call began, it is not.
        """
        if self.heard_at < since:
            self.drop("the host has fallen silent")
        else:
            self._ask()

    def keep(self, keepalive_seconds: float, pause: Callable[[], None]) -> None:
        """Watch over it as long as it lives; between two looks, `pause` is called."""
        while self.alive:
            now = self._clock()
            if any(now > deadline + _GRACE_SECONDS for deadline in list(self._guards.values())):
                self.drop("a call could not end in time")
            elif self._asked_at is not None and self.heard_at >= self._asked_at:
                self._asked_at = None
            elif self._asked_at is not None and now - self._asked_at > _ANSWER_SECONDS:
                self.drop("the host does not answer any more")
            elif now - self.heard_at > keepalive_seconds:
                self._ask()
            pause()

    def drop(self, why: str) -> None:
        """Cut the connection, at once. All that waits for it ends."""
        self.dropped_why = self.dropped_why or why
        if self._raw:
            # It wakes up who reads or writes, so that no close() below has to wait for them.
            with suppress(OSError):
                self._raw.shutdown(socket.SHUT_RDWR)
        for transport in self._transports:
            with suppress(*TROUBLE):
                transport.close()
        if self._raw:
            self._raw.close()

    def _ask(self) -> None:
        if self._asked_at is None:
            self._asked_at = self._clock()
            # It waits for the answer, or for room to ask.
            threading.Thread(target=self._ask_and_wait, daemon=True).start()

    def _ask_and_wait(self) -> None:
        with suppress(*TROUBLE):
            self._transport.global_request("keepalive@openssh.com", wait=True)

    def _left(self) -> float:
        return max(0.01, self._until - self._clock())

    def _reach(self, target: SshTarget) -> _Heard:
        known = KnownHosts(target.known_hosts, target.host, target.port)
        try:
            heard = _Heard(self._way_to(target), self._clock)
            transport = _Transport(heard, known.algorithms)
            self._transports.append(transport)
            transport.banner_timeout = transport.handshake_timeout = self._left()
            transport.start_client(timeout=self._left())
            known.check(_shown(transport), time.time())
            transport.auth_timeout = self._left()
            log_in(transport, target)
        except ShellUnavailable:
            raise
        except TROUBLE as error:
            raise ShellUnavailable(
                f"{target} cannot be reached: {in_words(error)}", never_started=True
            ) from error
        return heard

    def _way_to(self, target: SshTarget) -> _Bytes:
        if target.jump is None:
            self._raw = socket.create_connection((target.host, target.port), timeout=self._left())
            self._raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._raw
        self._reach(target.jump)
        there = (target.host, target.port)
        here = ("127.0.0.1", 0)
        try:
            outer = self._transports[-1]
            return outer.open_channel("direct-tcpip", there, here, timeout=self._left())
        except SSHException as error:
            raise ShellUnavailable(
                f"{target} cannot be reached through {target.jump}: {in_words(error)}",
                never_started=True,
            ) from error


def in_words(error: BaseException) -> str:
    """What is wrong with a connection, for a sentence."""
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = str(error).rstrip(".")
    if said.startswith("Error reading SSH protocol banner"):
        # sshd does so when it has too many connections, or none for who was refused before.
        return "it ended the connection before it said a word (MaxStartups, PerSourcePenalties)"
    return said or "the connection was lost"


def _shown(transport: Transport) -> HostKey:
    key = transport.get_remote_server_key()
    blob = key.public_blob
    if blob is None:
        return HostKey(key.get_name(), key.asbytes())
    try:
        plain = read_certificate(blob.key_blob).key
    except CertificateUnreadable as error:
        raise SSHException(f"the certificate that it shows: {error}") from error
    return HostKey(blob.key_type.removesuffix(SUFFIX), plain, blob.key_blob)
