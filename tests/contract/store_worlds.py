"""The stores that keep one contract, each with a hand that does what stores do not do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from slurmbridge.stores import DataStore, StoreSettings, open_store
from tests.support import s3, webdav
from tests.support.cluster import Cluster
from tests.support.ssh import make_login

SETTINGS: TypeAdapter[StoreSettings] = TypeAdapter(StoreSettings)
NAME = "archive"


@dataclass(frozen=True)
class World:
    """A store, and how its settings can be changed."""

    kind: str
    settings: dict[str, object]
    store: DataStore
    # Puts a file there by another way: path and content.
    put: Callable[[str, bytes], None]

    def opened(self, **changes: object) -> DataStore:
        """The same place as another store."""
        return open_store(NAME, SETTINGS.validate_python(self.settings | changes))


def _world(kind: str, put: Callable[[str, bytes], None], **settings: object) -> World:
    settings |= {"kind": kind, "write": True}
    return World(kind, settings, open_store(NAME, SETTINGS.validate_python(settings)), put)


def _into(folder: Path) -> Callable[[str, bytes], None]:
    def put(path: str, content: bytes) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)

    return put


@contextmanager
def folder_world(folder: Path) -> Iterator[World]:
    """A folder of this host."""
    yield _world("folder", _into(folder), folder=str(folder))


@contextmanager
def webdav_world(_: Path) -> Iterator[World]:
    """Apache."""
    with webdav.serving() as server:
        (server.files / "base of all").mkdir()
        (server.files / "base of all").chmod(0o777)
        world = _world(
            "webdav",
            _into(server.files / "base of all"),
            url=f"{server.url}base%20of%20all/",
            user=webdav.USER,
            password_file=str(server.password_file()),
        )
        yield world
        world.store.close()


@contextmanager
def s3_world(folder: Path) -> Iterator[World]:
    """moto."""
    with s3.serving() as server:
        client = server.client()

        def put(path: str, content: bytes) -> None:
            client.put_object(Bucket=s3.BUCKET, Key=f"below/this/{path}", Body=content)

        world = _world(
            "s3",
            put,
            bucket=s3.BUCKET,
            prefix="below/this",
            endpoint=server.url,
            access_key_file=str(s3.key_file(folder / "key")),
            part_mib=5,
        )
        yield world
        world.store.close()


@contextmanager
def sftp_world(cluster: Cluster, folder: Path) -> Iterator[World]:
    """The cluster's login node."""
    target = make_login(cluster, folder).target()
    made = cluster.must("login", "mktemp", "-d").strip()

    def put(path: str, content: bytes) -> None:
        script = 'mkdir -p "$(dirname "$0")"; cat >"$0"'
        cluster.must("login", "sh", "-c", script, f"{made}/{path}", stdin=content)

    world = _world(
        "sftp",
        put,
        host=target.host,
        user=target.user,
        key=str(target.key),
        known_hosts=str(target.known_hosts),
        folder=made,
    )
    yield world
    world.store.close()
    cluster.must("login", "rm", "-rf", made)
