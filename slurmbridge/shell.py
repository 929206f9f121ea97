"""Running commands on a host. The only home of subprocess.

A command is an argv list with an environment of its own: nothing of ours is inherited.
"""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from slurmbridge.errors import ShellUnavailable

# No locale and no user variable may change what Slurm's programs print.
CLEAN_ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}


@dataclass(frozen=True, slots=True)
class Command:
    """What to run: never a shell string."""

    argv: tuple[str, ...]
    stdin: str = ""
    timeout_seconds: float = 30.0
    environment: Mapping[str, str] = field(default_factory=lambda: CLEAN_ENVIRONMENT)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    exit_code: int
    stdout: str
    stderr: str


class Shell(Protocol):
    """A way to run commands on one host."""

    def run(self, command: Command) -> Reply:
        """Run to the end.

        Raises:
            ShellUnavailable: it could not be started, or was ended at its deadline. What it had
                done by then stays done.
        """
        ...


class LocalShell:
    """This host. `prefix` is put before every argv, such as ("nice",)."""

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        self._prefix = tuple(prefix)

    def run(self, command: Command) -> Reply:
        """See Shell.run."""
        argv = [*self._prefix, *command.argv]
        try:
            with subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(command.environment),
                start_new_session=True,
            ) as child:
                try:
                    out, err = child.communicate(
                        command.stdin.encode(), timeout=command.timeout_seconds
                    )
                except subprocess.TimeoutExpired:
                    _kill_group(child)
                    raise ShellUnavailable(
                        f"{command.argv[0]} did not end within {command.timeout_seconds:g} s"
                    ) from None
        except OSError as error:
            raise ShellUnavailable(f"{argv[0]} cannot be started: {error.strerror}") from error
        return Reply(child.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def _kill_group(child: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


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
            _kill_group(child)
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
