"""The rows. Table models do not validate: values are parsed before they come here."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Enum, Index, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel

from slurmbridge.lifecycle import Phase, ProcessState, ReviewState


class InstallationState(StrEnum):
    """How far an installation of requirements is."""

    ASKED = "asked"
    MADE = "made"
    FAILED = "failed"


class UtcTime(TypeDecorator[datetime]):
    """A moment, in UTC whatever the database says: SQLite forgets the zone, and PostgreSQL answers
    in that of the session.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a moment without a zone: what it means is not known."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without a zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _words(closed_set: type[StrEnum]) -> Any:
    """Store the words of a closed set as text: a database's own enums are hard to extend."""
    return Enum(closed_set, native_enum=False, length=24, create_constraint=False)


class ProcessRow(SQLModel, table=True):
    """A Process: what was asked, what was done about it, what is known of it."""

    __tablename__ = "process"
    __table_args__ = (
        Index("ix_process_phase", "phase", "created_at"),
        Index("ix_process_created", "created_at"),
        Index("ix_process_claimed_by", "claimed_by"),
        Index("ix_process_idempotency", "submitted_by", "idempotency_key", unique=True),
    )

    id: str = Field(primary_key=True, max_length=26)
    state: ProcessState = Field(sa_type=_words(ProcessState))
    phase: Phase = Field(sa_type=_words(Phase))
    spec: dict[str, Any] = Field(sa_type=JSON)
    # Of the specification, what limits are counted by; "" stands for Slurm's own default.
    cluster: str
    account: str
    partition: str
    submitted_by: str
    idempotency_key: str | None = None
    request_sha256: str | None = Field(default=None, max_length=64)
    created_at: datetime = Field(sa_type=UtcTime)
    started_at: datetime | None = Field(default=None, sa_type=UtcTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcTime)
    cancel_requested: bool = False

    # A Runner, as long as it is on the roster.
    claimed_by: str | None = None
    not_before: datetime | None = Field(default=None, sa_type=UtcTime)
    intended_at: datetime | None = Field(default=None, sa_type=UtcTime)
    missing_since: datetime | None = Field(default=None, sa_type=UtcTime)

    job_name: str = Field(unique=True)
    job_id: int | None = Field(default=None, index=True, sa_type=BigInteger)
    slurm_state: str | None = None
    slurm_reason: str | None = None
    # When Slurm means to start it; and how often it has begun anew.
    expected_start: datetime | None = Field(default=None, sa_type=UtcTime)
    restarts: int = 0
    progress: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    nodes: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = Field(default=None, sa_type=Text)
    image_sha256: str | None = None
    script: str | None = Field(default=None, sa_type=Text)
    script_sha256: str | None = None
    outputs_location: str | None = None
    outputs: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSON)
    manifest_sha256: str | None = Field(default=None, max_length=64)
    # Of outputs that are reviewed: how far that is, by whom and why, and where they wait.
    review: ReviewState | None = Field(default=None, sa_type=_words(ReviewState))
    review_by: str | None = None
    review_at: datetime | None = Field(default=None, sa_type=UtcTime)
    review_reason: str | None = Field(default=None, sa_type=Text)
    review_location: str | None = None
    context_until: datetime | None = Field(default=None, sa_type=UtcTime)
    context_destroyed_at: datetime | None = Field(default=None, index=True, sa_type=UtcTime)
    outputs_ignored: list[str] = Field(default_factory=list, sa_type=JSON)
    # What its container had to be, as it was submitted; then what it was found to be.
    sealing: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    attestation: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    attested: bool | None = None
    # What was staged in, with checksums; and one of all that is code.
    code_sha256: str | None = Field(default=None, max_length=64)
    inputs: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSON)
    # What was installed for it: key, image, lock.
    requirements: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    # Of a traced Process, in short, and the whole report as JSON, compressed by zlib.
    traced: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    trace_report: bytes | None = None


class ProcessEventRow(SQLModel, table=True):
    """Something observed or done. Rows are added and never changed."""

    __tablename__ = "process_event"

    id: int | None = Field(default=None, primary_key=True)
    process_id: str = Field(foreign_key="process.id", index=True, max_length=26)
    at: datetime = Field(sa_type=UtcTime)
    source: str
    state: ProcessState = Field(sa_type=_words(ProcessState))
    detail: str = Field(sa_type=Text)


class LogChunkRow(SQLModel, table=True):
    """A piece of what a program printed, as the Runner read it."""

    __tablename__ = "log_chunk"

    process_id: str = Field(foreign_key="process.id", primary_key=True, max_length=26)
    stream: str = Field(primary_key=True)
    offset: int = Field(primary_key=True)
    data: bytes


