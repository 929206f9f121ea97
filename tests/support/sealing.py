"""Helpers that are really compiled, once for all tests that need them."""

from pathlib import Path

from slurmbridge.container.helpers import SOURCES, HelperBuilder
from slurmbridge.model import Helpers
from slurmbridge.shell import LocalShell, Shell
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
