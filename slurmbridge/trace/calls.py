"""What one call about files, programs or signals says, as events."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from slurmbridge.trace.events import (
    Access,
    Change,
    Changed,
    Created,
    Deleted,
    Executed,
    Happening,
    Linked,
    Made,
    Opened,
    Refused,
    Renamed,
    Signalled,
    SignalSent,
    Transferred,
    Unusual,
)
from slurmbridge.trace.lines import (
    AT,
    NOWHERE,
    PATH,
    SIGNAL,
    STRING,
    TAIL,
    error_of,
    folder,
    number_of,
    plain,
    real_of,
    resolved,
)
from slurmbridge.trace.living import Folder, Process, Thread

# Arguments of calls that are told as they stand.
ARGUMENTS_KEPT = 256
_REFUSED_KEPT = 200
# Of how many files the bytes are counted, before they are told.
_MOST_PATHS = 128


@dataclass(slots=True, eq=False)
class Call:
    """One whole call; `text` is what follows the opening bracket."""

    line: int
    time: int
    thread: Thread
    name: bytes
    text: bytes


# None: the text is not what strace prints for this call.
Reader: TypeAlias = Callable[[Call], tuple[Happening, ...] | None]

_P = re.compile(PATH + TAIL, re.DOTALL).match
_AP = re.compile(AT + b", " + PATH + TAIL, re.DOTALL).match
_PP = re.compile(PATH + b", " + PATH + TAIL, re.DOTALL).match
_APAP = re.compile(AT + b", " + PATH + b", " + AT + b", " + PATH + TAIL, re.DOTALL).match
_PAP = re.compile(PATH + b", " + AT + b", " + PATH + TAIL, re.DOTALL).match
_F = re.compile(AT + TAIL, re.DOTALL).match
_ARGV = rb"(?:\[((?:" + STRING + rb"|[^\"\]])*)\]|NULL|0x[0-9a-f]+)(?:, (.*))?\) += (.+)$"
_EXECVE = re.compile(PATH + b", " + _ARGV, re.DOTALL).match
_EXECVEAT = re.compile(AT + b", " + PATH + b", " + _ARGV, re.DOTALL).match
_ARGUMENT = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"(\.\.\.)?|(\.\.\.)', re.DOTALL).findall
_KILL = re.compile(rb"(?:\d+<[^>]*>, )?(-?\d{1,10})(?:, -?\d+)?, (SIG\w+|\d+)\b.*\) += (.+)$").match
_PIDFD = re.compile(rb"-?\d+(?:<[^>]*>)?, (SIG\w+|\d+)\b.*\) += (.+)$").match
_END = re.compile(rb"\) += ([^\"<]+)(?:<[^>]*>)?(?:\(deleted\))?$").search
_KINDS = {
    b"S_IFIFO": Made.FIFO,
    b"S_IFSOCK": Made.SOCKET,
    b"S_IFCHR": Made.DEVICE,
    b"S_IFBLK": Made.DEVICE,
}


def base_of(thread: Thread, at: bytes, decoration: bytes | None) -> bytes:
    """The folder that a path is relative to; what strace tells of the working directory is kept."""
    if at != b"AT_FDCWD":
        return NOWHERE if decoration is None else folder(decoration)
    if decoration is None:
        return thread.folder.path
    known = folder(decoration)
    thread.folder.path = known
    return known


@lru_cache(maxsize=256)
def _opening(flags: bytes) -> tuple[Access, bool, bool]:
    words = set(re.findall(rb"\b(?:__)?O_\w+", flags))
    if b"O_PATH" in words:
        return Access.NOTHING, False, False
    access = Access.READ
    if b"O_RDWR" in words:
        access = Access.BOTH
    elif b"O_WRONLY" in words:
        access = Access.WRITE
    creates = bool(words & {b"O_CREAT", b"O_TMPFILE", b"__O_TMPFILE"})
    return access, creates, b"O_TRUNC" in words


def _opened(call: Call, path: bytes, flags: bytes, result: bytes) -> tuple[Happening, ...]:
    access, creates, truncates = _opening(flags)
    error = error_of(result)
    real = None if error else real_of(result)
    key = call.thread.process.key
    return (Opened(call.line, call.time, key, path, real, access, creates, truncates, error),)


def openat(call: Call) -> tuple[Happening, ...] | None:
    """openat, openat2."""
    found = _AP(call.text)
    if found is None:
        return None
    at, decoration, path, flags, result = found.groups()
    name = resolved(base_of(call.thread, at, decoration), path)
    return _opened(call, name, flags, result)


def open_(call: Call) -> tuple[Happening, ...] | None:
    """open, creat."""
    found = _P(call.text)
    if found is None:
        return None
    path, flags, result = found.groups()
    if call.name == b"creat":
        flags = b"O_WRONLY|O_CREAT|O_TRUNC"
    return _opened(call, resolved(call.thread.folder.path, path), flags, result)


def one_path(call: Call) -> tuple[bytes, bytes, bytes] | None:
    """The path, the other arguments and the result of a call, in the older or the newer form."""
    thread = call.thread
    if call.name.endswith(b"at") or call.name.endswith(b"at2"):
        found = _AP(call.text)
        if found is None:
            return None
        at, decoration, path, rest, result = found.groups()
        return resolved(base_of(thread, at, decoration), path), rest, result
    found = _P(call.text)
    if found is None:
        return None
    path, rest, result = found.groups()
    return resolved(thread.folder.path, path), rest, result


def two_paths(call: Call) -> tuple[bytes, bytes, bytes, bytes] | None:
    """Both paths, the other arguments and the result, in the older or the newer form."""
    thread = call.thread
    if call.name in {b"rename", b"link"}:
        found = _PP(call.text)
        if found is None:
            return None
        source, path, rest, result = found.groups()
        base = thread.folder.path
        return resolved(base, source), resolved(base, path), rest, result
    found = _APAP(call.text)
    if found is None:
        return None
    at, decoration, source, at2, decoration2, path, rest, result = found.groups()
    first = resolved(base_of(thread, at, decoration), source)
    return first, resolved(base_of(thread, at2, decoration2), path), rest, result


def delete(call: Call) -> tuple[Happening, ...] | None:
    """unlink, unlinkat, rmdir."""
    found = one_path(call)
    if found is None:
        return None
    path, _, result = found
    return (Deleted(call.line, call.time, call.thread.process.key, path, error_of(result)),)


def create(call: Call) -> tuple[Happening, ...] | None:
    """mkdir, mkdirat, mknod, mknodat."""
    found = one_path(call)
    if found is None:
        return None
    path, rest, result = found
    kind = rest.partition(b"|")[0]
    made = Made.FOLDER if call.name.startswith(b"mkdir") else _KINDS.get(kind, Made.FILE)
    return (Created(call.line, call.time, call.thread.process.key, path, made, error_of(result)),)


def rename(call: Call) -> tuple[Happening, ...] | None:
    """rename, renameat, renameat2."""
    found = two_paths(call)
    if found is None:
        return None
    source, path, rest, result = found
    exchanged = b"RENAME_EXCHANGE" in rest
    key = call.thread.process.key
    return (Renamed(call.line, call.time, key, source, path, exchanged, error_of(result)),)


def link(call: Call) -> tuple[Happening, ...] | None:
    """link, linkat."""
    found = two_paths(call)
    if found is None:
        return None
    source, path, _, result = found
    key = call.thread.process.key
    return (Linked(call.line, call.time, key, source, path, False, error_of(result)),)


def symlink(call: Call) -> tuple[Happening, ...] | None:
    """symlink, symlinkat."""
    thread = call.thread
    found = (_PP if call.name == b"symlink" else _PAP)(call.text)
    if found is None:
        return None
    if call.name == b"symlink":
        source, path, _, result = found.groups()
        base = thread.folder.path
    else:
        source, at, decoration, path, _, result = found.groups()
        base = base_of(thread, at, decoration)
    target = NOWHERE if source is None else plain(source)
    name = resolved(base, path)
    key = thread.process.key
    return (Linked(call.line, call.time, key, target, name, True, error_of(result)),)


_CHANGES = {
    b"chmod": Change.MODE,
    b"fchmod": Change.MODE,
    b"fchmodat": Change.MODE,
    b"fchmodat2": Change.MODE,
    b"chown": Change.OWNER,
    b"fchown": Change.OWNER,
    b"lchown": Change.OWNER,
    b"fchownat": Change.OWNER,
    b"truncate": Change.SIZE,
    b"ftruncate": Change.SIZE,
}


def change(call: Call) -> tuple[Happening, ...] | None:
    """Mode, owner, size; of a path or of a descriptor."""
    if call.name in {b"fchmod", b"fchown", b"ftruncate"}:
        on_descriptor = _F(call.text)
        if on_descriptor is None:
            return None
        at, decoration, value, result = on_descriptor.groups()
        path = base_of(call.thread, at, decoration)
    else:
        on_path = one_path(call)
        if on_path is None:
            return None
        path, value, result = on_path
    key = call.thread.process.key
    kind = _CHANGES[call.name]
    return (Changed(call.line, call.time, key, path, kind, value, error_of(result)),)


def change_folder(call: Call) -> tuple[Happening, ...] | None:
    """chdir, fchdir: no event; relative paths are told by it."""
    found = (_F if call.name == b"fchdir" else _P)(call.text)
    if found is None:
        return None
    if call.name == b"fchdir":
        at, decoration, _, result = found.groups()
        path = base_of(call.thread, at, decoration)
    else:
        name, _, result = found.groups()
        path = resolved(call.thread.folder.path, name)
    if not error_of(result):
        call.thread.folder.path = path
    return ()


def executed(call: Call) -> Executed | None:
    """execve, execveat."""
    thread = call.thread
    if call.name == b"execve":
        found = _EXECVE(call.text)
        if found is None:
            return None
        path, argv, _, result = found.groups()
        name = resolved(thread.folder.path, path)
    else:
        found = _EXECVEAT(call.text)
        if found is None:
            return None
        at, decoration, path, argv, _, result = found.groups()
        name = resolved(base_of(thread, at, decoration), path)
    items = _ARGUMENT(argv or b"")
    arguments = tuple([plain(text) for text, _, dots in items if not dots])
    whole = argv is not None and not any([cut or dots for _, cut, dots in items])
    key = thread.process.key
    return Executed(call.line, call.time, key, name, arguments, whole, error_of(result))


def send_signal(call: Call) -> tuple[Happening, ...] | None:
    """kill, tkill, tgkill, pidfd_send_signal."""
    name = call.name.decode()
    key = call.thread.process.key
    if call.name == b"pidfd_send_signal":
        found = _PIDFD(call.text)
        if found is None:
            return None
        signal, result = found.groups()
        return (SignalSent(call.line, call.time, key, name, 0, signal.decode(), error_of(result)),)
    found = _KILL(call.text)
    if found is None:
        return None
    first, signal, result = found.groups()
    target = int(first)
    return (SignalSent(call.line, call.time, key, name, target, signal.decode(), error_of(result)),)


def signalled(line: int, time: int, text: bytes, process: Process) -> tuple[Happening, ...] | None:
    """A signal that arrived; that a child has ended is told by the child's own end."""
    signal = SIGNAL(text)
    if signal is None:
        return None
    if not process.inside or signal[2] in {None, b"SIGCHLD"}:
        return ()
    sender = int(signal[3]) if signal[3] else None
    return (Signalled(line, time, process.key, signal[2].decode(), sender),)


