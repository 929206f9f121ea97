"""What a submitter asks for. Frozen; parsed once, at the edge."""

import json
import re
import tomllib
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from slurmbridge.errors import InvalidProcess
from slurmbridge.rules import TraceRules
from slurmbridge.values import Value

# What can be unpacked.
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
SPEC_BYTES_LIMIT = 1024 * 1024
# Linux takes no single argument or environment string above 32 pages (MAX_ARG_STRLEN).
ARGUMENT_BYTES_LIMIT = 128 * 1024 - 1

_PATH_REFUSED = re.compile(r"""[\s\x00-\x1f\x7f"'`\\,:;$*?<>|&!(){}\[\]~#]""")
# Apptainer, Slurm and the dynamic linker act on these before the program starts.
_RESERVED_PREFIXES = (
    "APPTAINER",
    "SINGULARITY",
    "SLURM",
    "SBATCH",
    "SPANK",
    "PMI",
    "LD_",
)
_RESERVED_NAMES = frozenset({"HOME", "PATH", "PWD", "USER", "LOGNAME", "SHELL", "IFS", "BASH_ENV"})


def _no_surrogates(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid UTF-8") from None
    return text


def _argument(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character, which no program can be given")
    if len(_no_surrogates(text).encode()) > ARGUMENT_BYTES_LIMIT:
        raise ValueError(f"is longer than {ARGUMENT_BYTES_LIMIT} bytes, the limit of Linux")
    return text


def check_relative_path(path: str) -> str:
    """Return `path` when it is a plain relative path.

    Raises:
        ValueError: it is empty, absolute or not UTF-8, climbs with `..`, has a part with a leading
            dash, or holds whitespace, quotes or characters that a shell or a bind gives meaning to.
    """
    _no_surrogates(path)
    if found := _PATH_REFUSED.search(path):
        raise ValueError(
            f"the path {path!r} holds {found.group()!r}, which is not allowed in paths"
        )
    parts = path.split("/")
    if path.startswith("/"):
        raise ValueError(f"the path {path!r} is absolute; it must be relative to its store")
    if any(part in {"", ".", ".."} for part in parts):
        raise ValueError(f"the path {path!r} has an empty part, '.' or '..'")
    if any(part.startswith("-") for part in parts):
        raise ValueError(f"the path {path!r} has a part with a leading dash")
    if len(path.encode()) > 1024 or any(len(part.encode()) > 255 for part in parts):
        raise ValueError("the path is too long")
    return path


def _location(text: str) -> str:
    store, separator, path = text.partition(":")
    if not separator or not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", store):
        raise ValueError(f"{text!r} is not of the form store:path")
    check_relative_path(path)
    return text


def _variable_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name):
        raise ValueError(f"{name!r} is not the name of an environment variable")
    if name in _RESERVED_NAMES or name.startswith(_RESERVED_PREFIXES):
        raise ValueError(f"{name} is set by the platform and cannot be declared")
    return name


def check_gres(text: str) -> str:
    """Return `text` when it is what Slurm's --gres takes: name[:type][:count], with commas between.

    Raises:
        ValueError: it is not, or names the same twice.
    """
    entries = [entry.split(":") for entry in text.split(",")]
    for parts in entries:
        kind = parts[1:-1] if parts[-1].isdecimal() else parts[1:]
        count = parts[-1] if parts[-1].isdecimal() else "1"
        if (
            not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", parts[0])
            or len(kind) > 1
            or not all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", word) for word in kind)
            or not re.fullmatch(r"[1-9][0-9]{0,5}", count)
        ):
            raise ValueError(f"{':'.join(parts)!r} is not of the form name:type:count")
    if len({tuple(parts[:-1] if parts[-1].isdecimal() else parts) for parts in entries}) < len(
        entries
    ):
        raise ValueError(f"{text!r} names the same twice")
    return text


Argument = Annotated[str, AfterValidator(_argument)]
RelativePath = Annotated[str, AfterValidator(check_relative_path)]
Location = Annotated[str, AfterValidator(_location)]
VariableName = Annotated[str, AfterValidator(_variable_name)]
# Slurm's names that travel on an #SBATCH line.
SlurmName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
GresName = Annotated[str, AfterValidator(check_gres)]
ClusterName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
SourceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
ImageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# No branch and no tag: what they name changes.
Commit = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]
LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
LabelValue = Annotated[str, StringConstraints(max_length=256), AfterValidator(_argument)]


class TraceLevel(StrEnum):
    """How much of what the program does is recorded from outside."""

    OFF = "off"
    AUDIT = "audit"
    FULL = "full"


class TraceFull(StrEnum):
    """What happens when a trace has reached its limit.

    `stop`: the Process ends. `cut`: the program goes on, and what it does from then on is not
    recorded; the report says so.
    """

    STOP = "stop"
    CUT = "cut"


