"""Which image files are trusted: adding them by digest, verifying them, and revoking them."""

import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from slurmbridge.container.sif import SifReader, file_sha256
from slurmbridge.errors import ImageRefused, RequestError
from slurmbridge.model import Image

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ImageRecords(Protocol):
    """Where images are recorded."""

    def record(self, image: Image) -> None:
        """Record an image. Raises ImageRefused: it is revoked."""

    def note_signed(self, sha256: str, signed: bool) -> None:
        """Record what was found of a signature."""

    def revoke(self, sha256: str, *, by: str, reason: str, now: datetime) -> bool:
        """End an image for good; whether it was not before."""

    def built_from(self, name: str, definition_sha256: str) -> Image | None:
        """The latest image of this name that was built from this definition."""

    def with_digest(self, sha256: str) -> Image | None:
        """The image that is this file."""

    def latest(self) -> dict[str, Image]:
        """The latest image of each name."""


@dataclass(frozen=True, slots=True)
class SignatureRule:
    """Whose signatures count, and whether what was not built here needs one."""

    key: Path | None = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Added:
    """What `add` came to."""

    image: Image
    # False: it was recorded, and the one that runs, already.
    changed: bool
    # What ran under this name until then.
    before: Image | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with an image; nothing, if all is well."""

    image: Image
    signed: bool
    problems: tuple[str, ...]


def revocation_marker(path: str | Path) -> Path:
    """The file beside a revoked image. Nodes look for it: they do not see the database."""
    return Path(f"{path}.revoked")


def final_path(images: Path, name: str, sha256: str) -> Path:
    """Where an image lies."""
    return images / f"{name}-{sha256[:16]}.sif"


def is_intact(path: Path, sha256: str) -> bool:
    """Whether the file is there and is the one of this digest."""
    return path.is_file() and file_sha256(path) == sha256


def refuse_revoked(recorded: Image | None, path: Path) -> None:
    """Raise ImageRefused when this file was revoked, by the record or by the file beside it."""
    if recorded is not None and recorded.revoked_at is not None:
        when = recorded.revoked_at.isoformat(" ", "seconds")
        raise ImageRefused(f"{recorded.sha256} was revoked at {when}: {recorded.revoked_reason}")
    if revocation_marker(path).exists():
        raise ImageRefused(f"{path.name} is marked as revoked")


class ImageKeeper:
    """Decides which image files are trusted, in the name of one administrator."""

    def __init__(
        self,
        records: ImageRecords,
        sif: SifReader,
        rule: SignatureRule,
        *,
        images: Path,
        user: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._records = records
        self._sif = sif
        self._rule = rule
        self._images = images
        self._user = user
        self._clock = clock

    def add(self, name: str, file: Path, *, sha256: str, remark: str | None) -> Added:
        """Copy a file into the images folder and record it; from then on its name runs it.

        Raises:
            RequestError: the name or the digest is none.
            ImageRefused: it is another file, no image, revoked, or not signed as required.
        """
        sha256 = sha256.lower()
        _check(name, sha256)
        remark = None if remark is None else _text(remark, "the remark")
        recorded = self._records.with_digest(sha256)
        if recorded is not None and recorded.name != name:
            raise ImageRefused(f"this file is recorded already, as {recorded.name}")
        final = final_path(self._images, name, sha256)
        refuse_revoked(recorded, final)
        try:
            image = self._bring_in(file, final, name, sha256, recorded)
        except OSError as error:
            raise ImageRefused(f"{file} cannot be copied: {error.strerror}") from error
        return self._record(image, recorded, remark)

    def _bring_in(
        self, file: Path, final: Path, name: str, sha256: str, recorded: Image | None
    ) -> Image:
        if not file.is_file():
            raise ImageRefused(f"{file} is not a file")
        with tempfile.TemporaryDirectory(prefix=".add-", dir=self._images) as folder:
            copy = Path(folder) / final.name
            shutil.copyfile(file, copy)
            # Of the copy, which nobody else can change any more.
            if (found := file_sha256(copy)) != sha256:
                raise ImageRefused(f"{file} has the SHA-256 {found}, not the one that was given")
            offset = self._sif.squashfs_offset(copy)
            image = Image(
                name=name,
                sha256=sha256,
                path=str(final),
                size_bytes=copy.stat().st_size,
                squashfs_offset=offset,
                labels=self._sif.labels(copy),
                signed=self._is_signed(copy, recorded),
                environment=self._sif.environment(copy),
                built_at=self._clock(),
                added_by=self._user,
            )
            # What is intact may be open on nodes, and stays the file that it is.
            if not is_intact(final, sha256):
                copy.chmod(0o440)
                copy.rename(final)
        return image

    def _is_signed(self, copy: Path, recorded: Image | None) -> bool:
        if self._rule.key is None:
            return False
        problem = self._sif.signature_problem(copy, self._rule.key)
        built_here = recorded is not None and recorded.definition_sha256 is not None
        if problem and self._rule.required and not built_here:
            raise ImageRefused(f"{copy.name} is not signed as required: {problem}")
        return problem is None

    def _record(self, image: Image, recorded: Image | None, remark: str | None) -> Added:
        before = self._records.latest().get(image.name)
        update: dict[str, Any] = {} if remark is None else {"remark": remark}
        if recorded is not None:
            # Where it is from stays as it was; only a return to it is a new decision.
            new = {"path", "signed", "environment"}
            if before is None or before.sha256 != image.sha256:
                new |= {"built_at", "added_by"}
            update |= {name: getattr(image, name) for name in new}
        final = (recorded or image).model_copy(update=update)
        if final != recorded:
            self._records.record(final)
        return Added(final, final != recorded, before)

    def verify(self, image: Image) -> Verdict:
        """Compare the file with the record, and look at its signature if a key is configured.

        What is found of the signature is recorded: the key may be another than it was.
        """
        problems = []
        signed = image.signed
        try:
            if not is_intact(Path(image.path), image.sha256):
                missing = not Path(image.path).is_file()
                problems.append("the file is " + ("missing" if missing else "not the recorded one"))
            elif self._rule.key is not None:
                problem = self._sif.signature_problem(Path(image.path), self._rule.key)
                signed = problem is None
                if problem and self._rule.required and image.definition_sha256 is None:
                    problems.append(f"not signed as required: {problem}")
        except OSError as error:
            problems.append(f"the file cannot be read: {error.strerror}")
        if signed != image.signed:
            self._records.note_signed(image.sha256, signed)
        if image.revoked_at is not None:
            problems.append(f"revoked: {image.revoked_reason}")
        elif revocation_marker(image.path).exists():
            problems.append("marked as revoked, and not recorded so: revoke it again")
        return Verdict(image, signed, tuple(problems))

    def revoke(self, image: Image, *, reason: str) -> bool:
        """End an image for good. False when it was revoked already: then nothing changes.

        Raises:
            ImageRefused: it is revoked, but jobs that wait in Slurm are not told.
        """
        reason = _text(reason, "the reason")
        problem = None
        try:
            # First: when this is all that is done, nodes refuse and nothing runs.
            _mark(image.path, image.revoked_reason or reason)
        except OSError as error:
            problem = f"{revocation_marker(image.path)} cannot be written: {error.strerror}"
        fresh = self._records.revoke(image.sha256, by=self._user, reason=reason, now=self._clock())
        if problem:
            raise ImageRefused(
                f"{image.name} {image.sha256[:12]} is revoked, but {problem}; jobs that Slurm "
                "has already may start with it: mend this and revoke it again"
            )
        return fresh


def _mark(path: str, reason: str) -> None:
    marker = revocation_marker(path)
    if marker.exists():
        return
    fresh = marker.with_name(f".{marker.name}")
    fresh.write_text(f"{reason}\n", encoding="utf-8")
    fresh.chmod(0o440)
    fresh.replace(marker)


def _check(name: str, sha256: str) -> None:
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"{name!r} is no name of an image: 1 to 64 small letters, digits and . _ -, "
            "a letter or digit first"
        )
    if not _SHA256.fullmatch(sha256):
        raise RequestError("the SHA-256 has to be given whole: 64 hexadecimal digits")


def _text(text: str, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(f"{what} is not valid UTF-8") from None
    if not text.strip() or "\0" in text:
        raise RequestError(f"{what} is empty, or holds a NUL character")
    return text.strip()
