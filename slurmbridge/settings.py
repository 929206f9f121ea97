"""The configuration: a TOML file, overridden by SLURMBRIDGE_* variables. Every key is checked."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from slurmbridge.errors import ConfigurationError
from slurmbridge.model import ClusterName, TraceLevel, check_relative_path
from slurmbridge.stores.settings import FolderSettings, StoreSettings
from slurmbridge.values import AbsolutePath, PlainFolder

PREFIX = "SLURMBRIDGE_"
FILE_VARIABLE = "SLURMBRIDGE_CONFIG"
SYSTEM_FILE = Path("/etc/slurmbridge/slurmbridge.toml")


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
    # Calls to slurmctld; less where Slurm's own rl_* limits say so.
    calls_per_second: Annotated[float, Field(gt=0, le=10_000)] = 50.0
    calls_at_once: Annotated[float, Field(ge=10, le=100_000)] = 500.0


class RunnerSettings(Section):
    """How a Runner works."""

    idle_seconds: Seconds = 0.5
    batch: Annotated[int, Field(ge=1, le=1000)] = 50
    # After this time at the latest, others go on with the work of a Runner that is dead.
    lease_seconds: Annotated[float, Field(ge=2, le=86_400)] = 12.0
    retry_seconds: Seconds = 5.0


class LimitSettings(Section):
    """Bounds on what one Process brings in, leaves and prints."""

    input_mib: Annotated[int, Field(ge=1)] = 64 * 1024
    output_mib: Annotated[int, Field(ge=1)] = 64 * 1024
    output_files: Annotated[int, Field(ge=1)] = 10_000
    # How long a trace may be, as text.
    trace_mib: Annotated[int, Field(ge=1)] = 4 * 1024
    # What is kept of each stream with the outputs, and what of it the API shows.
    log_file_mib: Annotated[int, Field(ge=1)] = 256
    log_kib: Annotated[int, Field(ge=1)] = 1024


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


DEFAULT_CLUSTER = "default"
_OF_A_CLUSTER = ("contexts", "templates", "slurm")


class Settings(BaseSettings):
    """Everything that can be configured. Of one cluster, the keys stand at the top; of several,
    below `clusters.NAME`.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    database: str = "sqlite:////var/lib/slurmbridge/slurmbridge.db"
    images: PlainFolder
    contexts: PlainFolder | None = None
    templates: Path | None = None
    slurm: SlurmSettings = SlurmSettings()
    clusters: dict[ClusterName, ClusterSettings] = Field(default_factory=dict)
    # Which one is meant when a Process names none. None: the only one, or none is.
    default_cluster: str | None = None
    definitions: Path | None = None
    mirror: str | None = None
    default_destination: str | None = None
    # A Process may ask for more, never for less.
    trace_minimum: TraceLevel = TraceLevel.OFF
    # What is demanded of traced programs. None: the rules that come with slurmbridge.
    trace_rules: AbsolutePath | None = None
    # An Ed25519 key (PEM, mode 600), made at a Runner's first start.
    signing_key: AbsolutePath = Path("/var/lib/slurmbridge/signing_key.pem")
    # Where what lies on another host is put for reading it here, such as traces.
    spool: AbsolutePath = Path("/var/lib/slurmbridge/spool")
    stores: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")], StoreSettings]
    api: ApiSettings = ApiSettings()
    runner: RunnerSettings = RunnerSettings()
    limits: LimitSettings = LimitSettings()
    doctor: DoctorSettings = DoctorSettings()
    image_trust: ImageTrustSettings = ImageTrustSettings()

    @property
    def store_folders(self) -> dict[str, Path]:
        """The Data Stores that are folders."""
        return {
            name: store.folder
            for name, store in self.stores.items()
            if isinstance(store, FolderSettings)
        }

    @property
    def by_cluster(self) -> dict[str, ClusterSettings]:
        """Every cluster by its name; the only one, when its keys stand at the top, is `default`."""
        if self.clusters:
            return self.clusters
        assert self.contexts is not None, "checked"
        return {
            DEFAULT_CLUSTER: ClusterSettings(
                contexts=self.contexts, templates=self.templates, slurm=self.slurm
            )
        }

    @property
    def usual_cluster(self) -> str | None:
        """The cluster that is meant when none is named."""
        if self.default_cluster or len(self.by_cluster) > 1:
            return self.default_cluster
        return next(iter(self.by_cluster))

    def _check_clusters(self) -> None:
        given = sorted(self.model_fields_set & set(_OF_A_CLUSTER))
        if self.clusters and given:
            raise ValueError(f"with clusters, {', '.join(given)} stand below clusters.NAME")
        if not self.clusters and self.contexts is None:
            raise ValueError("contexts: is missing, and so is clusters")
        if self.slurm.transport is Transport.SSH:
            raise ValueError(
                "slurm.transport: a cluster that is reached by ssh stands below clusters.NAME"
            )
        if self.default_cluster is not None and self.default_cluster not in self.clusters:
            raise ValueError(f"default_cluster names no cluster: {self.default_cluster!r}")

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        self._check_clusters()
        for name, store in self.stores.items():
            if store.write and name not in self.store_folders:
                raise ValueError(
                    f"stores.{name}.write: outputs are carried to folders alone, for now"
                )
        if self.default_destination is not None:
            name, separator, path = self.default_destination.partition(":")
            if not separator:
                raise ValueError("default_destination is not of the form store:path")
            check_relative_path(path)
            if name not in self.stores or not self.stores[name].write:
                raise ValueError(f"default_destination names no writable store: {name!r}")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables win over the file."""
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))


def config_file(explicit: Path | None) -> Path:
    """The file that is read: the given one, else SLURMBRIDGE_CONFIG, else the system's."""
    if explicit is not None:
        return explicit
    named = os.environ.get(FILE_VARIABLE)
    return Path(named) if named else SYSTEM_FILE


def load(explicit: Path | None = None) -> Settings:
    """Read the configuration.

    Raises:
        ConfigurationError: with every mistake in one sentence each.
    """
    path = config_file(explicit)
    if not path.is_file():
        raise ConfigurationError(
            f"the configuration file {path} does not exist; name one with --config "
            f"or {FILE_VARIABLE}"
        )
    # The variable that names the file shares the prefix but is no setting.
    bound = type("BoundSettings", (Settings,), {"model_config": {"toml_file": path}})
    try:
        settings: Settings = bound()
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {_sentences(error)}") from None
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from None
    return settings


def _sentences(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(part) for part in _key(detail['loc']))}: {detail['msg']}"
        for detail in error.errors(include_url=False)
    )


def _key(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Without the kind of a store, which pydantic puts behind its name."""
    if location[:1] == ("stores",):
        return location[:2] + location[3:]
    return location


def origins(settings: Settings, path: Path) -> list[tuple[str, Any, str]]:
    """(key, value, where it comes from) for every setting, nested keys with dots."""
    import tomllib

    file_values = _flat(tomllib.loads(path.read_text()))
    found = []
    for key, value in _flat(settings.model_dump(mode="json")).items():
        variable = PREFIX + key.upper().replace(".", "__")
        origin = (
            variable if variable in os.environ else str(path) if key in file_values else "default"
        )
        found.append((key, value, origin))
    return found


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
