"""The tables of the configuration, each with what can stand in it."""

from enum import StrEnum
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slurmbridge.requirements import Index, StepLimits, Wheelhouse
from slurmbridge.spec import SlurmName, SourceName
from slurmbridge.values import AbsolutePath, PlainFolder

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Section(BaseModel):
    """A table of the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Transport(StrEnum):
    """How Slurm is reached. `auto`: pyslurm where it can be imported, else the commands."""

    AUTO = "auto"
    PYSLURM = "pyslurm"
    COMMANDS = "commands"
    SSH = "ssh"


class FileAccess(StrEnum):
    """How contexts and the cluster's copies of images are reached."""

    LOCAL = "local"
    SFTP = "sftp"


class JumpSettings(Section):
    """A host on the way, and as whom it is logged in to."""

    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:_-]{0,252}$")]
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    # None: the user who runs slurmbridge.
    user: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")] | None = None
    known_hosts: AbsolutePath
    key: AbsolutePath | None = None
    certificate: AbsolutePath | None = None
    agent: bool = False


class SshSettings(JumpSettings):
    """A login node."""

    jumps: tuple[JumpSettings, ...] = ()
    connect_seconds: Seconds = 15.0
    keepalive_seconds: Seconds = 15.0
    # sshd's MaxSessions is 10 unless it is changed.
    channels: Annotated[int, Field(ge=2, le=1000)] = 8


