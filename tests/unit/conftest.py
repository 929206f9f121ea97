"""How unit tests are run."""

import gc
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from slurmbridge.context.folder import ContextFolder, Contexts
from slurmbridge.shell import LocalFiles
from slurmbridge.store import Database, ProcessStore
from tests.support.builders import Bridge, fresh_database

# All of them together shall take seconds; what is found once becomes a test of its own.
settings.register_profile("unit", max_examples=40, deadline=None)
settings.load_profile("unit")

NOBODY = 65534


def pytest_collection_finish() -> None:
    """What was imported and collected stays: no collection of garbage has to look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def bridge(tmp_path: Path) -> Bridge:
    """A whole bridge over a Slurm in memory; not the cluster's, which units do not need."""
    return Bridge(tmp_path)


@pytest.fixture
def database() -> Iterator[Database]:
    """An empty one, with the schema of this version."""
    opened = fresh_database()
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> ProcessStore:
    """The Processes of that database."""
    return ProcessStore(database)


@pytest.fixture
def folder(tmp_path: Path) -> ContextFolder:
    """A context that was made, beside folders for data and results."""
    (tmp_path / "contexts").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "results").mkdir()
    made = Contexts(LocalFiles(), tmp_path / "contexts").of("p1")
    made.make(b"true\0", b"A=1\0", b"seccomp 2\n")
    return made


@pytest.fixture
def unprivileged(tmp_path: Path) -> Iterator[None]:
    """To root nothing is unreadable: for the time of a test, be nobody."""
    if os.geteuid() != 0:
        yield
        return
    above = tmp_path
    modes = {}
    while above != Path(above.root):
        modes[above] = stat.S_IMODE(above.stat().st_mode)
        above.chmod(modes[above] | 0o711)
        above = above.parent
    for path in [tmp_path, *tmp_path.rglob("*")]:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        for path, mode in modes.items():
            path.chmod(mode)


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What happens in each sleep; without anything left to happen, the test fails."""
    happenings: list[Callable[[], None]] = []
    monkeypatch.setattr("time.sleep", lambda _seconds: happenings.pop(0)())
    return happenings
