"""A bucket of an S3 server as a store. The only home of botocore.

Keys are paths. A folder is what keys begin with, or an empty object whose key ends with `/`.
"""

import errno
import logging
import os
import secrets
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, NoReturn

import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    ConnectTimeoutError,
    HTTPClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
    SSLError,
)

from slurmbridge.errors import (
    StoreAnswerUnreadable,
    StoreChanged,
    StoreFailed,
    StoreRefused,
    StoreUnavailable,
)
from slurmbridge.shell import Kind, NotPlain
from slurmbridge.stores.paths import check_names, check_path, of, split
from slurmbridge.stores.s3_upload import PartedUpload
from slurmbridge.stores.secrets import read_access_key
from slurmbridge.stores.settings import S3Settings
from slurmbridge.stores.statuses import error_of
from slurmbridge.stores.store import Source, StoreEntry, Target

_PAGE = 1000
# What the environment and the files of a user's home would set.
_FROM_OUTSIDE = (
    "profile", "config_file", "credentials_file", "ca_bundle", "region", "data_path",
    "use_fips_endpoint", "use_dualstack_endpoint", "endpoint_url", "sigv4a_signing_region_set",
)  # fmt: skip
_MARK = "slurmbridge-writer"
# It would log headers, and among them session tokens.
logging.getLogger("botocore").setLevel(logging.INFO)


def open_s3(name: str, settings: S3Settings) -> "S3Store":
    """A store as configured. Nothing is connected yet.

    Raises:
        ConfigurationError: the secret file cannot be used.
    """
    key, secret, token = read_access_key(settings.access_key_file)
    unset: dict[str, Any] = {word: (None, None, None, None) for word in _FROM_OUTSIDE}
    unset |= {word: (None, None, os.devnull, None) for word in ("config_file", "credentials_file")}
    session = botocore.session.Session(session_vars=unset)
    authorities = str(settings.ca_file) if settings.ca_file else _system_authorities()
    client = session.create_client(
        "s3",
        region_name=settings.region,
        endpoint_url=settings.endpoint,
        verify=authorities or True,
        aws_access_key_id=key.get_secret_value(),
        aws_secret_access_key=secret.get_secret_value(),
        aws_session_token=token.get_secret_value() if token else None,
        config=_config(settings),
    )
    # They would ask another host where the answer says so.
    for event in ("needs-retry.s3", "before-parameter-build.s3", "before-endpoint-resolution.s3"):
        with suppress(KeyError, ValueError):
            client.meta.events.unregister(event, unique_id="s3_redirector")
    return S3Store(name, client, settings)


def _system_authorities() -> str | None:
    return ssl.get_default_verify_paths().cafile


def _config(settings: S3Settings) -> Config:
    words: dict[str, Any] = {"ignore_configured_endpoint_urls": True}
    return Config(
        connect_timeout=settings.timeout_seconds,
        read_timeout=settings.timeout_seconds,
        max_pool_connections=settings.parallel,
        # An empty one: otherwise those of the environment would be used.
        proxies={},
        # Who calls decides about trying again; otherwise a write could be found done by itself.
        retries={"total_max_attempts": 1, "mode": "standard"},
        # Servers other than Amazon's do not all know the newer checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": settings.addressing},
        user_agent="slurmbridge",
        # Its stubs do not know all of it.
        **words,
    )


