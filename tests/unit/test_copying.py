"""Copying from a store that breaks off, is slow, or changes while it is read."""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from slurmbridge.context.copying import Pace, copy_file, copy_tree
from slurmbridge.context.tree import Bounds, Found, Source, Spot, TooMuch
from slurmbridge.errors import StoreFailed, StoreUnavailable
from slurmbridge.shell import Entry, Kind, LocalFiles
from slurmbridge.stores import StoreEntry

HERE = LocalFiles()
WHOLE = bytes(range(256)) * 20_000


@dataclass
class Flaky:
    """A store of one folder. Each reading of a file ends after the next of `cuts` bytes."""

    files: dict[str, bytes]
    cuts: list[int] = field(default_factory=list)
    version: str = "1"
    opened: list[tuple[str, int]] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, path: str) -> Entry:
        return StoreEntry(path, Kind.FILE, len(self.files[path]), 0o640, 1, 0.0, self.version)

    def list(self, path: str, limit: int | None = None) -> Sequence[Entry]:
        assert path == ""
        return [self.look(name) for name in sorted(self.files)]

    @contextmanager
    def open(self, path: str, offset: int = 0, version: str | None = None) -> Iterator[Source]:
        self.opened.append((path, offset))
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            yield _Reading(self.files[path][offset:], self.cuts.pop(0) if self.cuts else None)
        finally:
            with self._lock:
                self._now -= 1


class _Reading:
    def __init__(self, data: bytes, cut: int | None) -> None:
        self._data = data
        self._cut = cut

    def read(self, size: int, /) -> bytes:
        if self._cut is not None:
            if self._cut <= 0:
                raise StoreUnavailable("store a: it broke off", retry_after_seconds=7.0)
            size = min(size, self._cut)
            self._cut -= size
        data, self._data = self._data[:size], self._data[size:]
        return data


@pytest.fixture
def slept() -> list[float]:
    return []


def copied(
    store: Flaky, target: Path, slept: list[float], *, attempts: int = 4, version: str | None = "1"
) -> str:
    pace = Pace(attempts=attempts, sleep=slept.append)
    file = Found("f", 0, False, version)
    return copy_file(Spot(store, "f"), HERE, target, 1 << 30, file, pace).sha256


def test_what_breaks_off_is_gone_on_with_from_there(tmp_path: Path, slept: list[float]) -> None:
    store = Flaky({"f": WHOLE}, cuts=[0, 1000, 3_000_000])
    found = copied(store, tmp_path / "f", slept)
    assert (tmp_path / "f").read_bytes() == WHOLE
    assert found == hashlib.sha256(WHOLE).hexdigest()
    assert store.opened == [("f", 0), ("f", 0), ("f", 1000), ("f", 3_001_000)]
    assert slept == [7.0, 7.0, 7.0]


def test_attempts_without_a_byte_are_numbered(tmp_path: Path, slept: list[float]) -> None:
    with pytest.raises(StoreUnavailable):
        copied(Flaky({"f": WHOLE}, cuts=[0, 0, 0, 0]), tmp_path / "f", slept)
    assert len(slept) == 3


def test_a_file_without_a_version_is_not_gone_on_with(tmp_path: Path, slept: list[float]) -> None:
    store = Flaky({"f": WHOLE}, cuts=[1000])
    with pytest.raises(StoreUnavailable):
        copied(store, tmp_path / "f", slept, version=None)
    assert len(store.opened) == 1


def many(number: int) -> dict[str, bytes]:
    return {f"{index:03}": bytes([index]) * 5000 for index in range(number)}


@pytest.mark.parametrize("at_once", [1, 8])
def test_many_files_are_copied_in_order_whatever_is_done_at_a_time(
    tmp_path: Path, at_once: int
) -> None:
    store = Flaky(many(100))
    files, ignored = copy_tree(
        Spot(store, ""), HERE, tmp_path / "t", Bounds(1 << 30, 1000), pace=Pace(at_once)
    )
    assert [file.path for file in files] == sorted(store.files)
    assert not ignored
    assert {path.name: path.read_bytes() for path in (tmp_path / "t").iterdir()} == store.files
    assert store.most_at_once <= at_once


def test_files_that_grow_share_one_allowance(tmp_path: Path) -> None:
    class Growing(Flaky):
        def look(self, path: str) -> Entry:
            return StoreEntry(path, Kind.FILE, 1, 0o640, 1, 0.0, "")

    store = Growing(many(100))
    with pytest.raises(TooMuch, match="holds more than the 200000 bytes"):
        copy_tree(Spot(store, ""), HERE, tmp_path / "t", Bounds(200_000, 1000), pace=Pace(4))
    assert sum(path.stat().st_size for path in (tmp_path / "t").iterdir()) <= 200_000


def test_after_one_that_fails_no_other_is_begun(tmp_path: Path) -> None:
    class Broken(Flaky):
        @contextmanager
        def open(self, path: str, offset: int = 0, version: str | None = None) -> Iterator[Source]:
            if path == "010":
                raise StoreFailed("store a: no")
            with super().open(path, offset, version) as file:
                yield file

    store = Broken(many(200))
    with pytest.raises(StoreFailed):
        copy_tree(Spot(store, ""), HERE, tmp_path / "t", Bounds(1 << 30, 1000), pace=Pace(2))
    assert len(store.opened) < 150


def test_a_file_of_many_pieces_has_the_digest_of_all_of_them(tmp_path: Path) -> None:
    content = bytes(range(251)) * 40_000
    before = threading.active_count()
    found = copied(Flaky({"f": content}), tmp_path / "f", [])
    assert found == hashlib.sha256(content).hexdigest()
    assert threading.active_count() == before


def test_no_thread_is_left_of_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    before = threading.active_count()
    store = Flaky({"f": WHOLE})
    with pytest.raises(TooMuch):
        copy_file(Spot(store, "f"), HERE, tmp_path / "f", 3 << 20, Found("f", 0, False, "1"))
    assert threading.active_count() == before
