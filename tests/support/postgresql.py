"""The PostgreSQL of the development cluster, and files of SQLite, for tests that run on both."""

import itertools
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import psycopg
from psycopg.sql import SQL, Identifier
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlmodel import SQLModel

from slurmbridge.store import Database
from tests.support.cluster import Cluster

CONTAINER = "slurmbridge-database-1"
SECRET = "/etc/slurmbridge/database/tests"  # where it lies, not what it is


class Databases(Protocol):
    """Where a test gets databases from. All of them are gone when it has ended."""

    def bare(self) -> str:
        """The URL of one without a schema."""

    def migrated(self) -> str:
        """The URL of one with the schema, and nothing else."""


@cache
def _migrated() -> bytes:
    with TemporaryDirectory() as folder:
        file = Path(folder, "database")
        database = Database(f"sqlite:///{file}")
        database.migrate()
        database.close()
        return file.read_bytes()


class Files:
    """Files of SQLite."""

    def __init__(self, folder: Path) -> None:
        self._files = (folder / f"database-{number}.db" for number in itertools.count())

    def bare(self) -> str:
        """See Databases."""
        return f"sqlite:///{next(self._files)}"

    def migrated(self) -> str:
        """See Databases."""
        file = next(self._files)
        file.write_bytes(_migrated())
        return f"sqlite:///{file}"


class Server:
    """The PostgreSQL of the cluster, by a role that can do no more than make databases."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self._passfile = folder / "pgpass"
        self._passfile.touch(mode=0o600)
        self._passfile.write_text(cluster.must("database", "cat", SECRET, user="root"))
        docker = shutil.which("docker")
        assert docker, "the docker client is missing"
        port = [docker, "port", CONTAINER, "5432/tcp"]
        self.address = subprocess.run(port, check=True, capture_output=True, text=True).stdout
        self.address = self.address.splitlines()[0]
        self._names = (f"tests_{os.getpid()}_{number}" for number in itertools.count())
        # Each transaction of its own: no database can be made within one.
        self._admin = Database(self.url("postgres")).engine.execution_options(
            isolation_level="AUTOCOMMIT"
        )
        self._spare: list[str] = []
        self._drop(lambda pid: not Path(f"/proc/{pid}").exists())
        template = self.bare()
        self._template = name_of(template)
        database = Database(template)
        database.migrate()
        with database.read() as connection:
            query = text("SELECT version_num FROM alembic_version")
            self._newest = connection.execute(query).scalar_one()
        database.close()

    def url(self, name: str, address: str | None = None) -> str:
        """Of a database, as the bridge is told it."""
        place = f"{address or self.address}/{name}"
        return f"postgresql://tests@{place}?passfile={self._passfile}"

    def do(self, statement: str, **values: Any) -> list[Any]:
        """Let the server do something that concerns no database, or all."""
        with self._admin.connect() as connection:
            result = connection.execute(text(statement), values)
            return list(result) if result.returns_rows else []

    def bare(self) -> str:
        """A new one."""
        name = next(self._names)
        self.do(f"CREATE DATABASE {name}")
        return self.url(name)

    def migrated(self) -> str:
        """One that an earlier test has given back, or a new one."""
        if self._spare:
            return self._spare.pop()
        name = next(self._names)
        self.do(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        return self.url(name)

    def take_back(self, url: str) -> None:
        """Make one empty again: to make and drop one for each test takes ten times as long."""
        with psycopg.connect(self._conninfo(name_of(url))) as connection:
            for table in reversed(SQLModel.metadata.sorted_tables):
                connection.execute(SQL("DELETE FROM {}").format(Identifier(table.name)))
            connection.execute("DELETE FROM alembic_version")
            connection.execute("INSERT INTO alembic_version VALUES (%s)", [self._newest])
        self._spare.append(url)

    def _conninfo(self, name: str) -> str:
        host, _, port = self.address.partition(":")
        return f"host={host} port={port} user=tests dbname={name} passfile={self._passfile}"

    def drop(self, url: str) -> None:
        """End one, whoever uses it."""
        self.do(f"DROP DATABASE {name_of(url)} WITH (FORCE)")

    def hang_up(self, url: str) -> int:
        """Break all connections to a database; how many there were."""
        query = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = :name"
        return len(self.do(query, name=name_of(url)))

    def restart(self) -> None:
        """End PostgreSQL, which its container starts again after a second."""
        end = """pid=$(head -n 1 /var/lib/postgresql/*/postmaster.pid) && kill -INT "$pid" &&
            while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done"""
        self.cluster.must("database", "sh", "-c", end, user="root")

    def close(self) -> None:
        """Drop all that was made."""
        self._drop(lambda pid: pid == os.getpid())
        self._admin.dispose()

    def _drop(self, whose: Any) -> None:
        for (name,) in self.do("SELECT datname FROM pg_database WHERE datname LIKE 'tests\\_%'"):
            if whose(int(name.split("_")[1])):
                self.do(f"DROP DATABASE {name} WITH (FORCE)")


class Lent:
    """What one test has of a server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._bare: list[str] = []
        self._migrated: list[str] = []

    def bare(self) -> str:
        """See Databases."""
        self._bare.append(self._server.bare())
        return self._bare[-1]

    def migrated(self) -> str:
        """See Databases."""
        self._migrated.append(self._server.migrated())
        return self._migrated[-1]

    def give_back(self) -> None:
        """The test has ended."""
        # WITH (FORCE): fixtures that close connections may end later.
        for url in self._bare:
            self._server.drop(url)
        for url in self._migrated:
            self._server.take_back(url)


def name_of(url: str) -> str:
    """The name of a database."""
    name = make_url(url).database
    assert name
    return name
