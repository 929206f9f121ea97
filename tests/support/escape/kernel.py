"""K: what the kernel does for a program, and should not for a sealed one."""

import ctypes
import fcntl
import mmap
import os
import pty
import resource
import signal
import struct
import termios
import time
from collections.abc import Callable
from pathlib import Path

from .calls import HIGH, arrives, call, libc, works
from .harness import Facts, Finding, add, any_of, closed, opened, probe

_NS = {
    "USER": 0x10000000,
    "NET": 0x40000000,
    "NS": 0x20000,
    "PID": 0x20000000,
    "IPC": 0x08000000,
    "UTS": 0x04000000,
    "CGROUP": 0x02000000,
    "TIME": 0x80,
}
_USER = _NS["USER"]
_UNTRACED = 0x800000
_SIGCHLD = int(signal.SIGCHLD)
for letter, (name, flag) in zip("abcdefgh", _NS.items(), strict=True):
    what = "a user namespace" if flag == _USER else f"user and {name} namespaces"
    add(f"K1{letter}", f"{what} can be made by unshare", works("unshare", flag | _USER))


def _child(number: int) -> Finding:
    """What clone and its like give: in the child 0, which ends there."""
    if number == 0:
        os._exit(0)
    os.waitpid(number, 0)
    return opened("a child was made")


def cloned(flags: int) -> Callable[[Facts], Finding]:
    """By the raw call, which is fork with flags."""
    return lambda _facts: _child(call("clone", flags | _SIGCHLD, 0, 0, 0, 0))


def cloned3(flags: int) -> Callable[[Facts], Finding]:
    """clone3's flags are in memory, where a filter cannot look."""

    def run(_facts: Facts) -> Finding:
        how = ctypes.create_string_buffer(struct.pack("=11Q", flags, 0, 0, 0, _SIGCHLD, *[0] * 6))
        return _child(call("clone3", how, 88))

    return run


for letter, (name, flag) in zip("ijklmno", list(_NS.items())[:7], strict=True):
    add(f"K1{letter}", f"a child in a new {name} namespace can be made by clone",
        cloned(flag | _USER))  # fmt: skip
add("K1p", "a child in a user namespace can be made by clone3", cloned3(_USER))
add("K1q", "clone3 is there", cloned3(0))


@probe("K1r", "a user namespace gives rights to mount")
def mount_as_root(_facts: Facts) -> Finding:
    """The whole way."""
    user, group = os.getuid(), os.getgid()
    call("unshare", _USER | _NS["NS"])
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    call("mount", b"tmpfs", b"/tmp", b"tmpfs", 0, 0)
    return opened("a tmpfs was mounted")


@probe("K2a", "io_uring can be set up")
def uring(_facts: Facts) -> Finding:
    """What is done through it no filter and no tracer sees."""
    room = ctypes.create_string_buffer(120)
    os.close(call("io_uring_setup", 4, room))
    return opened("set up")


add("K2b", "io_uring_enter is there", arrives("io_uring_enter", 999, 0, 0, 0, 0, 0))
add("K2c", "io_uring_register is there", arrives("io_uring_register", 999, 0, 0, 0))


@probe("K3a", "bpf makes a map", "root")
def bpf(_facts: Facts) -> Finding:
    """An array of one word."""
    room = ctypes.create_string_buffer(struct.pack("=5I", 2, 4, 4, 1, 0), 72)
    os.close(call("bpf", 0, room, 72))
    return opened("made")


@probe("K3b", "perf_event_open gives events")
def perf(_facts: Facts) -> Finding:
    """The clock of the program's own user side."""
    # Software event 0; without the kernel's and the hypervisor's side.
    room = ctypes.create_string_buffer(struct.pack("=IIQQQQQ", 1, 112, 0, 0, 0, 0, 0x60), 112)
    os.close(call("perf_event_open", room, 0, -1, -1, 0))
    return opened("opened")


add("K3c", "userfaultfd stops the kernel at will", works("userfaultfd", 1))
add("K3d", "fanotify watches a file system", works("fanotify_init", 0x200, 0))
_KEY, _USER_KEYS, _SESSION = b"user", -4, -3
_READ, _SEARCH, _JOIN = 11, 10, 1


