"""On the bridge: Processes by bridges of their own whose templates or helpers are changed.

Reads a list of hooks as JSON from standard input, and prints what became of their Processes as
JSON. The changes are those that a careless or hostile hand could make on the way to a node; the
attestation has to find each of them.
"""

import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slurmbridge.container.helpers import SOURCES, HelperBuilder, source_sha256
from slurmbridge.runner import Verbs
from slurmbridge.scheduler.manners import PoliteScheduler
from slurmbridge.script import DEFAULT_TEMPLATES
from slurmbridge.settings import Settings, load
from slurmbridge.shell import LocalShell
from slurmbridge.spec import parse_spec
from slurmbridge.store import Database, HelperStore, ImageStore, ProcessStore
from slurmbridge.wiring import Site

DEADLINE_SECONDS = 300

# A file below its folder, a text in it, and what stands there instead.
Edit = tuple[str, str, str]


@dataclass(frozen=True)
class Hook:
    """What is changed, and the specification that is run."""

    spec: dict[str, Any]
    templates: tuple[Edit, ...] = ()
    helpers: tuple[Edit, ...] = ()


class Hooked:
    """One bridge, with everything but Slurm and the images of its own, and its one Process."""

    def __init__(self, hook: Hook, real: Settings, scheduler: PoliteScheduler) -> None:
        self.folders = [
            Path(tempfile.mkdtemp(prefix="hooked-", dir=parent))
            for parent in ("/var/lib/slurmbridge", real.contexts)
        ]
        private, shared = self.folders
        changes: dict[str, Any] = {
            "database": f"sqlite:///{private}/slurmbridge.db",
            "templates": _edited(DEFAULT_TEMPLATES, private / "templates", hook.templates),
            "contexts": shared,
            "signing_key": private / "key.pem",
        }
        site = Site(real.model_copy(update=changes))
        site.migrate()
        database, real_database = Database(changes["database"]), Database(real.database)
        ImageStore(database).record(ImageStore(real_database).get("python"))
        genuine = source_sha256()
        helpers = HelperStore(database, genuine)
        if hook.helpers:
            sources = _edited(SOURCES, private / "sources", hook.helpers)
            builder = HelperBuilder(
                helpers, LocalShell(), folder=shared, clock=_now, sources=sources
            )
            # Recorded once more, as if they were built of the source that is expected.
            helpers.record(builder.build().model_copy(update={"source_sha256": genuine}))
        elif known := HelperStore(real_database, genuine).latest():
            helpers.record(known)
        else:
            site.build_helpers()
        self.processes = ProcessStore(database)
        self.process_id = site.desk().submit(parse_spec(hook.spec), by="hook").id
        runner = site.cluster().runner(scheduler)
        self.standing = runner.standing
        self.standing.enter()
        self.verbs: Verbs = runner.verbs

    def goes_on(self) -> bool:
        """Do what is due; whether more will be."""
        self.standing.beat()
        self.verbs.dispatcher.dispatch()
        self.verbs.observer.observe()
        self.verbs.collector.collect()
        return not self.processes.get(self.process_id).state.final

    def outcome(self) -> dict[str, Any]:
        """What became of the Process."""
        attestation = self.processes.attestation(self.process_id)
        return {
            "process": self.processes.get(self.process_id).model_dump(mode="json"),
            "attestation": attestation.model_dump(mode="json") if attestation else None,
        }


def _edited(source: Path, target: Path, edits: tuple[Edit, ...]) -> Path:
    shutil.copytree(source, target)
    for name, old, new in edits:
        path = target / name
        text = path.read_text()
        assert old in text, f"{name} does not hold {old!r}"
        path.chmod(0o644)
        path.write_text(text.replace(old, new))
    return target


def _now() -> datetime:
    return datetime.now(UTC)


def run_all(hooks: list[Hook]) -> list[dict[str, Any]]:
    """Run all of them to their ends, at the same time."""
    real = load()
    scheduler = Site(real).cluster().scheduler()
    bridges: list[Hooked] = []
    try:
        bridges += [Hooked(hook, real, scheduler) for hook in hooks]
        going_on, deadline = list(bridges), time.monotonic() + DEADLINE_SECONDS
        while going_on and time.monotonic() < deadline:
            going_on = [bridge for bridge in going_on if bridge.goes_on()]
        return [bridge.outcome() for bridge in bridges]
    finally:
        scheduler.close()
        for bridge in bridges:
            for folder in bridge.folders:
                shutil.rmtree(folder)


if __name__ == "__main__":
    given = json.load(sys.stdin)
    sys.stdout.write(json.dumps(run_all([Hook(**entry) for entry in given])))
