"""The commands at work: a front in this process, and a site that is played."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

from typer.testing import CliRunner, Result

from slurmbridge.bridge.checks import untrusted
from slurmbridge.bridge.desk import Desk
from slurmbridge.cli import app
from slurmbridge.cli.root import Session
from slurmbridge.container.trust import ImageKeeper, SignatureRule
from slurmbridge.errors import ImageBuildFailed
from slurmbridge.model import Image, ProcessSpec
from slurmbridge.store import ImageStore
from slurmbridge.wiring import Site
from tests.support.front import IMAGE, NOW, SPEC, Front
from tests.support.sif import reader


@dataclass
class PlayedSite:
    """What the local commands need of a site."""

    front: Front
    problems: list[str] = field(default_factory=list)
    migrated: int = 0
    ran: int = 0
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

    def token_names(self) -> list[tuple[str, datetime]]:
        """One."""
        return [("tester", NOW)]

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
