"""On the bridge: Runners that are killed (SIGKILL) before and after each of their side effects.

One side effect is a committed transaction, a call to Slurm, or a change of a file. Each is known by
the function of the bridge that asks for it. The driver keeps some Processes under way, starts one
Runner after the other, each with one effect at which it dies, and always chooses the effect that
was killed at least often. Afterwards a Runner that is not killed brings everything to its end.

Reads {"kills": N, "at_once": N, "command": [...]} as JSON and prints what came of it as JSON.
"""

import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slurmbridge.container.helpers import source_sha256
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import Process
from slurmbridge.scheduler.manners import PoliteScheduler
from slurmbridge.sections import InProgressSettings, SlurmSettings, Transport
from slurmbridge.settings import Settings, load
from slurmbridge.shell import LocalFiles
from slurmbridge.spec import parse_spec
from slurmbridge.store import Database, HelperStore, ImageStore, KeyStore, ProcessStore
from slurmbridge.wiring import Site

if TYPE_CHECKING:
    from tests.support.cluster import Cluster

_PR_SET_PDEATHSIG = 1
WAYS = ("before", "after")
ROUND_SECONDS = 12.0
END_SECONDS = 400.0
SPEC: dict[str, Any] = {
    "image": "python",
    # Adds a line: what has run twice has two.
    "command": ["sh", "-c", "echo run >>/output/runs; echo printed"],
    "resources": {"memory_mib": 64},
    "time_limit_minutes": 5,
    "partition": "short",
    "account": "research",
    "trace": "off",
}
_CHANGING = (
    "make_folder",
    "write",
    "create",
    "rename",
    "hard_link",
    "set_mode",
    "remove_file",
    "remove_tree",
)
_ASKING = ("submit", "cancel", "withdraw", "jobs", "history")


@dataclass
class Hangman:
    """Kills this process at an effect, in one of two ways; notes every effect that it sees."""

    target: tuple[str, str] | None
    seen: Path
    labels: set[str] = field(default_factory=set)

    def around(self, kind: str) -> "contextlib.AbstractContextManager[None]":
        """An effect."""
        return self._around(f"{kind} {_caller()}")

    @contextlib.contextmanager
    def _around(self, label: str) -> Iterator[None]:
        if label not in self.labels:
            self.labels.add(label)
            with self.seen.open("a") as file:
                file.write(f"{label}\n")
        self._maybe(label, "before")
        yield
        self._maybe(label, "after")

    def _maybe(self, label: str, way: str) -> None:
        if self.target == (label, way):
            with self.seen.with_suffix(".killed").open("a") as file:
                file.write(f"{label}|{way}\n")
            os.kill(os.getpid(), signal.SIGKILL)