class ImageRow(SQLModel, table=True):
    """A recorded image. The latest row of a name is the one that runs."""

    __tablename__ = "image"

    sha256: str = Field(primary_key=True, max_length=64)
    name: str = Field(index=True)
    definition_sha256: str | None = Field(default=None, index=True, max_length=64)
    path: str
    size_bytes: int = Field(sa_type=BigInteger)
    squashfs_offset: int = Field(sa_type=BigInteger)
    labels: dict[str, str] = Field(sa_type=JSON)
    environment: dict[str, str] = Field(default_factory=dict, sa_type=JSON)
    built_at: datetime = Field(sa_type=UtcTime)
    added_by: str | None = None
    remark: str | None = Field(default=None, sa_type=Text)
    signed: bool = False
    revoked_at: datetime | None = Field(default=None, sa_type=UtcTime)
    revoked_by: str | None = None
    revoked_reason: str | None = Field(default=None, sa_type=Text)


class TokenRow(SQLModel, table=True):
    """A bearer token, known by its hash alone."""

    __tablename__ = "token"

    sha256: str = Field(primary_key=True, max_length=64)
    name: str = Field(unique=True)
    created_at: datetime = Field(sa_type=UtcTime)
    # Whether outputs can be let out with it.
    reviews: bool = False


class RunnerRow(SQLModel, table=True):
    """The roster: a Runner that is not in it holds nothing, whatever it believes."""

    __tablename__ = "runner"

    id: str = Field(primary_key=True)
    host: str
    cluster: str
    transport: str
    # Counts up as long as it lives. Clocks of several hosts are never compared.
    beat: int = Field(sa_type=BigInteger)
    heartbeat_at: datetime = Field(sa_type=UtcTime)
    scheduler_error: str | None = Field(default=None, sa_type=Text)


class RoleRow(SQLModel, table=True):
    """Something that one Runner does for all, such as to look at a cluster's jobs."""

    __tablename__ = "role"

    name: str = Field(primary_key=True)
    holder: str


class CallRow(SQLModel, table=True):
    """How often Slurm was asked."""

    __tablename__ = "scheduler_call"

    cluster: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    calls: int = Field(sa_type=BigInteger)
    failures: int = Field(sa_type=BigInteger)


class CapabilityRow(SQLModel, table=True):
    """What a cluster last reported, by the name that the configuration gives it."""

    __tablename__ = "compute_capability"

    cluster: str = Field(primary_key=True)
    observed_at: datetime = Field(sa_type=UtcTime)
    capability: dict[str, Any] = Field(sa_type=JSON)


class HelperRow(SQLModel, table=True):
    """The helpers that were built for an architecture; the latest row is the one that is used."""

    __tablename__ = "helper"

    id: int | None = Field(default=None, primary_key=True)
    architecture: str
    path: str
    sbseal_sha256: str = Field(max_length=64)
    sbprobe_sha256: str = Field(max_length=64)
    source_sha256: str = Field(max_length=64)
    built_at: datetime = Field(sa_type=UtcTime)


class NodeRow(SQLModel, table=True):
    """Whether a node can seal and trace, as a job on it last found out."""

    __tablename__ = "node"

    cluster: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    observed_at: datetime | None = Field(default=None, sa_type=UtcTime)
    readiness: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    asked_at: datetime | None = Field(default=None, sa_type=UtcTime)
    job_id: int | None = Field(default=None, sa_type=BigInteger)


class InstallationRow(SQLModel, table=True):
    """Requirements that a job installs, or has installed, on a cluster."""

    __tablename__ = "installation"

    cluster: str = Field(primary_key=True)
    key: str = Field(primary_key=True, max_length=64)
    # How often it was asked for; by cluster, key and attempt the job is found again.
    attempt: int
    state: InstallationState = Field(sa_type=_words(InstallationState))
    asked_at: datetime = Field(sa_type=UtcTime)
    job_id: int | None = Field(default=None, sa_type=BigInteger)
    ended_at: datetime | None = Field(default=None, sa_type=UtcTime)
    # Why it failed: a word, and a sentence.
    fault: str | None = None
    sentence: str | None = Field(default=None, sa_type=Text)
    sha256: str | None = Field(default=None, max_length=64)
    size_bytes: int | None = Field(default=None, sa_type=BigInteger)
    lock: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSON)


class SigningKeyRow(SQLModel, table=True):
    """A public key with which a Runner of this bridge signs."""

    __tablename__ = "signing_key"

    public_key: str = Field(primary_key=True, max_length=64)
    registered_at: datetime = Field(sa_type=UtcTime)
