"""How unit tests are run."""

import gc
import os
import stat
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings
from typer.main import get_command

from slurmbridge.context.folder import ContextFolder, Contexts
from slurmbridge.model import Helpers
from slurmbridge.shell import LocalFiles
from slurmbridge.store import Database, ProcessStore
from tests.support.builders import Bridge
from tests.support.databases import fresh_database
from tests.support.provenance import Answers, ask_of, write_crates
from tests.support.sealing import SealBox, sealed_box

# All of them together shall take seconds; what is found once becomes a test of its own.
settings.register_profile("unit", max_examples=40, deadline=None)
settings.load_profile("unit")

NOBODY = 65534


def pytest_collection_finish() -> None:
    """What was imported and collected stays: no collection of garbage has to look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def commands_made_once() -> Iterator[None]:
    """CliRunner makes all commands anew for each call, as a process does once."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("typer.testing._get_command", cache(get_command))
        yield


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
def box(sealing_helpers: Helpers) -> Iterator[SealBox]:
    """A program under the real sbseal."""
    with sealed_box(sealing_helpers) as made:
        yield made


@pytest.fixture(scope="session")
def crates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three crates; leave them as they are."""
    folder = tmp_path_factory.mktemp("crates")
    write_crates(folder)
    return folder


@pytest.fixture(scope="session")
def answers(crates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    """What the public validator says of them."""
    asked = ask_of(crates, tmp_path_factory.mktemp("validator"))
    yield asked
    asked.stop()


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
