"""The argv of a Sealed Container. Pure; the reasons are in docs/sealing.md."""

from dataclasses import dataclass
from typing import assert_never

from slurmbridge.model import TraceLevel


@dataclass(frozen=True, slots=True)
class Bind:
    """A folder of the context and where the program sees it."""

    source: str
    target: str
    writable: bool = False

    def __post_init__(self) -> None:
        for path in (self.source, self.target):
            # --mount is read as a line of CSV with key=value fields.
            if not path.startswith("/") or any(sign in path for sign in ',"\n\r\0'):
                raise ValueError(f"{path!r} cannot be bound")

    def argument(self) -> str:
        """The value of --mount. Never --bind, which splits its value at commas and colons."""
        mode = "" if self.writable else ",ro"
        return f"type=bind,source={self.source},destination={self.target}{mode}"


@dataclass(frozen=True, slots=True)
class SealedContainer:
    """A container with no way out and nothing inside but its binds."""

    binds: tuple[Bind, ...]
    working_directory: str


@dataclass(frozen=True, slots=True)
class TracedContainer:
    """A Sealed Container whose system calls strace records from outside."""

    sealed: SealedContainer
    level: TraceLevel


def context_container(context: str, level: TraceLevel) -> SealedContainer | TracedContainer:
    """The container of a Process whose context lies in the folder `context`."""
    sealed = SealedContainer(
        binds=(
            Bind(f"{context}/input", "/input"),
            Bind(f"{context}/code", "/code"),
            Bind(f"{context}/output", "/output", writable=True),
            Bind(f"{context}/tmp", "/tmp", writable=True),  # noqa: S108 (the container's)
        ),
        working_directory="/code",
    )
    return sealed if level is TraceLevel.OFF else TracedContainer(sealed, level)


def seal(container: SealedContainer) -> tuple[str, ...]:
    """One entry for each line of the script, up to the image. Options with values use `=`."""
    return (
        "apptainer",
        "--silent",
        "exec",
        # Never the setuid mode: it cannot be traced, and its mistakes are root's.
        "--userns",
        # Own mounts, process ids, IPC and environment; not the network, nor the host name.
        "--containall",
        "--net",
        "--network=none",
        "--uts",
        "--hostname=sealed",
        "--no-home",
        "--no-privs",
        # appinit would show the host's paths in /proc/1/environ.
        "--no-init",
        # Neither variables nor arguments are evaluated as shell text.
        "--no-eval",
        "--no-mount=hostfs,home,cwd,bind-paths,sys",
        f"--cwd={container.working_directory}",
        *(f"--mount={bind.argument()}" for bind in container.binds),
    )


_CHANGES = (
    "open,openat,openat2,creat,truncate,ftruncate,rename,renameat,renameat2,unlink,unlinkat,"
    "link,linkat,symlink,symlinkat,mkdir,mkdirat,rmdir,mknod,mknodat,"
    "chmod,fchmod,fchmodat,fchmodat2,chown,fchown,lchown,fchownat"
)
_SUSPECT = "io_uring_setup,seccomp,ptrace,unshare,setns,memfd_create,bpf,mount,chdir,fchdir"


@dataclass(frozen=True, slots=True)
class Recording:
    """What strace is told: a set of calls, and how many bytes of a string are kept."""

    calls: str
    string_limit: int
    # Whether calls outside the set pass at full speed; strace refuses to filter when all are in it.
    filtered: bool


def recording(level: TraceLevel) -> Recording | None:
    """What a trace level records; None when nothing is."""
    match level:
        case TraceLevel.OFF:
            return None
        case TraceLevel.AUDIT:
            return Recording(f"%process,%network,{_CHANGES},{_SUSPECT}", 1024, filtered=True)
        case TraceLevel.FULL:
            # File names are never cut; what is read and written is, being the data itself.
            return Recording("all", 64, filtered=False)
    assert_never(level)
