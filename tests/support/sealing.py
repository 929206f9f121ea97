"""Helpers that are really compiled, once for all tests that need them, and a box to run them in."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from slurmbridge.container.helpers import SOURCES, HelperBuilder
from slurmbridge.model import Helpers
from slurmbridge.shell import LocalShell, Shell
from tests.support.box import LIMITS, Box, End
from tests.support.specs import START


class HelperList:
    """Records of helpers, in memory."""

    def __init__(self) -> None:
        self.all: list[Helpers] = []

    def record(self, helpers: Helpers) -> None:
        """See HelperRecords.record."""
        self.all.append(helpers)

    def latest(self) -> Helpers | None:
        """See HelperRecords.latest."""
        return self.all[-1] if self.all else None


def builder(
    folder: Path,
    records: HelperList | None = None,
    *,
    sources: Path = SOURCES,
    shell: Shell | None = None,
) -> HelperBuilder:
    """A builder with this host's compiler."""
    return HelperBuilder(
        HelperList() if records is None else records,
        shell or LocalShell(),
        folder=folder,
        clock=lambda: START,
        sources=sources,
    )


class SealBox(Box):
    """A Box that says how many tasks there are, and whether refused calls are noted."""

    tasks = "tasks=1"
    refused = "refused=silent"

    def noting(self) -> Self:
        """The same, with notes."""
        self.refused = "refused=noted"
        return self

    def run(
        self,
        command: Sequence[str | bytes] | None = None,
        *,
        arguments: Sequence[str] | None = None,
        **how: Any,
    ) -> End:
        """See Box.run."""
        if arguments is None:
            arguments = (str(self.folder), *LIMITS, self.tasks, self.refused)
        return super().run(command, arguments=arguments, **how)
