"""System calls that Python does not offer, by their numbers on x86_64."""

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Any

from .harness import Facts, Finding, closed, error_name, opened

NUMBERS = {
    "ioctl": 16, "shmget": 29, "socket": 41, "clone": 56, "semget": 64, "msgget": 68, "ptrace": 101,
    "personality": 135, "modify_ldt": 154, "pivot_root": 155, "adjtimex": 159, "chroot": 161,
    "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168,
    "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173,
    "init_module": 175, "delete_module": 176, "quotactl": 179, "syslog": 103,
    "clock_settime": 227, "mq_open": 240, "kexec_load": 246, "add_key": 248, "request_key": 249,
    "keyctl": 250, "unshare": 272, "perf_event_open": 298, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310,
    "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "seccomp": 317,
    "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323, "io_uring_setup": 425,
    "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434,
    "clone3": 435, "openat2": 437, "pidfd_getfd": 438, "process_madvise": 440,
    "mount_setattr": 442, "quotactl_fd": 443, "memfd_secret": 447, "fanotify_init": 300,
    "move_pages": 279, "migrate_pages": 256,
}  # fmt: skip
# Bits above the 32 that the kernel looks at: a filter that compares 64 lets them pass.
HIGH = 1 << 32

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def call(name: str, *arguments: Any) -> int:
    """A raw system call. Raises OSError."""
    words = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    ctypes.set_errno(0)
    result = int(libc.syscall(ctypes.c_long(NUMBERS[name]), *words))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def checked(result: int) -> int:
    """The result of a function of the C library. Raises OSError."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def works(name: str, *arguments: Any) -> Callable[[Facts], Finding]:
    """A probe that is open when the call succeeds."""

    def run(_facts: Facts) -> Finding:
        return opened(f"{name} gave {call(name, *arguments)}")

    return run


def arrives(name: str, *arguments: Any) -> Callable[[Facts], Finding]:
    """A probe that is open when the kernel looks at the arguments, which are invalid."""

    def run(_facts: Facts) -> Finding:
        try:
            return opened(f"{name} gave {call(name, *arguments)}")
        except OSError as error:
            if error.errno in {errno.EPERM, errno.EACCES, errno.ENOSYS}:
                return closed(error_name(error))
            return opened(f"the kernel looked at the arguments: {error_name(error)}")

    return run
