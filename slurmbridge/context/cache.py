"""Inputs that many Processes need: copied to a cluster once, and given to each as a second name.

A hard link costs nothing, whatever the size, and what a context uses is not taken from it when the
cache lets go of it. A file is called here by its SHA-256. Which content a path of a Data Store has
is remembered for as long as store, path, size and version are the same; where a store knows no
versions, the time of the last change stands for one.

    .cache/objects/SHA256   the content
    .cache/used/SHA256      changed when it was used last
    .cache/known/KEY        the SHA-256 of what lies at a path of a store
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

from slurmbridge.context.copying import Allowance, Copying, Pace, copy_one
from slurmbridge.context.sinks import HostSink, Sink
from slurmbridge.context.tree import Copied, Found, Spot
from slurmbridge.shell import Entry, Files, Kind, NotPlain

log = logging.getLogger(__name__)
FOLDER = ".cache"
_SHA256 = re.compile("[0-9a-f]{64}")
# A file that changes twice within the tick of its host's clock has one time for two contents.
_SETTLED_SECONDS = 10.0
# How often who waits for another's copy of the same says that it still does.
_WAIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Shelves:
    """How much is kept, and from which size on a file is worth it, in bytes; and for how long it is
    kept when nobody needs it.
    """

    size: int
    least: int
    unused: timedelta = timedelta(days=7)


class Linked(Copied):
    """A file that was there already, and got another name."""


class Cache:
    """Below the folder `root` of a host, on the file system on which its contexts are.

    Used by several threads, and by the Runners of several hosts at once. Where it fails, files are
    copied as if there was none.
    """

    def __init__(
        self, files: Files, root: Path, shelves: Shelves, now: Callable[[], float] = time.time
    ) -> None:
        self._files = files
        self._now = now
        self._root = root / FOLDER
        self._shelves = shelves
        self._lock = threading.Lock()
        self._copied_now: dict[str, threading.Event] = {}

    def copying(self, store: str) -> Copying:
        """How files of a store get to a folder of the same host: copied, if they are not here."""

        def copy(
            source: Spot, sink: Sink, name: str, allowance: Allowance, file: Found, pace: Pace, /
        ) -> Copied:
            key = self._key(store, source.path, file)
            if key is None or not isinstance(sink, HostSink):
                return copy_one(source, sink, name, allowance, file, pace)
            with self._alone(key, pace):
                target = sink.root / name
                if there := self._taken(key, target, file):
                    allowance.take(there.size_bytes, file.path)
                    pace.watch.moved(there.size_bytes, files=1)
                    return there
                copied = copy_one(source, sink, name, allowance, file, pace)
                self._keep(key, target, copied, file)
                return copied

        return copy

    def sweep(self, now: datetime) -> int:
        """Let go of what nobody has used for long; how many files are gone."""
        limit = (now - self._shelves.unused).timestamp()
        try:
            used = self._used()
            there = self._files.list(self._root / "objects")
            old = [one for one in there if used.get(one.name, one.modified_at) < limit]
            return len(self._drop(old))
        except FileNotFoundError:
            return 0
        except OSError as error:
            log.warning("the cache %s cannot be swept: %s", self._root, error)
            return 0

    def _key(self, store: str, path: str, file: Found) -> str | None:
        """What a file is remembered by; None: it is not kept."""
        size = file.size_bytes
        if size is None or not self._shelves.least <= size <= self._shelves.size:
            return None
        state = file.version
        if state is None and file.modified_at and self._now() - file.modified_at > _SETTLED_SECONDS:
            state = repr(file.modified_at)
        if state is None or file.executable:
            return None
        words = (store, path, str(size), state)
        text = "\0".join(words).encode(errors="surrogateescape")
        return sha256(text).hexdigest()

    @contextmanager
    def _alone(self, key: str, pace: Pace) -> Iterator[None]:
        """Of this Runner's threads, one copies a file, and the others find it."""
        mine = threading.Event()
        while (other := self._first(key, mine)) is not mine:
            other.wait(_WAIT_SECONDS)
            pace.watch.moved(0)
        try:
            yield
        finally:
            with self._lock:
                del self._copied_now[key]
            mine.set()

    def _first(self, key: str, mine: threading.Event) -> threading.Event:
        with self._lock:
            return self._copied_now.setdefault(key, mine)

    # --- what is there ---

    def _taken(self, key: str, target: Path, file: Found) -> Linked | None:
        """The file at its new place, if it is here."""

        def take() -> Linked | None:
            name = self._files.read(self._root / "known" / key, limit=65).decode()
            if not _SHA256.fullmatch(name):
                return None
            entry = self._files.look(self._object(name))
            if entry.kind is not Kind.FILE or entry.size_bytes != file.size_bytes:
                # Somebody has changed what nobody changes. The next copy takes its place.
                self._files.remove_file(self._object(name))
                return None
            self._files.hard_link(self._object(name), target)
            self._use(name)
            return Linked(file.path, entry.size_bytes, name)

        return self._tolerantly(take)

    def _keep(self, key: str, target: Path, copied: Copied, file: Found) -> None:
        """Give what was copied a name here. It fits, or what was not used for longest goes."""

        def keep() -> None:
            if copied.size_bytes != file.size_bytes:
                # It grew or shrank meanwhile: what is remembered of it is another file.
                return
            for folder in ("objects", "used", "known"):
                self._files.make_folder(self._root / folder, mode=0o700, parents=True)
            if not self._make_room(copied.size_bytes):
                return
            with suppress(FileExistsError):
                self._files.hard_link(target, self._object(copied.sha256))
            self._use(copied.sha256)
            self._files.write(self._root / "known" / key, copied.sha256.encode())

        self._tolerantly(keep)

    def _object(self, name: str) -> Path:
        return self._root / "objects" / name

    def _use(self, name: str) -> None:
        # Nothing depends on it but what goes first.
        with suppress(OSError):
            self._files.write(self._root / "used" / name, b"")

    def _tolerantly(self, act: Callable[[], Linked | None]) -> Linked | None:
        try:
            return act()
        except (FileNotFoundError, UnicodeDecodeError):
            # Not here, or not any more: another Runner makes room, too.
            return None
        except (OSError, NotPlain) as error:
            log.warning("the cache %s is of no use at the moment: %s", self._root, error)
            return None

    # --- room ---

    def _make_room(self, size: int) -> bool:
        """Let go of what was not used for longest, and never of what a context uses."""
        there = self._files.list(self._root / "objects")
        total = sum(entry.size_bytes for entry in there)
        if total + size <= self._shelves.size:
            return True
        used = self._used()
        leaving: list[Entry] = []
        for entry in sorted(there, key=lambda one: used.get(one.name, one.modified_at)):
            if entry.names == 1 and total + size > self._shelves.size:
                leaving.append(entry)
                total -= entry.size_bytes
        self._drop(leaving)
        return total + size <= self._shelves.size

    def _used(self) -> dict[str, float]:
        """When each was used last, by the clock of the files' host."""
        return {entry.name: entry.modified_at for entry in self._files.list(self._root / "used")}

    def _drop(self, leaving: Sequence[Entry]) -> set[str]:
        """Remove those that no context uses; one that is taken just now stays in its context."""
        gone = {entry.name for entry in leaving if entry.names == 1}
        for name in gone:
            for path in (self._object(name), self._root / "used" / name):
                with suppress(FileNotFoundError):
                    self._files.remove_file(path)
        self._forget(gone)
        return gone

    def _forget(self, gone: set[str]) -> None:
        for entry in self._files.list(self._root / "known") if gone else ():
            path = self._root / "known" / entry.name
            with suppress(FileNotFoundError, UnicodeDecodeError):
                if self._files.read(path, limit=65).decode() in gone:
                    self._files.remove_file(path)
