"""Inputs that many Processes need: copied once, found by all, and let go of."""

import errno
import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier

import pytest

from slurmbridge.context import cache as cache_module
from slurmbridge.context import copying
from slurmbridge.context.cache import Cache, Linked, Shelves
from slurmbridge.context.folder import ContextFolder, Contexts
from slurmbridge.context.origins import Origins
from slurmbridge.context.tree import Bounds, Copied
from slurmbridge.errors import InvalidProcess
from slurmbridge.shell import LocalFiles
from slurmbridge.spec import parse_spec

BOUNDS = Bounds(1 << 20, 100)
SHELVES = Shelves(size=1000, least=100)


class Place:
    """A store that is a folder, and a cluster with a cache."""

    def __init__(self, root: Path, files: LocalFiles | None = None) -> None:
        self.files = files or LocalFiles()
        self.store = root / "store"
        self.root = root / "contexts"
        self.store.mkdir()
        self.root.mkdir()
        self.shelves = SHELVES
        self._time = 1_000_000_000

    @property
    def contexts(self) -> Contexts:
        """As a Runner that has just begun has them."""
        cache = Cache(self.files, self.root, self.shelves)
        return Contexts(self.files, self.root, cache=cache)

    def put(self, path: str, content: bytes) -> None:
        """A file in the store, changed at a time of its own."""
        target = self.store / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        self._time += 10
        os.utime(target, (self._time, self._time))

    def stage(
        self, name: str, source: str, *, sha256: str | None = None, contexts: Contexts | None = None
    ) -> list[Copied]:
        """A context with an input."""
        folder = (contexts or self.contexts).of(name)
        folder.make(b"", b"", b"")
        entry = {"source": f"data:{source}", "target": "in", "sha256": sha256}
        spec = parse_spec({"image": "python", "command": ["true"], "inputs": [entry]})
        return folder.stage(spec, Origins({"data": self.store}), BOUNDS)

    def path(self, name: str, inner: str = "") -> Path:
        """What a Process has got."""
        return self.root / name / "input/in" / inner

    def kept(self) -> set[str]:
        """Which contents are in the cache."""
        return {path.name for path in (self.root / ".cache/objects").iterdir()}

    def end(self, name: str) -> None:
        """Its context is destroyed."""
        self.contexts.of(name).remove()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def linked(copied: list[Copied]) -> list[bool]:
    return [isinstance(file, Linked) for file in copied]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


A, B, C = (letter * 400 for letter in (b"a", b"b", b"c"))


def test_the_second_process_gets_the_same_file(place: Place) -> None:
    place.put("x", A)
    first, second = place.stage("p1", "x"), place.stage("p2", "x")
    assert (linked(first), linked(second)) == ([False], [True])
    assert [(file.path, file.size_bytes, file.sha256) for file in second] == [
        ("input/in", 400, sha(A))
    ]
    assert place.path("p1").samefile(place.path("p2"))
    assert place.path("p2").read_bytes() == A
    assert place.kept() == {sha(A)}


def test_files_of_a_folder_are_shared_one_by_one(place: Place) -> None:
    place.put("f/x", A)
    place.put("f/deep/y", B)
    place.put("f/small", b"small")
    place.stage("p1", "f")
    copied = place.stage("p2", "f")
    assert {file.path: isinstance(file, Linked) for file in copied} == {
        "input/in/deep/y": True, "input/in/small": False, "input/in/x": True
    }  # fmt: skip
    assert place.path("p2", "deep/y").read_bytes() == B


def test_the_same_content_at_two_places_is_kept_once(place: Place) -> None:
    place.put("x", A)
    place.put("y", A)
    place.stage("p1", "x")
    assert linked(place.stage("p2", "y")) == [False]
    assert linked(place.stage("p3", "y")) == [True]
    assert place.kept() == {sha(A)}
    assert place.path("p3").samefile(place.path("p1"))


def test_a_changed_file_is_copied_anew(place: Place) -> None:
    place.put("x", A)
    place.stage("p1", "x")
    place.put("x", B)
    assert linked(place.stage("p2", "x")) == [False]
    assert place.path("p2").read_bytes() == B
    assert place.path("p1").read_bytes() == A