def _caller() -> str:
    """The innermost function of the bridge, or of a Runner, that asks for an effect."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith(("slurmbridge.bridge", "slurmbridge.context.")):
            return f"{name.rpartition('.')[2]}.{frame.f_code.co_name}"
        if name == "slurmbridge.runner":
            return f"runner.{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


def _install(hangman: Hangman) -> None:
    def wrapped(kind: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            with hangman.around(kind):
                return method(*arguments, **named)

        return run

    for name in _CHANGING:
        setattr(LocalFiles, name, wrapped(f"files.{name}", getattr(LocalFiles, name)))
    for name in _ASKING:
        setattr(PoliteScheduler, name, wrapped(f"slurm.{name}", getattr(PoliteScheduler, name)))
    Path.rename = wrapped("rename", Path.rename)  # type: ignore[method-assign]
    shutil.rmtree = wrapped("rmtree", shutil.rmtree)  # type: ignore[assignment]
    write = Database.write

    @contextlib.contextmanager
    def committed(self: Database) -> Iterator[Any]:
        with hangman.around("database"), write(self) as connection:
            yield connection

    Database.write = committed  # type: ignore[method-assign]


class Matrix:
    """The installation, the Processes, and what was killed."""

    def __init__(self, at_once: int, command: list[str] | None) -> None:
        real = load()
        self.private = Path(tempfile.mkdtemp(prefix="crash-", dir="/var/lib/slurmbridge"))
        self.shared = Path(tempfile.mkdtemp(prefix="crash-", dir=real.contexts or "/"))
        self.at_once = at_once
        self.spec = SPEC | ({"command": command} if command else {})
        results = self.private / "results"
        results.mkdir()
        self.results = results
        self.settings = self._settings(real)
        self.seen = self.private / "effects"
        self.ids: list[str] = []
        # How often an effect was waited for in vain.
        self.idle: Counter[tuple[str, str]] = Counter()
        site = Site(self.settings)
        site.migrate()
        database, old = Database(self.settings.database), Database(real.database)
        ImageStore(database).record(ImageStore(old).get("python"))
        helpers = HelperStore(old, source_sha256()).latest()
        assert helpers is not None, "the real bridge has built them"
        HelperStore(database, source_sha256()).record(helpers)
        KeyStore(database)
        database.close()
        old.close()

    def _settings(self, real: Settings) -> Settings:
        store = real.stores["results"].model_copy(update={"folder": self.results})
        slurm = SlurmSettings(
            transport=Transport.COMMANDS,
            poll_seconds=0.3,
            absence_seconds=30.0,
            timeout_seconds=10.0,
            in_progress=InProgressSettings(),
            calls_per_second=1000,
            calls_at_once=10_000,
        )
        changes = {
            "database": f"sqlite:///{self.private}/slurmbridge.db",
            "contexts": self.shared,
            "signing_key": self.private / "key.pem",
            "stores": {**real.stores, "results": store},
            "slurm": slurm,
            "doctor": real.doctor.model_copy(update={"every_hours": 0}),
            "runner": real.runner.model_copy(
                update={
                    "lease_seconds": 2.0,
                    "idle_seconds": 0.05,
                    "retry_seconds": 0.5,
                    "batch": 3,
                }
            ),
        }
        return real.model_copy(update=changes)

    def killed(self) -> Counter[tuple[str, str]]:
        """How often each effect was killed at, in each way."""
        path = self.seen.with_suffix(".killed")
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter(tuple(line.split("|")) for line in lines)  # type: ignore[misc]

    def next_target(self) -> tuple[str, str] | None:
        """The effect, and the way, that was killed at least often so far."""
        labels = set(self.seen.read_text().splitlines()) if self.seen.exists() else set()
        counted = self.killed() + self.idle
        pairs = [(label, way) for label in sorted(labels) for way in WAYS]
        random.shuffle(pairs)
        return min(pairs, key=lambda pair: counted[pair], default=None)

    def top_up(self) -> None:
        """Keep so many Processes under way.

        One that is UNKNOWN does not count: that there is no job for it is known only to a Runner
        that lives for longer than these do.
        """
        site = Site(self.settings)
        desk = site.desk()
        moving = [one for one in self.open() if one.state is not ProcessState.UNKNOWN]
        missing = self.at_once - len(moving)
        for _ in range(max(0, missing)):
            self.ids.append(desk.submit(parse_spec(self.spec), by="crash").id)
        site._database.close()

    def processes(self) -> list[Process]:
        """All of them."""
        database = Database(self.settings.database)
        found = [ProcessStore(database).get(one) for one in self.ids]
        database.close()
        return found

    def open(self) -> list[Process]:
        """Those that have not ended."""
        return [process for process in self.processes() if not process.state.final]

    def round(self, target: tuple[str, str] | None, seconds: float) -> int:
        """Run one Runner until it dies at its target, or for so long; its status."""
        child = os.fork()
        if child == 0:
            self._child(target)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return status
            if not self.open() and target is None:
                break
            time.sleep(0.05 if target else 0.5)
        os.kill(child, signal.SIGTERM if target is None else signal.SIGKILL)
        return os.waitpid(child, 0)[1]

    def _child(self, target: tuple[str, str] | None) -> None:
        # What is left of a driver that was ended would work on in folders that are gone.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        stopped: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
        code = 1
        try:
            _install(Hangman(target, self.seen))
            Site(self.settings).run_runner(lambda: bool(stopped))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def run(self, kills: int) -> dict[str, Any]:
        """All rounds, and what came of it."""
        began = time.monotonic()
        # One that is not killed, to learn which effects there are.
        self.top_up()
        self.round(None, 60)
        wasted = 0
        while sum(self.killed().values()) < kills and wasted < kills:
            self.top_up()
            before = sum(self.killed().values())
            target = self.next_target()
            self.round(target, ROUND_SECONDS)
            sys.stderr.write(f"{time.monotonic() - began:6.1f} s {target}\n")
            if sum(self.killed().values()) == before:
                wasted += 1
                assert target is not None
                self.idle[target] += 1
        killing = time.monotonic() - began
        self.round(None, END_SECONDS)
        return self.report(killing, time.monotonic() - began)

    def report(self, killing: float, seconds: float) -> dict[str, Any]:
        """What is to be judged."""
        killed = self.killed()
        return {
            "kills": sum(killed.values()),
            "killing_seconds": round(killing),
            "seconds": round(seconds),
            "effects": sorted(set(self.seen.read_text().splitlines())),
            "killed": {f"{label} | {way}": count for (label, way), count in sorted(killed.items())},
            "processes": [
                {
                    "id": process.id,
                    "state": process.state,
                    "reason": process.reason,
                    "job_name": process.job_name,
                    "runs": self._runs(process),
                }
                for process in self.processes()
            ],
            # But for what says whose they are.
            "contexts": sorted(
                path.name for path in self.shared.iterdir() if path.name != ".bridge"
            ),
        }

    def _runs(self, process: Process) -> int:
        """How often the program ran, as it says itself in what was carried."""
        path = self.results / "processes" / process.id / "output/runs"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def remove(self) -> None:
        """Leave nothing behind."""
        for folder in (self.private, self.shared):
            shutil.rmtree(folder, ignore_errors=True)


# --- on the host of the tests ---


def crash(cluster: "Cluster", *, kills: int, at_once: int) -> dict[str, Any]:
    """Run the driver on the bridge; what came of it."""
    asked = json.dumps({"kills": kills, "at_once": at_once}).encode()
    script = "cd /opt/slurmbridge/src && exec env PYTHONPATH=. $0 -m tests.support.crashing"
    python = "/opt/slurmbridge/venv/bin/python"
    limit = 600 + 10 * kills
    text = cluster.must("bridge", "sh", "-c", script, python, stdin=asked, timeout_seconds=limit)
    found: dict[str, Any] = json.loads(text)
    return found


def problems(cluster: "Cluster", found: dict[str, Any]) -> list[str]:
    """What must not be: lost, stuck, run twice, ended wrongly, or left behind."""
    wrong = [
        f"{process['id']} is {process['state']} ({process['reason']}), ran {process['runs']} times"
        for process in found["processes"]
        if (process["state"], process["runs"]) != ("COMPLETE", 1)
    ]
    names = {process["job_name"] for process in found["processes"]}
    argv = ("sacct", "-XnP", "--duplicates", f"--name={','.join(sorted(names))}",
            "--starttime=now-1days", "--format=JobName,ExitCode,NodeList")  # fmt: skip
    ran: Counter[str] = Counter()
    for line in cluster.must("login", *argv).splitlines():
        name, code, nodes = line.split("|")
        ran[name] += nodes != "None assigned" and not code.startswith("75:")
    twice = sorted(name for name in names if ran[name] != 1)
    wrong += [f"{name}: {ran[name]} jobs had its context" for name in twice]
    return wrong + [f"the context {name} was left" for name in found["contexts"]]


def main() -> None:
    """See above."""
    asked = json.load(sys.stdin)
    matrix = Matrix(asked.get("at_once", 4), asked.get("command"))
    try:
        sys.stdout.write(json.dumps(matrix.run(asked["kills"])))
    finally:
        matrix.remove()


if __name__ == "__main__":
    main()
