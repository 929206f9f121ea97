"""The configuration: a TOML file, overridden by SLURMBRIDGE_* variables. Every key is checked."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from slurmbridge.errors import ConfigurationError
from slurmbridge.sections import (
    ApiSettings,
    CacheSettings,
    ClusterSettings,
    CodeSettings,
    DoctorSettings,
    ImageTrustSettings,
    LimitSettings,
    MirrorSettings,
    OutputSettings,
    RequirementsSettings,
    RetentionSettings,
    ReviewSettings,
    RunnerSettings,
    SlurmSettings,
    Transport,
)
from slurmbridge.spec import (
    ClusterName,
    TraceLevel,
    check_relative_path,
)
from slurmbridge.stores.settings import FolderSettings, StoreSettings
from slurmbridge.values import AbsolutePath, PlainFolder

PREFIX = "SLURMBRIDGE_"
FILE_VARIABLE = "SLURMBRIDGE_CONFIG"
SYSTEM_FILE = Path("/etc/slurmbridge/slurmbridge.toml")


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
    index: Annotated[str, Field(pattern=r"^https?://[^\s'@]+$")] | None = None
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
    outputs: OutputSettings = OutputSettings()
    doctor: DoctorSettings = DoctorSettings()
    image_trust: ImageTrustSettings = ImageTrustSettings()
    requirements: RequirementsSettings = RequirementsSettings()
    retention: RetentionSettings = RetentionSettings()
    cache: CacheSettings = CacheSettings()
    code: CodeSettings = CodeSettings()
    mirrors: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")], MirrorSettings] = (
        Field(default_factory=dict)
    )
    review: ReviewSettings = ReviewSettings()

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

    def _check_review(self) -> None:
        name = self.review.store
        for other, store in self.stores.items():
            if not (store.read or store.write or other == name):
                raise ValueError(
                    f"stores.{other}: neither read nor write is set: the store is of no use"
                )
        if name is None:
            if self.review.accounts is not None:
                raise ValueError("review.accounts needs review.store")
            return
        waiting = self.stores.get(name)
        if not isinstance(waiting, FolderSettings):
            raise ValueError(f"review.store names no store that is a folder: {name!r}")
        if waiting.read or waiting.write:
            raise ValueError(
                f"review.store: the store {name!r} needs read = false and write = false, so that "
                "nobody's Process reaches what waits there"
            )

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        self._check_clusters()
        self._check_review()
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
