"""P: other processes, what they share with the program, and its own rights."""

# What is tried is the system's own calls, by path and by descriptor.
# ruff: noqa: PTH115, PTH208

import contextlib
import ctypes
import errno
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .calls import call
from .files import holds
from .harness import Facts, Finding, add, any_of, closed, opened, probe

_SEIZE = 0x4206
_FIFO, _MOST = 1, 4500


def _status(process: int | str) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _command(process: int | str) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()


def _own(process: int) -> bool:
    """Whether it is of this run: its first process, the runner of probes, or from there."""
    try:
        if process == 1 or _command(process) == _command("self"):
            return True
        while process > 1:
            if process == os.getppid():
                return True
            status = _status(process)
            if status["State"].startswith("Z"):
                return True
            process = int(status["PPid"])
    except (FileNotFoundError, ProcessLookupError):
        return True
    return False


def _foreign() -> list[int]:
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [number for number in numbers if not _own(number)]


@probe("P1a", "processes of others are seen")
def seen(_facts: Facts) -> Finding:
    """In /proc."""
    found = _foreign()
    return opened(f"{len(found)} of them") if found else closed("only its own")


@probe("P1b", "process 1 is the node's")
def first(_facts: Facts) -> Finding:
    """By its name: tini on the cluster, often systemd."""
    name = _status(1)["Name"]
    return opened(name) if name in {"tini", "systemd", "init"} else closed(name)


def _targets(facts: Facts) -> list[dict[str, int]]:
    """Processes of the same user on the node; where these are not seen, process 1."""
    there = [one for one in facts["victims"] if Path(f"/proc/{one['pid']}").exists()]
    return [one for one in there if not _own(one["pid"])] or [{"pid": 1, "address": 0x400000}]


def _on_target(attempt: Callable[[dict[str, int]], Finding]) -> Callable[[Facts], Finding]:
    return lambda facts: any_of(_targets(facts), attempt)


def _reached(name: str, *arguments: Any) -> Finding:
    """EFAULT means that one was let in, and found nothing at that address."""
    try:
        return opened(f"{name} gave {call(name, *arguments)}")
    except OSError as error:
        if error.errno in {errno.EFAULT, errno.EIO}:
            return opened(f"{name} was let in")
        raise


def seize(target: dict[str, int]) -> Finding:
    """Without stopping it."""
    call("ptrace", _SEIZE, target["pid"], 0, 0)
    return opened("seized")


def read_memory(target: dict[str, int]) -> Finding:
    """One byte, where the secret is."""
    room = ctypes.create_string_buffer(1)
    local = (ctypes.c_void_p * 2)(ctypes.addressof(room), 1)
    remote = (ctypes.c_void_p * 2)(target["address"], 1)
    return _reached("process_vm_readv", target["pid"], local, 1, remote, 1, 0)


def write_memory(target: dict[str, int]) -> Finding:
    """The same byte, with what is there anyway."""
    room = ctypes.create_string_buffer(b"s")
    local = (ctypes.c_void_p * 2)(ctypes.addressof(room), 1)
    remote = (ctypes.c_void_p * 2)(target["address"], 1)
    return _reached("process_vm_writev", target["pid"], local, 1, remote, 1, 0)


def take_descriptor(target: dict[str, int]) -> Finding:
    """Its first."""
    process = call("pidfd_open", target["pid"], 0)
    os.close(call("pidfd_getfd", process, 0, 0))
    return opened("taken")


def open_memory(target: dict[str, int]) -> Finding:
    """By its file."""
    os.close(os.open(f"/proc/{target['pid']}/mem", os.O_RDWR))
    return opened("opened")


def compare(target: dict[str, int]) -> Finding:
    """Whether both share their descriptors."""
    return opened(f"kcmp gave {call('kcmp', os.getpid(), target['pid'], 2, 0, 0)}")


def advise(target: dict[str, int]) -> Finding:
    """Have its memory paged out: needs the same rights as reading it."""
    room = (ctypes.c_void_p * 2)(target["address"] & ~0xFFF, 4096)
    return _reached("process_madvise", call("pidfd_open", target["pid"], 0), room, 1, 20, 0)


def limits_of(target: dict[str, int]) -> Finding:
    """Its limits, as they are."""
    held = resource.prlimit(target["pid"], resource.RLIMIT_NOFILE)
    resource.prlimit(target["pid"], resource.RLIMIT_NOFILE, held)
    return opened("set")


