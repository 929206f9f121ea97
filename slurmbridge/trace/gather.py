"""The lists of a report while they grow: each holds what comes first, and counts the rest."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from slurmbridge.rules import Place
from slurmbridge.trace.events import Ended, Executed, Key, Started
from slurmbridge.trace.names import escaped
from slurmbridge.trace.places import place_of
from slurmbridge.trace.report import (
    NOTHING_THERE,
    Act,
    FileEntry,
    Files,
    Limits,
    Listing,
    Mark,
    ProcessEntry,
    ProcessKey,
    Program,
    TriedEntry,
)

K = TypeVar("K", bound=Hashable)
E = TypeVar("E")
V = TypeVar("V", bound=Hashable)


class At(NamedTuple):
    """Where an event stands."""

    line: int
    time: int
    process: Key

    def mark(self) -> Mark:
        """The same, for the report."""
        return Mark(line=self.line, time=self.time, process=key_of(self.process))


def key_of(key: Key) -> ProcessKey:
    """A process, for the report."""
    return ProcessKey(pid=key.pid, birth=key.birth)


def counted(counts: Counter[V], order: Iterable[V]) -> dict[V, int]:
    """What is not zero, in the enum's order."""
    return {item: counts[item] for item in order if counts[item]}


def listing(entries: Iterable[E], total: int, left_out: int) -> Listing[E]:
    """A list of the report."""
    return Listing[E](entries=tuple(entries), total=total, left_out=left_out)


class Table(Generic[K]):
    """How often things happened, and where first; of so many things, the first ones."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.kept: dict[K, list[int]] = {}
        self._first: dict[K, At] = {}
        self.total = 0
        self.left_out = 0

    def add(self, key: K, at: At) -> bool:
        """It has happened once more; returns whether it is listed."""
        self.total += 1
        times = self.kept.get(key)
        if times is not None:
            times[0] += 1
        elif len(self.kept) < self._limit:
            self.kept[key] = [1]
            self._first[key] = at
        else:
            self.left_out += 1
            return False
        return True

    def listing(self, entry: Callable[[K, int, Mark], E]) -> Listing[E]:
        """The list, in the order in which things first happened."""
        entries = (
            entry(key, times, self._first[key].mark()) for key, (times,) in self.kept.items()
        )
        return listing(entries, self.total, self.left_out)


@dataclass(slots=True)
class _File:
    first: At
    acts: Counter[Act] = field(default_factory=Counter)
    lines: dict[Act, int] = field(default_factory=dict)
    unsure: int = 0
    moved: list[int] = field(default_factory=lambda: [0, 0])


class FilesGrown:
    """The files of one place."""

    def __init__(self, place: Place, limits: Limits) -> None:
        self._place = place
        self._limit = limits.entries
        self._files: dict[str, _File] = {}
        self.acts: Counter[Act] = Counter()
        self._moved = [0, 0]
        self._acts_left_out: Counter[Act] = Counter()
        self._moved_left_out = [0, 0]
        self._tried: Table[tuple[str, Act, str]] = Table(limits.entries)
        self._denied: Counter[Act] = Counter()
        self._denied_left_out: Counter[Act] = Counter()

    def _file(self, name: str, at: At) -> _File | None:
        file = self._files.get(name)
        if file is None and len(self._files) < self._limit:
            file = self._files[name] = _File(at)
        return file

    def done(self, name: str, acts: Iterable[Act], at: At, *, unsure: bool) -> None:
        """It was done, or nobody knows that it was not."""
        file = self._file(name, at)
        for act in acts:
            self.acts[act] += 1
            if file is None:
                self._acts_left_out[act] += 1
            else:
                file.acts[act] += 1
                file.lines.setdefault(act, at.line)
        if file is not None:
            file.unsure += unsure

    def tried(self, name: str, acts: Iterable[Act], at: At, error: str) -> None:
        """It failed."""
        for act in acts:
            listed = self._tried.add((name, act, error), at)
            if error not in NOTHING_THERE:
                self._denied[act] += 1
                self._denied_left_out[act] += not listed

    def moved(self, name: str, at: At, read: int, written: int) -> None:
        """Bytes passed."""
        file = self._file(name, at)
        counts = self._moved_left_out if file is None else file.moved
        for sums in (counts, self._moved):
            sums[0] += read
            sums[1] += written

    @property
    def left_out(self) -> int:
        """Acts and tries without an entry; one for bytes without one."""
        acts = sum(self._acts_left_out.values()) or any(self._moved_left_out)
        return acts + self._tried.left_out

    def files(self) -> Files:
        """The place, for the report."""
        return Files(
            place=self._place,
            files=tuple(_file_entry(name, file) for name, file in self._files.items()),
            acts=counted(self.acts, Act),
            bytes_read=self._moved[0],
            bytes_written=self._moved[1],
            acts_left_out=counted(self._acts_left_out, Act),
            bytes_read_left_out=self._moved_left_out[0],
            bytes_written_left_out=self._moved_left_out[1],
            tried=self._tried.listing(_tried_entry),
            denied=counted(self._denied, Act),
            denied_left_out=counted(self._denied_left_out, Act),
        )


def _file_entry(name: str, file: _File) -> FileEntry:
    return FileEntry(
        name=name,
        acts=counted(file.acts, Act),
        lines={act: file.lines[act] for act in Act if act in file.lines},
        unsure=file.unsure,
        bytes_read=file.moved[0],
        bytes_written=file.moved[1],
        first=file.first.mark(),
    )


def _tried_entry(key: tuple[str, Act, str], times: int, first: Mark) -> TriedEntry:
    name, act, error = key
    return TriedEntry(name=name, act=act, error=error, times=times, first=first)


@dataclass(slots=True)
class _Process:
    parent: Key | None
    certain: bool
    depth: int
    line: int
    started: int
    end: Ended | None = None
    threads: int = 0
    programs: list[Program] = field(default_factory=list)
    programs_left_out: int = 0


class ProcessesGrown:
    """The first processes, none without its parent: those of one that is left out are, too."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._kept: dict[Key, _Process] = {}
        self.first: Key | None = None
        self.total = 0
        self.ended = 0
        # That were alive when the first process of the last task had ended.
        self.left = 0
        self._tasks = 0
        self.threads = 0
        self.uncertain = 0
        self.programs_left_out = 0

    @property
    def left_out(self) -> int:
        """Processes without an entry."""
        return self.total - len(self._kept)

    def started(self, event: Started) -> None:
        """One more."""
        self.total += 1
        self.uncertain += not event.certain
        if self.first is None:
            self.first = event.process
        parent = None if event.parent is None else self._kept.get(event.parent)
        if event.process in self._kept or (event.parent is not None and parent is None):
            return
        depth = 0 if parent is None else parent.depth + 1
        if len(self._kept) < self._limits.entries and depth <= self._limits.depth:
            self._kept[event.process] = _Process(
                event.parent, event.certain, depth, event.line, event.time
            )
            self._tasks += event.parent is None and event.certain

    def thread(self, key: Key) -> None:
        """One more thread."""
        self.threads += 1
        if (process := self._kept.get(key)) is not None:
            process.threads += 1

    def executed(self, event: Executed) -> int:
        """A program, or a try; returns how many names had to be cut."""
        process = self._kept.get(event.process)
        if process is None or len(process.programs) >= self._limits.programs:
            self.programs_left_out += 1
            if process is not None:
                process.programs_left_out += 1
            return 0
        limit = self._limits.name_bytes
        kept: list[str] = []
        rest, cut = self._limits.argv_bytes, 0
        for argument in event.argv:
            rest -= min(len(argument), limit) + 1
            if rest < 0:
                break
            kept.append(escaped(argument, limit))
            cut += len(argument) > limit
        program = Program(
            name=escaped(event.path, limit),
            place=place_of(event.path),
            argv=tuple(kept),
            argv_left_out=len(event.argv) - len(kept),
            whole=event.whole,
            error=escaped(event.error.encode(errors="replace"), limit),
            line=event.line,
            time=event.time,
        )
        process.programs.append(program)
        return cut

    def end(self, event: Ended) -> None:
        """One has ended."""
        self.ended += 1
        process = self._kept.get(event.process)
        if process is not None and process.end is None:
            process.end = event
            if process.parent is None and process.certain:
                self._tasks -= 1
                self.left = 0 if self._tasks else max(self.total - self.ended, 0)

    def listing(self) -> Listing[ProcessEntry]:
        """The processes, for the report, in the order of their starts."""
        entries = (self._entry(key, process) for key, process in self._kept.items())
        return listing(entries, self.total, self.left_out)

    def _entry(self, key: Key, process: _Process) -> ProcessEntry:
        end = process.end
        signal = None if end is None else end.signal
        limit = self._limits.name_bytes
        return ProcessEntry(
            key=key_of(key),
            parent=None if process.parent is None else key_of(process.parent),
            certain=process.certain,
            depth=process.depth,
            line=process.line,
            started=process.started,
            ended=None if end is None else end.time,
            code=None if end is None else end.code,
            signal=None if signal is None else escaped(signal.encode(errors="replace"), limit),
            threads=process.threads,
            programs=tuple(process.programs),
            programs_left_out=process.programs_left_out,
        )
