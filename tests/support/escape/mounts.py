"""F12, K5: mounts. K7 to K11, N13: what is in /proc, /sys and /dev."""

# What is tried is the system's own calls, by path and by descriptor.
# ruff: noqa: PTH118, PTH208

import os
import stat
from collections.abc import Callable
from pathlib import Path

from .calls import arrives, call, works
from .harness import Facts, Finding, add, any_of, closed, opened, probe

_REMOUNT, _BIND, _PRIVATE_TREE = 32, 4096, 0x40000
_HERE = -100
_CLONE, _EMPTY_PATH = 1, 4


@probe("F12a", "the inputs can be made writable", "root")
def remount(facts: Facts) -> Finding:
    """By a remount without the flag."""
    call("mount", b"none", facts["input"].encode(), 0, _REMOUNT | _BIND, 0)
    return opened("remounted")


@probe("F12b", "the inputs can be unmounted", "root")
def unmount(facts: Facts) -> Finding:
    """So that what lies below is seen; put back where it worked."""
    path = facts["input"].encode()
    call("mount", path, path, 0, _BIND, 0)
    call("umount2", path, 2)
    return opened("unmounted")


@probe("F12c", "the inputs can be mounted elsewhere", "root")
def move(facts: Facts) -> Finding:
    """open_tree and move_mount."""
    tree = call("open_tree", _HERE, facts["input"].encode(), _CLONE)
    call("move_mount", tree, b"", _HERE, b"/mnt", _EMPTY_PATH)
    call("umount2", b"/mnt", 2)
    return opened("moved")


@probe("F12d", "a mount of the node can be uncovered", "own")
def uncover(_facts: Facts) -> Finding:
    """A mount of one's own goes; one that was there must not."""
    call("mount", b"tmpfs", b"/tmp", b"tmpfs", 0, 0)
    call("umount2", b"/tmp", 2)
    return opened("mounted and unmounted")


add("K5a", "a file system can be mounted", works("mount", b"x", b"/mnt", b"tmpfs", 0, 0), "root")
add("K5b", "a file system can be opened", works("fsopen", b"tmpfs", 0), "root")
add("K5c", "pivot_root is let to the kernel", arrives("pivot_root", b"/", b"/"), "root")
add("K5d", "the root can be changed", works("chroot", b"/"), "root")
add("K5e", "a mount can be cloned", works("open_tree", _HERE, b"/", _CLONE), "root")
add("K5f", "mount_setattr is let to the kernel", arrives("mount_setattr", -1, b"x", 0, 0, 0),
    "user")  # fmt: skip
add("K5g", "move_mount is let to the kernel", arrives("move_mount", -1, b"x", -1, b"x", 0), "root")
add("K5h", "fsmount is let to the kernel", arrives("fsmount", -1, 0, 0), "root")
add("K5i", "fspick is let to the kernel", arrives("fspick", -1, b"x", 0), "root")
add("K5j", "fsconfig is let to the kernel", arrives("fsconfig", -1, 0, 0, 0, 0))
add("K5k", "umount2 is let to the kernel", arrives("umount2", b"/nonexistent", 0), "root")


def _writable(*paths: str) -> Callable[[Facts], Finding]:
    """Opened, and never written to."""

    def one(path: str) -> Finding:
        os.close(os.open(path, os.O_WRONLY))
        return opened(path)

    return lambda _facts: any_of(paths, one)


add("K7a", "where cores go can be changed", _writable("/proc/sys/kernel/core_pattern"), "root")
add("K7b", "an interpreter can be registered", _writable("/proc/sys/fs/binfmt_misc/register"),
    "root")  # fmt: skip
_LACKS = "the kernel of the cluster has no such file"
add("K7d", "the loader of modules can be changed", _writable("/proc/sys/kernel/modprobe"), "none",
    reason=_LACKS)  # fmt: skip
add("K7e", "the helper for events can be changed", _writable("/sys/kernel/uevent_helper"), "none",
    reason=_LACKS)  # fmt: skip
add("K7f", "the kernel can be given a magic request", _writable("/proc/sysrq-trigger"), "none",
    reason=_LACKS)  # fmt: skip


# Everybody may open it: who may write to it is looked at then, by K7g.
_HANDLED = "ns_last_pid"


def _below(folder: str, names: Callable[[str], bool]) -> Callable[[Facts], Finding]:
    """Whether any file below a folder can be opened for writing."""

    def run(_facts: Facts) -> Finding:
        for here, _, files in os.walk(folder):
            for name in filter(names, files):
                path = os.path.join(here, name)
                # Asked without opening, which may have effects.
                if name != _HANDLED and os.access(path, os.W_OK):
                    return opened(path)
        return closed("none")

    return run


add("K7c", "a setting of the kernel can be changed", _below("/proc/sys", lambda _: True), "root")


