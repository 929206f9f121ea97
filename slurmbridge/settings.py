"""The configuration: a TOML file, overridden by SLURMBRIDGE_* variables. Every key is checked."""

import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from slurmbridge.errors import ConfigurationError
from slurmbridge.model import TraceLevel, check_relative_path

PREFIX = "SLURMBRIDGE_"
FILE_VARIABLE = "SLURMBRIDGE_CONFIG"
SYSTEM_FILE = Path("/etc/slurmbridge/slurmbridge.toml")


def _plain_folder(path: Path) -> Path:
    if not re.fullmatch(r"(/[A-Za-z0-9._][A-Za-z0-9._+-]*)+", str(path)):
        raise ValueError(
            f"{str(path)!r} must be absolute, of letters, digits and ._+- only: "
            "it stands on #SBATCH lines"
        )
    return path


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"must be absolute: {str(path)!r}")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
PlainFolder = Annotated[Path, AfterValidator(_plain_folder)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Section(BaseModel):
    """A table of the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Transport(StrEnum):
    """How Slurm is reached. `auto`: pyslurm where it can be imported, else the commands."""

    AUTO = "auto"
    PYSLURM = "pyslurm"
    COMMANDS = "commands"


class StoreSettings(Section):
    """A Data Store: today a folder of the shared file system."""

    folder: PlainFolder
    read: bool = True
    write: bool = False


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
    poll_seconds: Seconds = 5.0
    capability_seconds: Seconds = 60.0
    # How long a job must be absent from the controller and from accounting to count as lost; more
    # where timeout_seconds and Slurm's MessageTimeout together ask for more.
    absence_seconds: Seconds = 120.0
    in_progress: InProgressSettings = InProgressSettings()


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


class Settings(BaseSettings):
    """Everything that can be configured."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    database: str = "sqlite:////var/lib/slurmbridge/slurmbridge.db"
    contexts: PlainFolder
    images: PlainFolder
    templates: Path | None = None
    definitions: Path | None = None
    mirror: str | None = None
    default_destination: str | None = None
    # A Process may ask for more, never for less.
    trace_minimum: TraceLevel = TraceLevel.OFF
    # What is demanded of traced programs. None: the rules that come with slurmbridge.
    trace_rules: AbsolutePath | None = None
    # An Ed25519 key (PEM, mode 600), made at a Runner's first start.
    signing_key: AbsolutePath = Path("/var/lib/slurmbridge/signing_key.pem")
    stores: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")], StoreSettings]
    api: ApiSettings = ApiSettings()
    slurm: SlurmSettings = SlurmSettings()
    runner: RunnerSettings = RunnerSettings()
    limits: LimitSettings = LimitSettings()
    doctor: DoctorSettings = DoctorSettings()
    image_trust: ImageTrustSettings = ImageTrustSettings()

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
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
        f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"
        for detail in error.errors(include_url=False)
    )


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
