"""Installers of requirements, with a Slurm and files in memory."""

from pathlib import Path
from typing import Any

import pytest

from slurmbridge.bridge.render import Equipment
from slurmbridge.bridge.requirements import LOOK, Installer, InstallRules, Source
from slurmbridge.errors import RequirementsAwaited
from slurmbridge.lifecycle import SlurmState
from slurmbridge.requirements import Index, Wheelhouse
from slurmbridge.store import Installation, InstallationStore
from slurmbridge.testing.files import MemoryFiles
from slurmbridge.testing.scheduler import hand_clock
from tests.support.builders import HookedScheduler, shipped_templates
from tests.support.databases import fresh_database
from tests.support.specs import CAPABILITY, IMAGE, START, spec

REPORT = Path(__file__).resolve().parents[1] / "recorded/pip-25.1/report.json"
FOLDER = Path("/shared/requirements")
SOURCES = {
    "pypi": Source(Index("pypi", "https://packages.example/index/")),
    "wheels": Source(Wheelhouse("wheels", "/shared/wheels")),
    "own": Source(Index("own", "https://own.example/index/"), sources_built=True),
}
SHA256 = "9" * 64
IMAGE_CONTENT = b"an image of requirements"
NO_PACKAGE = """
ERROR: Could not find a version that satisfies the requirement alpha (from versions: none)
ERROR: No matching distribution found for alpha
"""
TOLD = "requirement alpha: no version matches: there is no package of this name"
ALPHA = b"alpha\n"


class Works:
    """Installers of one cluster, and all that they work with."""

    def __init__(self) -> None:
        self.clock, self.advance = hand_clock(START)
        self.slurm = HookedScheduler(CAPABILITY, clock=self.clock)
        self.files = MemoryFiles()
        self.database = fresh_database()
        self.content = ALPHA
        self.rules = InstallRules(FOLDER, SOURCES, usual="pypi")
        self.one = self.another()

    def another(self, cluster: str = "default") -> Installer:
        """An installer, as of another Runner."""
        return Installer(
            InstallationStore(self.database, cluster),
            self.files,
            self.slurm,
            shipped_templates(),
            self.rules,
            read=self.read,
            clock=self.clock,
        )

    def read(self, _location: str) -> bytes:
        """The file that is asked for."""
        return self.content

    def ask(self, installer: Installer | None = None, **changes: Any) -> Equipment | None:
        """What a Process is equipped with, a moment after the last one was."""
        self.advance(LOOK)
        wanted = spec(requirements="code:requirements.txt", **changes)
        return (installer or self.one).of(wanted, IMAGE, architecture="x86_64")

    def waits(self, installer: Installer | None = None, **changes: Any) -> str:
        """The reason for which it waits."""
        with pytest.raises(RequirementsAwaited) as found:
            self.ask(installer, **changes)
        return str(found.value)

    @property
    def folder(self) -> Path:
        """The one folder of a key."""
        [entry] = self.files.list(FOLDER)
        return FOLDER / entry.name

    @property
    def row(self) -> Installation:
        """What is known of the one key."""
        found = InstallationStore(self.database).get(self.folder.name)
        assert found is not None
        return found

    def jobs(self) -> list[str]:
        """The names of all jobs, without their key."""
        return [report.job_name.replace(self.folder.name, "KEY") for report in self.slurm.jobs()]

    def leave(self, name: str, content: dict[str, bytes]) -> None:
        """What a job leaves, which appears at once."""
        place = self.folder / name
        self.files.make_folder(place, mode=0o700)
        for file, data in content.items():
            self.files.write(place / file, data)

    def end(self, attempt: int = 1, state: SlurmState = SlurmState.COMPLETED) -> None:
        """The job of an attempt ends."""
        job_id = self.slurm.job(f"sb-requirements-{self.folder.name}-{attempt}").report.job_id
        self.slurm.start(job_id)
        self.slurm.end(job_id, state)

    def make(self, attempt: int = 1) -> None:
        """The job of an attempt has done its work."""
        made = {
            "exit_code": b"0\n",
            "files": b"3\n",
            "packed": f"{SHA256} {len(IMAGE_CONTENT)}\n".encode(),
            "report.json": REPORT.read_bytes(),
            "requirements.sqsh": IMAGE_CONTENT,
        }
        self.leave("made", made)
        self.end(attempt)

    def fail(self, **left: bytes) -> None:
        """The job of the first attempt has ended in vain."""
        self.leave("failed.1", {"exit_code": b"1\n", **left})
        self.end(state=SlurmState.FAILED)
