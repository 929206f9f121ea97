"""How a Data Store is configured, and what is wrong with it."""

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from slurmbridge.values import AbsolutePath, PlainFolder

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def _web(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("is no address of the form https://host/path") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a user; that one and its password have keys of their own")
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise ValueError("is no address of the form https://host/path")
    if parts.query or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("holds a query, a fragment, or what has to be written with %")
    return url


Web = Annotated[str, AfterValidator(_web)]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:_-]{0,252}$")]
User = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")]


class StoreSection(BaseModel):
    """What all stores have."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    read: bool = True
    write: bool = False
    # For each answer, and for each part of a long transfer.
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0
    # How many files at a time.
    parallel: Annotated[int, Field(ge=1, le=64)] = 4


class FolderSettings(StoreSection):
    """A folder of this host, or of a shared file system."""

    kind: Literal["folder"] = "folder"
    folder: PlainFolder


class _WebSection(StoreSection):
    # A file with the certificates of the authorities that count. None: those of the system.
    ca_file: AbsolutePath | None = None
    # Whether a host other than this one may be spoken to without TLS.
    plain_http: bool = False

    def _check_tls(self, url: str) -> None:
        parts = urlsplit(url)
        plain = parts.scheme == "http"
        if plain and not self.plain_http and parts.hostname not in _LOOPBACK:
            raise ValueError(f"{url} is not encrypted; where that is meant, set plain_http")
        if plain and self.ca_file:
            raise ValueError("ca_file is of no use without https")


class WebDavSettings(_WebSection):
    """A folder of a WebDAV server, such as Nextcloud, ownCloud or Apache."""

    kind: Literal["webdav"]
    url: Web
    user: (
        Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^:\x00-\x1f\x7f]+$")] | None
    ) = None
    password_file: AbsolutePath | None = None
    token_file: AbsolutePath | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "WebDavSettings":
        self._check_tls(self.url)
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user and password_file belong together")
        if self.user is not None and self.token_file is not None:
            raise ValueError("there is a user, and a token_file as well: which is it?")
        return self


class S3Settings(_WebSection):
    """A bucket of an S3 server, or what lies in it below `prefix`."""

    kind: Literal["s3"]
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    prefix: str = ""
    # None: Amazon's, of the region.
    endpoint: Web | None = None
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] = "us-east-1"
    # As ~/.aws/credentials, with one section.
    access_key_file: AbsolutePath
    # Whether the bucket is part of the path or of the host's name.
    addressing: Literal["path", "virtual"] = "path"
    # What is sent at a time; of a larger file, in up to 10,000 parts.
    part_mib: Annotated[int, Field(ge=5, le=64)] = 8

    @model_validator(mode="after")
    def _consistent(self) -> "S3Settings":
        if self.endpoint:
            self._check_tls(self.endpoint)
        parts = self.prefix.split("/") if self.prefix else []
        if any(part in {"", ".", ".."} or not part.isprintable() for part in parts):
            raise ValueError("prefix is a relative path, without '/' at its ends")
        return self


class SftpSettings(StoreSection):
    """A folder of a host that is reached by ssh."""

    kind: Literal["sftp"]
    host: Host
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    user: User
    key: AbsolutePath
    known_hosts: AbsolutePath
    folder: AbsolutePath


def _kind(value: Any) -> Any:
    if isinstance(value, dict):
        return value.get("kind", "folder")
    return getattr(value, "kind", None)


StoreSettings = Annotated[
    Annotated[FolderSettings, Tag("folder")]
    | Annotated[WebDavSettings, Tag("webdav")]
    | Annotated[S3Settings, Tag("s3")]
    | Annotated[SftpSettings, Tag("sftp")],
    Discriminator(_kind),
]
