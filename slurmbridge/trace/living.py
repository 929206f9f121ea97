"""What is known of the processes and threads that live at a point of the trace."""

from collections.abc import Container
from dataclasses import dataclass, field
from typing import NamedTuple

from slurmbridge.trace.events import Key
from slurmbridge.trace.lines import NOWHERE


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
    # It has executed sbseal: its second child becomes the program.
    seals: bool = False
    children: int = 0
    # It is that child: with the first program that it executes, it is inside.
    awaited: bool = False
    # Whether its numbers are strace's own, and not those of a namespace; None while unknown.
    counts_as_strace: bool | None = None
    # It has asked for another namespace for its children.
    parts: bool = False
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
    # The caller has ended before the call did.
    doubtful: bool = False


@dataclass(slots=True, eq=False)
class Birth:
    """Such a call, until its child has been seen."""

    kind: Kind
    # The line in which it began.
    begun: int
    # The line in which it returned, and the number that it gave, in the caller's own counting.
    line: int = 0
    given: int | None = None
    # The child's number as strace counts, once it was seen; whether no other call can be meant.
    child: int | None = None
    sole: bool = False


@dataclass(slots=True)
class Pending:
    """A call whose end stands in a later line."""

    name: bytes
    text: bytes
    # A thread other than the first has executed a program: strace 7.2 may print an error then.
    won: bool = False
    birth: Birth | None = None


@dataclass(slots=True, eq=False)
class Thread:
    """What strace gives a line of its own to."""

    process: Process
    folder: Folder
    # The calls of it that are read; all others are passed over.
    calls: Container[bytes]
    pending: Pending | None = None
