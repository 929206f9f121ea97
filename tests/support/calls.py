"""What sbseal refuses, written down again: from the kernel's tables, not from sbseal's source."""

import errno
import functools
from collections.abc import Sequence

# Name, number on x86-64 and on 64-bit ARM (0: it has none), error.
# Linux 6.18: arch/x86/entry/syscalls/syscall_64.tbl, scripts/syscall.tbl.
_TABLE = """
clone3             435 435 ENOSYS
io_uring_setup     425 425 ENOSYS
io_uring_enter     426 426 ENOSYS
io_uring_register  427 427 ENOSYS
memfd_secret       447 447 ENOSYS
statmount          457 457 ENOSYS
listmount          458 458 ENOSYS
lsm_set_self_attr  460 460 ENOSYS
uselib             134   0 ENOSYS
ustat              136   0 ENOSYS
sysfs              139   0 ENOSYS
unshare            272  97 EPERM
setns              308 268 EPERM
mount              165  40 EPERM
umount2            166  39 EPERM
pivot_root         155  41 EPERM
chroot             161  51 EPERM
move_mount         429 429 EPERM
open_tree          428 428 EPERM
fsopen             430 430 EPERM
fsconfig           431 431 EPERM
fsmount            432 432 EPERM
fspick             433 433 EPERM
mount_setattr      442 442 EPERM
sethostname        170 161 EPERM
setdomainname      171 162 EPERM
ptrace             101 117 EPERM
process_vm_readv   310 270 EPERM
process_vm_writev  311 271 EPERM
pidfd_getfd        438 438 EPERM
kcmp               312 272 EPERM
process_madvise    440 440 EPERM
keyctl             250 219 EPERM
add_key            248 217 EPERM
request_key        249 218 EPERM
open_by_handle_at  304 265 EPERM
name_to_handle_at  303 264 EPERM
bpf                321 280 EPERM
perf_event_open    298 241 EPERM
userfaultfd        323 282 EPERM
fanotify_init      300 262 EPERM
lookup_dcookie     212  18 EPERM
init_module        175 105 EPERM
finit_module       313 273 EPERM
delete_module      176 106 EPERM
kexec_load         246 104 EPERM
kexec_file_load    320 294 EPERM
reboot             169 142 EPERM
swapon             167 224 EPERM
swapoff            168 225 EPERM
acct               163  89 EPERM
quotactl           179  60 EPERM
quotactl_fd        443 443 EPERM
settimeofday       164 170 EPERM
clock_settime      227 112 EPERM
syslog             103 116 EPERM
vhangup            153  58 EPERM
iopl               172   0 EPERM
ioperm             173   0 EPERM
modify_ldt         154   0 EPERM
"""
_ROWS = [line.split() for line in _TABLE.split("\n") if line]
NAMES = frozenset(row[0] for row in _ROWS)
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
FOREIGN = (0x40000003, 0x40000028, 0)  # i386, 32-bit ARM, none
NEWEST = 466
# libc asks for it all the time: refused, and never noted.
UNNOTED = 435
_COLUMN = {"x86_64": 1, "aarch64": 2}
# clone, seccomp, socket, socketpair, ioctl
RULED = {"x86_64": (56, 317, 41, 53, 16), "aarch64": (220, 277, 198, 199, 29)}

# From include/uapi/linux: sched.h, seccomp.h, socket.h, in.h, netlink.h, ioctls.h, sockios.h.
CLONE_BITS = {
    "PARENT": 0x8000, "NEWNS": 0x20000, "UNTRACED": 0x800000, "NEWCGROUP": 0x2000000,
    "NEWUTS": 0x4000000, "NEWIPC": 0x8000000, "NEWUSER": 0x10000000, "NEWPID": 0x20000000,
    "NEWNET": 0x40000000,
}  # fmt: skip
NEW_LISTENER = 8
UNIX, INET, INET6, NETLINK = 1, 2, 10, 16
STREAM, DGRAM = 1, 2
TCP, UDP = 6, 17
IOCTLS = {
    "TIOCSTI": 0x5412, "TIOCLINUX": 0x541C, "TIOCSETD": 0x5423, "SIOCGIFBR": 0x8940,
    "SIOCSIFBR": 0x8941, "SIOCGIFVLAN": 0x8982, "SIOCSIFVLAN": 0x8983, "SIOCBRADDBR": 0x89A0,
    "SIOCBRDELBR": 0x89A1,
}  # fmt: skip


@functools.cache
def refused(architecture: str) -> dict[int, int]:
    """Number and error of each call that is refused whatever its arguments."""
    column = _COLUMN[architecture]
    return {int(row[column]): getattr(errno, row[3]) for row in _ROWS if row[column] != "0"}


def verdict(architecture: str, audit: int, number: int, arguments: Sequence[int]) -> int:
    """The error that a call must give; 0 when it is let through."""
    if audit != AUDIT[architecture] or number & 0xFFFFFFFF > NEWEST:
        return errno.ENOSYS
    if error := refused(architecture).get(number):
        return error
    first, second, third = (argument & 0xFFFFFFFF for argument in arguments[:3])
    clone, seccomp, socket, socketpair, ioctl = RULED[architecture]
    if number in {socket, socketpair}:
        return _of_socket(first, second & 0xF, third)
    is_refused = {
        clone: first & sum(CLONE_BITS.values()),
        seccomp: second & NEW_LISTENER,
        ioctl: second in IOCTLS.values(),
    }
    return errno.EPERM if is_refused.get(number) else 0


def _of_socket(family: int, kind: int, protocol: int) -> int:
    if family == UNIX:
        return 0
    if family == NETLINK:
        return errno.EPROTONOSUPPORT if protocol else 0
    if family not in {INET, INET6}:
        return errno.EAFNOSUPPORT
    if kind not in {STREAM, DGRAM}:
        return errno.EPERM
    return 0 if protocol in {0, TCP, UDP} else errno.EPROTONOSUPPORT
