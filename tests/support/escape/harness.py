"""What a probe is, and how many of them run without disturbing each other."""

import errno
import json
import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Facts = Mapping[str, Any]
# Where a probe has to succeed, so that one that cannot fail is found out: as a job of the service
# user; as root of the node, in a mount namespace with stand-ins; as the service user in a user and
# process namespace of its own; in a container that is only contained; nowhere.
Control = Literal["user", "root", "own", "bare", "none"]
AT_ONCE = 4
_EVIDENCE_LIMIT = 200
_ROOM = 1 << 16


class Finding(NamedTuple):
    """What a probe found, and what makes it say so."""

    open: bool
    evidence: str


@dataclass(frozen=True)
class Probe:
    """One way out, or one thing that a sealed program should not see."""

    id: str
    name: str
    run: Callable[[Facts], Finding]
    control: Control = "user"
    # Why there is no control, where there is none.
    reason: str = ""
    seconds: float = 8
    # It uses up what the others need.
    alone: bool = False
    # Where refused calls are noted, it ends the whole container: tried in one of its own.
    ends: bool = False


REGISTRY: list[Probe] = []


def add(
    identity: str,
    name: str,
    run: Callable[[Facts], Finding],
    control: Control = "user",
    **more: Any,
) -> None:
    """Enter a probe into the table."""
    REGISTRY.append(Probe(identity, name, run, control, **more))


def probe(
    identity: str, name: str, control: Control = "user", **more: Any
) -> Callable[[Callable[[Facts], Finding]], Callable[[Facts], Finding]]:
    """Enter a function into the table."""

    def enter(run: Callable[[Facts], Finding]) -> Callable[[Facts], Finding]:
        add(identity, name, run, control, **more)
        return run

    return enter


def opened(evidence: object) -> Finding:
    """It worked."""
    return Finding(True, str(evidence))


def closed(evidence: object) -> Finding:
    """It did not work."""
    return Finding(False, str(evidence))


def error_name(error: OSError) -> str:
    """ENOENT and the like; the class, where there is no number."""
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


def any_of(items: Sequence[Any], attempt: Callable[[Any], Finding]) -> Finding:
    """The first that is open; what the others said, when none is."""
    said: list[str] = []
    for item in items:
        try:
            found = attempt(item)
        except OSError as error:
            found = closed(error_name(error))
        if found.open:
            return found
        said.append(found.evidence)
    return closed(", ".join(dict.fromkeys(said)) or "there is none")


@dataclass
class _Running:
    probe: Probe
    process: int
    answer: mmap.mmap
    deadline: float
    status: int | None = field(default=None)


def _child(probe: Probe, facts: Facts, answer: mmap.mmap) -> None:
    os.setsid()
    try:
        try:
            found = probe.run(facts)
            said = ["open" if found.open else "closed", found.evidence]
        except OSError as error:
            said = ["closed", error_name(error)]
    except BaseException:
        said = ["broken", traceback.format_exc()[-_EVIDENCE_LIMIT:]]
    said[1] = said[1][:_EVIDENCE_LIMIT]
    answer.write(json.dumps(said).encode())


def _start(probe: Probe, facts: Facts) -> _Running:
    # Memory and no pipe: a probe looks at its descriptors.
    answer = mmap.mmap(-1, _ROOM)
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        _child(probe, facts, answer)
        os._exit(0)
    return _Running(probe, process, answer, time.monotonic() + probe.seconds)


def _ended(running: _Running) -> bool:
    found, status = os.waitpid(running.process, os.WNOHANG)
    if found:
        running.status = status
        return True
    return time.monotonic() > running.deadline


def _outcome(running: _Running) -> list[str]:
    answer = bytes(running.answer).rstrip(b"\0")
    running.answer.close()
    if running.status is None:
        os.killpg(running.process, signal.SIGKILL)
        os.waitpid(running.process, 0)
        return ["hung", f"after {running.probe.seconds:g} s"]
    if answer:
        return [str(word) for word in json.loads(answer)]
    code = os.waitstatus_to_exitcode(running.status)
    return ["crashed", signal.Signals(-code).name if code < 0 else f"exit code {code}"]


def run_all(probes: Sequence[Probe], facts: Facts) -> dict[str, list[str]]:
    """Run each in a process of its own: open, closed, broken, crashed or hung, and why."""
    # Signals are one of the things that are tried.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Those that take longest first.
    waiting = sorted(probes, key=lambda probe: (probe.alone, -probe.seconds))
    running: list[_Running] = []
    outcomes: dict[str, list[str]] = {}
    while waiting or running:
        while waiting and len(running) < AT_ONCE and not (waiting[0].alone and running):
            running.append(_start(waiting.pop(0), facts))
        for one in [one for one in running if _ended(one)]:
            running.remove(one)
            outcomes[one.probe.id] = _outcome(one)
        time.sleep(0.002)
    return outcomes
