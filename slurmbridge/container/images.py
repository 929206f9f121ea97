"""Images from definitions. The only home of spython, which reads them and drives the build."""

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from spython.main import Client
from spython.main.parse.parsers import SingularityParser
from spython.utils import stream_command

from slurmbridge.container.sif import SifReader, file_sha256
from slurmbridge.container.trust import (
    ImageRecords,
    final_path,
    is_intact,
    refuse_revoked,
)
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


@dataclass(frozen=True, slots=True)
class Packages:
    """Where definitions get packages from, as addresses."""

    # Of Debian. None: the one that this host's own apt uses.
    mirror: str | None = None
    # Of Python. None: PyPI.
    index: str | None = None


class ImageBuilder:
    """Builds what is defined, once for each definition."""

    def __init__(
        self,
        records: ImageRecords,
        sif: SifReader,
        *,
        definitions: Path,
        images: Path,
        packages: Packages,
        key: Path | None,
        clock: Callable[[], datetime],
    ) -> None:
        self._records = records
        self._sif = sif
        self._key = key
        self._definitions = definitions
        self._images = images
        self._packages = packages
        self._clock = clock

    def names(self) -> list[str]:
        """The images that are defined."""
        return sorted(path.stem for path in self._definitions.glob("*.def"))

    def build(self, name: str, *, force: bool, on_line: Callable[[str], None]) -> Image:
        """Build, test and record an image; or return the recorded one of the same definition.

        Raises:
            DefinitionInvalid
            ImageBuildFailed: apptainer failed, or the image's own %test did.
            ImageRefused: what was built is an image that was revoked.
        """
        path = self._definitions / f"{name}.def"
        if name not in self.names():
            raise DefinitionInvalid(
                f"there is no definition {name!r}; there are: {', '.join(self.names()) or 'none'}"
            )
        definition = read_definition(path)
        digest = file_sha256(path)
        recorded = self._records.built_from(name, digest)
        usable = recorded is not None and recorded.revoked_at is None and not force
        if recorded and usable and is_intact(Path(recorded.path), recorded.sha256):
            on_line(f"{name} is built already: {recorded.path}")
            return self._completed(recorded, on_line)
        image = self._build(name, path, digest, definition.labels, on_line)
        self._records.record(image)
        return image

    def _completed(self, recorded: Image, on_line: Callable[[str], None]) -> Image:
        """What is recorded, with what an earlier version left out; of its name, the latest."""
        update: dict[str, Any] = {}
        if not recorded.environment:
            # No image has none: PATH is always in it.
            update["environment"] = self._sif.environment(Path(recorded.path))
        latest = self._records.latest()[recorded.name]
        if latest.sha256 != recorded.sha256:
            if latest.revoked_at is not None or latest.definition_sha256 is not None:
                on_line(f"{recorded.name} runs it again, instead of {latest.sha256}")
                update["built_at"] = self._clock()
            else:
                on_line(f"{recorded.name} runs {latest.sha256}, which was added: left so")
        if not update:
            return recorded
        image = recorded.model_copy(update=update)
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
            final = final_path(self._images, name, sha256)
            refuse_revoked(self._records.with_digest(sha256), final)
            offset = self._sif.squashfs_offset(fresh)
            environment = self._sif.environment(fresh)
            signed = self._key is not None and not self._sif.signature_problem(fresh, self._key)
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
            environment=environment,
            signed=signed,
            built_at=self._clock(),
        )

    def _apptainer_build(self, path: Path, image: Path, on_line: Callable[[str], None]) -> None:
        client: Any = Client
        # Client.build(stream=True) leaves standard error unread and stops when that pipe is full;
        # its parts, put together, read both.
        argv = client._init_command("build")
        for argument in build_arguments(path.read_text(), self._packages):
            argv += ["--build-arg", argument]
        last = ""
        try:
            for line in stream_command([*argv, str(image), str(path)], output_type="both"):
                last = line.rstrip() or last
                on_line(line.rstrip())
        except subprocess.CalledProcessError as error:
            raise ImageBuildFailed(f"building {path.stem} failed: {last}") from error
        except FileNotFoundError as error:
            raise ImageBuildFailed("apptainer is not installed on this host") from error


def build_arguments(definition: str, packages: Packages) -> list[str]:
    """What a definition is given; Apptainer refuses what it does not use.

    Raises:
        ImageBuildFailed: as `host_mirror`.
    """
    found = []
    if "{{ mirror }}" in definition:
        found.append(f"mirror={packages.mirror or host_mirror()}")
    if "{{ index }}" in definition:
        found.append(f"index={packages.index or ''}")
    return found


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
