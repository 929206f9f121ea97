"""Children of this process: one that answers lines, and one that is kept running."""

import os
import selectors
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from slurmbridge.errors import ShellUnavailable
from slurmbridge.shell.local import kill_group


class LineChild:
    """A child that answers lines with lines, and is replaced when it hangs or dies.

    It exists because a library call that blocks while holding the interpreter's lock can only be
    ended from another process. Not for use by several threads at a time.
    """

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self._argv = list(argv)
        self._environment = dict(environment)
        self._child: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    @property
    def pid(self) -> int | None:
        """The child's process id, if one lives."""
        return self._child.pid if self._child and self._child.poll() is None else None

    def request(self, line: str, *, timeout_seconds: float) -> Iterator[str]:
        """Send one line; yield lines of the answer until the caller stops asking.

        The deadline is for each line of the answer.

        Raises:
            ShellUnavailable: the child did not start, died, or was killed at its deadline.
        """
        child = self._child if self._child and self.pid else self._start()
        assert child.stdin is not None
        try:
            child.stdin.write(line.encode() + b"\n")
            child.stdin.flush()
        except OSError as error:
            self.kill()
            raise ShellUnavailable(f"{self._argv[0]} went away: {error.strerror}") from error
        while True:
            yield self._read_line(child, time.monotonic() + timeout_seconds, timeout_seconds)

    def kill(self) -> None:
        """End the child at once. The next request starts another."""
        child, self._child, self._buffer = self._child, None, b""
        if child:
            kill_group(child)
            for pipe in (child.stdin, child.stdout):
                if pipe:
                    with suppress(OSError):
                        pipe.close()

    def _start(self) -> "subprocess.Popen[bytes]":
        self.kill()
        try:
            self._child = subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self._environment,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise ShellUnavailable(f"{self._argv[0]} cannot start: {error.strerror}") from error
        return self._child

    def _read_line(
        self, child: "subprocess.Popen[bytes]", deadline: float, timeout_seconds: float
    ) -> str:
        assert child.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.kill()
                    raise ShellUnavailable(f"no answer within {timeout_seconds:g} s: child ended")
                data = os.read(child.stdout.fileno(), 1 << 20)
                if not data:
                    self.kill()
                    raise ShellUnavailable("the child ended without an answer")
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace")


class Daemon:
    """A child in the foreground's care: `slurmbridge up` runs its parts as such."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self._child = subprocess.Popen(list(argv), env=dict(environment))

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._child.poll()

    def stop(self, *, grace_seconds: float) -> int:
        """Ask it to end; end it after `grace_seconds`."""
        self._child.terminate()
        try:
            return self._child.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return self._child.wait()