def end_of(text: bytes) -> tuple[bytes, bytes] | None:
    """The arguments and the result of any call; text in the arguments cannot be told from it."""
    found = _END(text, max(text.rfind(b") "), 0))
    if found is None:
        # The result is a descriptor, and its path holds what looks like an end.
        found = re.search(rb"\) += ([^\"]+)$", text)
    return None if found is None else (text[: found.start()], found[1])


def refused(call: Call, arguments: bytes, result: bytes) -> tuple[Happening, ...]:
    """A call without an event of its own, that was refused."""
    key, name = call.thread.process.key, call.name.decode()
    kept = arguments[:_REFUSED_KEPT]
    return (Refused(call.line, call.time, key, name, kept, error_of(result)),)


def unusual(call: Call) -> tuple[Happening, ...] | None:
    """Told as it stands. A thread that leaves the shared working directory gets one of its own."""
    found = end_of(call.text)
    if found is None:
        return None
    arguments, result = found
    error = error_of(result)
    if call.name == b"unshare" and not error and b"CLONE_FS" in arguments:
        call.thread.folder = Folder(call.thread.folder.path)
    key = call.thread.process.key
    kept = arguments[:ARGUMENTS_KEPT]
    return (Unusual(call.line, call.time, key, call.name.decode(), kept, error),)


