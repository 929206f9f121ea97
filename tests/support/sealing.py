"""Helpers that are really compiled, once for all tests that need them, and a box to run them in."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from slurmbridge.container.helpers import SOURCES, HelperBuilder
from slurmbridge.model import Helpers
from slurmbridge.shell import LocalShell, Shell
from tests.support.box import LIMITS, Box, End
from tests.support.specs import START

# What sbseal is told after its limits, for one task whose refused calls are not noted.
REST = ("tasks=1", "refused=silent")
each_form = pytest.mark.parametrize("form", ["refused=silent", "refused=noted"])


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


@contextmanager
def sealed_box(helpers: Helpers) -> Iterator[SealBox]:
    """A box for a while. Not below pytest's own folder, which is closed to nobody."""
    with tempfile.TemporaryDirectory(prefix="sbseal-") as folder:
        yield SealBox(Path(folder), Path(helpers.path))


def assert_refused(box: Box, code: int, err: bytes) -> None:
    """It said so in one sentence, and no program has run."""
    assert (code, err.count(b"\n")) == (78, 1), err
    assert err.startswith(b"sbseal: ")
    assert b"Success" not in err
    assert not box.marker.exists()
