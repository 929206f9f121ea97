"""Which calls are read, by whom; all others are passed over. And what sbseal notes of calls."""

import errno
import re
from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

from slurmbridge.trace.births import FORKS
from slurmbridge.trace.calls import FILES, MOVES, Call, Reader, unusual
from slurmbridge.trace.events import UNKNOWN, Happening, Key, Refused, SocketMade, Unusual
from slurmbridge.trace.lines import UNFINISHED
from slurmbridge.trace.living import Numbers, Pending, Thread
from slurmbridge.trace.network import NETWORK, make_socket, socket_words

EXECS = frozenset({b"execve", b"execveat"})
NAMESPACES = frozenset({b"unshare", b"setns"})
# Calls of the launcher that are read: those that tell who is who.
OUTSIDE = FORKS | EXECS | NAMESPACES
# Of sbseal and its children, before they execute the program: its notes as well.
SEALING = OUTSIDE | {b"mkdirat"}
_SUSPECT = (
    b"io_uring_setup io_uring_enter io_uring_register seccomp ptrace unshare setns memfd_create"
    b" memfd_secret bpf mount umount2 pivot_root chroot move_mount open_tree open_tree_attr fsopen"
    b" fsconfig fsmount fspick mount_setattr sethostname setdomainname process_vm_readv"
    b" process_vm_writev process_madvise pidfd_getfd kcmp keyctl add_key request_key"
    b" open_by_handle_at name_to_handle_at perf_event_open userfaultfd fanotify_init init_module"
    b" finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff acct quotactl"
    b" quotactl_fd settimeofday clock_settime syslog vhangup iopl ioperm modify_ldt uselib"
)
READERS: Mapping[bytes, Reader] = {
    **FILES,
    **NETWORK,
    **MOVES,
    **dict.fromkeys(_SUSPECT.split(), unusual),
}
INSIDE = frozenset(READERS) | OUTSIDE

# The calls that sbseal may refuse, by their numbers on x86-64 and on 64-bit ARM.
_NUMBERS = """
unshare 272 97, setns 308 268, mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51,
sethostname 170 161, setdomainname 171 162, ptrace 101 117, process_vm_readv 310 270,
process_vm_writev 311 271, kcmp 312 272, keyctl 250 219, add_key 248 217, request_key 249 218,
open_by_handle_at 304 265, name_to_handle_at 303 264, bpf 321 280, perf_event_open 298 241,
userfaultfd 323 282, fanotify_init 300 262, lookup_dcookie 212 18, init_module 175 105,
finit_module 313 273, delete_module 176 106, kexec_load 246 104, kexec_file_load 320 294,
reboot 169 142, swapon 167 224, swapoff 168 225, acct 163 89, quotactl 179 60,
settimeofday 164 170, clock_settime 227 112, syslog 103 116, vhangup 153 58, clone 56 220,
seccomp 317 277, socket 41 198, socketpair 53 199, ioctl 16 29
"""
# Those that x86-64 alone has, and those that have one number everywhere.
_OF_X86_64 = """
uselib 134, ustat 136, sysfs 139, iopl 172, ioperm 173, modify_ldt 154
"""
_EVERYWHERE = """
clone3 435, io_uring_setup 425, io_uring_enter 426, io_uring_register 427, memfd_secret 447,
statmount 457, listmount 458, lsm_set_self_attr 460, move_mount 429, open_tree 428, fsopen 430,
fsconfig 431, fsmount 432, fspick 433, mount_setattr 442, pidfd_getfd 438, process_madvise 440,
quotactl_fd 443, open_tree_attr 467, file_getattr 468, file_setattr 469
"""
_REFUSED_BY_ARGUMENTS = frozenset({b"clone", b"seccomp", b"socket", b"socketpair", b"ioctl"})
_MOST_ASKED = 256
_X86_64, _AARCH64, _I386, _ARM = 0xC000003E, 0xC00000B7, 0x40000003, 0x40000028
_X32 = 0x40000000


def _names(text: str, column: int) -> dict[int, str]:
    rows = (row.split() for row in text.split(",") if row.strip())
    return {int(row[column]): row[0] for row in rows}


_CALLS: Mapping[int, Mapping[int, str]] = {
    _X86_64: _names(_NUMBERS, 1) | _names(_OF_X86_64, 1) | _names(_EVERYWHERE, 1),
    _AARCH64: _names(_NUMBERS, 2) | _names(_EVERYWHERE, 1),
}
_FOREIGN = {_I386: " (i386)", _ARM: " (32-bit ARM)"}
_REFUSAL = re.compile(
    rb'-1, "sbseal refused pid=(\d{1,10}) call=(\d{1,10}) arguments=((?:0x[0-9a-f]{1,16},){5}'
    rb'0x[0-9a-f]{1,16}) errno=(\d{1,4}) arch=([0-9a-f]{8})", 0\d*\) += (?:-1 EBADF .*|\?.*)$'
).match
_TASK = re.compile(
    rb'-1, "sbseal task=(\d{1,5}) pid=(\d{1,10})", 0\d*\) += (?:-1 EBADF .*|\?.*)$'
).match