def moved(call: Call) -> tuple[Happening, ...] | None:
    """Bytes read or written by the commonest calls: counted, and told when the process ends."""
    text = call.text
    result = text.rfind(b"= ")
    if result < 0:
        return None
    descriptor, bracket, rest = text.partition(b"<")
    if not bracket or not rest.startswith(b"/") or not descriptor.isdigit():
        return ()
    path = rest.partition(b">")[0]
    amount = number_of(text[result + 2 :])
    if amount is None or amount <= 0:
        return ()
    moved_by = call.thread.process.bytes_moved
    counts = moved_by.get(path)
    if counts is None:
        counts = moved_by[path] = [0, 0]
    counts[b"write" in call.name] += amount
    if len(moved_by) > _MOST_PATHS:
        return transferred(call.line, call.time, call.thread.process)
    return ()


_BETWEEN = re.compile(
    rb"-?\d+(?:<([^>]*)>)?(?:\(deleted\))?, "
    rb"(?:(?:NULL|0x[0-9a-f]+|\[[^\]]*\](?: => \[[^\]]*\])?), )?"
    rb"-?\d+(?:<([^>]*)>)?.*\) += (.+)$",
    re.DOTALL,
).match


def moved_between(call: Call) -> tuple[Happening, ...] | None:
    """sendfile, copy_file_range, splice: of two descriptors, one is read and one is written."""
    found = _BETWEEN(call.text)
    if found is None:
        return None
    first, second, result = found.groups()
    amount = number_of(result)
    if amount is None or amount <= 0:
        return ()
    source, target = (second, first) if call.name == b"sendfile" else (first, second)
    process = call.thread.process
    for path, written in ((source, False), (target, True)):
        if path is not None and path.startswith(b"/"):
            process.bytes_moved.setdefault(path, [0, 0])[written] += amount
    if len(process.bytes_moved) > _MOST_PATHS:
        return transferred(call.line, call.time, process)
    return ()


