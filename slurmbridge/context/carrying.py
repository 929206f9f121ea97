"""Carrying what a context holds to a new place in a Data Store, which is whole or not there."""

import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from slurmbridge.context.copying import (
    IN_FOLDERS,
    NOBODY,
    Pace,
    Watching,
    carry_file,
    carry_tree,
    patiently,
)
from slurmbridge.context.folder import GROWTH_BYTES, ContextFolder
from slurmbridge.context.left import LOG_FILES, TRACE, pod_folder
from slurmbridge.context.sinks import HostSink, Sink, StoreSink, Writer
from slurmbridge.context.tree import Bounds, Copied, Ignored, TooMuch
from slurmbridge.errors import StagingFailed, StoreForbids
from slurmbridge.shell import Kind, LocalFiles, NotPlain
from slurmbridge.stores.store import DataStore

# Says what was carried, and, by being there, that it is whole.
MANIFEST = "manifest.json"
# Where a place does not appear at once, this lies in it until it is whole.
INCOMPLETE = "INCOMPLETE.txt"
_WHY = b"Outputs are being carried here. They are whole when there is a manifest.json.\n"
# Places that broken tries have begun.
_MOST_PLACES = 1000
_OUTPUT = "output"
# Where an earlier attempt lies until it is removed.
_EARLIER = ".earlier"


@dataclass(frozen=True, slots=True)
class Carried:
    """What was carried out of a context."""

    files: tuple[Copied, ...]
    ignored: tuple[Ignored, ...]
    # Why nothing of output/ was carried, when it was too much.
    too_much: str | None = None
    # Where it lies now, as store:path; and the SHA-256 of the manifest there.
    location: str = ""
    manifest_sha256: str = ""


class Place(Protocol):
    """A new folder in a Data Store."""

    @property
    def location(self) -> str:
        """As store:path, once it has been begun."""
        ...

    @property
    def pace(self) -> Pace:
        """How files are copied to it."""
        ...

    def begin(self) -> Sink:
        """Make it; nothing that is there already is touched."""
        ...

    def drop_output(self) -> None:
        """Remove what lies in its folder output."""
        ...

    def publish(self) -> None:
        """All is in it, and nobody else carries the same."""
        ...

    def abandon(self) -> None:
        """Remove what was begun, as far as that can be done. Nothing is raised."""
        ...


AT_ONCE = Pace()


class FolderPlace:
    """In a folder of this host: it appears at once, whole."""

    def __init__(self, location: str, target: Path, pace: Pace = AT_ONCE) -> None:
        self.location = location
        self.pace = pace
        self._target = target
        self._partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")

    def begin(self) -> Sink:
        """See Place."""
        # Of tries whose Runner died. One that was only taken for dead may not publish any more.
        for left in self._target.parent.glob(f".{self._target.name}.*"):
            shutil.rmtree(left, ignore_errors=True)
        self._partial.mkdir(mode=0o750, parents=True)
        return HostSink(LocalFiles(), self._partial)

    def drop_output(self) -> None:
        """See Place."""
        shutil.rmtree(self._partial / _OUTPUT, ignore_errors=True)

    def publish(self) -> None:
        """See Place."""
        partial, target = self._partial, self._target
        if not target.exists():
            partial.rename(target)
            return
        # Of an earlier attempt that ended before it was recorded; the context is whole. It goes
        # into what takes its place: who has stood still here for so long that another one began
        # anew has no such folder any more, and so cannot take away what that one has published.
        target.rename(partial / _EARLIER)
        partial.rename(target)
        shutil.rmtree(target / _EARLIER)

    def abandon(self) -> None:
        """See Place."""
        shutil.rmtree(self._partial, ignore_errors=True)


class StorePlace:
    """In a store that gives no folder a name at once: the first free one of ID, ID.2, ID.3, ...

    Of an attempt that broke off, what lies there stays what it is: nothing is overwritten.
    """

    def __init__(self, store: DataStore, path: str, pace: Pace) -> None:
        self.pace = pace
        self._store = store
        self._asked = path
        self._path: str | None = None
        self._made: list[str] = []

    @property
    def location(self) -> str:
        """See Place."""
        return f"{self._store.name}:{self._path or self._asked}"

    def begin(self) -> Sink:
        """See Place."""
        for number in range(1, _MOST_PLACES):
            path = self._asked if number == 1 else f"{self._asked}.{number}"
            if patiently(partial(self._is_there, path), self.pace):
                continue
            with suppress(FileExistsError):
                self._take(path)
                self._path = path
                return _Noted(StoreSink(self._store, path), self._made, self.pace)
        raise StagingFailed(f"{self.location} was begun too often: remove what is not whole")

    def _take(self, path: str) -> None:
        """Raises FileExistsError: somebody has, who has just found it free, too."""
        patiently(partial(self._store.make_folder, path), self.pace)
        write_small(StoreSink(self._store, path), INCOMPLETE, _WHY, self.pace)

    def _is_there(self, path: str) -> bool:
        try:
            self._store.look(path)
        except FileNotFoundError:
            return False
        return True

    def drop_output(self) -> None:
        """See Place."""
        for path in reversed([path for path in self._made if path.startswith(f"{_OUTPUT}/")]):
            self._store.remove(f"{self._path}/{path}")

    def publish(self) -> None:
        """See Place."""
        with suppress(OSError, StagingFailed, StoreForbids):
            self._store.remove(f"{self._path}/{INCOMPLETE}")

    def abandon(self) -> None:
        """See Place. It says of itself that it is not whole."""