def _content(serial: int) -> Finding:
    room = ctypes.create_string_buffer(100)
    size = call("keyctl", _READ, serial, room, 100, 0)
    return opened(f"key {serial}: {room.raw[: min(size, 8)]!r}...")


@probe("K4a", "a key of the service user can be read by its number")
def read_key(facts: Facts) -> Finding:
    """Numbers are told by /proc/keys, or guessed."""
    return any_of(facts["keys"], _content)


def searched(ring: int, name: str) -> Callable[[Facts], Finding]:
    """By its description."""

    def run(facts: Facts) -> Finding:
        return _content(call("keyctl", _SEARCH, ring, _KEY, facts[name].encode(), 0))

    return run


add("K4b", "the service user's keyring can be searched", searched(_USER_KEYS, "user_key"))
add("K4c", "the session's keyring can be searched", searched(_SESSION, "session_key"))


@probe("K4d", "a key can be added")
def add_key(_facts: Facts) -> Finding:
    """To the keyring of the process."""
    return opened(f"key {call('add_key', _KEY, b'probe', b'x', 1, -2)}")


@probe("K4e", "a key can be requested")
def request_key(facts: Facts) -> Finding:
    """One that is there: another would have the kernel start a program."""
    serial = call("request_key", _KEY, facts["session_key"].encode(), 0, 0)
    return opened(f"key {serial}")


@probe("K4f", "keys of the node are listed")
def keys(facts: Facts) -> Finding:
    """With their numbers."""
    lines = [line for line in Path("/proc/keys").read_text().splitlines() if line.strip()]
    del facts
    return opened(f"{len(lines)} keys") if lines else closed("none")


@probe("K4g", "a keyring can be made by name")
def join_session(_facts: Facts) -> Finding:
    """A named one can be joined by others of the same user."""
    return opened(f"keyring {call('keyctl', _JOIN, b'probe')}")


_TIMES: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("a", "settimeofday", (1, 0)),
    ("b", "clock_settime", (0, 1)),
    ("c", "adjtimex", (1,)),
    ("d", "clock_adjtime", (0, 1)),
    ("e", "quotactl", (0x80000100, 0, 0, 0)),
    ("f", "quotactl_fd", (-1, 0x80000100, 0, 0)),
)
for letter, name, arguments in _TIMES:
    add(f"K6{letter}", f"{name} is let to the kernel", arrives(name, *arguments))
add("K6i", "swapon is let to the kernel", arrives("swapon", b"/nonexistent", 0), "root")
add("K6j", "swapoff is let to the kernel", arrives("swapoff", b"/nonexistent"), "root")
add("K6k", "sethostname is let to the kernel", arrives("sethostname", b"x", -1), "root")
add("K6l", "setdomainname is let to the kernel", arrives("setdomainname", b"x", -1), "root")
add("K6m", "reboot is let to the kernel", arrives("reboot", 0, 0, 0, 0), "own")
_PORTS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("g", "iopl", (3,)),
    ("h", "ioperm", (0, 1, 1)),
)
for letter, name, arguments in _PORTS:
    add(f"K6{letter}", f"{name} is let to the kernel", arrives(name, *arguments), "none",
        reason="the kernel of the cluster has no such call")  # fmt: skip
add("K6n", "acct is let to the kernel", arrives("acct", b"/nonexistent"), "none",
    reason="root of the cluster's containers has no CAP_SYS_PACCT")  # fmt: skip
_NO_MODULES = "the kernel of the cluster has no modules and no kexec"
_LOADS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("o", "init_module", (0, 0, 0)),
    ("p", "finit_module", (-1, 0, 0)),
    ("q", "delete_module", (0, 0)),
    ("r", "kexec_load", (0, 0, 0, 0)),
    ("s", "kexec_file_load", (-1, -1, 0, 0, 0)),
)
for letter, name, arguments in _LOADS:
    add(f"K6{letter}", f"{name} is let to the kernel", arrives(name, *arguments), "none",
        reason=_NO_MODULES)  # fmt: skip


