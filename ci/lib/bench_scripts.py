"""On the bridge: scripts as the bridge renders them, each in a context of its own, and one job."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slurmbridge.bridge.desk import new_ulid
from slurmbridge.bridge.render import Renderer
from slurmbridge.container.helpers import source_sha256
from slurmbridge.context.folder import Contexts
from slurmbridge.script import DEFAULT_TEMPLATES, Templates
from slurmbridge.settings import load
from slurmbridge.shell import LocalFiles
from slurmbridge.spec import parse_spec
from slurmbridge.store import Database, HelperStore, ImageStore


@dataclass(frozen=True)
class Staged:
    """What lies in a context before its job: names below /code and /input, and their content."""

    code: Mapping[str, bytes] = field(default_factory=dict)
    inputs: Mapping[str, bytes] = field(default_factory=dict)


class Scripts:
    """Contexts in one folder, beside the scripts that run in them."""

    def __init__(self, contexts: Path) -> None:
        database = Database(load().database)
        self.contexts = contexts
        self._images = ImageStore(database)
        self._helpers = HelperStore(database, source_sha256()).get()
        self._renderer = Renderer(Templates(DEFAULT_TEMPLATES), contexts)

    def image_path(self, name: str) -> str:
        """Where an image lies."""
        return self._images.get(name).path

    def text(self, asked: Mapping[str, Any], staged: Staged | None = None) -> tuple[Path, str]:
        """A new context, and the script that belongs to it."""
        spec, process_id = parse_spec(dict(asked)), new_ulid()
        image = self._images.get(spec.image)
        folder = Contexts(LocalFiles(), self.contexts).of(process_id)
        ready = self._renderer.prepared(process_id, spec, image)
        folder.make(ready.command, ready.environment, ready.expected_facts)
        for part, files in (("code", staged.code), ("input", staged.inputs)) if staged else ():
            for name, content in files.items():
                path = folder.path / part / name
                path.write_bytes(content)
                path.chmod(0o755)
        return folder.path, self._renderer.render(process_id, spec, image, self._helpers).text

    def write(self, context: Path, text: str) -> Path:
        """The script's file, beside its context."""
        path = context.with_suffix(".sbatch")
        path.write_text(text)
        return path


@contextmanager
def scripts(prefix: str) -> Iterator[Scripts]:
    """In a folder that is removed in the end."""
    contexts = Path(tempfile.mkdtemp(prefix=prefix, dir=load().contexts))
    try:
        yield Scripts(contexts)
    finally:
        shutil.rmtree(contexts)


def in_job(script: str, *arguments: str, cpus: int, alone: bool = False) -> list[str]:
    """Run a shell script as a job on one node, perhaps alone there; the lines that it printed."""
    argv = ["srun", "--quiet", "--ntasks=1", f"--cpus-per-task={cpus}", "--mem=1G"]
    argv += ["--exclusive"] if alone else []
    argv += ["--export=NIL", "/bin/bash", "-c", script, "bash", *arguments]
    done = subprocess.run(argv, check=True, text=True, stdout=subprocess.PIPE)
    return done.stdout.splitlines()
