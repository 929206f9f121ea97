"""A folder of a WebDAV server as a store (RFC 4918)."""

import base64
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

from slurmbridge.errors import (
    StoreAnswerUnreadable,
    StoreChanged,
    StoreFailed,
    StoreRefused,
    StoreUnavailable,
)
from slurmbridge.shell import Kind, NotPlain
from slurmbridge.stores import multistatus
from slurmbridge.stores.http import Answer, HttpServer, HttpTarget, tls_context
from slurmbridge.stores.multistatus import Found, Unreadable
from slurmbridge.stores.paths import check_names, check_path, join, of, partial_name, split
from slurmbridge.stores.secrets import read_line
from slurmbridge.stores.settings import WebDavSettings
from slurmbridge.stores.statuses import error_of, in_words
from slurmbridge.stores.store import Source, StoreEntry, Target

_CHUNK = 64 * 1024


def open_webdav(name: str, settings: WebDavSettings) -> "WebDavStore":
    """A store as configured. Nothing is connected yet.

    Raises:
        ConfigurationError: a secret file or ca_file cannot be used.
    """
    authorization = None
    secret_file = settings.password_file or settings.token_file
    if settings.password_file:
        password = read_line(settings.password_file).get_secret_value()
        both = f"{settings.user}:{password}".encode()
        authorization = SecretStr(f"Basic {base64.b64encode(both).decode()}")
    elif settings.token_file:
        authorization = SecretStr(f"Bearer {read_line(settings.token_file).get_secret_value()}")
    target = HttpTarget(
        name,
        settings.url,
        settings.timeout_seconds,
        settings.parallel,
        tls_context(settings.ca_file) if settings.url.startswith("https:") else None,
        authorization,
    )
    return WebDavStore(target, str(secret_file) if secret_file else None)


