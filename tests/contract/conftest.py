"""Databases and hosts of every kind, for the tests that run on each."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurmbridge.shell import Files as HostFiles
from slurmbridge.store import Database, ProcessStore
from tests.contract.file_worlds import Host, local_host, login_host
from tests.support import builders
from tests.support.postgresql import Databases, Files, Lent, Server

Open = Callable[[str], Database]


@pytest.fixture(scope="session")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The cluster's PostgreSQL."""
    found = Server(request.getfixturevalue("cluster"), tmp_path_factory.mktemp("server"))
    yield found
    found.close()


@pytest.fixture
def lent(server: Server) -> Iterator[Databases]:
    """Databases of PostgreSQL alone."""
    found = Lent(server)
    yield found
    found.give_back()


@pytest.fixture(params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> Databases:
    """Databases of each kind in turn."""
    if request.param == "sqlite":
        return Files(tmp_path)
    found: Databases = request.getfixturevalue("lent")
    return found


@pytest.fixture
def opened() -> Iterator[Open]:
    """Open a database until the end of the test."""
    all_of_them: list[Database] = []

    def open_one(url: str) -> Database:
        all_of_them.append(Database(url))
        return all_of_them[-1]

    yield open_one
    for database in all_of_them:
        database.close()


@pytest.fixture
def database(databases: Databases, opened: Open) -> Database:
    """An empty one, with the schema of this version."""
    return opened(databases.migrated())


@pytest.fixture
def store(database: Database) -> ProcessStore:
    """The Processes of that database."""
    return ProcessStore(database)


@pytest.fixture
def bridge(
    tmp_path: Path, lent: Databases, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> builders.Bridge:
    """A whole bridge over a Slurm in memory, on PostgreSQL; units have one on a file of SQLite."""
    monkeypatch.setattr(builders, "fresh_database", lambda *_: opened(lent.migrated()))
    return builders.Bridge(tmp_path)


@pytest.fixture(scope="module", params=["local", pytest.param("sftp", marks=pytest.mark.cluster)])
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("files")
    if request.param == "local":
        yield local_host(folder)
        return
    with login_host(request.getfixturevalue("cluster"), folder) as found:
        yield found


@pytest.fixture
def files(host: Host) -> HostFiles:
    return host.files


@pytest.fixture
def folder(host: Host) -> Path:
    made = host.root / secrets.token_hex(6)
    host.files.make_folder(made, mode=0o750)
    return made
