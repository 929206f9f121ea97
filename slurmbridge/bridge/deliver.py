"""What a cluster needs of the bridge's own files, brought to where its nodes see them."""

import logging
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from slurmbridge.container.trust import revocation_marker
from slurmbridge.errors import HelpersMissing, ImageRefused, StagingFailed
from slurmbridge.model import Helpers, Image
from slurmbridge.shell import Files, LocalFiles, NotPlain

log = logging.getLogger(__name__)
_CHUNK = 4 << 20


class Delivery(Protocol):
    """Where images and helpers are on a cluster. What is not there yet is brought there."""

    def named(self, image: Image, helpers: Helpers) -> tuple[Image, Helpers]:
        """Both, as its cluster's nodes would find them; nothing is brought anywhere."""
        ...

    def brings(self, image: Image) -> bool:
        """Whether an image may have to be brought first, which can take long."""
        ...

    def image(self, image: Image) -> Image:
        """The image, as its cluster's nodes find it.

        Raises:
            StagingFailed
            ImageRefused: its file is not there.
        """
        ...

    def helpers(self, helpers: Helpers) -> Helpers:
        """The helpers, as its cluster's nodes find them.

        Raises:
            StagingFailed
            HelpersMissing
        """
        ...

    def revoke(self, images: Sequence[Image]) -> None:
        """See to it that jobs which wait in Slurm do not start with one that is revoked, and that
        there is a folder for images.

        Raises:
            StagingFailed
        """
        ...


class Shared:
    """The nodes see the bridge's own folder."""

    def named(self, image: Image, helpers: Helpers) -> tuple[Image, Helpers]:
        """See Delivery."""
        return image, helpers

    def brings(self, image: Image) -> bool:
        """See Delivery."""
        return False

    def image(self, image: Image) -> Image:
        """See Delivery."""
        return image

    def helpers(self, helpers: Helpers) -> Helpers:
        """See Delivery."""
        return helpers

    def revoke(self, images: Sequence[Image]) -> None:
        """See Delivery. Who revokes an image marks it himself."""


class Sent:
    """Copies below `folder` on another host, by the names that the bridge has given its own.

    A copy that is whole has its full name; that it is the right one is checked on the node, each
    time, by its SHA-256.
    """

    def __init__(self, files: Files, folder: Path) -> None:
        self._files = files
        self._folder = folder
        self._there: set[Path] = set()
        # What several Processes wait for is brought once.
        self._lock = threading.Lock()

    def named(self, image: Image, helpers: Helpers) -> tuple[Image, Helpers]:
        """See Delivery."""
        there = self._folder / Path(helpers.path).name
        return (
            image.model_copy(update={"path": str(self._place(image))}),
            helpers.model_copy(update={"path": str(there)}),
        )

    def brings(self, image: Image) -> bool:
        """See Delivery."""
        return self._place(image) not in self._there

    def image(self, image: Image) -> Image:
        """See Delivery."""
        target = self._place(image)
        try:
            self._bring(Path(image.path), target, mode=0o440)
        except FileNotFoundError:
            raise ImageRefused(f"the file of the image {image.name!r} is missing") from None
        return image.model_copy(update={"path": str(target)})

    def helpers(self, helpers: Helpers) -> Helpers:
        """See Delivery."""
        here = Path(helpers.path)
        there = self._folder / here.name
        try:
            if there not in self._there:
                self._make_folder(there)
            for name in ("sbseal", "sbprobe"):
                self._bring(here / name, there / name, mode=0o550)
        except FileNotFoundError:
            raise HelpersMissing(f"the sealing helpers in {here} are not whole") from None
        return helpers.model_copy(update={"path": str(there)})

    def revoke(self, images: Sequence[Image]) -> None:
        """See Delivery."""
        # The nodes are asked whether they see it.
        self._make_folder(self._folder)
        for image in images:
            marker = revocation_marker(self._place(image))
            if marker in self._there:
                continue
            try:
                self._files.write(marker, f"{image.revoked_reason}\n".encode(), mode=0o440)
            except OSError as error:
                raise StagingFailed(f"{marker} cannot be written: {error.strerror}") from error
            self._there.add(marker)

    def _place(self, image: Image) -> Path:
        return self._folder / Path(image.path).name

    def _make_folder(self, folder: Path) -> None:
        try:
            self._files.make_folder(folder, mode=0o750, parents=True)
        except OSError as error:
            raise StagingFailed(f"{folder} cannot be made: {error.strerror}") from error
        self._there.add(folder)

    def _bring(self, source: Path, target: Path, *, mode: int) -> None:
        """Copy a file unless it is there, whole. Raises FileNotFoundError: there is no source."""
        if target in self._there:
            return
        with self._lock:
            if target not in self._there:
                self._bring_now(source, target, mode)

    def _bring_now(self, source: Path, target: Path, mode: int) -> None:
        size = source.stat().st_size
        try:
            if not self._is_there(target, size):
                log.info("bringing %s to %s: %d bytes", source.name, target, size)
                self._files.make_folder(target.parent, mode=0o750, parents=True)
                self._copy(source, target, mode)
        except (OSError, NotPlain) as error:
            raise StagingFailed(f"{target} cannot be written: {error}") from error
        self._there.add(target)

    def _is_there(self, target: Path, size: int) -> bool:
        try:
            return self._files.look(target).size_bytes == size
        except FileNotFoundError:
            return False

    def _copy(self, source: Path, target: Path, mode: int) -> None:
        # Another Runner may bring the same just now.
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        with (
            LocalFiles().open(source.parent, source.name) as file,
            self._files.create(partial, mode=mode) as out,
        ):
            while data := file.read(_CHUNK):
                out.write(data)
        self._files.rename(partial, target)