@probe("K7g", "the number of the next process can be chosen", "own")
def next_number(_facts: Facts) -> Finding:
    """It is given the value that it has."""
    path = Path(f"/proc/sys/kernel/{_HANDLED}")
    path.write_text(path.read_text())
    return opened("written")


add("K10a", "the agent of a cgroup can be changed",
    _below("/sys/fs/cgroup", lambda name: name == "release_agent"), "root")  # fmt: skip
add("K10b", "a file of a cgroup can be written to", _below("/sys/fs/cgroup", lambda _: True),
    "root")  # fmt: skip


@probe("K10c", "the cgroup tells the node or the job")
def cgroup_path(_facts: Facts) -> Finding:
    """In a namespace of its own it is the root."""
    text = Path("/proc/self/cgroup").read_text()
    return opened(text.strip()[-80:]) if "job" in text or "node" in text else closed("root")


def _real(line: bytes) -> bool:
    """Whether an address, at the beginning of a line, is more than zeros."""
    word = line.split()[0].split(b"-")[-1]
    return int(word, 16) != 0


def _shows(path: str, *, address: bool = False) -> Callable[[Facts], Finding]:
    """Whether a file of the kernel's can be read, and where it holds addresses, real ones."""

    def run(_facts: Facts) -> Finding:
        with Path(path).open("rb") as file:
            lines = file.read(4096).splitlines()
        if not lines:
            return closed("empty")
        if address and not any(map(_real, lines[:-1])):
            return closed("zeros")
        return opened(lines[0][:40])

    return run


add("K8a", "addresses of the kernel are told", _shows("/proc/kallsyms", address=True), "root")
add("K8b", "the physical memory map is told", _shows("/proc/iomem", address=True), "root")
add("K8c", "timers of the kernel are told", _shows("/proc/timer_list"), "root")
add("K8d", "the kernel's memory areas are told", _shows("/proc/vmallocinfo"), "root")
add("K8e", "the kernel's caches are told", _shows("/proc/slabinfo"), "root")
add("K8f", "flags of all pages are told", _shows("/proc/kpageflags"), "root")
add("K8g", "the kernel's configuration can be read", _shows("/proc/config.gz"))
add("K8h", "the kernel's memory can be read", _shows("/proc/kcore"), "none", reason=_LACKS)
add("K8i", "the kernel's log can be read", arrives("syslog", 3, 0, 0), "none",
    reason="root of the cluster's containers has no CAP_SYSLOG")  # fmt: skip


def _has_entries(path: str) -> Callable[[Facts], Finding]:
    def run(_facts: Facts) -> Finding:
        names = sorted(set(os.listdir(path)) - {"lo"})
        return opened(f"{names[:5]}") if names else closed("empty")

    return run


for letter, path, control in (
    ("a", "/sys/class/net", "user"),
    ("b", "/sys/class/block", "user"),
    ("c", "/sys/firmware", "user"),
    ("d", "/sys/module", "user"),
    ("e", "/sys/bus", "user"),
    ("f", "/sys/kernel", "user"),
    ("g", "/sys/kernel/debug", "root"),
    ("h", "/sys/kernel/tracing", "root"),
    ("i", "/sys/kernel/security", "root"),
):
    add(f"K9{letter}", f"{path} tells of the node", _has_entries(path), control)  # type: ignore[arg-type]


def device(path: str) -> Callable[[Facts], Finding]:
    """Whether a device is there and can be opened."""

    def run(_facts: Facts) -> Finding:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        return opened("opened")

    return run


# Of these the cluster has /dev/fuse and /dev/net/tun. For the others the null device stands in.
STAND_INS = (
    "/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/sda", "/dev/loop0", "/dev/loop-control",
    "/dev/dri/renderD128", "/dev/nvidia0", "/dev/vhost-vsock", "/dev/vhost-net",
    "/dev/infiniband/uverbs0",
)  # fmt: skip
for letter, path in zip("abcdefgh", STAND_INS[:8], strict=True):
    add(f"K11{letter}", f"{path} can be opened", device(path))
add("K11i", "/dev/fuse can be opened", device("/dev/fuse"))
add("N13a", "/dev/net/tun can be opened", device("/dev/net/tun"), "root")
for letter, path in zip("bcd", STAND_INS[8:], strict=True):
    add(f"N13{letter}", f"{path} can be opened", device(path))
_HARMLESS = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "console"}


@probe("K11z", "/dev has a device that no program needs")
def devices(_facts: Facts) -> Finding:
    """All but the harmless ones."""
    found = []
    for here, _, names in os.walk("/dev"):
        for name in names:
            path = Path(here) / name
            mode = path.lstat().st_mode
            if not stat.S_ISCHR(mode) and not stat.S_ISBLK(mode):
                continue
            if path.relative_to("/dev").parts[0] not in _HARMLESS:
                found.append(str(path))
    return opened(found) if found else closed("none")