class Code(Value):
    """The program's own files, seen read-only at /code."""

    source: Location
    # Of a file its own SHA-256, of a folder that of its list. What is staged must have it.
    sha256: Sha256 | None = None
    # Whether the source is an archive, whose content is meant.
    unpack: bool = False
    # With it, the source is a repository of one of the site's mirrors.
    commit: Commit | None = None
    # Which folder of the archive or the commit, if not all.
    path: RelativePath | None = None

    @property
    def is_packed(self) -> bool:
        """Whether the source is not itself what is seen at /code."""
        return self.unpack or self.commit is not None

    @model_validator(mode="after")
    def _unpacks(self) -> "Code":
        if self.unpack and not self.source.endswith(ARCHIVES):
            raise ValueError(f"unpack needs a source that ends with {', '.join(ARCHIVES)}")
        if self.unpack and self.commit:
            raise ValueError("unpack and commit are two ways: choose one")
        if self.path is not None and not (self.unpack or self.commit):
            raise ValueError("path is a folder of an archive or a commit: set unpack or commit")
        return self


class Input(Value):
    """A file or folder of a Data Store, seen read-only at /input/`target`."""

    source: Location
    target: RelativePath | None = None
    # As that of the code.
    sha256: Sha256 | None = None

    @property
    def name(self) -> str:
        """The path below /input: `target`, or the last part of the source."""
        return self.target or PurePosixPath(self.source.partition(":")[2]).name


class Outputs(Value):
    """Where what the program left in /output is carried, in a folder of the Process's own."""

    destination: Location


class Resources(Value):
    """What is asked of Slurm, in Slurm's terms."""

    nodes: Annotated[int, Field(ge=1, le=1)] = 1
    # How often the command runs on a node at the same time, in one container. Each has its number
    # in SLURM_PROCID.
    tasks_per_node: Annotated[int, Field(ge=1, le=1024)] = 1
    cpus_per_task: Annotated[int, Field(ge=1, le=4096)] = 1
    memory_mib: Annotated[int, Field(ge=16, le=64 * 1024 * 1024)] = 1024
    # Sizes of /tmp and /dev/shm. What is in them lies in memory, and counts as the job's.
    # None: half of memory_mib, each.
    tmp_mib: Annotated[int, Field(ge=1, le=64 * 1024 * 1024)] | None = None
    shm_mib: Annotated[int, Field(ge=1, le=64 * 1024 * 1024)] | None = None
    # Size of /output. Where the site keeps it in memory until the program has ended, it counts as
    # the job's, too, and is half of memory_mib unless it is given; never more than the site takes.
    output_mib: Annotated[int, Field(ge=1, le=64 * 1024 * 1024)] | None = None
    # Slurm's generic resources of each node, such as gpu:a100:2.
    gres: GresName | None = None


class ParallelKind(StrEnum):
    """What starts the program on several nodes.

    `pods`: nothing; the program runs in the first pod and starts what it wants in the others with
    /.sb/rsh. `mpi`: the mpirun of the image. `spark`, `dask`, `ray`: the program runs once, in the
    first pod, with workers of that framework in all pods.
    """

    PODS = "pods"
    MPI = "mpi"
    SPARK = "spark"
    DASK = "dask"
    RAY = "ray"


class Parallel(Value):
    """A program that runs on several nodes, in one container on each, on a network of their own."""

    kind: ParallelKind
    nodes: Annotated[int, Field(ge=1, le=4096)]
    # Of MPI, its ranks; of Dask, its workers. Spark and Ray have one worker on each node, with the
    # CPUs of all these tasks.
    tasks_per_node: Annotated[int, Field(ge=1, le=1024)] = 1
    # Whether each rank of MPI is bound to CPUs of its own among those that Slurm gave to the node.
    bind: bool = False

    @model_validator(mode="after")
    def _binds_ranks(self) -> "Parallel":
        if self.bind and self.kind is not ParallelKind.MPI:
            raise ValueError("bind is for the ranks of mpi")
        return self

    @property
    def networked(self) -> bool:
        """Whether there has to be a network between nodes."""
        return self.nodes > 1


class Limits(Value):
    """What the program may use beyond what Slurm counts: its ulimits."""

    # Processes and threads together.
    processes: Annotated[int, Field(ge=16, le=1_000_000)] = 4096
    open_files: Annotated[int, Field(ge=64, le=1_000_000)] = 16_384
    # The largest file it may write. None: what the site takes as outputs.
    file_size_mib: Annotated[int, Field(ge=1, le=64 * 1024 * 1024)] | None = None
    # How many files, folders and links /output may hold. None: what the site takes.
    output_files: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    # How long its trace may be, as text; it is compressed. None: what the site takes.
    trace_mib: Annotated[int, Field(ge=1, le=64 * 1024 * 1024)] | None = None
    # What happens then.
    trace_full: TraceFull = TraceFull.STOP


class WarningSignal(StrEnum):
    """What can be sent before the time limit. TERM is what is sent at it."""

    HUP = "HUP"
    INT = "INT"
    USR1 = "USR1"
    USR2 = "USR2"


class Warn(Value):
    """A signal to the program some time before its time limit: Slurm's --signal."""

    signal: WarningSignal = WarningSignal.USR1
    # Slurm may be up to a minute early.
    seconds: Annotated[int, Field(ge=1, le=65_535)]