class _Noted:
    """A sink that knows what was made in it. Folders are made once."""

    def __init__(self, sink: StoreSink, made: list[str], pace: Pace) -> None:
        self._sink = sink
        self._pace = pace
        self._folders = {""}
        self._made = made

    @property
    def may_break_off(self) -> bool:
        """See Sink."""
        return self._sink.may_break_off

    def make_folder(self, path: str) -> None:
        """See Sink."""
        if path not in self._folders:
            patiently(lambda: self._sink.make_folder(path), self._pace)
            self._folders.add(path)

    @contextmanager
    def create(
        self, path: str, *, executable: bool = False, size: int | None = None
    ) -> Iterator[Writer]:
        """See Sink."""
        with self._sink.create(path, executable=executable, size=size) as file:
            yield file
        self._made.append(path)

    def size_of(self, path: str) -> int | None:
        """See Sink."""
        return self._sink.size_of(path)


@dataclass(frozen=True, slots=True)
class Load:
    """What is carried beside what the program left."""

    bounds: Bounds
    # Files that the bridge adds, by their names.
    made: Mapping[str, bytes] = field(default_factory=dict)
    # What the manifest says beside the files.
    about: Mapping[str, Any] = field(default_factory=dict)
    # Why an output file, by its path below output/, is kept back; None: it is not.
    wanted: Callable[[str], str | None] = lambda _path: None
    # How many may have left a trace.
    pods: int = 1


def carry_out(
    context: ContextFolder, place: Place, load: Load, may_go_on: Callable[[], bool]
) -> Carried:
    """Copy outputs, logs and trace of a context to a new place.

    The program can write to output/ alone, and may have left anything there: only plain files
    with one name are taken. Logs and trace are carried even when the outputs are too much.

    `may_go_on` is asked just before the place is published: whether nobody else carries the same.

    Raises:
        StagingFailed
    """
    if not context.exists():
        raise StagingFailed("the context is missing")
    published = False
    try:
        sink = place.begin()
        carried = _carry(context, sink, place, load)
        if not may_go_on():
            raise StagingFailed("another Runner carries the outputs")
        manifest = _manifest(carried, load.about)
        write_small(sink, MANIFEST, manifest.content, place.pace)
        place.publish()
        published = True
    except OSError as error:
        why = error.strerror or str(error)
        raise StagingFailed(f"outputs could not be carried: {why}") from error
    except StoreForbids as error:
        raise StagingFailed(f"outputs cannot be carried: {error}") from error
    finally:
        if not published:
            place.abandon()
    return replace(carried, location=place.location, manifest_sha256=manifest.sha256)


def _carry(context: ContextFolder, sink: Sink, place: Place, load: Load) -> Carried:
    output = _carry_output(context, sink, place, load)
    files, ignored = list(output.files), list(output.ignored)
    traces = {f"{pod_folder(pod)}{TRACE}": f"trace.sb{pod}.zst" for pod in range(2, load.pods + 1)}
    logs = {name: name for name in (*LOG_FILES.values(), TRACE)}
    for left, name in (logs | traces).items():
        try:
            # slurmstepd may still be adding its last words.
            limit = context.size_of(left) + GROWTH_BYTES
            files.append(carry_file(context.spot(left), sink, name, limit, place.pace))
        except FileNotFoundError:
            pass
        except TooMuch as error:
            raise StagingFailed(f"{name} is still being written: {error}") from error
        except (NotPlain, PermissionError):
            ignored.append(Ignored(name, "cannot be read"))
    files += [write_small(sink, name, content, place.pace) for name, content in load.made.items()]
    return replace(output, files=tuple(files), ignored=tuple(ignored))


