"""Images from definitions. The only home of spython, which reads them and drives the build."""

import hashlib
import re
import subprocess
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from spython.main import Client
from spython.main.parse.parsers import SingularityParser
from spython.utils import run_command, stream_command

from slurmbridge.errors import DefinitionInvalid, ImageBuildFailed
from slurmbridge.model import Image

_PACKAGE = Path(__file__).parent.parent
DEFAULT_DEFINITIONS = next(
    (path for path in (_PACKAGE / "definitions",) if path.is_dir()),
    _PACKAGE.parent / "definitions",
)
_NO_MIRROR = "this host's apt uses no Debian mirror: name one as `mirror` in the configuration"
BOOTSTRAPS = frozenset({"debootstrap", "docker"})
REQUIRED_SECTIONS = ("help", "labels", "post", "test")
_FILESYSTEM = re.compile(r"\|(\d+)-\d+\s*\|FS \(Squashfs/")


class ImageRecords(Protocol):
    """Where images are recorded."""

    def record(self, image: Image) -> None:
        """Record an image."""

    def built_from(self, name: str, definition_sha256: str) -> Image | None:
        """The image of this name that was built from this definition."""


class Definition(SingularityParser):  # type: ignore[misc]
    """A definition file, as spython reads it.

    spython knows `Bootstrap: docker` alone, and keeps no list of the sections that it met.
    """

    def __init__(self, path: Path) -> None:
        self.bootstrap = ""
        self.sections: list[str] = []
        super().__init__(str(path))

    def _check_bootstrap(self, line: str) -> None:
        key, _, value = line.partition(":")
        if key.strip().lower() == "bootstrap":
            self.bootstrap = value.strip()

    def _get_section(self, line: str) -> tuple[str, str | None]:
        section, layer = super()._get_section(line)
        self.sections.append(section)
        return section, layer

    def _write_script(self, path: str, lines: list[str], chmod: bool = True) -> None:
        """Not needed: nothing is translated to a Dockerfile."""

    @property
    def labels(self) -> dict[str, str]:
        """What stands under %labels."""
        found: dict[str, str] = {}
        for recipe in self.recipe.values():
            for line in recipe.labels:
                words = line if isinstance(line, list) else str(line).split(None, 1)
                if len(words) == 2:
                    found[str(words[0])] = str(words[1]).strip()
        return found


def read_definition(path: Path) -> Definition:
    """Read and check a definition.

    Raises:
        DefinitionInvalid: a section is missing, or it starts from something that is not allowed.
    """
    try:
        definition = Definition(path)
    except (OSError, UnicodeError, NotImplementedError, SystemExit) as error:
        raise DefinitionInvalid(f"{path.name} cannot be read: {error}") from error
    if definition.bootstrap not in BOOTSTRAPS:
        allowed = ", ".join(sorted(BOOTSTRAPS))
        found = definition.bootstrap or "(none)"
        raise DefinitionInvalid(f"{path.name} has Bootstrap: {found}; allowed: {allowed}")
    if missing := [name for name in REQUIRED_SECTIONS if name not in definition.sections]:
        raise DefinitionInvalid(f"{path.name} lacks %{', %'.join(missing)}")
    if not definition.labels:
        raise DefinitionInvalid(f"{path.name} has no label under %labels")
    return definition


class ImageBuilder:
    """Builds what is defined, once for each definition."""

    def __init__(
        self,
        records: ImageRecords,
        *,
        definitions: Path,
        images: Path,
        mirror: str | None,
        clock: Callable[[], datetime],
    ) -> None:
        self._records = records
        self._definitions = definitions
        self._images = images
        self._mirror = mirror
        self._clock = clock

    def names(self) -> list[str]:
        """The images that are defined."""
        return sorted(path.stem for path in self._definitions.glob("*.def"))

    def build(self, name: str, *, force: bool, on_line: Callable[[str], None]) -> Image:
        """Build, test and record an image; or return the recorded one of the same definition.

        Raises:
            DefinitionInvalid
            ImageBuildFailed: apptainer failed, or the image's own %test did.
        """
        path = self._definitions / f"{name}.def"
        if name not in self.names():
            raise DefinitionInvalid(
                f"there is no definition {name!r}; there are: {', '.join(self.names()) or 'none'}"
            )
        definition = read_definition(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        recorded = self._records.built_from(name, digest)
        if recorded and not force and _is_intact(recorded):
            on_line(f"{name} is built already: {recorded.path}")
            return recorded
        image = self._build(name, path, digest, definition.labels, on_line)
        self._records.record(image)
        return image

    def _build(
        self,
        name: str,
        path: Path,
        digest: str,
        labels: dict[str, str],
        on_line: Callable[[str], None],
    ) -> Image:
        with tempfile.TemporaryDirectory(prefix=".build-", dir=self._images) as folder:
            fresh = Path(folder) / f"{name}.sif"
            self._apptainer_build(path, fresh, on_line)
            sha256 = file_sha256(fresh)
            offset = squashfs_offset(fresh)
            final = self._images / f"{name}-{sha256[:16]}.sif"
            fresh.chmod(0o440)
            fresh.rename(final)
        return Image(
            name=name,
            sha256=sha256,
            definition_sha256=digest,
            path=str(final),
            size_bytes=final.stat().st_size,
            squashfs_offset=offset,
            labels={**labels, "slurmbridge.definition.sha256": digest},
            built_at=self._clock(),
        )

    def _apptainer_build(self, path: Path, image: Path, on_line: Callable[[str], None]) -> None:
        mirror = self._mirror or host_mirror()
        client: Any = Client
        # Client.build(stream=True) leaves standard error unread and stops when that pipe is full;
        # its parts, put together, read both.
        argv = [*client._init_command("build"), "--build-arg", f"mirror={mirror}"]
        last = ""
        try:
            for line in stream_command([*argv, str(image), str(path)], output_type="both"):
                last = line.rstrip() or last
                on_line(line.rstrip())
        except subprocess.CalledProcessError as error:
            raise ImageBuildFailed(f"building {path.stem} failed: {last}") from error
        except FileNotFoundError as error:
            raise ImageBuildFailed("apptainer is not installed on this host") from error


def _is_intact(image: Image) -> bool:
    path = Path(image.path)
    return path.is_file() and file_sha256(path) == image.sha256


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def squashfs_offset(image: Path) -> int:
    """Where in a SIF file its file system begins, in bytes."""
    result = run_command(["singularity", "sif", "list", str(image)], quiet=True)
    match = _FILESYSTEM.search("".join(result["message"]))
    if result["return_code"] != 0 or not match:
        raise ImageBuildFailed(f"{image.name} holds no squashfs file system")
    return int(match[1])


def host_mirror(root: Path = Path("/")) -> str:
    """The Debian mirror that this host's own apt uses.

    Raises:
        ImageBuildFailed: it uses none, as on another distribution.
    """
    release = root / "etc/os-release"
    if not release.is_file() or not re.search(r"^ID=debian$", release.read_text(), re.MULTILINE):
        raise ImageBuildFailed(_NO_MIRROR)
    apt = root / "etc/apt"
    for path in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]:
        text = path.read_text() if path.is_file() else ""
        match = re.search(
            r"^(?:URIs:|deb(?: \[[^]]*\])?)\s*(https?://\S+/debian)/?(\s|$)", text, re.M
        )
        if match:
            return match[1]
    raise ImageBuildFailed(_NO_MIRROR)
