"""SFTP's packets, version 3 (draft-ietf-secsh-filexfer-02, and OpenSSH's PROTOCOL): pure."""

import errno
import stat
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct, error

from slurmbridge.shell.files import Entry, Kind

VERSION = 3
POSIX_RENAME = b"posix-rename@openssh.com"
HARD_LINK = b"hardlink@openssh.com"
LIMITS = b"limits@openssh.com"


class Ask(IntEnum):
    """What is asked for."""

    INIT = 1
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    READLINK = 19
    EXTENDED = 200


class Answer(IntEnum):
    """What comes back."""

    VERSION = 2
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 201


class Open(IntEnum):
    """How a file is opened."""

    READ = 1
    WRITE = 2
    CREATE = 8
    EXCLUSIVE = 32


OK, END = 0, 1
_FAILURE = 4
# OpenSSH's server says no more than this (errno_to_portable in sftp-server.c); FAILURE is all else.
_ERRNO = {
    2: errno.ENOENT,
    3: errno.EACCES,
    5: errno.EINVAL,
    8: errno.ENOTSUP,
}
_SIZE, _IDS, _MODE, _TIMES, _MORE = 1, 2, 4, 8, 0x80000000
_INT, _LONG = Struct(">I"), Struct(">Q")
_HEAD = Struct(">IBI")


class Malformed(Exception):
    """It is not SFTP."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is known of a file; None is what the server does not tell."""

    size: int | None = None
    mode: int | None = None
    modified_at: int | None = None

    def entry(self, name: str, names: int = 1) -> Entry:
        """As all ways to a host tell it."""
        mode = self.mode or 0
        return Entry(
            name, kind_of(mode), self.size or 0, stat.S_IMODE(mode), names, self.modified_at or 0
        )


class Reader:
    """The fields of a packet, one after the other. Raises Malformed where there is none."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0

    def number(self) -> int:
        """32 bits."""
        return self._unpack(_INT)

    def long(self) -> int:
        """64 bits."""
        return self._unpack(_LONG)

    def word(self) -> bytes:
        """Any bytes."""
        size = self.number()
        found = self._data[self._at : self._at + size]
        if len(found) != size:
            raise Malformed("a packet ends in the middle")
        self._at += size
        return bytes(found)

    def attributes(self) -> Attributes:
        """What is known of a file."""
        flags = self.number()
        size = self.long() if flags & _SIZE else None
        if flags & _IDS:
            self.long()
        mode = self.number() if flags & _MODE else None
        times = (self.number(), self.number()) if flags & _TIMES else None
        for _ in range(self.number() if flags & _MORE else 0):
            self.word()
            self.word()
        return Attributes(size, mode, times[1] if times else None)

    @property
    def more(self) -> bool:
        """Whether there are fields left."""
        return self._at < len(self._data)

    def _unpack(self, form: Struct) -> int:
        try:
            (found,) = form.unpack_from(self._data, self._at)
        except error:
            raise Malformed("a packet ends in the middle") from None
        self._at += form.size
        return int(found)


def packet(ask: Ask, number: int, *fields: bytes) -> bytes:
    """A request. Its number comes back with the answer."""
    body = b"".join(fields)
    return _HEAD.pack(len(body) + 5, ask, number) + body


def integer(value: int) -> bytes:
    """A field of 32 bits."""
    return _INT.pack(value)


def long(value: int) -> bytes:
    """A field of 64 bits."""
    return _LONG.pack(value)


def word(value: bytes) -> bytes:
    """A field of any bytes."""
    return _INT.pack(len(value)) + value


def with_mode(mode: int) -> bytes:
    """Attributes that hold the rights alone."""
    return _INT.pack(_MODE) + _INT.pack(stat.S_IMODE(mode))


NO_ATTRIBUTES = _INT.pack(0)


def to_bytes(path: object) -> bytes:
    """A path as it goes over the wire."""
    return str(path).encode("utf-8", "surrogateescape")


def to_name(raw: bytes) -> str:
    """A name as this program has it."""
    return raw.decode("utf-8", "surrogateescape")


def kind_of(mode: int) -> Kind:
    """What a mode with its type bits stands for."""
    if stat.S_ISREG(mode):
        return Kind.FILE
    if stat.S_ISDIR(mode):
        return Kind.FOLDER
    return Kind.LINK if stat.S_ISLNK(mode) else Kind.OTHER


def names_in(long_name: bytes) -> int:
    """How many names a file has, where a line as of `ls -l` tells it; otherwise 1."""
    words = long_name.split(maxsplit=2)
    if len(words) == 3 and len(words[0]) >= 10 and words[1].isdigit():
        return max(1, int(words[1]))
    return 1


def errno_of(status: int) -> int | None:
    """The errno of a status; None when it can be anything."""
    return _ERRNO.get(status, None if status == _FAILURE else errno.EIO)


def find_version(stream: bytes | bytearray) -> int | None:
    """Where the first packet begins, after what a login shell may have printed.

    Text holds no NUL, and the packet begins with two: it is shorter than 64 KiB.
    """
    at = stream.find(b"\x02" + _INT.pack(VERSION))
    while at >= 0:
        if at >= 4 and stream[at - 4 : at - 2] == b"\0\0":
            return at - 4
        at = stream.find(b"\x02" + _INT.pack(VERSION), at + 1)
    return None
