"""One contract for Data Stores of every kind, each on a real server."""

import hashlib
import os
import secrets
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest

from slurmbridge.errors import StoreChanged, StoreFailed, StoreForbids, StoreRefused
from slurmbridge.shell import Kind, NotPlain
from slurmbridge.stores import DataStore, is_partial
from tests.contract.store_worlds import (
    World,
    folder_world,
    s3_world,
    sftp_world,
    webdav_world,
)
from tests.support.webdav import secret_file

NAMES = [
    "plain", "a b", "R&D", "100%41", "q?x#y;z=1", "a+b", "'quoted' \"twice\"", "-rf", "~",
    ".hidden", "näïve", "日本語", "back\\slash", "[1]{2}", "x" * 200, "<tag>&amp;", "..twice",
    "a:b",
]  # fmt: skip
SFTP = pytest.param("sftp", marks=pytest.mark.cluster)
MADE = {"folder": folder_world, "webdav": webdav_world, "s3": s3_world}


@pytest.fixture(scope="module", params=[*MADE, SFTP])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("store")
    if request.param == "sftp":
        with sftp_world(request.getfixturevalue("cluster"), folder) as found:
            yield found
        return
    with MADE[request.param](folder) as found:
        yield found


@pytest.fixture
def store(world: World) -> DataStore:
    return world.store


@pytest.fixture
def folder(store: DataStore) -> str:
    """A folder of the test's own."""
    made = f"t{secrets.token_hex(6)}"
    store.make_folder(made)
    return made


def write(store: DataStore, path: str, content: bytes, **words: int) -> None:
    with store.create(path, **words) as target:
        target.write(content)


def read(store: DataStore, path: str, offset: int = 0, version: str | None = None) -> bytes:
    with store.open(path, offset, version) as source:
        parts = []
        while data := source.read(100_000):
            parts.append(data)
        assert source.read(1) == b""
    return b"".join(parts)


def names(store: DataStore, path: str) -> list[str]:
    return [entry.name for entry in store.list(path)]


# --- what is there ---


def test_it_answers_and_lets_us_in(store: DataStore) -> None:
    store.check()
    assert store.look("").kind is Kind.FOLDER
    assert store.name == "archive"


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("content", [b"", b"12345", os.urandom(300_000)], ids=len)
def test_what_was_written_is_read(
    store: DataStore, folder: str, content: bytes, sized: bool
) -> None:
    words = {"size": len(content)} if sized else {}
    write(store, f"{folder}/file", content, **words)
    assert read(store, f"{folder}/file") == content
    found = store.look(f"{folder}/file")
    assert (found.name, found.kind, found.size_bytes) == ("file", Kind.FILE, len(content))
    assert found.modified_at > 1_000_000_000
    assert found.version
    assert names(store, folder) == ["file"]
    assert store.list(folder)[0].version == found.version


@pytest.mark.parametrize("name", NAMES)
def test_names_of_all_kinds(store: DataStore, folder: str, name: str) -> None:
    store.make_folder(f"{folder}/{name}")
    write(store, f"{folder}/{name}/{name}", name.encode())
    assert names(store, folder) == [name]
    assert names(store, f"{folder}/{name}") == [name]
    assert store.look(f"{folder}/{name}/{name}").name == name
    assert read(store, f"{folder}/{name}/{name}") == name.encode()
    store.remove(f"{folder}/{name}/{name}")
    assert names(store, f"{folder}/{name}") == []


def test_a_list_is_sorted_and_says_what_is_what(store: DataStore, folder: str) -> None:
    for name in ("b", "a", "ä", "a-", "Z"):
        write(store, f"{folder}/{name}", name.encode())
    store.make_folder(f"{folder}/a.d/deep")
    found = store.list(folder)
    assert [entry.name for entry in found] == sorted(["b", "a", "ä", "a-", "Z", "a.d"])
    kinds = {entry.name: entry.kind for entry in found}
    assert kinds == {name: Kind.FILE for name in ("b", "a", "ä", "a-", "Z")} | {"a.d": Kind.FOLDER}
    assert names(store, f"{folder}/a.d") == ["deep"]
    assert names(store, f"{folder}/a.d/deep") == []


def test_a_list_stops_one_after_its_limit(store: DataStore, folder: str) -> None:
    for number in range(12):
        write(store, f"{folder}/{number}", b"")
    assert [len(store.list(folder, limit)) for limit in (0, 5, 11, 12, 50)] == [1, 6, 12, 12, 12]


def test_what_is_not_there_is_not_found(store: DataStore, folder: str) -> None:
    for path in (f"{folder}/missing", f"{folder}/missing/below"):
        for call in (store.look, store.list, store.remove):
            with pytest.raises(FileNotFoundError) as caught:
                call(path)
            assert caught.value.filename == f"archive:{path}"
        with pytest.raises(FileNotFoundError):
            read(store, path)