def test_a_file_that_has_just_been_changed_is_not_kept(place: Place) -> None:
    """It may change again within the same tick of a clock."""
    (place.store / "x").write_bytes(A)
    place.stage("p1", "x")
    (place.store / "x").write_bytes(B)
    assert linked(place.stage("p2", "x")) == [False]
    assert not (place.root / ".cache").exists()


def test_what_is_gone_from_the_store_is_not_given_from_the_cache(place: Place) -> None:
    place.put("x", A)
    place.stage("p1", "x")
    (place.store / "x").unlink()
    with pytest.raises(InvalidProcess, match="data:x does not exist"):
        place.stage("p2", "x")


def test_a_declared_digest_is_enforced_and_is_no_key(place: Place) -> None:
    place.put("x", A)
    place.put("other", B)
    place.stage("p1", "x")
    with pytest.raises(InvalidProcess, match="is not what was declared"):
        place.stage("p2", "other", sha256=sha(A))
    with pytest.raises(InvalidProcess, match="is not what was declared"):
        place.stage("p3", "x", sha256=sha(B))
    assert linked(place.stage("p4", "x", sha256=sha(A))) == [True]


def test_small_and_huge_files_are_copied(place: Place) -> None:
    place.put("small", b"x" * 99)
    place.put("huge", b"x" * 1001)
    for name in ("small", "huge"):
        place.stage(f"p1{name}", name)
        assert linked(place.stage(f"p2{name}", name)) == [False]
    assert not (place.root / ".cache").exists()


def test_bounds_count_what_comes_from_the_cache(place: Place) -> None:
    place.put("x", A)
    place.stage("p1", "x")
    folder = place.contexts.of("p2")
    folder.make(b"", b"", b"")
    entry = {"source": "data:x", "target": "in"}
    spec = parse_spec({"image": "python", "command": ["true"], "inputs": [entry]})
    with pytest.raises(InvalidProcess, match="400 bytes, 399 are allowed"):
        folder.stage(spec, Origins({"data": place.store}), Bounds(399, 10))


# --- room ---


def test_what_was_not_used_for_longest_makes_room(place: Place) -> None:
    for name, content in (("a", A), ("b", B)):
        place.put(name, content)
        place.stage(f"p{name}", name)
        place.end(f"p{name}")
    # Files are used within the same tick of a clock here.
    os.utime(place.root / ".cache/used" / sha(B), (1, 1))
    place.put("c", C)
    place.stage("pc", "c")
    assert place.kept() == {sha(A), sha(C)}
    known = place.root / ".cache/known"
    assert {path.read_text() for path in known.iterdir()} == {sha(A), sha(C)}
    assert {path.name for path in (place.root / ".cache/used").iterdir()} == {sha(A), sha(C)}
    assert linked(place.stage("again", "b")) == [False]


def test_what_is_in_use_stays_and_what_does_not_fit_is_copied(place: Place) -> None:
    for name, content in (("a", A), ("b", B)):
        place.put(name, content)
        place.stage(f"p{name}", name)
    place.put("c", C)
    place.stage("p1", "c")
    assert place.kept() == {sha(A), sha(B)}
    assert linked(place.stage("p2", "c")) == [False]
    place.end("pa")
    place.stage("p3", "c")
    assert place.kept() == {sha(B), sha(C)}


def test_a_process_keeps_what_the_cache_lost(place: Place) -> None:
    place.put("a", A)
    place.stage("p1", "a")
    LocalFiles().remove_tree(place.root / ".cache")
    assert place.path("p1").read_bytes() == A
    assert linked(place.stage("p2", "a")) == [False]
    assert linked(place.stage("p3", "a")) == [True]


def test_a_damaged_file_is_replaced(place: Place) -> None:
    place.put("a", A)
    place.stage("p1", "a")
    place.end("p1")
    damaged = place.root / ".cache/objects" / sha(A)
    damaged.chmod(0o600)
    damaged.write_bytes(b"cut")
    assert linked(place.stage("p2", "a")) == [False]
    assert linked(place.stage("p3", "a")) == [True]
    assert place.path("p3").read_bytes() == A


