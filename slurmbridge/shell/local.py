"""Commands on this host."""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from slurmbridge.errors import ShellUnavailable
from slurmbridge.shell.commands import Command, Reply


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
                    kill_group(child)
                    raise ShellUnavailable(
                        f"{command.argv[0]} did not end within {command.timeout_seconds:g} s"
                    ) from None
        except OSError as error:
            raise ShellUnavailable(
                f"{argv[0]} cannot be started: {error.strerror}", never_started=True
            ) from error
        return Reply(child.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def kill_group(child: "subprocess.Popen[bytes]") -> None:
    """End a child, which leads a session of its own, and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
