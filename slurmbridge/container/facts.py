"""What a sealed container must be found to be, line by line. Pure.

The lines are those that `slurmbridge/node/sbprobe.c` prints. The script on the node compares them
before the program starts; the bridge compares them again when it collects.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from slurmbridge.container.apptainer import (
    FIRST_POD,
    HOSTNAME,
    NETWORK_DEVICE,
    REQUIREMENTS,
    USER_ID,
    SealedContainer,
)

# Before a line that may be there or not.
OPTIONAL = "? "

# Call and the error that it must give inside.
REFUSED_CALLS: dict[str, str] = {
    "add_key": "EPERM",
    "alg": "EAFNOSUPPORT",
    "bpf": "EPERM",
    "clone3": "ENOSYS",
    "clone_newuser": "EPERM",
    "clone_parent": "EPERM",
    "clone_untraced": "EPERM",
    "io_uring_setup": "ENOSYS",
    "kcmp": "EPERM",
    "keyctl": "EPERM",
    "lsm_set_self_attr": "ENOSYS",
    "memfd_secret": "ENOSYS",
    "mount": "EPERM",
    "move_mount": "EPERM",
    "mptcp": "EPROTONOSUPPORT",
    "name_to_handle_at": "EPERM",
    "netlink_audit": "EPROTONOSUPPORT",
    "open_by_handle_at": "EPERM",
    "open_tree": "EPERM",
    "packet": "EAFNOSUPPORT",
    "perf_event_open": "EPERM",
    "pidfd_getfd": "EPERM",
    "process_vm_readv": "EPERM",
    "ptrace": "EPERM",
    "request_key": "EPERM",
    "sctp": "EPROTONOSUPPORT",
    "seccomp_listener": "EPERM",
    "setns": "EPERM",
    "statmount": "ENOSYS",
    "tiocsetd": "EPERM",
    "tiocsti": "EPERM",
    "unshare": "EPERM",
    "userfaultfd": "EPERM",
    "vsock": "EAFNOSUPPORT",
    "above_newest": "ENOSYS",
}
# Only where the processor has them.
_FOREIGN_CALLS = {"i386": "ENOSYS", "x32": "ENOSYS"}

# What Apptainer mounts by itself with the options of `seal`.
_OWN_MOUNTS = (
    "/ ro", "/dev rw", "/dev/mqueue rw", "/dev/null rw", "/dev/pts rw", "/dev/random rw",
    "/dev/tty rw", "/dev/urandom rw", "/dev/zero rw", "/proc rw",
)  # fmt: skip
# Where the node, or another release of Apptainer, has them.
_OTHER_MOUNTS = (
    "/dev/full rw", "/etc/localtime ro",
    "/sys/devices/system/cpu ro", "/sys/devices/system/node ro",
)  # fmt: skip
# Of /sys, what lists network devices; those of the job's own network alone.
_OF_THE_NETWORK = ("/sys/class/net", "/sys/devices/virtual/net")
# In memory, and gone with the container.
_WRITABLE = ("/dev", "/dev/mqueue")


def expected_facts(container: SealedContainer) -> tuple[str, ...]:
    """Every line that must be found, and those that may be, in order."""
    return tuple(sorted([*_inside(container), *_outside(container)]))


def expected_of_pods(container: SealedContainer, pods: int) -> tuple[str, ...]:
    """The lines of all pods, those of the second and further ones with the pod's name before."""
    first = expected_facts(container)
    of_others = (
        f"{OPTIONAL if line.startswith(OPTIONAL) else ''}{name} {line.removeprefix(OPTIONAL)}"
        for name in (f"sb{number}" for number in range(2, pods + 1))
        for line in (_hostname(name) if line == _hostname(FIRST_POD) else line for line in first)
    )
    return tuple(sorted([*first, *of_others]))


def _hostname(name: str) -> str:
    return f"hostname {name}"


