"""The commands at work: a front in this process, and a site that is played."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self, cast

from typer.testing import CliRunner, Result

from slurmbridge.bridge.checks import untrusted
from slurmbridge.bridge.desk import Desk
from slurmbridge.bridge.readiness import offered
from slurmbridge.cli import app
from slurmbridge.cli.root import Session
from slurmbridge.container.trust import ImageKeeper, SignatureRule
from slurmbridge.errors import ImageBuildFailed
from slurmbridge.model import ComputeCapability, Image, NodeReadiness
from slurmbridge.scheduler import ClusterNode
from slurmbridge.spec import ProcessSpec
from slurmbridge.store import Examination, ImageStore
from slurmbridge.wiring import Site
from tests.support.front import CAPABILITY, IMAGE, NOW, SPEC, Front
from tests.support.sif import reader


class PlayedExaminer:
    """Nodes that answer at the second look, but for those in `silent`."""

    def __init__(self, silent: set[str]) -> None:
        self.silent = silent
        self.looks = 0
        self.given_up: set[str] = set()
        self.asked: list[str] = []

    def start(self, names: list[str]) -> list[str]:
        """Both when none is named."""
        self.asked = sorted(names or ["n1", "n2"])
        return self.asked

    def take(self) -> list[Examination]:
        """Who has not answered."""
        self.looks += 1
        waiting = self.silent if self.looks > 1 else set(self.asked)
        return [Examination(name, NOW, 7) for name in self.asked if name in waiting]

    def stage(self, row: Examination) -> str:
        """Always the same."""
        return f"job {row.job_id} pending (Resources)"

    def give_up(self, names: set[str]) -> None:
        """Note whom."""
        self.given_up = set(names)

    def cluster(self) -> tuple[ComputeCapability, list[ClusterNode]]:
        """Two nodes in one partition."""
        return CAPABILITY, []


class PlayedScheduler:
    """One that is closed in the end."""

    closed = False

    def close(self) -> None:
        """Note it."""
        self.closed = True


@dataclass
class PlayedSite:
    """What the local commands need of a site."""

    front: Front
    problems: list[str] = field(default_factory=list)
    migrated: int = 0
    ran: int = 0
    nodes: list[NodeReadiness] = field(default_factory=list)
    reported: bool = True
    examiner_: PlayedExaminer = field(default_factory=lambda: PlayedExaminer(set()))
    scheduler_: PlayedScheduler = field(default_factory=PlayedScheduler)
    minutes: int = 0
    # Where images lie, and a program that answers as Apptainer does.
    folder: Path = Path()

    def desk(self) -> Desk:
        """The desk of the front."""
        return self.front.desk

    def migrate(self) -> None:
        """Count."""
        self.migrated += 1

    def render(self, spec: ProcessSpec) -> str:
        """A script that names the image."""
        return f"#!/bin/sh\n# {spec.image}\n"

    def definition_names(self) -> list[str]:
        """Two."""
        return ["python", "r"]

    def build_image(self, name: str, *, force: bool, on_line: Callable[[str], None]) -> Image:
        """An image, after a line that tries to steer the terminal."""
        if name == "broken":
            raise ImageBuildFailed("the %test of broken failed")
        on_line(f"building {name}, force {force}\x1b[2J")
        return IMAGE.model_copy(update={"name": name})

    def images(self) -> ImageStore:
        """What the front's database holds."""
        return ImageStore(self.front.database)

    def why_refused(self, image: Image) -> str | None:
        """As where no signature is required."""
        return untrusted(image, signature_required=False)

    def image_keeper(self) -> ImageKeeper:
        """A real one; each act is a minute after the one before."""
        self.minutes += 1
        now = NOW + timedelta(minutes=self.minutes)
        return ImageKeeper(
            self.images(), reader(self.folder), SignatureRule(), images=self.folder, user="carol",
            clock=lambda: now,
        )  # fmt: skip

    def check(self) -> list[str]:
        """What is played."""
        return self.problems

    def run_runner(self, stop: Callable[[], bool]) -> None:
        """Be told to stop."""
        os.kill(os.getpid(), signal.SIGTERM)
        self.ran += stop()

    def cluster(self, name: str | None = None) -> Self:
        """There is one."""
        assert name is None
        return self

    def scheduler(self) -> PlayedScheduler:
        """One for all."""
        return self.scheduler_

    def examiner(self, scheduler: PlayedScheduler, *, look_seconds: float) -> PlayedExaminer:
        """One for all."""
        assert scheduler is self.scheduler_
        assert look_seconds > 0
        return self.examiner_

    def known_capability(self, fresh: ComputeCapability | None = None) -> ComputeCapability | None:
        """What is played."""
        capability = fresh or (CAPABILITY if self.reported else None)
        if capability is None:
            return None
        [partition] = capability.partitions
        names = tuple(node.node for node in self.nodes)
        partition = partition.model_copy(update={"node_names": names})
        return offered(capability.model_copy(update={"partitions": (partition,)}), self.nodes)

    def token_names(self) -> list[tuple[str, datetime, bool]]:
        """One."""
        return [("tester", NOW, False)]

    def remove_token(self, name: str) -> bool:
        """Only that one."""
        return name == "tester"


@dataclass
class Bench:
    """Commands, and what they act on."""

    front: Front
    site: PlayedSite
    folder: Path

    def run(self, *words: str, stdin: bytes = b"", **environment: str | None) -> Result:
        """A command, with the known token unless `environment` says otherwise."""
        session = Session(
            connect=lambda _url, token: self.front.client(token),
            open_site=lambda _settings: cast(Site, self.site),
        )
        variables = {"SLURMBRIDGE_TOKEN": self.front.token} | environment
        return CliRunner().invoke(app, words, input=stdin, env=variables, obj=session)

    def json(self, *words: str, code: int = 0) -> Any:
        """What a command prints with --json."""
        result = self.run(*words, "--json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    def spec(self, text: str | bytes, name: str = "spec.toml") -> str:
        """A file with this content."""
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    def submit(self, **changes: Any) -> str:
        """The id of a new Process."""
        return self.front.client().submit(SPEC | changes).id

    def configuration(self) -> str:
        """A configuration file."""
        folder = self.folder
        return self.spec(
            f'database = "postgresql://bridge:geheim@db/x"\ncontexts = "{folder}"\n'
            f'images = "{folder}"\n[stores.data]\nfolder = "{folder}"\n[api]\nport = 1234\n',
            "slurmbridge.toml",
        )


def refused(result: Result, code: int = 2) -> str:
    """The one sentence on stderr."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("slurmbridge: error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr
