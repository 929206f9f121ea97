"""What is known of the processes and threads that live at a point of the trace."""

import re
import sys
from collections.abc import Container
from dataclasses import dataclass, field, replace
from enum import Enum, unique
from typing import NamedTuple

from slurmbridge.trace.events import Happening, Key
from slurmbridge.trace.lines import NOWHERE

FORKS = frozenset({b"fork", b"vfork", b"clone", b"clone3"})
_MOST_WAITING = 512


@unique
class Begin(Enum):
    """With which process the program begins."""

    # The children, but the first, of the first process that executes sbseal.
    SEALED = "sealed"
    # The first process of the trace: what strace itself was told to run.
    FIRST = "first"


@dataclass(slots=True)
class Counts:
    """What became of the lines."""

    lines: int = 0
    # Of the launcher and the helpers.
    cut: int = 0
    unreadable: int = 0
    remarks: int = 0
    # Processes and threads that live; how many lived at most.
    living: int = 0
    most_living: int = 0


@dataclass(slots=True, eq=False)
class Folder:
    """A working directory; threads, and processes that were cloned so, share one."""

    path: bytes = NOWHERE


@dataclass(slots=True, eq=False)
class Process:
    """A thread group."""

    key: Key
    parent: "Process | None"
    # Whether it belongs to the program; if not, its lines are cut away.
    inside: bool
    # It has executed sbseal: its children but the first become the program.
    seals: bool = False
    children: int = 0
    # It is such a child: with the first program that it executes, it is inside.
    awaited: bool = False
    # Which task it then is, if that was told.
    task: int | None = None
    # Whether its numbers are strace's own, and not those of a namespace; None while unknown.
    counts_as_strace: bool | None = None
    # It has asked for another namespace for its children.
    parts: bool = False
    # Families of the sockets that it has made of late, by their decoration.
    families: dict[bytes, str] = field(default_factory=dict)
    # Bytes read and written since the last Transferred, by path.
    bytes_moved: dict[bytes, list[int]] = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """Whether a child of it may belong to the program."""
        return self.inside or self.seals


class Kind(NamedTuple):
    """What a call that starts a process or a thread tells of the child."""

    parent: Process
    folder: Folder
    thread: bool
    shares_folder: bool
    # The parent's parent is the child's.
    sibling: bool
    new_namespace: bool
    # The caller has ended before the call did, or nobody knows whose thread it is.
    doubtful: bool = False

    @property
    def counts_as_strace(self) -> bool | None:
        """Whether the child's numbers will be strace's own."""
        if self.new_namespace:
            return False
        known = self.parent.counts_as_strace
        return None if known and self.parent.parts else known


class Order:
    """A child's number as strace counts; in which lines its call began, and returned if it has."""

    __slots__ = ("begun", "line", "number")

    def __init__(self, number: int, begun: int, line: int) -> None:
        self.number, self.begun, self.line = number, begun, line


@dataclass(slots=True, eq=False)
class Birth:
    """Such a call, until its child has been seen."""

    kind: Kind
    # The line in which it began.
    begun: int
    # Whether it gives strace's own number.
    own: bool
    # The line in which it returned, and the number that it gave, in the caller's own counting.
    line: int = 0
    given: int | None = None
    # The child's number as strace counts, once it was seen; whether no other call can be meant.
    child: int | None = None
    sole: bool = False
    order: Order | None = None


@dataclass(slots=True)
class Pending:
    """A call whose end stands in a later line."""

    name: bytes
    text: bytes
    # A thread other than the first has executed a program: strace 7.2 may print an error then.
    won: bool = False
    birth: Birth | None = None
    # sbseal has noted that it refuses it.
    refusal: Happening | None = None


@dataclass(slots=True, eq=False)
class Thread:
    """What strace gives a line of its own to."""

    process: Process
    folder: Folder
    # The calls of it that are read; all others are passed over.
    calls: Container[bytes]
    pending: Pending | None = None
    # The call that has started it; its number as the container counts, where that is certain.
    birth: Birth | None = None
    number: int | None = None
    # Whether it can be no other process's.
    certain: bool = True
    # Arguments that sbseal noted of its call.
    asked: bytes = b""


class Numbers:
    """The program's threads that live, by the container's numbers, where these are certain."""

    def __init__(self) -> None:
        self._threads: dict[int, Thread] = {}
        # The others.
        self.unknown: dict[Thread, None] = {}

    def __getitem__(self, number: int) -> Thread | None:
        return self._threads.get(number)

    def __len__(self) -> int:
        return len(self._threads)

    def begin(self, thread: Thread) -> None:
        """The thread is the program's, and has no number yet."""
        if thread.number is None:
            self.unknown[thread] = None

    def learn(self, thread: Thread, number: int) -> None:
        """What the thread is called inside."""
        if thread.number is not None or thread in self.unknown:
            self.forget(thread)
        thread.number = number
        self._threads[number] = thread

    def forget(self, thread: Thread) -> None:
        """The thread has ended."""
        number = thread.number
        if number is None:
            self.unknown.pop(thread, None)
        elif self._threads.get(number) is thread:
            del self._threads[number]
        thread.number = None

    def learn_birth(self, birth: Birth, thread: Thread | None) -> None:
        """By the number that a call of the program gave, if `thread` is its child and no other."""
        if thread is not None and thread.birth is birth and birth.given is not None:
            thread.birth = None
            if birth.sole and birth.kind.parent.inside:
                self.learn(thread, birth.given)


@dataclass(slots=True, eq=False)
class Seen:
    """A number that is not known: in which line it was seen first, and what its lines tell."""

    pid: int
    line: int
    # It has executed a program under its own number. A thread gets that of the first thread.
    leads: bool = False
    # A thread of this process, which has executed a program.
    group: Process | None = None

    def fits(self, kind: Kind) -> bool:
        """Whether it can be a child of such a call."""
        if self.group is not None:
            return kind.thread and kind.parent is self.group
        return not (self.leads and kind.thread)


class Waiting:
    """The lines of a number whose parent is not known yet."""

    __slots__ = ("ended", "forks", "lines", "seen", "size")

    def __init__(self, pid: int, line: int) -> None:
        self.seen = Seen(pid, line)
        self.lines: list[tuple[int, bytes, re.Match[bytes]]] = []
        self.size = 0
        # The first line in which it may have started somebody.
        self.forks = sys.maxsize
        self.ended = False

    def add(self, number: int, line: bytes, head: re.Match[bytes]) -> bool:
        """One more line; whether it tells something of the parent."""
        first = not self.lines
        self.lines.append((number, line, head))
        name = head[5]
        self.size += len(line)
        if name is None:
            self.ended = b" +++ " in line and line.endswith(b" +++")
        elif name in FORKS:
            self.forks = min(self.forks, number)
        elif name.startswith(b"execve") and line.endswith(b" = 0"):
            self.seen = replace(self.seen, leads=True)
            return True
        return first

    @property
    def full(self) -> bool:
        """Whether the next line is too much, or somebody else's."""
        return self.ended or len(self.lines) >= _MOST_WAITING


class Queue:
    """All that wait, in the order of their first lines."""

    def __init__(self) -> None:
        self._waiting: dict[int, Waiting] = {}
        # The bytes of all lines.
        self.held = 0
        # What is seen later may be started by one that waits itself.
        self.barrier = sys.maxsize
        # Those of whom it is known that more than one kind of calls may have started them.
        self.stuck: list[Seen] = []
        # Those of whom nothing is known; None: of nobody anything is.
        self._fresh: list[Waiting] | None = []
        self._changes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def get(self, pid: bytes) -> Waiting | None:
        """The one with this number."""
        return self._waiting.get(int(pid)) if self._waiting else None

    def oldest(self) -> Waiting:
        """The one that was seen first."""
        return next(iter(self._waiting.values()))

    def add(self, waiting: Waiting, number: int, line: bytes, head: re.Match[bytes]) -> bool:
        """One more line of it; whether that tells something of the parent."""
        self._waiting[waiting.seen.pid] = waiting
        self.held += len(line)
        tells = waiting.add(number, line, head)
        if waiting.forks < self.barrier:
            self.barrier = waiting.forks
            self._fresh = None
        elif tells and self._fresh is not None:
            if len(waiting.lines) == 1:
                self._fresh.append(waiting)
            else:
                self._fresh = None
        return tells

    def remove(self, waiting: Waiting) -> None:
        """It waits no longer."""
        if self._waiting.pop(waiting.seen.pid, None) is not None:
            self._fresh = None
            self.stuck.clear()
            self.held -= waiting.size
            if waiting.forks == self.barrier:
                others = (one.forks for one in self._waiting.values())
                self.barrier = min(others, default=sys.maxsize)

    def able(self, changes: int) -> list[Waiting]:
        """Those that no other one can have started, but for the stuck ones.

        With other `changes` of the calls that lack a child, nobody is stuck any more.
        """
        fresh = self._fresh if changes == self._changes else None
        if fresh is None:
            self.stuck.clear()
        self._changes, self._fresh = changes, []
        asked = self._waiting.values() if fresh is None else fresh
        return [one for one in asked if one.seen.line <= self.barrier]