@pytest.mark.parametrize("text", ["../../../etc/passwd", "", "\N{SNOWMAN}" * 30, "a" * 64])
def test_what_is_remembered_is_believed_only_as_a_name(place: Place, text: str) -> None:
    place.put("a", A)
    place.stage("p1", "a")
    (known,) = (place.root / ".cache/known").iterdir()
    known.write_text(text)
    assert linked(place.stage("p2", "a")) == [False]
    assert linked(place.stage("p3", "a")) == [True]


# --- time ---


def test_what_nobody_needs_leaves_after_a_while(place: Place) -> None:
    cache = Cache(place.files, place.root, SHELVES)
    begun = datetime.now(UTC)
    assert cache.sweep(begun) == 0, "there is nothing yet"
    for name, content in (("a", A), ("b", B)):
        place.put(name, content)
        place.stage(f"p{name}", name)
    place.end("pa")
    week, minute = SHELVES.unused, timedelta(minutes=1)
    assert cache.sweep(begun + week - minute) == 0
    assert cache.sweep(begun + week + minute) == 1
    assert place.kept() == {sha(B)}, "which a context uses"
    assert [path.read_text() for path in (place.root / ".cache/known").iterdir()] == [sha(B)]
    assert linked(place.stage("again", "a")) == [False]


def test_use_keeps_a_file(place: Place) -> None:
    place.put("a", A)
    place.stage("p1", "a")
    place.end("p1")
    os.utime(place.root / ".cache/used" / sha(A), (1, 1))
    assert linked(place.stage("p2", "a")) == [True]
    place.end("p2")
    assert Cache(place.files, place.root, SHELVES).sweep(datetime.now(UTC)) == 0


# --- failures ---


class Failing(LocalFiles):
    """A file system that has no second names, or is full."""

    number = errno.EPERM

    def hard_link(self, old: Path, new: Path) -> None:
        raise OSError(self.number, os.strerror(self.number), str(new))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK, errno.ENOSPC, errno.ENOTSUP])
def test_without_hard_links_files_are_copied(
    tmp_path: Path, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    files = Failing()
    files.number = number
    place = Place(tmp_path, files)
    place.put("a", A)
    with caplog.at_level(logging.WARNING):
        for name in ("p1", "p2"):
            assert linked(place.stage(name, "a")) == [False]
            assert place.path(name).read_bytes() == A
    assert os.strerror(number) in caplog.text


def test_a_file_that_grew_while_it_was_copied_is_not_kept(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put("a", A)
    real = copying.copy_one

    def late(*args: object) -> Copied:
        with (place.store / "a").open("ab") as file:
            file.write(b"more")
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(cache_module, "copy_one", late)
    place.stage("p1", "a")
    assert not (place.root / ".cache/known").exists()


def test_many_at_once_copy_it_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put("a", A)
    contexts = place.contexts
    copies: list[str] = []
    real = copying.copy_one

    def counted(source: object, sink: object, name: str, *rest: object) -> Copied:
        copies.append(name)
        return real(source, sink, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cache_module, "copy_one", counted)
    together = Barrier(8)

    def stage(number: int) -> list[Copied]:
        together.wait()
        return place.stage(f"p{number}", "a", contexts=contexts)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(stage, range(8)))
    assert len(copies) == 1
    assert sum(linked(one) == [True] for one in found) == 7


def test_who_fails_lets_the_next_one_copy(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put("a", A)
    contexts = place.contexts
    with monkeypatch.context() as patched:
        patched.setattr(cache_module, "copy_one", _broken)
        with pytest.raises(InvalidProcess):
            place.stage("p1", "a", contexts=contexts)
    assert linked(place.stage("p2", "a", contexts=contexts)) == [False]


def _broken(*_: object) -> Copied:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_contexts_without_a_cache_have_copies(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.put("a", A)
    plain = Contexts(LocalFiles(), place.root)
    for name in ("p1", "p2"):
        assert linked(place.stage(name, "a", contexts=plain)) == [False]
    assert not place.path("p1").samefile(place.path("p2"))
    assert isinstance(plain.of("p1"), ContextFolder)
