"""What a job leaves in its context for the bridge: as values, and where it lies."""

from dataclasses import dataclass
from pathlib import Path

LOG_FILES = {"stdout": "stdout.txt", "stderr": "stderr.txt", "job": "job.log"}
TRACE = "trace.zst"


@dataclass(frozen=True, slots=True)
class Left:
    """What a job's script left for the bridge."""

    exit_code: int | None
    refused: str | None
    # The job that took the context.
    taken_by: int | None = None
    # Where and when the container was compared with what was expected, and what was found.
    attested: str | None = None
    facts: str | None = None
    # What the program itself has brought about, so that it was ended.
    stopped: str | None = None
    # At the end no more could be written to /output.
    output_full: bool = False

    @property
    def node(self) -> str | None:
        """The node on which it ran, or those, as far as it came to that."""
        return self.attested.partition(" ")[0] if self.attested else None


@dataclass(frozen=True, slots=True)
class Trace:
    """What strace recorded in one pod, as a file of this host."""

    # From 1.
    pod: int
    path: Path
    # It reached its limit, and what came after is not in it.
    cut: bool


def pod_folder(pod: int) -> str:
    """Where in a context lies what one pod alone leaves: for the first, the context itself."""
    return "" if pod == 1 else f"pods/sb{pod}/"