class S3Store:
    """A bucket, or what lies in it below a prefix."""

    def __init__(self, name: str, client: Any, settings: S3Settings) -> None:
        self._name = name
        self._client = client
        self._settings = settings
        self._prefix = f"{settings.prefix}/" if settings.prefix else ""

    @property
    def name(self) -> str:
        """See DataStore."""
        return self._name

    def look(self, path: str) -> StoreEntry:
        """See DataStore."""
        if check_path(path, root=True):
            with suppress(FileNotFoundError):
                return self._head(path)
            if not any(self._names(path, 1)):
                raise _os_error(errno.ENOENT, self._name, path)
        return _folder(split(path)[1])

    def _head(self, path: str) -> StoreEntry:
        told = self._ask("head_object", path, Key=self._key(path))
        return _file(split(path)[1], told["ContentLength"], told)

    def list(self, path: str, limit: int | None = None) -> Sequence[StoreEntry]:
        """See DataStore."""
        check_path(path, root=True)
        raw = list(islice(self._names(path, limit), None if limit is None else limit + 2))
        if path and not raw:
            with suppress(FileNotFoundError):
                self._head(path)
                raise _os_error(errno.ENOTDIR, self._name, path)
            raise _os_error(errno.ENOENT, self._name, path)
        # The folder itself, where an object stands for it.
        found = [entry for entry in raw if entry is not _ITSELF]
        check_names(self._name, path, (entry.name for entry in found))
        found = found if limit is None else found[: limit + 1]
        return sorted(found, key=lambda entry: entry.name)

    def _names(self, path: str, limit: int | None) -> Iterator[StoreEntry]:
        """What a folder holds, page by page."""
        prefix = f"{self._key(path)}/" if path else self._prefix
        most = _PAGE if limit is None else min(_PAGE, limit + 2)
        more: dict[str, str] = {}
        while True:
            told = self._ask(
                "list_objects_v2", path, Prefix=prefix, Delimiter="/", MaxKeys=most, **more
            )
            keys = [(one["Key"], one) for one in told.get("Contents", ())]
            keys += [(one["Prefix"], None) for one in told.get("CommonPrefixes", ())]
            for key, one in sorted(keys, key=lambda pair: pair[0]):
                if not key.startswith(prefix):
                    raise self._unreadable(path, "the list is about what is not in the folder")
                rest = key[len(prefix) :]
                if one is None:
                    yield _folder(rest[:-1])
                elif not rest:
                    yield _ITSELF
                else:
                    yield _file(rest, one["Size"], one)
            if not told.get("IsTruncated"):
                return
            token = told.get("NextContinuationToken")
            if not token or token == more.get("ContinuationToken"):
                raise self._unreadable(path, "the list says that it goes on, and not how")
            more = {"ContinuationToken": token}

    @contextmanager
    def open(self, path: str, offset: int = 0, version: str | None = None) -> Iterator[Source]:
        """See DataStore."""
        asked: dict[str, str] = {"Key": self._key(check_path(path))}
        if offset:
            asked["Range"] = f"bytes={offset}-"
        if version is not None:
            asked["IfMatch"] = version
        told = self._get(path, asked, offset, version)
        if told is None:
            yield _Body(None, self, path)
            return
        try:
            status = told["ResponseMetadata"]["HTTPStatusCode"]
            if offset and status != 206:
                what = of(self._name, path)
                raise StoreFailed(f"{what}: the server ignores Range, and sends all from the start")
            if offset and not str(told.get("ContentRange", "")).startswith(f"bytes {offset}-"):
                raise self._unreadable(path, "it is another part than was asked for")
            # Not all servers know If-Match.
            if version not in {None, told.get("ETag")}:
                raise self._changed(path)
            yield _Body(told["Body"], self, path)
        finally:
            told["Body"].close()

    def _get(
        self, path: str, asked: dict[str, str], offset: int, version: str | None
    ) -> dict[str, Any] | None:
        """The answer; None when nothing is left to be read."""
        try:
            return self._call("get_object", **asked)
        except ClientError as error:
            status = _status(error)
            if status == 412:
                raise self._changed(path) from error
            if status == 416:
                found = self._head(path)
                if found.size_bytes == offset and version in {None, found.version}:
                    return None
                raise self._changed(path) from error
            if status == 404 and self._is_folder(path):
                raise NotPlain(f"{self._name}:{path} is not a plain file") from error
            self.raise_for(error, path)
        except (BotoCoreError, HTTPClientError) as error:
            self.raise_for(error, path)

    def _is_folder(self, path: str) -> bool:
        with suppress(FileNotFoundError):
            return self.look(path).kind is Kind.FOLDER
        return False

    @contextmanager
    def create(self, path: str, size: int | None = None) -> Iterator[Target]:
        """See DataStore. Up to one part is sent at once, more in parts that are put together."""
        key = self._key(check_path(path))
        with suppress(FileNotFoundError):
            # Not all servers know If-None-Match.
            self.look(path)
            raise _os_error(errno.EEXIST, self._name, path)
        mark = secrets.token_hex(16)
        upload = PartedUpload(
            lambda call, **words: self._ask(call, path, Key=key, **words),
            {_MARK: mark},
            self._settings.part_mib,
        )
        try:
            yield upload
            if size not in {None, upload.written}:
                raise StoreFailed(
                    f"{of(self._name, path)}: {upload.written} bytes came instead of {size}"
                )
            try:
                upload.finish()
            except (StoreUnavailable, FileExistsError, FileNotFoundError):
                # What got no answer may have been done; the mark tells whose it is.
                if not self._is_ours(key, path, mark):
                    raise
        except BaseException:
            with suppress(OSError, StoreFailed):
                upload.abort()
            raise

    def _is_ours(self, key: str, path: str, mark: str) -> bool:
        with suppress(OSError, StoreFailed):
            told = self._ask("head_object", path, Key=key)
            return bool(told.get("Metadata", {}).get(_MARK) == mark)
        return False

    def make_folder(self, path: str) -> None:
        """See DataStore. Only an empty folder needs an object to be there."""
        if not check_path(path, root=True):
            return
        parts = path.split("/")
        for end in range(len(parts)):
            above = "/".join(parts[: end + 1])
            with suppress(FileNotFoundError):
                self._head(above)
                raise _os_error(errno.EEXIST, self._name, above)
        self._ask("put_object", path, Key=f"{self._key(path)}/", Body=b"")

    def remove(self, path: str) -> None:
        """See DataStore."""
        key = self._key(check_path(path))
        if self.look(path).kind is Kind.FOLDER:
            if self.list(path, 0):
                raise StoreFailed(f"{of(self._name, path)}: the folder is not empty")
            key = f"{key}/"
        self._ask("delete_object", path, Key=key)

    def check(self) -> None:
        """See DataStore."""
        try:
            self._ask("list_objects_v2", "", Prefix=self._prefix, MaxKeys=1)
        except FileNotFoundError as error:
            raise StoreFailed(f"store {self._name}: there is no such bucket") from error

    def close(self) -> None:
        """See DataStore."""
        self._client.close()

    def raise_for(self, error: Exception, path: str) -> NoReturn:
        """Raise what an error of botocore means. Its own words can be the server's."""
        what = of(self._name, path)
        if isinstance(error, ClientError):
            raise self._refusal(error, path) from None
        if isinstance(error, ReadTimeoutError | ConnectTimeoutError):
            seconds = self._settings.timeout_seconds
            raise StoreUnavailable(f"{what}: no answer within {seconds:g} s") from None
        if isinstance(error, IncompleteReadError | ResponseStreamingError):
            raise StoreUnavailable(f"{what}: the connection broke in the middle") from None
        if isinstance(error, SSLError):
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise StoreRefused(f"{what}: the server's certificate is not accepted") from None
            raise StoreUnavailable(f"{what}: TLS failed") from None
        if isinstance(error, HTTPClientError | ConnectionError):
            raise StoreUnavailable(f"{what}: the server cannot be reached, or broke off") from None
        raise StoreAnswerUnreadable(f"{what}: the answer cannot be used") from None

    def _refusal(self, error: ClientError, path: str) -> Exception:
        status = _status(error)
        code = error.response.get("Error", {}).get("Code")
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        if status == 412:
            return _os_error(errno.EEXIST, self._name, path)
        if code == "NoSuchBucket":
            bucket = self._settings.bucket
            return StoreFailed(f"store {self._name}: there is no bucket {bucket}")
        if status == 409 or code in {"SlowDown", "RequestTimeout", "InternalError"}:
            status = 503
        if 200 <= status < 300 or not 100 <= status < 600:
            # S3 may begin with a success, and find an error while it puts parts together.
            status = 500
        return error_of(status, headers, self._name, path, str(self._settings.access_key_file))

    def _ask(self, call: str, path: str, **words: Any) -> dict[str, Any]:
        try:
            return self._call(call, **words)
        except (ClientError, BotoCoreError, HTTPClientError) as error:
            self.raise_for(error, path)

    def _call(self, call: str, **words: Any) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(self._client, call)(Bucket=self._settings.bucket, **words)
        return answer

    def _key(self, path: str) -> str:
        return self._prefix + path

    def _changed(self, path: str) -> StoreChanged:
        return StoreChanged(f"{of(self._name, path)}: it changed since it was looked at")

    def _unreadable(self, path: str, why: str) -> StoreAnswerUnreadable:
        return StoreAnswerUnreadable(f"{of(self._name, path)}: the answer cannot be used: {why}")


class _Body:
    def __init__(self, stream: Any, store: S3Store, path: str) -> None:
        self._stream = stream
        self._store = store
        self._path = path

    def read(self, size: int, /) -> bytes:
        """See Source."""
        if self._stream is None or size <= 0:
            return b""
        try:
            data: bytes = self._stream.read(size)
        except (BotoCoreError, HTTPClientError) as error:
            self._store.raise_for(error, self._path)
        return data


_ITSELF = StoreEntry("", Kind.FOLDER, 0, 0o750, 1, 0.0)


def _folder(name: str) -> StoreEntry:
    return StoreEntry(name, Kind.FOLDER, 0, 0o750, 1, 0.0)


def _file(name: str, size: int, told: dict[str, Any]) -> StoreEntry:
    modified = told["LastModified"].timestamp() if "LastModified" in told else 0.0
    return StoreEntry(name, Kind.FILE, size, 0o640, 1, modified, version=told.get("ETag", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _os_error(number: int, store: str, path: str) -> OSError:
    return OSError(number, os.strerror(number), f"{store}:{path}")
