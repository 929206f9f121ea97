"""What it is to run a command. A command is an argv list with an environment of its own: nothing of
ours is inherited.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

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
                done by then stays done, unless the error says that it was `never_started`.
        """
        ...
