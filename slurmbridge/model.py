"""The values that everything speaks of, beside what a submitter asks for. Frozen."""

from datetime import datetime

from pydantic import Field

from slurmbridge.lifecycle import ProcessState, ReviewState
from slurmbridge.rules import Outcome
from slurmbridge.spec import ProcessSpec
from slurmbridge.values import Value


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


class Gres(Value):
    """How many of a kind of Slurm's generic resources one node has."""

    name: str
    kind: str | None = None
    count: int

    def __str__(self) -> str:
        return ":".join(filter(None, (self.name, self.kind, str(self.count))))


class Partition(Value):
    """A Slurm partition as the cluster reports it, and what its nodes were found able to do."""

    name: str
    default: bool
    up: bool
    nodes: int
    cpus_per_node: int
    memory_mib_per_node: int
    time_limit_minutes: int | None
    # The most that any of its nodes has.
    gres: tuple[Gres, ...] = ()
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


class Locked(Value):
    """One package as it was installed."""

    name: str
    version: str
    # Of the file that was installed; the algorithm, and the digest in hex.
    hashes: dict[str, str]
    # Whether a line asks for it; else another package needs it.
    requested: bool

    @property
    def line(self) -> str:
        """As a requirements.txt asks for exactly this."""
        hashes = (f" --hash={name}:{digest}" for name, digest in sorted(self.hashes.items()))
        return f"{self.name}=={self.version}{''.join(hashes)}"


class InstalledRequirements(Value):
    """An image of what was installed for a Process, and what is in it."""

    # What it depends on: image, lines, source, architecture.
    key: str
    sha256: str
    size_bytes: int
    lock: tuple[Locked, ...]

    @property
    def text(self) -> str:
        """A requirements.txt that names what was installed."""
        return "".join(f"{entry.line}\n" for entry in self.lock)


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


class Progress(Value):
    """How far files have been moved; what they will be in all, as far as that is known yet."""

    # "staging" or "carrying".
    doing: str
    files: int
    size_bytes: int
    of_files: int
    of_bytes: int


class Review(Value):
    """What became of outputs that somebody has to look at before they are let out."""

    state: ReviewState
    # Who decided, when and why.
    by: str | None = None
    at: datetime | None = None
    reason: str | None = None
    # Where they wait, for those who may decide.
    location: str | None = None


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
    # While files are moved in or out.
    progress: Progress | None = None
    nodes: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None
    image_sha256: str | None = None
    script_sha256: str | None = None
    outputs_location: str | None = None
    outputs: tuple[OutputFile, ...] = ()
    outputs_ignored: tuple[str, ...] = ()
    # Of the manifest.json beside them.
    manifest_sha256: str | None = None
    # None: they need none, or there are none yet.
    review: Review | None = None
    # Till when its context is kept, if it is; and since when it is gone.
    context_until: datetime | None = None
    context_destroyed_at: datetime | None = None
    # What was staged in, with checksums; and one of all that is code.
    code_sha256: str | None = None
    inputs: tuple[StagedFile, ...] = ()
    # What was installed for it.
    requirements: InstalledRequirements | None = None
    # What it did; None when it was not traced, or has not ended.
    traced: TraceSummary | None = None
    # Whether its container was attested before the program started; None: not known (yet).
    attested: bool | None = None


def job_name(process_id: str) -> str:
    """The name under which Slurm, and its accounting, know the job of a Process.

    It is the token by which a job is found again when its id was not recorded.
    """
    return f"sb-{process_id}"
