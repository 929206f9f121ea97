"""What a traced program did: a closed set of values.

Names and paths are bytes, as the kernel knows them; `error` is "" when a call succeeded, the
kernel's name of the error when it failed, and UNKNOWN when it is not known how it ended.
"""

from dataclasses import dataclass
from enum import Enum, unique
from typing import NamedTuple, TypeAlias, TypeVar, dataclass_transform

# The call was begun; the trace does not tell how it ended. What it asks for may have happened.
UNKNOWN = "?"


class Key(NamedTuple):
    """A process: numbers are given again, so it is told apart by its birth within the trace."""

    pid: int
    birth: int


@unique
class Access(Enum):
    """What a file was opened for; NOTHING is O_PATH."""

    NOTHING = "nothing"
    READ = "read"
    WRITE = "write"
    BOTH = "both"


@unique
class Made(Enum):
    """What was made, other than a file by opening it."""

    FOLDER = "folder"
    FILE = "file"
    FIFO = "fifo"
    SOCKET = "socket"
    DEVICE = "device"


@unique
class Change(Enum):
    """What of a file was changed, other than by writing."""

    MODE = "mode"
    OWNER = "owner"
    SIZE = "size"


@unique
class Contact(Enum):
    """How an address was used."""

    CONNECT = "connect"
    SEND = "send"
    BIND = "bind"
    ACCEPT = "accept"


@dataclass(frozen=True, slots=True)
class Address:
    """The host, or the name of a Unix socket (an abstract one begins with NUL)."""

    family: str
    host: bytes
    port: int | None


_T = TypeVar("_T")


@dataclass_transform(frozen_default=True)
def value(cls: type[_T]) -> type[_T]:
    """A dataclass, frozen for mypy: as it runs, that would cost a tenth of the speed."""
    return dataclass(slots=True, unsafe_hash=True)(cls)


@value
class Event:
    """The line that tells it, the time in microseconds since 1970, and who did it."""

    line: int
    time: int
    process: Key


@value
class Started(Event):
    """A process; `certain` is false where the trace leaves open who started it."""

    parent: Key | None
    certain: bool


@value
class ThreadStarted(Event):
    """One more thread; `certain` is false where the trace leaves open whose it is."""

    thread: int
    certain: bool = True


@value
class Executed(Event):
    """A program; `whole` is false when strace cut the arguments."""

    path: bytes
    argv: tuple[bytes, ...]
    whole: bool
    error: str


@value
class Ended(Event):
    """The exit code, or the signal."""

    code: int | None
    signal: str | None


@value
class Opened(Event):
    """A file; `real` is its name after the links were followed, where the kernel told it."""

    path: bytes
    real: bytes | None
    access: Access
    creates: bool
    truncates: bool
    error: str


@value
class Transferred(Event):
    """How many bytes passed between a process and a file, counted up to this line."""

    path: bytes
    read: int
    written: int


@value
class Created(Event):
    """A name for something new."""

    path: bytes
    made: Made
    error: str


@value
class Deleted(Event):
    """A name that is gone."""

    path: bytes
    error: str


@value
class Renamed(Event):
    """A name for another; with `exchanged`, each has become the other."""

    source: bytes
    path: bytes
    exchanged: bool
    error: str


@value
class Linked(Event):
    """One more name; the source of a symbolic link is its text."""

    source: bytes
    path: bytes
    symbolic: bool
    error: str


@value
class Changed(Event):
    """Mode, owner or size of a file, with the new value as strace prints it."""

    path: bytes
    change: Change
    value: bytes
    error: str


@value
class SocketMade(Event):
    """A socket, in the kernel's words."""

    family: str
    kind: str
    protocol: str
    error: str


@value
class Contacted(Event):
    """An address that was used or tried."""

    contact: Contact
    address: Address
    error: str


@value
class Listening(Event):
    """A socket that takes connections; which one is known by its `Contact.BIND`."""

    error: str


@value
class SignalSent(Event):
    """A signal, to a number in the container's own counting."""

    call: str
    target: int
    signal: str
    error: str


@value
class Signalled(Event):
    """A signal that arrived, from a number in the container's own counting or the kernel."""

    signal: str
    sender: int | None


@value
class Unusual(Event):
    """A call that ordinary programs do not make."""

    call: str
    arguments: bytes
    error: str


@value
class Refused(Event):
    """Any other call that makes no event of its own, and was not permitted or does not exist."""

    call: str
    arguments: bytes
    error: str


@value
class Missed(Event):
    """One call, between this line and the next of its process, that strace has not recorded.

    strace 7.2, when it filters, takes the first recorded call of a program that a thread has
    executed for the end of the execve, and prints ENOSYS there. The call itself was made.
    """


@value
class Remarked:
    """What strace says for itself."""

    line: int
    text: bytes


@value
class Unreadable:
    """A line that cannot be understood, or the beginning of it."""

    line: int
    text: bytes


Happening: TypeAlias = (
    Started
    | ThreadStarted
    | Executed
    | Ended
    | Opened
    | Transferred
    | Created
    | Deleted
    | Renamed
    | Linked
    | Changed
    | SocketMade
    | Contacted
    | Listening
    | SignalSent
    | Signalled
    | Unusual
    | Refused
    | Missed
    | Remarked
    | Unreadable
)
