"""Unpacking an archive that somebody else has made: plain files alone, and no more than allowed.

Nothing that stands in it is believed: neither sizes nor names nor kinds.
"""

import gzip
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from slurmbridge.context.tree import (
    DEPTH_LIMIT,
    MEAN_PATH_LIMIT,
    PATH_BYTES_LIMIT,
    Bounds,
    TooMuch,
    printable,
)
from slurmbridge.shell import NotPlain
from slurmbridge.spec import ARCHIVES

_CHUNK = 1 << 20
# Names of more than a path, and attributes that nobody reads, are read into memory whole.
_HEADER_BYTES = 64 * 1024
_EXTENDED = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
             tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}  # fmt: skip
# So is the list of a zip file (PKWARE's APPNOTE.TXT, 4.3.12 to 4.3.16).
_LIST_BYTES = 16 * 1024 * 1024
_END, _END_BYTES, _COMMENT_BYTES = b"PK\x05\x06", 22, 65_535
_LOCATOR, _LOCATOR_BYTES = b"PK\x06\x07", 20
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED = 0x1
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile,
            NotImplementedError, UnicodeError, ValueError, OverflowError)  # fmt: skip


class _Content(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Member:
    """What an archive says that it holds."""

    name: str
    is_folder: bool
    executable: bool
    # None: of a folder.
    content: _Content | None


def unpack(archive: Path, name: str, target: Path, bounds: Bounds) -> None:
    """Unpack to the new folder `target` of this host; `name` says of what kind it is.

    What was made before an error stays for the caller to remove.

    Raises:
        NotPlain: it holds something else than files and folders with plain names, is damaged, or
            is of another kind than its name says.
        TooMuch
        OSError
    """
    target.mkdir(mode=0o700)
    writer = _Writer(target, bounds)
    try:
        with archive.open("rb") as file:
            members = _of_zip(file) if name.endswith(".zip") else _of_tar(file, name)
            with closing(members):
                for member in members:
                    writer.add(member)
    except (NotPlain, TooMuch):
        raise
    except _DAMAGED as error:
        raise NotPlain(f"it is damaged, or no {_kind(name)} file: {error}") from None


def _kind(name: str) -> str:
    return next(suffix for suffix in ARCHIVES if name.endswith(suffix))


class _Writer:
    """What was unpacked so far."""

    def __init__(self, target: Path, bounds: Bounds) -> None:
        self._target = target
        self._bounds = bounds
        self._bytes = self._members = self._letters = 0

    def add(self, member: _Member) -> None:
        """Unpack one member."""
        self._members += 1
        # Folders may be named, too.
        if self._members > 2 * self._bounds.files:
            raise TooMuch(f"more than the {self._bounds.files} files that are allowed")
        path = _plain_path(member.name)
        if path is None:
            return
        self._letters += len(member.name)
        if self._letters > (most := 2 * self._bounds.files * MEAN_PATH_LIMIT):
            raise TooMuch(f"paths of more than the {most} letters that are allowed together")
        place = self._target / path
        try:
            if member.is_folder:
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
                return
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write(place, member)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise NotPlain(f"it holds {printable(member.name)} twice") from None

    def _write(self, place: Path, member: _Member) -> None:
        assert member.content is not None
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        mode = 0o700 if member.executable else 0o600
        with os.fdopen(os.open(place, flags, mode), "wb") as file:
            while data := member.content.read(_CHUNK):
                self._bytes += len(data)
                if self._bytes > self._bounds.bytes:
                    raise TooMuch(f"more than the {self._bounds.bytes} bytes that are allowed")
                file.write(data)


def _plain_path(name: str) -> PurePosixPath | None:
    """Where a member lies; None: it is the archive's own folder."""
    shown = printable(name)
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise NotPlain(f"the name {shown} is not UTF-8") from None
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
        raise NotPlain(f"it holds {shown}, which would lie elsewhere")
    if size > PATH_BYTES_LIMIT or len(parts) > DEPTH_LIMIT:
        raise NotPlain(f"the path {shown[:80]}... is too long")
    if any(len(part.encode()) > 255 for part in parts):
        raise NotPlain(f"the name {shown[:80]}... is too long")
    return PurePosixPath(*parts) if parts else None


# --- tar ---


class _Header(tarfile.TarInfo):
    """A header that brings no more than a name into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        """See TarInfo.frombuf."""
        found = super().frombuf(buf, encoding, errors)
        if found.type in _EXTENDED and found.size > _HEADER_BYTES:
            raise TooMuch(f"a name or attribute of {found.size} bytes")
        return found


def _of_tar(file: BinaryIO, name: str) -> Generator[_Member]:
    plain = name.endswith(".tar")
    source: BinaryIO = file if plain else gzip.GzipFile(fileobj=file)  # type: ignore[assignment]
    with tarfile.open(fileobj=source, mode="r|", tarinfo=_Header, errors="surrogateescape") as tar:
        for entry in tar:
            # It would remember all of them.
            tar.members = []  # type: ignore[attr-defined]
            if entry.isdir():
                yield _Member(entry.name, True, False, None)
                continue
            if not entry.isreg() or entry.issparse():
                raise NotPlain(f"it holds {printable(entry.name)}, which is not a plain file")
            content = tar.extractfile(entry)
            assert content is not None
            yield _Member(entry.name, False, bool(entry.mode & 0o100), content)


# --- zip ---


def _of_zip(file: BinaryIO) -> Generator[_Member]:
    _check_list(file)
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            _check_entry(entry)
            if entry.is_dir():
                yield _Member(entry.filename, True, False, None)
                continue
            with archive.open(entry) as content:
                executable = bool(entry.external_attr >> 16 & 0o100)
                yield _Member(entry.filename, False, executable, content)


def _check_entry(entry: zipfile.ZipInfo) -> None:
    shown = printable(entry.filename)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in {0, stat.S_IFDIR if entry.is_dir() else stat.S_IFREG}:
        raise NotPlain(f"it holds {shown}, which is not a plain file")
    if entry.filename != entry.orig_filename:
        raise NotPlain(f"the name {shown} holds a NUL character or a backslash")
    if entry.flag_bits & _ENCRYPTED:
        raise NotPlain(f"{shown} is encrypted")
    if entry.compress_type not in _METHODS:
        raise NotPlain(f"{shown} is compressed in another way than deflate")


def _check_list(file: BinaryIO) -> None:
    """Zipfile reads the whole list into memory, however long it says that it is."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - _END_BYTES - _COMMENT_BYTES - _LOCATOR_BYTES)
    file.seek(start)
    tail = file.read()
    # As zipfile finds it: at the very end without a comment, else the last that there is.
    found = len(tail) - _END_BYTES
    if found < 0 or tail[found : found + 4] != _END or tail[-2:] != b"\0\0":
        found = tail.rfind(_END)
    if found < 0 or len(tail) - found < _END_BYTES:
        raise NotPlain("it is damaged, or no .zip file")
    locator = found - _LOCATOR_BYTES
    if locator >= 0 and tail[locator : locator + 4] == _LOCATOR:
        raise NotPlain("it is a zip file of the larger kind (ZIP64); pack it as .tar.gz")
    if int.from_bytes(tail[found + 12 : found + 16], "little") > _LIST_BYTES:
        raise TooMuch("a list of more files than are taken in a zip file")
    file.seek(0)
