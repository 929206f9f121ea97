"""The argv of every container that the bridge starts. Pure; the reasons are in docs/sealing.md."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from slurmbridge.model import Image
from slurmbridge.spec import Parallel, ProcessSpec, Resources, TraceLevel

_MIB = 1024 * 1024
# Where in the container the helpers, the command and its environment lie.
HELPERS = "/.sb"
ROOT_FOLDER = "root"
# Where a program finds what was installed for it.
REQUIREMENTS = "/requirements"
HOSTNAME = "sealed"
# What the first of several pods is called, and the device of the network between them.
FIRST_POD = "sb1"
NETWORK_DEVICE = "job0"
# The user and the group that a program believes to be; see the template parts/pod.j2.
USER_ID = 1000
HOME = "/tmp"  # noqa: S108 (the container's own)
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Bind:
    """A folder or file of the host and where the program sees it."""

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
class Bounds:
    """What a program may use: ulimits, and the sizes of what lies in memory."""

    processes: int
    open_files: int
    file_size_bytes: int
    tmp_bytes: int
    shm_bytes: int
    output_bytes: int
    # Files, folders and links in /output, and /output itself.
    output_inodes: int


@dataclass(frozen=True, slots=True)
class SealedContainer:
    """A container with no way out and nothing inside but its binds."""

    binds: tuple[Bind, ...]
    working_directory: str
    bounds: Bounds
    # The names of all variables that the program gets.
    variables: tuple[str, ...]
    # How often the program runs in it at the same time.
    tasks: int = 1
    # Whether /output has a size of its own.
    output_in_memory: bool = True
    # Whether calls that sbseal refuses are made to appear in the trace.
    refusals_noted: bool = False
    # Whether it is one of the pods of a parallel Process, and whether these have a network.
    pod: bool = False
    networked: bool = False


@dataclass(frozen=True, slots=True)
class TracedContainer:
    """A Sealed Container whose system calls strace records from outside."""

    sealed: SealedContainer
    level: TraceLevel


@dataclass(frozen=True, slots=True)
class OutputRules:
    """What a site takes as outputs of one Process."""

    bytes: int = 64 * 1024 * _MIB
    files: int = 10_000
    # Whether /output lies in the job's memory until its end, where the bounds cannot be passed; or
    # in the context, where it is weighed now and then.
    in_memory: bool = True


USUAL_OUTPUTS = OutputRules()


def bounds(spec: ProcessSpec, outputs: OutputRules) -> Bounds:
    """The bounds of a Process. `outputs` is what the site takes."""
    asked, limits = spec.resources, spec.limits
    half = max(asked.memory_mib // 2, 1)
    size = outputs.bytes if limits.file_size_mib is None else limits.file_size_mib * _MIB
    usual = half * _MIB if outputs.in_memory else outputs.bytes
    return Bounds(
        processes=limits.processes,
        open_files=limits.open_files,
        file_size_bytes=size,
        tmp_bytes=(asked.tmp_mib or half) * _MIB,
        shm_bytes=(asked.shm_mib or half) * _MIB,
        output_bytes=min(asked.output_mib * _MIB if asked.output_mib else usual, outputs.bytes),
        output_inodes=min(limits.output_files or outputs.files, outputs.files) + 1,
    )


def environment(
    spec: ProcessSpec, image: Image, *, requirements: bool = False
) -> Mapping[str, str]:
    """All variables that the program gets: the image's, then the declared, then the platform's."""
    given = {"PATH": DEFAULT_PATH, "LC_ALL": "C.UTF-8", **image.environment, **spec.environment}
    if requirements:
        given["PATH"] = f"{REQUIREMENTS}/bin:{given['PATH']}"
        given["PYTHONPATH"] = ":".join(filter(None, (REQUIREMENTS, given.get("PYTHONPATH"))))
    if spec.parallel:
        given |= _parallel_variables(spec.parallel, spec.resources, given)
    return given | {"HOME": HOME} | _task_variables(spec.resources.tasks_per_node)


# Where an MPI or a collective library would look for a network by itself.
_ON_THE_NETWORK = (
    "OMPI_MCA_btl_tcp_if_include",
    "PRTE_MCA_prte_if_include",
    "PMIX_MCA_ptl_tcp_if_include",
    "FI_TCP_IFACE",
    "GLOO_SOCKET_IFNAME",
    "NCCL_SOCKET_IFNAME",
)


def _parallel_variables(
    parallel: Parallel, resources: Resources, given: Mapping[str, str]
) -> dict[str, str]:
    """What MPI and its like have to be told; what the submitter says of it goes first."""
    device = NETWORK_DEVICE if parallel.networked else "lo"
    said = {
        **dict.fromkeys(_ON_THE_NETWORK, device),
        # It looks in /sys, which lists no device where there is no network, and complains.
        **({"UCX_NET_DEVICES": device} if parallel.networked else {}),
        "OMP_NUM_THREADS": str(resources.cpus_per_task),
    }
    return {name: value for name, value in said.items() if name not in given} | {
        "SLURM_NNODES": str(parallel.nodes),
        "SLURM_NTASKS_PER_NODE": str(parallel.tasks_per_node),
    }


def _task_variables(tasks: int) -> dict[str, str]:
    """Those of the first task; sbseal puts each other task's number in the last two."""
    if tasks == 1:
        return {}
    return {"SLURM_NTASKS": str(tasks), "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


def context_container(
    context: str,
    spec: ProcessSpec,
    image: Image,
    *,
    outputs: OutputRules,
    requirements: bool = False,
) -> SealedContainer | TracedContainer:
    """The container of a Process whose context lies in the folder `context`."""
    pod = f"{context}/pod"
    output = f"{pod}/output" if outputs.in_memory else f"{context}/output"
    sealed = SealedContainer(
        binds=(
            Bind(f"{context}/input", "/input"),
            Bind(f"{context}/code", "/code"),
            Bind(output, "/output", writable=True),
            Bind(f"{pod}/tmp/tmp", "/tmp", writable=True),  # noqa: S108 (the container's)
            Bind(f"{pod}/tmp/var", "/var/tmp", writable=True),  # noqa: S108
            Bind(f"{pod}/shm", "/dev/shm", writable=True),  # noqa: S108
            Bind(f"{pod}/sys", "/sys"),
            Bind(f"{pod}/etc/passwd", "/etc/passwd"),
            Bind(f"{pod}/etc/group", "/etc/group"),
            Bind(f"{pod}/etc/hostname", "/etc/hostname"),
            Bind(f"{pod}/etc/hosts", "/etc/hosts"),
            Bind(f"{pod}/etc/resolv.conf", "/etc/resolv.conf"),
            Bind(f"{pod}/sb", HELPERS),
            # Lists the keys of the service user, whatever the namespace.
            Bind("/dev/null", "/proc/keys"),
            *([Bind(f"{context}/requirements", REQUIREMENTS)] if requirements else []),
        ),
        working_directory="/code",
        bounds=bounds(spec, outputs),
        output_in_memory=outputs.in_memory,
        variables=tuple(sorted(environment(spec, image, requirements=requirements))),
        tasks=spec.resources.tasks_per_node,
        refusals_noted=spec.trace is not TraceLevel.OFF,
        pod=spec.parallel is not None,
        networked=spec.parallel is not None and spec.parallel.networked,
    )
    return sealed if spec.trace is TraceLevel.OFF else TracedContainer(sealed, spec.trace)


# What closes a container, whatever runs in it. Options with values use `=`, so that what follows is
# the image.
CLOSED = (
    "apptainer",
    "--nocolor",
    "--silent",
    "exec",
    # Never the setuid mode: it cannot be traced, and its mistakes are root's.
    "--userns",
    # Own mounts, process ids, IPC and environment; not the network, nor the host name.
    "--containall",
    "--net",
    "--network=none",
    "--uts",
    f"--hostname={HOSTNAME}",
    "--no-home",
    "--no-privs",
    # appinit would show the host's paths in /proc/1/environ.
    "--no-init",
    # Neither variables nor arguments are evaluated as shell text.
    "--no-eval",
    "--no-mount=hostfs,home,cwd,bind-paths,sys",
)


_OF_THE_HOST = ("--uts", f"--hostname={HOSTNAME}")
_OF_THE_NETWORK = ("--net", "--network=none")


def seal(container: SealedContainer) -> tuple[str, ...]:
    """The whole argv, one entry for each line of the script.

    Nothing of it is chosen by a submitter but four numbers, and whether refused calls are noted.
    """
    closed: tuple[str, ...] = CLOSED
    if container.pod:
        # The script has named the host before. Its name differs from pod to pod.
        closed = tuple(option for option in closed if option not in _OF_THE_HOST)
    if container.networked:
        # It stays in the job's own network, in which Slurm has begun the pod.
        closed = tuple(option for option in closed if option not in _OF_THE_NETWORK)
    return (
        *closed,
        f"--cwd={container.working_directory}",
        *(f"--mount={bind.argument()}" for bind in container.binds),
        # The mounted image.
        ROOT_FOLDER,
        f"{HELPERS}/sbseal",
        HELPERS,
        f"nproc={container.bounds.processes}",
        f"nofile={container.bounds.open_files}",
        f"fsize={container.bounds.file_size_bytes}",
        f"tasks={container.tasks}",
        f"refused={'noted' if container.refusals_noted else 'silent'}",
    )


def inspection(image: str) -> tuple[str, ...]:
    """The argv that prints the variables that an image gives to every program, NUL-ended."""
    if not image.startswith("/"):
        raise ValueError(f"{image!r} is not absolute")
    return (*CLOSED, image, "env", "-0")


_CHANGES = (
    "open,openat,openat2,creat,truncate,ftruncate,rename,renameat,renameat2,unlink,unlinkat,"
    "link,linkat,symlink,symlinkat,mkdir,mkdirat,rmdir,mknod,mknodat,"
    "chmod,fchmod,fchmodat,fchmodat2,chown,fchown,lchown,fchownat"
)
_SUSPECT = "io_uring_setup,seccomp,ptrace,unshare,setns,memfd_create,bpf,mount,chdir,fchdir"


@dataclass(frozen=True, slots=True)
class Recording:
    """What strace is told: a set of calls, and how many bytes of a string are kept."""

    # With mkdirat: sbseal notes refused calls by it.
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
