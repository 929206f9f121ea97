"""Which calls are read, by whom; all others are passed over."""

from collections.abc import Mapping

from slurmbridge.trace.births import FORKS
from slurmbridge.trace.calls import FILES, MOVES, Reader, unusual
from slurmbridge.trace.network import NETWORK

EXECS = frozenset({b"execve", b"execveat"})
NAMESPACES = frozenset({b"unshare", b"setns"})
# Calls of the launcher that are read: those that tell who is who.
OUTSIDE = FORKS | EXECS | NAMESPACES
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
