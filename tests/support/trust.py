"""A keeper of images with its records and folders, and an Apptainer that is played."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from slurmbridge.container.images import ImageBuilder, Packages
from slurmbridge.container.sif import file_sha256
from slurmbridge.container.trust import Added, ImageKeeper, SignatureRule
from slurmbridge.model import Image
from slurmbridge.store import ImageStore
from tests.support.databases import fresh_database
from tests.support.sif import reader, write_sif
from tests.support.specs import IMAGE, START

# A definition that lacks nothing.
DEFINITION = """Bootstrap: debootstrap
OSVersion: trixie
MirrorURL: {{ mirror }}

%help
    A shell.

%labels
    org.opencontainers.image.title shell
    org.opencontainers.image.description A shell, and more

%post
    true

%test
    true
"""


@dataclass
class Trust:
    """A keeper of images, its records and its folders."""

    folder: Path
    records: ImageStore
    clock: Callable[[], datetime]
    rule: SignatureRule = field(default_factory=SignatureRule)

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def keeper(self) -> ImageKeeper:
        sif = reader(self.folder)
        return ImageKeeper(
            self.records, sif, self.rule, images=self.images, user="carol", clock=self.clock
        )

    def signing(self, *, required: bool) -> "Trust":
        """The same, with a key configured."""
        key = self.folder / "key.pem"
        key.write_text("ours\n")
        return replace(self, rule=SignatureRule(key, required))

    def file(self, *lines: str) -> Path:
        return write_sif(self.folder / "given.sif", *lines)

    def add(self, *lines: str, name: str = "small", remark: str | None = None) -> Added:
        file = self.file(*lines)
        return self.keeper.add(name, file, sha256=file_sha256(file), remark=remark)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.images.iterdir())

    def build(self, name: str = "small", definition: str = DEFINITION) -> tuple[Image, list[str]]:
        """Take what is recorded for a definition; a real build needs Apptainer."""
        (self.folder / f"{name}.def").write_text(definition)
        builder = ImageBuilder(
            self.records, reader(self.folder), definitions=self.folder, images=self.images,
            packages=Packages(), key=self.rule.key, clock=self.clock,
        )  # fmt: skip
        told: list[str] = []
        return builder.build(name, force=False, on_line=told.append), told

    def built(self, *lines: str, definition: str = DEFINITION, environment: bool = True) -> Image:
        """Record an image as if it had been built from a definition."""
        text = self.folder / "text.def"
        text.write_text(definition)
        file = write_sif(self.folder / "built.sif", *lines)
        final = self.images / f"small-{file_sha256(file)[:16]}.sif"
        file.rename(final)
        image = IMAGE.model_copy(
            update={
                "name": "small",
                "path": str(final),
                "sha256": file_sha256(final),
                "definition_sha256": file_sha256(text),
                "environment": {"PATH": "/usr/bin"} if environment else {},
                "built_at": self.clock(),
            }
        )
        text.unlink()
        self.records.record(image)
        return image


def new_trust(folder: Path) -> Trust:
    """Nothing recorded yet; each look at the clock is a minute after the one before."""
    (folder / "images").mkdir()
    moments = (START + timedelta(minutes=number) for number in range(1000))
    return Trust(folder, ImageStore(fresh_database()), lambda: next(moments))