for letter, what, attempt in (
    ("a", "can be traced", seize),
    ("b", "can be read from", read_memory),
    ("c", "can be written to", write_memory),
    ("d", "can be robbed of a descriptor", take_descriptor),
    ("e", "can be opened as memory", open_memory),
    ("f", "can be compared with", compare),
):
    add(f"P2{letter}", f"a process that is not the program's {what}", _on_target(attempt))
add("P2h", "a process that is not the program's can be told to page out", _on_target(advise),
    "root")  # fmt: skip


@probe("P2g", "a child can be traced")
def trace_child(_facts: Facts) -> Finding:
    """A tracer changes the numbers of system calls after a filter has looked at them."""
    child = os.fork()
    if child == 0:
        time.sleep(2)
        os._exit(0)
    try:
        call("ptrace", _SEIZE, child, 0, 0)
        return opened("seized")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _tells(name: str) -> Callable[[Facts], Finding]:
    """Whether a file of another process tells of the node: process 1 inside, any outside."""

    def one(process: int, words: list[str]) -> Finding:
        text = Path(f"/proc/{process}/{name}").read_bytes()
        found = [word for word in words if word.encode() in text]
        return opened(f"of process {process}: {found}") if found else closed("nothing")

    def run(facts: Facts) -> Finding:
        words = [facts["secret"], *facts["told"], "APPTAINER", "SINGULARITY", "SLURM"]
        return any_of([1, os.getppid(), *_foreign()], lambda process: one(process, words))

    return run


add("P3a", "variables of a process tell of the node", _tells("environ"))
add("P3b", "arguments of a process tell of the node", _tells("cmdline"))
add("P3c", "the memory map of a process tells of the node", _tells("maps"))


@probe("P3d", "descriptors tell of the node")
def descriptors_of_others(facts: Facts) -> Finding:
    """What those of the program, or of another process, lead to."""

    def one(process: int) -> Finding:
        folder = f"/proc/{process}/fd"
        text = " ".join(os.readlink(f"{folder}/{name}") for name in os.listdir(folder))
        found = [word for word in facts["told"] if word in text]
        return opened(f"of process {process}: {found}") if found else closed("nothing")

    return any_of([1, os.getppid(), *_foreign()], one)


@probe("P4a", "a process of the same user on the node can be sent a signal")
def signal_by_number(facts: Facts) -> Finding:
    """Signal 0, which only asks. Inside the number may be one of the program's own."""

    def one(victim: dict[str, int]) -> Finding:
        os.kill(victim["pid"], 0)
        return closed("its own") if _own(victim["pid"]) else opened(f"to {victim['pid']}")

    return any_of(facts["victims"], one)


@probe("P4b", "some number is that of a process of others")
def any_number(facts: Facts) -> Finding:
    """Also of those that /proc does not show."""
    highest = max([2000, *(one["pid"] + 50 for one in facts["victims"])])
    found = []
    for number in range(2, min(highest, 40000)):
        with contextlib.suppress(ProcessLookupError):
            with contextlib.suppress(PermissionError):
                os.kill(number, 0)
            if not _own(number):
                found.append(number)
    return opened(f"{len(found)} of them") if found else closed("none")


@probe("P4c", "the limits of a process that is not the program's can be changed")
def limit_others(facts: Facts) -> Finding:
    """Of one of the same user on the node."""
    there = [one for one in facts["victims"] if not _own(one["pid"])]
    return any_of(there, limits_of)


@probe("P5", "a child outlives the program", "root")
def daemon(_facts: Facts) -> Finding:
    """In a session of its own. Whether it is still there is looked up on the node, afterwards."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            nothing = os.open("/dev/null", os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(nothing, number)
            time.sleep(20)
        os._exit(0)
    return opened("made")


@probe("P7a", "processes can be made without end", alone=True, seconds=25)
def bomb(facts: Facts) -> Finding:
    """Threads, which count alike and cost less. Outside only the limit is read."""
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if not 0 < hard <= _MOST:
        return opened(f"the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
    threading.stack_size(32768)
    stop = threading.Event()
    made: list[threading.Thread] = []
    try:
        while len(made) <= facts["most"]:
            thread = threading.Thread(target=stop.wait)
            thread.start()
            made.append(thread)
    except RuntimeError:
        return closed(f"{len(made)} were made; the limit is {hard}")
    finally:
        stop.set()
        for thread in made:
            thread.join()
    return opened(f"{len(made)} were made")


@probe("P7b", "the limit of processes can be raised", "none",
       reason="root of the cluster's containers has no CAP_SYS_RESOURCE")  # fmt: skip
def raise_limit(_facts: Facts) -> Finding:
    """Above the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    try:
        resource.setrlimit(resource.RLIMIT_NPROC, (hard + 1, hard + 1))
    except ValueError as error:
        return closed(error)
    return opened(f"from {hard} to {hard + 1}")


