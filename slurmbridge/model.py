"""The values that everything speaks of. Frozen; parsed once, at the edge."""

import json
import re
import tomllib
from datetime import datetime
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
from slurmbridge.lifecycle import ProcessState
from slurmbridge.rules import Outcome, TraceRules
from slurmbridge.values import Value

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


Argument = Annotated[str, AfterValidator(_argument)]
RelativePath = Annotated[str, AfterValidator(check_relative_path)]
Location = Annotated[str, AfterValidator(_location)]
VariableName = Annotated[str, AfterValidator(_variable_name)]
# Slurm's names that travel on an #SBATCH line.
SlurmName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
ClusterName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
ImageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
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


class Input(Value):
    """A file or folder of a Data Store, seen read-only at /input/`target`."""

    source: Location
    target: RelativePath | None = None

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


class Limits(Value):
    """What the program may use beyond what Slurm counts: its ulimits."""

    # Processes and threads together.
    processes: Annotated[int, Field(ge=16, le=1_000_000)] = 4096
    open_files: Annotated[int, Field(ge=64, le=1_000_000)] = 16_384
    # The largest file it may write. None: what the site takes as outputs.
    file_size_mib: Annotated[int, Field(ge=1, le=64 * 1024 * 1024)] | None = None
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


class ProcessSpec(Value):
    """What a submitter asks for. The same in TOML, JSON and Python."""

    image: ImageName
    command: Annotated[tuple[Argument, ...], Field(min_length=1, max_length=4096)]
    code: Code | None = None
    inputs: Annotated[tuple[Input, ...], Field(max_length=256)] = ()
    outputs: Outputs | None = None
    environment: dict[VariableName, Argument] = Field(default_factory=dict, max_length=256)
    resources: Resources = Resources()
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
    def _whole(self) -> "ProcessSpec":
        if not self.command[0]:
            raise ValueError("the first word of command, the program, is empty")
        if self.warn and self.warn.seconds >= 60 * self.time_limit_minutes:
            raise ValueError("warn.seconds is not less than the time limit")
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


class NodeReadiness(Value):
    """Whether a node can seal and trace, as a job on it found out."""

    node: str
    observed_at: datetime | None = None
    # None: not examined yet.
    can_seal: bool | None = None
    can_trace: bool | None = None
    problems: tuple[str, ...] = ()
    trace_problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    # Why the latest examination has brought nothing, or nothing yet.
    remark: str | None = None
    facts: dict[str, str] = Field(default_factory=dict)


class Partition(Value):
    """A Slurm partition as the cluster reports it, and what its nodes were found able to do."""

    name: str
    default: bool
    up: bool
    nodes: int
    cpus_per_node: int
    memory_mib_per_node: int
    time_limit_minutes: int | None
    node_names: tuple[str, ...] = ()
    sealing_nodes: int = 0
    tracing_nodes: int = 0
    unexamined_nodes: int = 0


class RefusedPartition(Value):
    """A partition that is not offered."""

    name: str
    default: bool
    node_names: tuple[str, ...]
    reason: str


class ComputeCapability(Value):
    """What a cluster offers to this bridge."""

    cluster: str
    slurm_version: str
    partitions: tuple[Partition, ...]
    accounts: tuple[str, ...]
    default_account: str | None = None
    observed_at: datetime | None = None
    # Slurm's own settings: for how long a message may be on its way, and an ended job is known.
    message_timeout_seconds: int | None = None
    min_job_age_seconds: int | None = None
    # What of SlurmctldParameters limits the rate of calls.
    call_limits: str = ""
    refused: tuple[RefusedPartition, ...] = ()
    nodes: tuple[NodeReadiness, ...] = ()

    def partition(self, name: str | None) -> Partition | None:
        """The partition of this name; without a name, the default one."""
        for partition in self.partitions:
            if partition.name == name or (name is None and partition.default):
                return partition
        return None


class ClusterStatus(Value):
    """A cluster of this site, and how it goes there."""

    name: str
    # Whether it is meant when a Process names none.
    usual: bool
    # How many Runners work for it, and whether one of them reaches its Slurm.
    runners: int
    reached: bool
    problems: tuple[str, ...] = ()
    # Processes that were taken and not collected yet.
    in_progress: int
    # How often Slurm was asked for what, ever since, and how often in vain.
    scheduler_calls: dict[str, int]
    scheduler_failures: dict[str, int]