def test_a_file_is_no_folder_and_a_folder_no_file(store: DataStore, folder: str) -> None:
    write(store, f"{folder}/file", b"1")
    with pytest.raises(NotADirectoryError):
        store.list(f"{folder}/file")
    with pytest.raises(NotPlain):
        read(store, folder)
    with pytest.raises(FileExistsError):
        store.make_folder(f"{folder}/file")
    with pytest.raises(FileNotFoundError):
        store.look(f"{folder}/file/below")
    assert read(store, f"{folder}/file") == b"1"


@pytest.mark.parametrize(
    "path",
    ["/etc", "..", "a/../b", "a//b", "a/", "./a", "", "a\0b", "a\nb", "a/\x1b[2J", "x" * 256],
)
def test_paths_that_lead_out_or_cannot_be_shown(store: DataStore, path: str) -> None:
    for call in (store.look, store.list, store.remove, store.open, store.create):
        if path or call not in {store.look, store.list}:
            with pytest.raises(StoreForbids):
                enter(call(path))


def enter(found: object) -> None:
    """Enter what has to be entered, and no more."""
    if isinstance(found, AbstractContextManager):
        found.__enter__()


# --- reading ---


def test_reading_goes_on_where_it_broke(store: DataStore, folder: str) -> None:
    content = os.urandom(1_000_000)
    write(store, f"{folder}/file", content)
    version = store.look(f"{folder}/file").version
    for offset in (0, 1, 65_536, 999_999, 1_000_000):
        assert read(store, f"{folder}/file", offset, version) == content[offset:]


def test_a_file_that_has_become_another_is_noticed(world: World, folder: str) -> None:
    world.put(f"{folder}/file", b"first content")
    found = world.store.look(f"{folder}/file")
    world.put(f"{folder}/file", b"another content")
    for offset in (0, 5, len(b"first content"), 1000):
        with pytest.raises(StoreChanged) as caught:
            read(world.store, f"{folder}/file", offset, found.version)
        assert caught.value.transient


def test_reading_can_end_early(store: DataStore, folder: str) -> None:
    write(store, f"{folder}/file", os.urandom(3_000_000))
    for _ in range(5):
        with store.open(f"{folder}/file") as source:
            assert source.read(10)
    with pytest.raises(RuntimeError, match="ours"), store.open(f"{folder}/file") as source:
        raise RuntimeError("ours")
    assert store.look(f"{folder}/file").size_bytes == 3_000_000


def test_the_callers_own_errors_stay_theirs(store: DataStore, folder: str) -> None:
    write(store, f"{folder}/file", b"1")
    with pytest.raises(OSError, match="own disk") as caught, store.open(f"{folder}/file"):
        raise OSError(28, "own disk")
    assert type(caught.value) is OSError
    with pytest.raises(OSError, match="own disk"), store.create(f"{folder}/new"):
        raise OSError(28, "own disk")


# --- writing ---


def test_nothing_appears_before_the_end_nor_when_it_breaks(store: DataStore, folder: str) -> None:
    def break_off() -> None:
        with store.create(f"{folder}/file") as target:
            target.write(os.urandom(12_000_000))
            assert not [name for name in names(store, folder) if not is_partial(name)]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert names(store, folder) == []


@pytest.mark.parametrize("size", [3, 7])
def test_another_size_than_was_said(store: DataStore, folder: str, size: int) -> None:
    with pytest.raises(StoreFailed, match="bytes"):
        write(store, f"{folder}/file", b"12345", size=size)
    assert names(store, folder) == []


@pytest.mark.parametrize("size", [1, 6_000_000])
def test_nothing_is_overwritten(store: DataStore, folder: str, size: int) -> None:
    write(store, f"{folder}/file", b"first")
    store.make_folder(f"{folder}/made")
    for name in ("file", "made"):
        with pytest.raises(FileExistsError) as caught:
            write(store, f"{folder}/{name}", b"2" * size)
        assert caught.value.filename == f"archive:{folder}/{name}"
    assert read(store, f"{folder}/file") == b"first"
    assert names(store, folder) == ["file", "made"]


def test_what_came_meanwhile_is_not_overwritten(world: World, folder: str) -> None:
    def write_late() -> None:
        with world.store.create(f"{folder}/file") as target:
            target.write(b"ours")
            world.put(f"{folder}/file", b"theirs")

    with pytest.raises(FileExistsError):
        write_late()
    assert read(world.store, f"{folder}/file") == b"theirs"
    assert names(world.store, folder) == ["file"]