def _shared(name: str, *more: int) -> Callable[[Facts], Finding]:
    def run(facts: Facts) -> Finding:
        return opened(f"{name} gave {call(name, facts['sysv_key'], *more)}")

    return run


add("P8a", "System V shared memory of the node is found", _shared("shmget", 0, 0))
add("P8b", "a System V semaphore of the node is found", _shared("semget", 0, 0))
add("P8c", "a System V queue of the node is found", _shared("msgget", 0))


@probe("P8d", "a POSIX queue of the node is found")
def queue(facts: Facts) -> Finding:
    """Opened for reading."""
    os.close(call("mq_open", facts["queue"].encode(), os.O_RDONLY, 0, 0))
    return opened("opened")


add("P8e", "POSIX shared memory of the node is found",
    lambda facts: holds(f"/dev/shm/{facts['queue']}", facts["secret"]))  # fmt: skip


@probe("P9a", "the program can become user 0", "root")
def become_root(_facts: Facts) -> Finding:
    """For all three ids."""
    os.setresuid(0, 0, 0)
    return opened(os.getresuid())


@probe("P9b", "the program can become group 0", "root")
def become_root_group(_facts: Facts) -> Finding:
    """For all three ids."""
    os.setresgid(0, 0, 0)
    return opened(os.getresgid())


@probe("P9c", "the program can choose its groups", "root")
def choose_groups(_facts: Facts) -> Finding:
    """The group of the disks."""
    os.setgroups([0])
    return opened(os.getgroups())


def _becomes(*argv: str) -> Callable[[Facts], Finding]:
    def run(_facts: Facts) -> Finding:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=5, check=False, stdin=subprocess.DEVNULL
        )
        return (opened if "uid=0" in done.stdout else closed)(done.stdout or done.stderr.strip())

    return run


add("P9d", "su gives root", _becomes("su", "-c", "id", "root"), "root")


def _capabilities(*names: str) -> Callable[[Facts], Finding]:
    def run(_facts: Facts) -> Finding:
        status = _status("self")
        found = {name: status[name] for name in names if int(status[name], 16)}
        return opened(found) if found else closed("empty")

    return run


add("P10a", "the program has capabilities", _capabilities("CapEff", "CapPrm"), "root")
add("P10b", "a capability could be gained", _capabilities("CapBnd"))
add("P10c", "capabilities are handed on", _capabilities("CapInh", "CapAmb"), "own")


@probe("P10d", "a program that is started may have more rights")
def new_privileges(_facts: Facts) -> Finding:
    """NoNewPrivs."""
    return (closed if _status("self")["NoNewPrivs"] == "1" else opened)(
        _status("self")["NoNewPrivs"]
    )


@probe("P10e", "no filter looks at system calls")
def no_filter(_facts: Facts) -> Finding:
    """Seccomp is 2 with one."""
    return (closed if _status("self")["Seccomp"] == "2" else opened)(_status("self")["Seccomp"])


@probe("P11a", "the program can be put before others", "root")
def nice(_facts: Facts) -> Finding:
    """By five steps."""
    return opened(f"nice {os.nice(-5)}")


@probe("P11b", "the program can have a processor for itself", "none",
       reason="the groups of the cluster's containers have no share of real time")  # fmt: skip
def real_time(_facts: Facts) -> Finding:
    """By real-time scheduling."""
    os.sched_setscheduler(0, _FIFO, os.sched_param(1))
    return opened("SCHED_FIFO")


@probe("P11c", "the program can use more processors than it asked for", "root")
def more_processors(_facts: Facts) -> Finding:
    """One was asked for."""
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    count = len(os.sched_getaffinity(0))
    return (opened if count > 1 else closed)(f"{count}")


@probe("P11d", "the program can leave its cgroup", "root")
def leave_group(_facts: Facts) -> Finding:
    """Into the uppermost that it sees."""
    paths = sorted(Path("/sys/fs/cgroup").rglob("cgroup.procs"), key=lambda path: len(path.parts))

    def one(path: Path) -> Finding:
        path.write_text(str(os.getpid()))
        return opened(path)

    return any_of(paths, one)


@probe("P11e", "the program can have the kernel kill others before it", "none",
       reason="root of the cluster's containers has no CAP_SYS_RESOURCE")  # fmt: skip
def out_of_memory(_facts: Facts) -> Finding:
    """A value below the one that it has."""
    path = Path("/proc/self/oom_score_adj")
    now = int(path.read_text())
    path.write_text(str(now - 1))
    return opened(f"from {now} to {now - 1}")