class Image(Value):
    """A recorded image. Nothing else can be run."""

    name: str
    sha256: str
    # None: an administrator added it.
    definition_sha256: str | None = None
    path: str
    size_bytes: int
    squashfs_offset: int
    labels: dict[str, str]
    # What the image's own %environment gives to every program.
    environment: dict[str, str] = Field(default_factory=dict)
    built_at: datetime
    added_by: str | None = None
    remark: str | None = None
    signed: bool = False
    revoked_at: datetime | None = None
    revoked_by: str | None = None
    revoked_reason: str | None = None


class ListedImage(Image):
    """An image, and whether it is what its name runs."""

    runs: bool


class Helpers(Value):
    """The sealing helpers that were built for an architecture, `sbseal` and `sbprobe`."""

    architecture: str
    # The folder that holds them.
    path: str
    sbseal_sha256: str
    sbprobe_sha256: str
    source_sha256: str
    built_at: datetime


class Attestation(Value):
    """What a container was found to be before its program started, signed by the bridge."""

    # Everything below is signed, as canonical JSON without `signature`.
    version: int
    process_id: str
    job_id: int | None
    node: str
    # When the node compared.
    attested_at: datetime
    image_sha256: str
    script_sha256: str
    sbseal_sha256: str
    sbprobe_sha256: str
    # The bridge's judgement, from the same lines by the same rules.
    sealed: bool
    unexpected: tuple[str, ...]
    missing: tuple[str, ...]
    # What the probe printed, and what it had to; `? ` marks lines that may be missing.
    facts: tuple[str, ...]
    expected: tuple[str, ...]
    # The public key, as 64 hexadecimal digits (RFC 8032), and the signature, as 128.
    public_key: str
    signature: str = ""


class PublicKey(Value):
    """An Ed25519 key with which Runners of this bridge sign, as 64 hexadecimal digits."""

    public_key: str
    registered_at: datetime


class StagedFile(Value):
    """A file that was staged in: its path in the context, as input/flights.csv or code/main.py."""

    path: str
    size_bytes: int
    sha256: str


class TraceSummary(Value):
    """What a traced Process did, in short."""

    verdict: Outcome
    # The rules that were not kept, a sentence for each; of many, the first.
    findings: tuple[str, ...]
    # Why the record may not tell all.
    doubts: tuple[str, ...]
    processes: int
    programs: int
    # Names on which these acts were done; of many, those that are listed in the report.
    files_read: int
    files_written: int
    files_created: int
    files_deleted: int
    files_renamed: int
    files_unexpected: int
    # Calls, done or tried.
    network: int
    refused: int
    unusual: int


class OutputFile(Value):
    """A file that was carried to the Data Store."""

    path: str
    size_bytes: int
    sha256: str


class Event(Value):
    """Something that was observed or done, and where it is known from."""

    at: datetime
    source: str
    state: ProcessState
    detail: str


class Process(Value):
    """One durable run of a user's program."""

    id: str
    state: ProcessState
    spec: ProcessSpec
    cluster: str
    submitted_by: str
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cancel_requested: bool = False
    job_name: str
    job_id: int | None = None
    slurm_state: str | None = None
    slurm_reason: str | None = None
    # When Slurm means to start it, as long as it waits; and how often it has been started anew.
    expected_start: datetime | None = None
    restarts: int = 0
    nodes: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None
    image_sha256: str | None = None
    script_sha256: str | None = None
    outputs_location: str | None = None
    outputs: tuple[OutputFile, ...] = ()
    outputs_ignored: tuple[str, ...] = ()
    # What was staged in, with checksums.
    inputs: tuple[StagedFile, ...] = ()
    # What it did; None when it was not traced, or has not ended.
    traced: TraceSummary | None = None
    # Whether its container was attested before the program started; None: not known (yet).
    attested: bool | None = None


def job_name(process_id: str) -> str:
    """The name under which Slurm, and its accounting, know the job of a Process.

    It is the token by which a job is found again when its id was not recorded.
    """
    return f"sb-{process_id}"