class WebDavStore:
    """A folder of a server. `credential` is the file from which it was read, for sentences."""

    def __init__(self, target: HttpTarget, credential: str | None) -> None:
        self._server = HttpServer(target)
        self._name = target.store
        self._credential = credential
        parts = urlsplit(target.url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._base = multistatus.parts_of(parts.path or "/")

    @property
    def name(self) -> str:
        """See DataStore."""
        return self._name

    def look(self, path: str) -> StoreEntry:
        """See DataStore."""
        check_path(path, root=True)
        try:
            with self._propfind(path, "0", folder=not path) as found:
                entries = list(islice(found, 2))
        except _BadRequest:
            # Apache says so of what would be below a file.
            above = split(path)[0]
            if not above or self.look(above).kind is Kind.FOLDER:
                raise
            raise error_of(404, {}, self._name, path, None) from None
        if len(entries) != 1:
            raise self._unreadable(path, "it is about more or less than one resource")
        return self._named(path, self._entry(path, entries[0]))

    def list(self, path: str, limit: int | None = None) -> Sequence[StoreEntry]:
        """See DataStore."""
        check_path(path, root=True)
        own = self._parts(path)
        entries = []
        try:
            with self._propfind(path, "1", folder=True) as found:
                for one in found:
                    if one.parts == own:
                        if not one.folder:
                            raise self._no_folder(path)
                        continue
                    if one.parts[:-1] != own or not one.parts:
                        raise self._unreadable(path, "it is about what is not in the folder")
                    entries.append(self._entry(path, one))
                    if limit is not None and len(entries) > limit:
                        break
        except (StoreUnavailable, StoreRefused):
            raise
        except (FileNotFoundError, StoreFailed):
            # Apache says 400 to what would be below a file.
            if path and self.look(path).kind is not Kind.FOLDER:
                raise self._no_folder(path) from None
            raise
        check_names(self._name, path, (entry.name for entry in entries))
        return sorted(entries, key=lambda entry: entry.name)

    @contextmanager
    def open(self, path: str, offset: int = 0, version: str | None = None) -> Iterator[Source]:
        """See DataStore."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._server.ask("GET", self._place(check_path(path)), path, headers) as answer:
            if answer.status == 416:
                self._must_end_at(path, offset, version)
                yield _Nothing()
                return
            if answer.status in {301, 302, 307, 308, 404, 405} and self._is_folder(path):
                raise NotPlain(f"{self._name}:{path} is not a plain file")
            if answer.status not in {200, 206}:
                raise self._error(answer.status, answer.headers, path)
            self._check_range(path, offset, answer)
            self._check_version(path, version, offset, answer)
            yield answer

    def _check_range(self, path: str, offset: int, answer: Answer) -> None:
        if not answer.framed:
            raise self._unreadable(path, "it says nowhere how long it is")
        if offset and answer.status == 200:
            raise StoreFailed(
                f"{of(self._name, path)}: the server ignores Range, and sends all from the start"
            )
        told = answer.headers.get("content-range", "")
        if answer.status == 206 and not told.startswith(f"bytes {offset}-"):
            raise self._unreadable(path, "it is another part than was asked for")

    def _check_version(self, path: str, version: str | None, offset: int, answer: Answer) -> None:
        if version is None:
            return
        tag = multistatus.bare_tag(answer.headers.get("etag", ""))
        modified = multistatus.seconds_of(answer.headers.get("last-modified", ""))
        size = offset + (answer.length or 0)
        if multistatus.version_of(tag, size, modified) != version:
            raise StoreChanged(f"{of(self._name, path)}: it changed since it was looked at")

    def _must_end_at(self, path: str, offset: int, version: str | None) -> None:
        found = self.look(path)
        if found.size_bytes != offset or version not in {None, found.version}:
            raise StoreChanged(f"{of(self._name, path)}: it does not reach to byte {offset}")

    def _is_folder(self, path: str) -> bool:
        with suppress(FileNotFoundError, StoreFailed):
            return self.look(path).kind is Kind.FOLDER
        return False

    @contextmanager
    def create(self, path: str, size: int | None = None) -> Iterator[Target]:
        """See DataStore. It is sent under another name in the same folder, and then moved."""
        folder, _ = split(check_path(path))
        partial = join(folder, partial_name())
        try:
            with self._server.send("PUT", self._place(partial), path, size) as (upload, sending):
                yield upload
                status, headers = sending.answer()
            if status not in {200, 201, 204}:
                raise self._error(404 if status == 409 else status, headers, path)
            # Some servers lose what comes in chunks (PHP behind FastCGI), and say that all is well.
            if size is None and self.look(partial).size_bytes != upload.written:
                raise StoreFailed(f"{of(self._name, path)}: the server did not keep all of it")
            self._publish(partial, path, upload.written)
        except BaseException:
            with suppress(OSError, StoreFailed):
                self._delete(partial)
            raise

    def _publish(self, partial: str, path: str, size: int) -> None:
        headers = {"Destination": self._origin + self._place(path), "Overwrite": "F"}
        try:
            with self._server.ask("MOVE", self._place(partial), path, headers) as answer:
                status, told = answer.status, answer.headers
        except StoreUnavailable:
            # Whether it was done can be seen: only this can have taken the other name away.
            if self._moved(partial, path, size):
                return
            raise
        if status == 412:
            raise self._exists(path)
        if status == 204:
            raise self._unreadable(path, "the server replaced a file, and was told not to")
        if status not in {200, 201}:
            raise self._error(404 if status == 409 else status, told, path)

    def _moved(self, partial: str, path: str, size: int) -> bool:
        try:
            self.look(partial)
        except FileNotFoundError:
            with suppress(FileNotFoundError):
                return self.look(path).size_bytes == size
        return False

    def make_folder(self, path: str) -> None:
        """See DataStore."""
        if not check_path(path, root=True):
            return
        status = self._mkcol(path)
        if status == 409:
            self.make_folder(split(path)[0])
            status = self._mkcol(path)
        if status in {200, 201}:
            return
        # Apache says 400 where a file has the name, and 403 where another was quicker.
        with suppress(FileNotFoundError):
            if status in {400, 403, 405}:
                if self.look(path).kind is Kind.FOLDER:
                    return
                raise self._exists(path)
        raise self._error(404 if status == 409 else status, {}, path)

    def _mkcol(self, path: str) -> int:
        with self._server.ask("MKCOL", self._place(path, folder=True), path, {}) as answer:
            if answer.status in {200, 201, 400, 403, 405, 409}:
                return answer.status
            if answer.status == 404:
                # Nginx says so where a folder above is missing.
                return 409
            raise self._error(answer.status, answer.headers, path)

    def remove(self, path: str) -> None:
        """See DataStore."""
        found = self.look(check_path(path))
        if found.kind is Kind.FOLDER and self.list(path, 0):
            # The server would remove what is in it, too.
            raise StoreFailed(f"{of(self._name, path)}: the folder is not empty")
        self._delete(path, folder=found.kind is Kind.FOLDER)

    def _delete(self, path: str, *, folder: bool = False) -> None:
        with self._server.ask("DELETE", self._place(path, folder=folder), path, {}) as answer:
            if answer.status not in {200, 204}:
                raise self._error(answer.status, answer.headers, path)

    def check(self) -> None:
        """See DataStore."""
        try:
            found = self.look("")
        except FileNotFoundError as error:
            raise StoreFailed(
                f"store {self._name}: {in_words(404)}: there is no such folder"
            ) from error
        if found.kind is not Kind.FOLDER:
            raise StoreFailed(f"store {self._name}: its address is a file's")

    def close(self) -> None:
        """See DataStore."""
        self._server.close()

    @contextmanager
    def _propfind(self, path: str, depth: str, *, folder: bool) -> Iterator[Iterator[Found]]:
        headers = {"Depth": depth, "Content-Type": "application/xml; charset=utf-8"}
        place = self._place(path, folder=folder)
        with self._server.ask("PROPFIND", place, path, headers, multistatus.ASKED) as answer:
            if answer.status != 207:
                if 200 <= answer.status < 300 or answer.status == 405:
                    raise StoreRefused(
                        f"{of(self._name, path)}: {answer.status}: no WebDAV is spoken there"
                    )
                error = self._error(answer.status, answer.headers, path)
                raise _BadRequest(str(error)) if answer.status == 400 else error
            try:
                yield multistatus.read(_chunks(answer))
            except Unreadable as error:
                raise self._unreadable(path, str(error)) from error

    def _entry(self, path: str, found: Found) -> StoreEntry:
        try:
            return found.entry()
        except Unreadable as error:
            raise self._unreadable(path, str(error)) from error

    def _named(self, path: str, entry: StoreEntry) -> StoreEntry:
        return StoreEntry(
            split(path)[1], entry.kind, entry.size_bytes, entry.mode, entry.names,
            entry.modified_at, version=entry.version,
        )  # fmt: skip

    def _parts(self, path: str) -> tuple[str, ...]:
        return (*self._base, *(path.split("/") if path else ()))

    def _place(self, path: str, *, folder: bool = False) -> str:
        place = "".join(
            f"/{quote(part, safe='', errors='surrogateescape')}" for part in self._parts(path)
        )
        return f"{place}/" if folder or not place else place

    def _error(self, status: int, headers: Mapping[str, str], path: str) -> Exception:
        return error_of(status, headers, self._name, path, self._credential)

    def _unreadable(self, path: str, why: str) -> StoreAnswerUnreadable:
        return StoreAnswerUnreadable(f"{of(self._name, path)}: the answer cannot be used: {why}")

    def _exists(self, path: str) -> FileExistsError:
        return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), f"{self._name}:{path}")

    def _no_folder(self, path: str) -> NotADirectoryError:
        return NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), f"{self._name}:{path}")


class _BadRequest(StoreFailed):
    """400."""


class _Nothing:
    def read(self, size: int, /) -> bytes:
        """The end is where it begins."""
        return b""


def _chunks(answer: Answer) -> Iterator[bytes]:
    while data := answer.read(_CHUNK):
        yield data