class Contract(StrEnum):
    """How a program is started, and what it is given.

    `plain`: by `command`. `sane`: as SURF's SANE starts it; see SANE_COMMAND.
    """

    PLAIN = "plain"
    SANE = "sane"


# SURF's "Blind SANE": python3 script.py -i <input-dir> -o <output-dir> -t <temp-dir>
SANE_COMMAND = ("python3", "script.py", "-i", "/input", "-o", "/output", "-t", "/tmp")  # noqa: S108


class ProcessSpec(Value):
    """What a submitter asks for. The same in TOML, JSON and Python."""

    image: ImageName
    contract: Contract = Contract.PLAIN
    # By the contract, if it says so.
    command: Annotated[tuple[Argument, ...], Field(min_length=1, max_length=4096)]
    code: Code | None = None
    inputs: Annotated[tuple[Input, ...], Field(max_length=256)] = ()
    # A requirements.txt, whose packages are seen at /requirements; and the index or wheelhouse of
    # the site that they come from. None: the usual one.
    requirements: Location | None = None
    requirements_source: SourceName | None = None
    outputs: Outputs | None = None
    environment: dict[VariableName, Argument] = Field(default_factory=dict, max_length=256)
    # What is asked of each node.
    resources: Resources = Resources()
    # None: the program runs on one node, without a network.
    parallel: Parallel | None = None
    limits: Limits = Limits()
    time_limit_minutes: Annotated[int, Field(ge=1, le=366 * 24 * 60)] = 60
    warn: Warn | None = None
    trace: TraceLevel = TraceLevel.AUDIT
    # Beside the site's rules, which always hold too.
    trace_rules: TraceRules | None = None
    # None: the usual one of this site.
    cluster: ClusterName | None = None
    account: SlurmName | None = None
    partition: SlurmName | None = None
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=32)

    @model_validator(mode="after")
    def _keeps_its_contract(self) -> "ProcessSpec":
        if self.contract is Contract.SANE:
            if self.command != SANE_COMMAND:
                raise ValueError("the contract sane makes the command: leave it out")
            if self.code is None:
                raise ValueError("the contract sane needs code: a folder with a script.py")
        return self

    @model_validator(mode="after")
    def _whole(self) -> "ProcessSpec":
        if not self.command[0]:
            raise ValueError("the first word of command, the program, is empty")
        if self.warn and self.warn.seconds >= 60 * self.time_limit_minutes:
            raise ValueError("warn.seconds is not less than the time limit")
        if self.parallel and self.resources.tasks_per_node != 1:
            raise ValueError("with parallel, tasks_per_node is said there, not in resources")
        taken: set[str] = set()
        for name in sorted((entry.name for entry in self.inputs), key=len):
            above = {str(parent) for parent in PurePosixPath(name).parents}
            if found := taken & (above | {name}):
                raise ValueError(f"two inputs would lie at /input/{found.pop()}")
            taken.add(name)
        return self


def parse_spec(document: str | bytes | dict[str, Any], *, form: str = "json") -> ProcessSpec:
    """Read a specification, `form` being "json" or "toml".

    Every way leads through the same JSON, so the same document means the same everywhere.

    Raises:
        InvalidProcess: with one (location, message) pair for each thing that is wrong.
    """
    try:
        if isinstance(document, dict):
            data = document
        else:
            text = document.decode() if isinstance(document, bytes) else document
            data = (
                tomllib.loads(text)
                if form == "toml"
                else json.loads(text, object_pairs_hook=_no_duplicates)
            )
        if isinstance(data, dict) and data.get("contract") == Contract.SANE:
            data = {"command": SANE_COMMAND, **data}
        return ProcessSpec.model_validate_json(json.dumps(data, ensure_ascii=False).encode())
    except ValidationError as error:
        details = error.errors(include_url=False)
        # pydantic also tells of the whole what follows from its part.
        above = {detail["loc"][:end] for detail in details for end in range(1, len(detail["loc"]))}
        fields = tuple(_readable(detail) for detail in details if detail["loc"] not in above)
        raise InvalidProcess("; ".join(_sentence(*field) for field in fields), fields) from None
    except UnicodeError:
        raise InvalidProcess("the specification is not valid UTF-8") from None
    except RecursionError:
        raise InvalidProcess("the specification is nested too deeply") from None
    except (ValueError, TypeError) as error:
        raise InvalidProcess(f"the specification is not readable {form.upper()}: {error}") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


_MESSAGES = {
    "extra_forbidden": "is not a field of a specification",
    "too_short": "is empty",
    "missing": "is missing",
}


def _readable(detail: Any) -> tuple[str, str]:
    message = str(detail["msg"]).removeprefix("Value error, ")
    message = _MESSAGES.get(detail["type"], message)
    location = ".".join(str(part) for part in detail["loc"])
    if message[1:2].islower():
        message = message[0].lower() + message[1:]
    return location, message


def _sentence(location: str, message: str) -> str:
    return f"{location}: {message}" if location else message