class ApiSettings(Section):
    """Where the API listens, and what it takes."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8642


class InProgressSettings(Section):
    """How many Processes may be in progress at a time. None: any number."""

    cluster: int | None = Field(default=None, ge=1)
    # For each account, as the specification names it, and for each partition.
    account: int | None = Field(default=None, ge=1)
    partition: int | None = Field(default=None, ge=1)


class SlurmSettings(Section):
    """How Slurm is asked."""

    transport: Transport = Transport.AUTO
    timeout_seconds: Seconds = 20.0
    poll_seconds: Seconds = 2.0
    capability_seconds: Seconds = 60.0
    # How long a job must be absent from the controller and from accounting to count as lost; more
    # where timeout_seconds and Slurm's MessageTimeout together ask for more.
    absence_seconds: Seconds = 120.0
    in_progress: InProgressSettings = InProgressSettings()
    # The addresses in the private network that the cluster's nodes make for each job of several
    # nodes, as their network.conf has them. None: they make none.
    private_network: IPv4Network | None = None
    # Calls to slurmctld; less where Slurm's own rl_* limits say so.
    calls_per_second: Annotated[float, Field(gt=0, le=10_000)] = 50.0
    calls_at_once: Annotated[float, Field(ge=10, le=100_000)] = 500.0


class RunnerSettings(Section):
    """How a Runner works."""

    idle_seconds: Seconds = 0.5
    batch: Annotated[int, Field(ge=1, le=1000)] = 50
    # Of how many Processes files are moved in at a time, and of how many out.
    moves: Annotated[int, Field(ge=1, le=100)] = 4
    # After this time at the latest, others go on with the work of a Runner that is dead.
    lease_seconds: Annotated[float, Field(ge=2, le=86_400)] = 12.0
    retry_seconds: Seconds = 5.0


class OutputPlace(StrEnum):
    """Where /output lies while the program runs.

    `memory`: in the job's, with a size that cannot be passed; it is copied to the context at the
    end. `context`: there, and weighed every ten seconds.
    """

    MEMORY = "memory"
    CONTEXT = "context"


class LimitSettings(Section):
    """Bounds on what one Process brings in, leaves and prints."""

    input_mib: Annotated[int, Field(ge=1)] = 64 * 1024
    output_mib: Annotated[int, Field(ge=1)] = 64 * 1024
    output_files: Annotated[int, Field(ge=1)] = 10_000
    output_place: OutputPlace = OutputPlace.MEMORY
    # How long a trace may be, as text.
    trace_mib: Annotated[int, Field(ge=1)] = 4 * 1024
    # What is kept of each stream with the outputs, and what of it the API shows.
    log_file_mib: Annotated[int, Field(ge=1)] = 256
    log_kib: Annotated[int, Field(ge=1)] = 1024


Patterns = tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...]


class LetOutSettings(Section):
    """Which files below /output are let out, by their names. None: all."""

    allow: Patterns | None = None


class OutputSettings(LetOutSettings):
    """The same, for all and for some accounts."""

    accounts: dict[SlurmName, LetOutSettings] = Field(default_factory=dict)

    def patterns(self, account: str | None) -> Patterns | None:
        """Those for Processes of an account."""
        return self.accounts.get(account or "", self).allow


class ImageTrustSettings(Section):
    """Whose signatures count."""

    key: AbsolutePath | None = None
    required: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "ImageTrustSettings":
        if self.required and self.key is None:
            raise ValueError("required needs a key")
        return self


class DoctorSettings(Section):
    """How often nodes are examined."""

    # 0: only when somebody asks for it.
    every_hours: Annotated[int, Field(ge=0, le=8760)] = 12
    retry_minutes: Annotated[int, Field(ge=1, le=525_600)] = 60
    answer_minutes: Annotated[int, Field(ge=1, le=525_600)] = 10


class CodeSettings(Section):
    """Which code may run."""

    # A file with the SHA-256 of each. None: any.
    approved: AbsolutePath | None = None


class ReviewSettings(Section):
    """Whose outputs somebody has to look at before they are let out."""

    # The store in which they wait. None: no outputs are reviewed.
    store: str | None = None
    # None: everybody's.
    accounts: Annotated[tuple[SlurmName, ...], Field(min_length=1)] | None = None


class MirrorSettings(Section):
    """A place of repositories from which code may come."""

    # What a repository's path is put behind.
    url: Annotated[str, Field(pattern=r"^(https|ssh|file)://[!-~]+$")]


class RetentionSettings(Section):
    """How long contexts outlive their Processes."""

    # Of those that failed. 0: not at all.
    failed_hours: Annotated[float, Field(ge=0, le=8760)] = 0
    # Of those that no Process is known for. 0: for ever.
    orphan_hours: Annotated[float, Field(ge=0, le=87_600)] = 168


class CacheSettings(Section):
    """What is kept of inputs on each cluster."""

    # 0: nothing.
    size_mib: Annotated[int, Field(ge=0)] = 0
    least_mib: Annotated[int, Field(ge=0)] = 16
    unused_hours: Annotated[float, Field(gt=0, le=87_600)] = 168


class InstallSettings(Section):
    """Where requirements are installed on a cluster, and by what job."""

    # None: beside the images.
    folder: PlainFolder | None = None
    account: SlurmName | None = None
    partition: SlurmName | None = None


class SourceSettings(Section):
    """An index, or a folder of wheels."""

    url: str | None = None
    # On the nodes, as the next one.
    folder: PlainFolder | None = None
    certificates: PlainFolder | None = None
    proxy: str | None = None
    sources_built: bool = False

    def place(self, name: str) -> Index | Wheelhouse:
        """What it is. Raises ValueError."""
        if self.folder is not None:
            if self.url or self.certificates or self.proxy:
                raise ValueError("a folder has no url, certificates or proxy")
            return Wheelhouse(name, str(self.folder))
        if self.url is None:
            raise ValueError("needs a url or a folder")
        certificates = str(self.certificates) if self.certificates else None
        return Index(name, self.url, certificates, self.proxy)


class RequirementsSettings(InstallSettings):
    """What may be installed for Processes. Without sources: nothing."""

    sources: dict[SourceName, SourceSettings] = Field(default_factory=dict)
    # Which one is meant when a Process names none. None: the only one, or none is.
    default_source: str | None = None
    size_mib: Annotated[int, Field(ge=16)] = StepLimits().size_mib
    files: Annotated[int, Field(ge=100)] = StepLimits().files
    minutes: Annotated[int, Field(ge=1, le=1440)] = StepLimits().minutes
    cpus: Annotated[int, Field(ge=1, le=4096)] = StepLimits().cpus
    failure_minutes: Annotated[int, Field(ge=0, le=1440)] = 10

    @property
    def limits(self) -> StepLimits:
        """What an installation may take."""
        return StepLimits(self.size_mib, self.files, self.minutes, self.cpus)

    @property
    def usual_source(self) -> str | None:
        """The source that is meant when none is named."""
        return self.default_source or (next(iter(self.sources)) if len(self.sources) == 1 else None)

    @model_validator(mode="after")
    def _consistent(self) -> "RequirementsSettings":
        for name, source in self.sources.items():
            try:
                source.place(name)
            except ValueError as error:
                raise ValueError(f"sources.{name}: {error}") from None
        if self.default_source is not None and self.default_source not in self.sources:
            raise ValueError(f"default_source names no source: {self.default_source!r}")
        return self


class ClusterSettings(Section):
    """A cluster: how it is reached, and where things lie on it."""

    contexts: PlainFolder
    # On the cluster. None: where the bridge's own images are.
    images: PlainFolder | None = None
    templates: Path | None = None
    # None: over ssh where Slurm is reached so, else here.
    files: FileAccess | None = None
    slurm: SlurmSettings = SlurmSettings()
    ssh: SshSettings | None = None
    # Whose Processes it runs, by Slurm account. None: everybody's.
    accounts: Annotated[tuple[SlurmName, ...], Field(min_length=1)] | None = None
    # What is not said here is as the site has it.
    requirements: InstallSettings = InstallSettings()

    @property
    def remote_files(self) -> bool:
        """Whether the cluster's files are not this host's."""
        if self.files is None:
            return self.slurm.transport is Transport.SSH
        return self.files is FileAccess.SFTP

    @model_validator(mode="after")
    def _consistent(self) -> "ClusterSettings":
        by_ssh = self.slurm.transport is Transport.SSH or self.remote_files
        if by_ssh and self.ssh is None:
            raise ValueError("what is reached by ssh needs a table `ssh`")
        if self.ssh is not None and not by_ssh:
            raise ValueError('there is a table `ssh`, but slurm.transport is not "ssh"')
        if self.remote_files and self.images is None:
            raise ValueError("files of another host need `images`, a folder there")
        return self