def _on_terminal(number: int) -> Callable[[Facts], Finding]:
    """On a terminal of its own: the number is what counts."""

    def run(_facts: Facts) -> Finding:
        outer, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSCTTY, 0)
        room = ctypes.create_string_buffer(b"x")
        found = arrives("ioctl", inner, number, room)(_facts)
        os.close(outer)
        return found

    return run


_STI, _LINUX = 0x5412, 0x541C
add("K12a", "input can be put into a terminal", _on_terminal(_STI))
add("K12b", "the console can be told to paste", _on_terminal(_LINUX))
add("K12c", "input can be put into a terminal with bits above the 32nd", _on_terminal(_STI | HIGH))


@probe("K12d", "one of the three streams is a terminal of the node", "root")
def terminal(_facts: Facts) -> Finding:
    """Whoever shares a terminal may type into it."""
    found = [number for number in (0, 1, 2) if os.isatty(number)]
    return opened(found) if found else closed("none")


@probe("K13a", "a program can decide on system calls of others", ends=True)
def listener(_facts: Facts) -> Finding:
    """A filter with a listener, which may answer in the kernel's place."""
    libc.prctl(38, 1, 0, 0, 0)
    code = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000))
    program = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", 1, ctypes.addressof(code)))
    os.close(call("seccomp", 1, 8, program))
    return opened("a listener")


add("K13b", "a child can be made that no tracer follows", cloned(_UNTRACED), ends=True)
add("K13c", "a child can be made that no tracer follows, by clone3", cloned3(_UNTRACED))


def _machine(code: bytes) -> int:
    """Run machine code; what it leaves in eax."""
    with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as room:
        room.write(code)
        held = ctypes.c_char.from_buffer(room)
        found = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(held))()
        del held
    return int(found)


def _i386(number: int) -> int:
    """A call by its number on i386: push rbx; xor ebx, ebx; mov eax, number; int 0x80; pop rbx."""
    return _machine(b"\x53\x31\xdb\xb8" + struct.pack("=I", number) + b"\xcd\x80\x5b\xc3")


@probe("K13d", "system calls of i386 are let to the kernel")
def i386(_facts: Facts) -> Finding:
    """getpid: a filter for x86_64 takes its number for another call."""
    found = _i386(20)
    return opened(f"process {found}") if found == os.getpid() else closed(f"{found}")


@probe("K13e", "system calls of x32 are let to the kernel", "none",
       reason="the kernel of the cluster has no x32")  # fmt: skip
def x32(_facts: Facts) -> Finding:
    """getpid with the bit of x32."""
    libc.syscall.restype = ctypes.c_long
    found = libc.syscall(ctypes.c_long(0x40000000 | 39))
    return opened(f"process {found}") if found == os.getpid() else closed(f"{found}")


@probe("K13f", "a user namespace can be made by a system call of i386")
def unshare_i386(_facts: Facts) -> Finding:
    """mov ebx, CLONE_NEWUSER; mov eax, 310 (unshare)."""
    code = b"\x53\xbb" + struct.pack("=I", _USER) + b"\xb8" + struct.pack("=I", 310)
    found = _machine(code + b"\xcd\x80\x5b\xc3")
    return opened("made") if found == 0 else closed(f"error {-found}")


@probe("K14", "a crash leaves a copy of the memory")
def core(facts: Facts) -> Finding:
    """With the limit raised as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    here = Path(facts["scratch"])
    os.chdir(here)
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(1)
    _, status = os.waitpid(child, 0)
    left = [*here.glob("core"), *here.glob(f"core.{child}")]
    for path in left:
        path.unlink()
    return opened(f"dumped, {left}") if os.WCOREDUMP(status) or left else closed("nothing")


add("K15a", "the layout of memory can be made predictable", works("personality", 0x0040000))


@probe("K15b", "descriptors of segments can be read")
def segments(_facts: Facts) -> Finding:
    """modify_ldt, function 0."""
    return opened(f"{call('modify_ldt', 0, ctypes.create_string_buffer(64), 64)} bytes")


add("K15c", "memory can be hidden from the kernel", works("memfd_secret", 0))