def transferred(line: int, time: int, process: Process) -> tuple[Happening, ...]:
    """What was counted since it was last told."""
    if not process.bytes_moved:
        return ()
    told = tuple(
        Transferred(line, time, process.key, plain(path), read, written)
        for path, (read, written) in process.bytes_moved.items()
    )
    process.bytes_moved.clear()
    return told


FILES: dict[bytes, Reader] = {
    b"open": open_,
    b"creat": open_,
    b"openat": openat,
    b"openat2": openat,
    **dict.fromkeys((b"unlink", b"unlinkat", b"rmdir"), delete),
    **dict.fromkeys((b"mkdir", b"mkdirat", b"mknod", b"mknodat"), create),
    **dict.fromkeys((b"rename", b"renameat", b"renameat2"), rename),
    **dict.fromkeys((b"link", b"linkat"), link),
    **dict.fromkeys((b"symlink", b"symlinkat"), symlink),
    **dict.fromkeys(_CHANGES, change),
    **dict.fromkeys((b"chdir", b"fchdir"), change_folder),
    **dict.fromkeys((b"kill", b"tkill", b"tgkill", b"pidfd_send_signal"), send_signal),
}
MOVES: dict[bytes, Reader] = {
    **dict.fromkeys((b"read", b"readv", b"pread64", b"preadv", b"preadv2"), moved),
    **dict.fromkeys((b"write", b"writev", b"pwrite64", b"pwritev", b"pwritev2"), moved),
    **dict.fromkeys((b"sendfile", b"copy_file_range", b"splice"), moved_between),
}