def _carry_output(context: ContextFolder, sink: Sink, place: Place, load: Load) -> Carried:
    below = _Below(sink, _OUTPUT)
    try:
        context.open_output()
        copied, ignored = carry_tree(
            context.spot("output"), below, load.bounds, pace=place.pace, wanted=load.wanted
        )
    except FileNotFoundError:
        return Carried((), ())
    except (NotPlain, NotADirectoryError):
        return Carried((), (Ignored("output", "it is no folder"),))
    except TooMuch as error:
        place.drop_output()
        return Carried((), (), str(error))
    named = (Copied(f"output/{c.path}", c.size_bytes, c.sha256) for c in copied)
    return Carried(tuple(named), tuple(ignored))


@dataclass(frozen=True, slots=True)
class _Below:
    """A folder of a sink, as a sink."""

    sink: Sink
    folder: str

    @property
    def may_break_off(self) -> bool:
        """See Sink."""
        return self.sink.may_break_off

    def make_folder(self, path: str) -> None:
        """See Sink."""
        self.sink.make_folder(self._at(path))

    def create(
        self, path: str, *, executable: bool = False, size: int | None = None
    ) -> AbstractContextManager[Writer]:
        """See Sink."""
        return self.sink.create(self._at(path), executable=executable, size=size)

    def size_of(self, path: str) -> int | None:
        """See Sink."""
        return self.sink.size_of(self._at(path))

    def _at(self, path: str) -> str:
        return f"{self.folder}/{path}" if path else self.folder


@dataclass(frozen=True, slots=True)
class _Manifest:
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def _manifest(carried: Carried, about: Mapping[str, Any]) -> _Manifest:
    files = [
        {"path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256}
        for file in carried.files
    ]
    kept_back = [str(entry) for entry in carried.ignored]
    if carried.too_much:
        kept_back.append(f"output: {carried.too_much}")
    whole = {"version": 1, **about, "files": files, "kept_back": kept_back}
    return _Manifest(f"{json.dumps(whole, indent=1, ensure_ascii=False)}\n".encode())


def write_small(sink: Sink, name: str, content: bytes, pace: Pace) -> Copied:
    """Write a small file, also where the store breaks off and its answer is lost."""
    tried = False

    def write() -> None:
        nonlocal tried
        before, tried = tried, True
        try:
            with sink.create(name, size=len(content)) as file:
                file.write(content)
        except FileExistsError:
            # Of the try before, whose answer was lost.
            if not before or sink.size_of(name) != len(content):
                raise

    patiently(write, pace)
    return Copied(name, len(content), hashlib.sha256(content).hexdigest())


@dataclass(frozen=True, slots=True)
class Writing:
    """A store that is no folder of this host, and how files are copied to it."""

    store: DataStore
    pace: Pace = AT_ONCE


@dataclass(frozen=True, slots=True)
class Destinations:
    """Where outputs can be carried."""

    folders: Mapping[str, Path]
    remote: Mapping[str, Writing] = field(default_factory=dict)

    def place(self, location: str, watch: Watching = NOBODY) -> Place:
        """A new place at `store:path`. Nothing is done yet.

        Raises:
            StagingFailed: there is no such store.
        """
        store, _, path = location.partition(":")
        if store in self.remote:
            writing = self.remote[store]
            return StorePlace(writing.store, path, replace(writing.pace, watch=watch))
        if store not in self.folders:
            raise StagingFailed(f"the store {store} is not configured any more")
        return FolderPlace(location, self.folders[store] / path, Pace(IN_FOLDERS, watch=watch))

    def is_remote(self, location: str) -> bool:
        """Whether to look at it may take long."""
        return location.partition(":")[0] in self.remote

    def problem(self, location: str) -> str | None:
        """Why nothing can be carried to `store:path`, as far as it can be told now and a submitter
        can mend it.

        Raises:
            StagingFailed: the site has to mend it.
        """
        store, _, path = location.partition(":")
        if store in self.remote:
            return _through_a_file(self.remote[store].store, path)
        root = self.folders.get(store)
        if root is None:
            raise StagingFailed(f"the store {store} is not configured any more")
        if not root.is_dir():
            raise StagingFailed(f"the folder of the store {store} is missing")
        for part in [root / path, *(root / path).parents]:
            if part.is_relative_to(root) and part.exists() and not part.is_dir():
                return f"{location} leads through a file"
        return None


def _through_a_file(store: DataStore, path: str) -> str | None:
    parts = path.split("/")
    for end in range(1, len(parts) + 1):
        try:
            found = store.look("/".join(parts[:end]))
        except FileNotFoundError:
            return None
        except (NotPlain, StoreForbids) as error:
            return f"{store.name}:{path} cannot be used: {error}"
        if found.kind is not Kind.FOLDER:
            return f"{store.name}:{path} leads through a file"
    return None