def _inside(container: SealedContainer) -> Iterable[str]:
    bounds = container.bounds
    yield f"user {USER_ID} {USER_ID} {USER_ID}"
    yield f"group {USER_ID} {USER_ID} {USER_ID}"
    yield _hostname(FIRST_POD if container.pod else HOSTNAME)
    yield "domainname (none)"
    yield "umask 077"
    # Where the site forbids cores, 0. Else 1: at no other value does Linux heed the limit when it
    # hands cores to a program of the node.
    yield from (f"{OPTIONAL}limit core {size}" for size in (0, 1))
    yield f"limit nproc {bounds.processes}"
    yield f"limit nofile {bounds.open_files}"
    yield f"limit fsize {bounds.file_size_bytes}"
    yield f"size /tmp {bounds.tmp_bytes}"
    yield f"size /dev/shm {bounds.shm_bytes}"
    if container.output_in_memory:
        yield f"size /output {bounds.output_bytes}"
        yield f"inodes /output {bounds.output_inodes}"
    yield from (f"variable {name}" for name in container.variables)
    yield from ("capabilities none", "no_new_privs 1", "seccomp 2")
    yield from ("descriptor 0 device", "descriptor 1 pipe", "descriptor 2 pipe")
    yield from ("interface lo", "resolver none", "processes 2", "cgroup /")
    if container.networked:
        yield from (f"interface {NETWORK_DEVICE}", f"route {NETWORK_DEVICE}")
        yield from (f"mount {folder} ro" for folder in _OF_THE_NETWORK)
    yield from (f"mount {mount}" for mount in _OWN_MOUNTS)
    yield from (f"{OPTIONAL}mount {mount}" for mount in _OTHER_MOUNTS)
    for bind in container.binds:
        yield f"mount {bind.target} {'rw' if bind.writable else 'ro'}"
    yield from (f"writable {folder}" for folder in _WRITABLE)
    yield from (f"writable {bind.target}" for bind in container.binds if bind.writable)
    yield from (f"closed /proc/1/{name}" for name in ("environ", "fd", "maps", "mem"))
    yield from (f"call {name} {error}" for name, error in REFUSED_CALLS.items())
    yield from (f"{OPTIONAL}call {name} {error}" for name, error in _FOREIGN_CALLS.items())


def _outside(container: SealedContainer) -> Iterable[str]:
    facts = [
        "capabilities none", "no_new_privs 1", "seccomp 2", "interface lo",
        "exe same", "/input same", "/code same", "/output same",
        "descriptor 0 device", "descriptor 1 pipe", "descriptor 2 pipe",
        # To tell the facts, and the gate; both are closed before the program starts.
        "descriptor 3 pipe", "descriptor 4 pipe",
    ]  # fmt: skip
    if any(bind.target == REQUIREMENTS for bind in container.binds):
        facts.append(f"{REQUIREMENTS} same")
    if container.refusals_noted:
        # Where the kernel asks sbseal; the program gets none of its descriptors.
        facts.append("descriptor 5 seccomp")
    if container.networked:
        facts.append(f"interface {NETWORK_DEVICE}")
    # The script has its own, too: a pod shares them with nothing else.
    with_the_script = {"net": container.networked, "uts": container.pod}
    facts += [
        f"namespace {name} {'shared' if with_the_script.get(name) else 'own'}"
        for name in ("ipc", "mnt", "net", "pid", "user", "uts")
    ]
    yield from (f"outside {fact}" for fact in facts)


@dataclass(frozen=True, slots=True)
class Differences:
    """What was found and not expected, and what was expected and not found."""

    unexpected: tuple[str, ...]
    missing: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.unexpected or self.missing)


def compare(found: Iterable[str], expected: Iterable[str]) -> Differences:
    """How the facts differ from what is expected."""
    facts, lines = set(found), set(expected)
    required = {line for line in lines if not line.startswith(OPTIONAL)}
    known = {line.removeprefix(OPTIONAL) for line in lines}
    return Differences(tuple(sorted(facts - known)), tuple(sorted(required - facts)))