def at_once(
    number: int, line: bytes, thread: Thread, head: re.Match[bytes]
) -> tuple[Happening, ...] | None:
    """A call that is neither a start nor a program, of the program's own; else None."""
    _, seconds, micros, resumed, name, opening, _ = head.groups()
    reader = READERS.get(name)
    if reader is None or thread.calls is not INSIDE:
        return None
    text, pending = line[head.end() :], thread.pending
    if resumed is None:
        if pending is not None or opening != b"(":
            return None
    elif pending is None or pending.name != name or opening == b"(":
        return None
    else:
        text = pending.text + text
    if text.endswith(b" ...>"):
        if not text.endswith(UNFINISHED):
            return None
        thread.pending = Pending(name, text[: -len(UNFINISHED)])
        return ()
    thread.pending = None
    return reader(Call(number, int(seconds + micros), thread, name, text))


def parts(call: Call) -> bool:
    """Whether the caller's children may count otherwise from now on."""
    if b"CLONE_NEWPID" in call.text:
        return True
    return call.name == b"setns" and b"CLONE_NEW" not in call.text


def name_of(number: int, architecture: int) -> str:
    """As strace calls it where it can be known."""
    if known := _CALLS.get(architecture, {}).get(number):
        return known
    if architecture == _X86_64 and number & _X32:
        return f"syscall_{number ^ _X32:#x} (x32)"
    return f"syscall_{number:#x}{_FOREIGN.get(architecture, '')}"


class Refusal(NamedTuple):
    """A call that sbseal has refused; `pid` is the thread's number in the container."""

    pid: int
    call: str
    arguments: bytes
    error: str

    def event(self, line: int, time: int, key: Key) -> Happening:
        """The same kind as where strace itself records the call."""
        reader = READERS.get(self.call.encode())
        if reader is make_socket:
            numbers = [int(word, 16) & 0xFFFFFFFF for word in self.arguments.split(b", ")[:3]]
            return SocketMade(line, time, key, *socket_words(*numbers), self.error)
        kind = Unusual if reader is unusual else Refused
        return kind(line, time, key, self.call, self.arguments, self.error)


def refusal(text: bytes) -> Refusal | None:
    """What stands in sbseal's note of a call."""
    found = _REFUSAL(text)
    if found is None:
        return None
    pid, number, arguments, error, architecture = found.groups()
    return Refusal(
        int(pid),
        name_of(int(number), int(architecture, 16)),
        arguments.replace(b",", b", "),
        errno.errorcode.get(int(error), UNKNOWN),
    )


class Notes:
    """What sbseal says, and whose calls it means.

    With a filter, strace records a refused call itself where it is the first of a thread; without
    one, always. It has begun the line by then: sbseal notes a call before it answers.
    """

    def __init__(self, *, told: bool) -> None:
        self.numbers = Numbers()
        self._told = told

    def task(self, call: Call) -> tuple[Happening, ...] | None:
        """Which task a process is."""
        found = task(call.text)
        if found is None:
            return None
        call.thread.process.task = found[0]
        self.numbers.learn(call.thread, found[1])
        return ()

    def refused(self, call: Call, program: Key | None) -> tuple[Happening, ...] | None:
        """A call that was refused; the program's first process stands for one that is unknown."""
        found = refusal(call.text)
        if found is None:
            return None
        name = found.call.encode()
        asking = self._asking(found.pid, name)
        pending = asking.pending if asking else None
        key = asking.process.key if asking else program or call.thread.process.key
        event = found.event(call.line, call.time, key)
        if pending is not None and pending.name == name and pending.refusal is None:
            pending.refusal = event
            return ()
        if not self._told:
            if asking is not None:
                asking.asked = found.arguments
            return ()
        return (event,)

    def _asking(self, number: int, name: bytes) -> Thread | None:
        known = self.numbers[number]
        if known is not None or name in _REFUSED_BY_ARGUMENTS:
            return known
        # One of those whose number is not known. Any call of this name is refused, and noted once.
        for thread in islice(self.numbers.unknown, _MOST_ASKED):
            pending = thread.pending
            if pending is not None and pending.name == name and pending.refusal is None:
                return thread
        return None


def task(text: bytes) -> tuple[int, int] | None:
    """Which task a process is, and its number in the container: told before it begins."""
    found = _TASK(text)
    return None if found is None else (int(found[1]), int(found[2]))
