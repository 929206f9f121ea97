"""Everything that a crate says. It is known before a crate is written; nothing is guessed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from slurmbridge.model import Attestation, Event, Image, Process, StagedFile


class HashedFile(Protocol):
    """A file that is known by its content: path, size in bytes, SHA-256 as hexadecimal digits."""

    @property
    def path(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def sha256(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Provenance:
    """The facts of one finished Process. None, or empty: not known, or there was none."""

    process: Process
    # Of this bridge.
    version: str
    image: Image | None = None
    # What was submitted to Slurm.
    script: str | None = None
    attestation: Attestation | None = None
    # The report that was folded from the trace, as JSON; its page for people; its last word. A
    # report that was carried with the outputs is known from them, and is not needed here.
    trace_report: str | None = None
    trace_page: bytes | None = None
    trace_verdict: str | None = None
    # sacct's words, as MaxRSS, and what sacct printed for them.
    accounting: Mapping[str, str] = field(default_factory=dict)
    # The lock file of what was installed for the program.
    requirements: str | None = None
    events: tuple[Event, ...] = ()

    @property
    def code(self) -> tuple[StagedFile, ...]:
        """The program's own files, below code/."""
        return tuple(file for file in self.process.inputs if file.path.startswith("code/"))

    @property
    def inputs(self) -> tuple[StagedFile, ...]:
        """The data it was given, below input/."""
        return tuple(file for file in self.process.inputs if not file.path.startswith("code/"))


@dataclass(frozen=True, slots=True)
class Record:
    """A file that a crate gets from the facts themselves."""

    path: str
    data: bytes
    name: str
    description: str

    @property
    def size_bytes(self) -> int:
        """Its length."""
        return len(self.data)

    @property
    def sha256(self) -> str:
        """Of its content."""
        return hashlib.sha256(self.data).hexdigest()


def records(facts: Provenance) -> tuple[Record, ...]:
    """The files that are made of the facts, in the order in which a crate lists them."""
    beside = of_the_run(facts)
    found = [
        _record("process.json", _process(facts), "Process", "The Process, as the bridge knows it."),
        _record(
            "events.json",
            _json([event.model_dump(mode="json") for event in facts.events]),
            "events",
            "What was observed or done, when, and where it is known from.",
        ),
        _record(
            "script.sbatch", facts.script, "script", "The batch script, as submitted to Slurm."
        ),
        _record(
            "attestation.json",
            _json(facts.attestation.model_dump(mode="json")) if facts.attestation else None,
            "attestation",
            "What the container was found to be before its program started, signed by the bridge.",
        ),
        _record(
            "trace-report.json",
            facts.trace_report,
            "trace report",
            beside["trace-report.json"],
        ),
        _record(
            "trace-report.html",
            facts.trace_page,
            "trace report, a page",
            beside["trace-report.html"],
        ),
        _record(
            "requirements.lock",
            facts.requirements,
            "requirements",
            "The packages that were installed for the program.",
        ),
    ]
    carried = {file.path for file in facts.process.outputs} & set(beside)
    return tuple(record for record in found if record and record.path not in carried)


def of_the_run(facts: Provenance) -> Mapping[str, str]:
    """What the run leaves beside the program's own results, and what it is."""
    verdict = f" Its verdict: {facts.trace_verdict}" if facts.trace_verdict else ""
    return {
        "job.log": "What the batch script and Slurm printed.",
        "trace.zst": (
            "The program's system calls, as strace recorded them from outside the container."
        ),
        "trace-report.json": f"What the program did, folded from its system calls.{verdict}",
        "trace-report.html": "The trace report, to read.",
    }


def _record(path: str, content: str | bytes | None, name: str, description: str) -> Record | None:
    if content is None:
        return None
    data = content.encode() if isinstance(content, str) else content
    return Record(path, data, name, description)


def _process(facts: Provenance) -> str:
    return _json(facts.process.model_dump(mode="json"))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"