def test_a_file_needs_a_folder_unless_folders_are_only_names(world: World, folder: str) -> None:
    if world.kind == "s3":
        write(world.store, f"{folder}/missing/file", b"1")
        return
    with pytest.raises(FileNotFoundError):
        write(world.store, f"{folder}/missing/file", b"1")


def test_folders_are_made_once_and_by_several_at_once(store: DataStore, folder: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: store.make_folder(f"{folder}/x/y/z"), range(6)))
    assert store.look(f"{folder}/x/y/z").kind is Kind.FOLDER


def test_only_empty_folders_are_removed(store: DataStore, folder: str) -> None:
    store.make_folder(f"{folder}/made")
    write(store, f"{folder}/made/file", b"1")
    with pytest.raises(StoreFailed):
        store.remove(f"{folder}/made")
    assert read(store, f"{folder}/made/file") == b"1"
    store.remove(f"{folder}/made/file")
    with suppress(FileNotFoundError):
        store.remove(f"{folder}/made")
    assert "made" not in names(store, folder)


def test_a_large_file_takes_little_memory(store: DataStore, folder: str) -> None:
    piece, pieces = os.urandom(1 << 20), 48
    whole = hashlib.sha256()
    tracemalloc.start()
    with store.create(f"{folder}/large") as target:
        for _ in range(pieces):
            target.write(piece)
            whole.update(piece)
    again = hashlib.sha256()
    with store.open(f"{folder}/large") as source:
        while data := source.read(1 << 20):
            again.update(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert again.digest() == whole.digest()
    assert peak < 30 << 20


def test_several_threads_use_it_at_once(store: DataStore, folder: str) -> None:
    contents = {f"{folder}/{number}": os.urandom(5000 + number) for number in range(40)}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda pair: write(store, *pair), contents.items()))
        found = dict(zip(contents, pool.map(lambda path: read(store, path), contents), strict=True))
    assert found == contents
    assert len(names(store, folder)) == 40


# Not on Apache, which looks first and then moves: see docs/stores.md.
@pytest.mark.parametrize("world", ["folder", "s3", SFTP], indirect=True)
def test_of_several_writers_one_wins(world: World, folder: str) -> None:
    def attempt(number: int) -> bool:
        try:
            write(world.store, f"{folder}/file", b"%d" % number * 1000)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(attempt, range(8)))
    assert won.count(True) == 1
    assert read(world.store, f"{folder}/file") == b"%d" % won.index(True) * 1000


# --- what a store is there for ---


def test_a_read_only_store(world: World, folder: str) -> None:
    write(world.store, f"{folder}/file", b"1")
    store = world.opened(write=False)
    assert read(store, f"{folder}/file") == b"1"
    assert names(store, folder) == ["file"]
    for call in (store.create, store.make_folder, store.remove):
        with pytest.raises(StoreForbids, match="archive: nothing is written"):
            call(f"{folder}/new")
    store.check()
    store.close()


def test_an_upload_only_store(world: World, folder: str) -> None:
    store = world.opened(read=False)
    write(store, f"{folder}/file", b"1")
    assert store.look(f"{folder}/file").size_bytes == 1
    with pytest.raises(FileExistsError):
        write(store, f"{folder}/file", b"2")
    for call in (store.open, store.list):
        with pytest.raises(StoreForbids, match="archive: nothing is read"):
            call(f"{folder}/file")
    store.check()
    store.close()


def test_a_place_that_is_not_there(world: World) -> None:
    other: dict[str, object] = {
        "folder": {"folder": "/nonexistent/folder"},
        "webdav": {"url": f"{world.settings.get('url')}missing/"},
        "s3": {"bucket": "missing"},
        "sftp": {"folder": "/nonexistent/folder"},
    }[world.kind]  # type: ignore[assignment]
    assert isinstance(other, dict)
    store = world.opened(**other)
    with pytest.raises(StoreFailed, match=r"^store archive: "):
        store.check()
    store.close()


# moto takes any key, and those of ssh are tested with it.
@pytest.mark.parametrize("world", ["webdav"], indirect=True)
def test_a_wrong_credential_is_named_and_not_shown(world: World, tmp_path: Path) -> None:
    wrong = secret_file(tmp_path / "wrong", "not-the-password\n")
    store = world.opened(password_file=str(wrong))
    with pytest.raises(StoreRefused) as caught:
        store.check()
    assert str(caught.value) == (
        f"store archive: 401 Unauthorized: the credential in {wrong} is not accepted"
    )
    assert not caught.value.transient
    with pytest.raises(StoreRefused, match="401"):
        write(store, "file", b"1" * 3_000_000)
    store.close()
