"""Commands on another host, by ssh. What runs there: `timeout`, `/bin/sh` and `env`."""

import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass, field

from paramiko import Channel

from slurmbridge.errors import ShellUnavailable
from slurmbridge.shell.commands import Command, Reply
from slurmbridge.shell.connection import Session, SshConnection
from slurmbridge.shell.link import TROUBLE
from slurmbridge.shell.quoting import after_marker, in_short, not_started, remote_line

OUTPUT_LIMIT_BYTES = 64 * 1024 * 1024
_CHUNK = 1024 * 1024
# paramiko says when something came, not when there is room to send.
_SENDING_SECONDS = 0.01


class SshShell:
    """Another host, over a connection that others may use, too."""

    def __init__(self, connection: SshConnection) -> None:
        self._connection = connection

    def run(self, command: Command) -> Reply:
        """See Shell.run. What cannot be sent through every login shell is a ValueError, and
        nothing was sent then. At its deadline a command is ended on the far side as well, even
        when the connection is lost; what it started in a session of its own is not.

        Raises:
            HostKeyRefused
        """
        clock = self._connection.clock
        began = clock()
        deadline = began + command.timeout_seconds
        marker = secrets.token_hex(16)
        remote_line(command, marker, command.timeout_seconds)
        with self._connection.session(deadline) as session:
            line = remote_line(command, marker, deadline - clock())
            talk = _Talk(session.channel, command.stdin.encode())
            try:
                session.channel.exec_command(line.encode())
                while not talk.ended():
                    left = deadline - clock()
                    if left <= 0:
                        raise TimeoutError
                    talk.wait(left)
            except TimeoutError:
                session.link.doubt(began)
                raise self._failed(command, f"{_did_not_end(command)}") from None
            except TROUBLE as error:
                if clock() >= deadline:
                    raise self._failed(command, _did_not_end(command)) from error
                raise self._failed(command, self._why(session)) from error
        return self._reply(command, talk, marker, session)

    def _reply(self, command: Command, talk: "_Talk", marker: str, session: Session) -> Reply:
        out, err = after_marker(talk.out, marker), after_marker(talk.err, marker)
        if out is None or err is None:
            said = in_short(talk.err + talk.out)
            if not said and not session.link.alive:
                raise self._failed(command, self._why(session))
            raise self._failed(command, f"could not be begun; what came was: {said or 'nothing'}")
        if talk.exit_status < 0:
            raise self._failed(
                command,
                "was ended by a signal" if session.link.alive else self._why(session),
            )
        reply = Reply(talk.exit_status, out.decode(errors="replace"), err.decode(errors="replace"))
        if why := not_started(command.argv, reply.exit_code, reply.stdout, reply.stderr):
            raise ShellUnavailable(
                f"{command.argv[0]} cannot be started: {why}", never_started=True
            )
        return reply

    def _why(self, session: Session) -> str:
        if session.link.alive:
            return "may have run: its session ended without a word"
        why = session.link.dropped_why
        return "may have run: the connection was lost" + (f" ({why})" if why else "")

    def _failed(self, command: Command, what: str) -> ShellUnavailable:
        return ShellUnavailable(f"{command.argv[0]} on {self._connection.target} {what}")


def _did_not_end(command: Command) -> str:
    return f"did not end within {command.timeout_seconds:g} s"


class _Waker(threading.Event):
    """What paramiko sets when something comes. It clears it when all is read, which is not for it
    to do: two streams share this one.
    """

    def clear(self) -> None:
        """Leave it as it is."""

    def reset(self) -> None:
        """Wait anew."""
        super().clear()


@dataclass(slots=True)
class _Talk:
    """Both streams of a command, and what it is told. It never blocks but in `wait`."""

    channel: Channel
    stdin: bytes
    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    _waker: _Waker = field(default_factory=_Waker)
    _sent: int = 0
    _told_all: bool = False

    def __post_init__(self) -> None:
        self.channel.in_buffer.set_event(self._waker)
        self.channel.in_stderr_buffer.set_event(self._waker)

    @property
    def exit_status(self) -> int:
        """Negative when the host told none."""
        return self.channel.exit_status

    def ended(self) -> bool:
        """Move what there is to move; whether that was all.

        Raises:
            ShellUnavailable: the command prints more than is allowed.
        """
        self._waker.reset()
        # Asked for before the last is read: what comes later is not of the command.
        over = self.channel.closed or (bool(self.channel.eof_received) and self._has_status())
        while self.channel.recv_ready():
            self._keep(self.out, self.channel.recv(_CHUNK))
        while self.channel.recv_stderr_ready():
            self._keep(self.err, self.channel.recv_stderr(_CHUNK))
        self._tell()
        return over

    def wait(self, seconds: float) -> None:
        """Until something has come, or there may be room to send."""
        if self.channel.eof_received and not self._waker.is_set():
            self.channel.status_event.wait(seconds)
        else:
            self._waker.wait(seconds if self._told_all else min(seconds, _SENDING_SECONDS))

    def _has_status(self) -> bool:
        return self.channel.status_event.is_set()

    def _tell(self) -> None:
        if self._told_all:
            return
        # A program may end before it has read all, which is no error.
        with suppress(OSError):
            while self._sent < len(self.stdin) and self.channel.send_ready():
                sent = self.channel.send(self.stdin[self._sent : self._sent + _CHUNK])
                if not sent:
                    self._told_all = True
                    return
                self._sent += sent
            if self._sent < len(self.stdin):
                return
            self.channel.shutdown_write()
        self._told_all = True

    def _keep(self, stream: bytearray, data: bytes) -> None:
        stream += data
        if len(self.out) + len(self.err) > OUTPUT_LIMIT_BYTES:
            raise ShellUnavailable(f"a command printed more than {OUTPUT_LIMIT_BYTES} bytes")
