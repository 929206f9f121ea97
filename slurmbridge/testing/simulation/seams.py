"""The bridge's seams, each with a gate in it: database, Slurm, files and Data Stores."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path, PosixPath
from typing import Any, BinaryIO, ClassVar, TypeVar

from slurmbridge.clock import always
from slurmbridge.errors import (
    DatabaseUnavailable,
    FilesUnavailable,
    ReplyUnreadable,
    SchedulerUnavailable,
    SubmissionNotSent,
)
from slurmbridge.model import ComputeCapability
from slurmbridge.scheduler import ClusterNode, JobReport, Submission, SubmitOutcome, wire
from slurmbridge.shell import Entry, Kind
from slurmbridge.store import Database
from slurmbridge.testing.files import MemoryFiles
from slurmbridge.testing.scheduler import QOS_LIMIT, RATE_LIMIT, FakeScheduler
from slurmbridge.testing.simulation.gate import Gate
from slurmbridge.testing.simulation.weather import DATABASE, FILES, SLURM, STORE

T = TypeVar("T")
# How long a submission can be on its way: its sender gives up, and then Slurm does.
ON_ITS_WAY_SECONDS = 30.0


def _no_database(why: str) -> Exception:
    return DatabaseUnavailable(f"the database does not answer: {why}")


def _no_slurm(why: str) -> Exception:
    return SchedulerUnavailable(f"Slurm did not answer: {why}")


def _no_files(why: str) -> Exception:
    return FilesUnavailable(f"the files cannot be reached: {why}")


def _no_store(why: str) -> Exception:
    return OSError(errno.EIO, f"{os.strerror(errno.EIO)}: {why}")


class GatedDatabase(Database):
    """One program's connection. Its transactions are whole or not at all, as SQLite's are."""

    def __init__(self, shared: Database, gate: Gate, after_write: Callable[[], object]) -> None:
        self.url = shared.url
        self.engine = shared.engine
        self._gate = gate
        self._after_write = after_write

    @contextmanager
    def read(self) -> Iterator[Any]:
        """See Database.read."""
        self._gate.before(DATABASE, "read", _no_database)
        with super().read() as connection:
            yield connection
        self._gate.after(DATABASE, "read", _no_database)

    @contextmanager
    def write(self) -> Iterator[Any]:
        """See Database.write."""
        self._gate.before(DATABASE, "write", _no_database)
        with super().write() as connection:
            yield connection
        self._after_write()
        self._gate.after(DATABASE, "write", _no_database)


class GatedScheduler:
    """One program's way to Slurm; implements Scheduler."""

    name = "fake"

    def __init__(self, slurm: FakeScheduler, gate: Gate) -> None:
        self._slurm = slurm
        self._gate = gate

    def submit(
        self,
        submissions: Sequence[Submission],
        on_outcome: Callable[[int, SubmitOutcome], None] | None = None,
    ) -> list[SubmitOutcome]:
        """See Scheduler.submit."""
        outcomes = []
        for index, submission in enumerate(submissions):
            outcome = self._submit_one(submission)
            outcomes.append(outcome)
            if on_outcome:
                on_outcome(index, outcome)
        return outcomes

    def _submit_one(self, submission: Submission) -> SubmitOutcome:
        rng, weather = self._gate.stage.rng, self._gate.sky.weather
        try:
            submission.check()
            # Whoever has looked at the clock may stand still before Slurm hears of it.
            submission = replace(submission, seconds_left=always)
            self._gate.before(SLURM, f"submit {submission.job_name}", SubmissionNotSent)
            if rng.random() < weather.late_submission:
                return self._late(submission)
            if rng.random() < weather.rate_limit:
                return wire.refusal(rng.choice((RATE_LIMIT, QOS_LIMIT)))
            [outcome] = self._slurm.submit([submission])
            self._gate.after(SLURM, f"submit {submission.job_name}: {outcome}", _no_slurm)
        except (SubmissionNotSent, SchedulerUnavailable) as error:
            return error
        return outcome

    def _late(self, submission: Submission) -> SubmitOutcome:
        stage = self._gate.stage
        seconds = ON_ITS_WAY_SECONDS * stage.rng.random()
        self._gate.note(f"submit {submission.job_name}: it will arrive in {seconds:.0f} s")
        stage.at(stage.now + seconds, lambda: self._slurm.submit([submission]))
        stage.pass_time(self._gate.sky.patience(SLURM))
        return SchedulerUnavailable("Slurm did not answer: socket timed out")

    def jobs(self) -> list[JobReport]:
        """See Scheduler.jobs."""
        return self._ask("jobs", self._slurm.jobs)

    def history(self, job_names: Sequence[str], *, since: datetime) -> list[JobReport]:
        """See Scheduler.history."""
        return self._ask("history", lambda: self._slurm.history(job_names, since=since))

    def cancel(self, job_ids: Sequence[int], *, kill: bool = False) -> None:
        """See Scheduler.cancel."""
        what = f"{'kill' if kill else 'cancel'} {list(job_ids)}"
        self._ask(what, lambda: self._slurm.cancel(job_ids, kill=kill))

    def withdraw(self, job_ids: Sequence[int]) -> None:
        """See Scheduler.withdraw. As the real one: held, looked at, and canceled."""
        self._ask(f"hold {list(job_ids)}", lambda: self._hold(job_ids))
        waiting = [
            report.job_id for report in self.jobs() if report.job_id in job_ids and _waits(report)
        ]
        self.cancel(waiting)

    def _hold(self, job_ids: Sequence[int]) -> None:
        self._slurm.jobs()
        for job in self._slurm.living():
            if job.report.job_id in job_ids and job.waits:
                self._slurm.hold(job.report.job_id)

    def backlog(self) -> int:
        """See Scheduler.backlog."""
        return self._ask("backlog", self._slurm.backlog)

    def capability(self) -> ComputeCapability:
        """See Scheduler.capability."""
        return self._ask("capability", self._slurm.capability)

    def nodes(self) -> list[ClusterNode]:
        """See Scheduler.nodes."""
        return self._ask("nodes", self._slurm.nodes)

    def close(self) -> None:
        """See Scheduler.close."""

    def _ask(self, what: str, ask: Callable[[], T]) -> T:
        def answer() -> T:
            if self._gate.stage.rng.random() < self._gate.sky.weather.garbage:
                raise ReplyUnreadable("squeue printed 'Welcome to the cluster!'")
            return ask()

        return self._gate.through(SLURM, what, answer, _no_slurm)


def _waits(report: JobReport) -> bool:
    return report.status.base is not None and report.status.base.value == "PENDING"


class GatedFiles:
    """One program's way to the host on which contexts lie; implements Files."""

    def __init__(
        self, files: MemoryFiles, gate: Gate, before_change: Callable[[Path, bool], object]
    ) -> None:
        self._files = files
        self._gate = gate
        # Told of what is changed, and whether it is removed.
        self._before_change = before_change

    def make_folder(self, path: Path, *, mode: int, parents: bool = False) -> None:
        """See Files."""

        def make() -> None:
            self._need_space(path)
            self._before_change(path, False)
            self._files.make_folder(path, mode=mode, parents=parents)

        self._do(f"make {path}", make)

    def look(self, path: Path) -> Entry:
        """See Files."""
        return self._do(f"look at {path}", lambda: self._files.look(path))

    def list(self, path: Path, *, limit: int | None = None) -> Sequence[Entry]:
        """See Files."""
        return self._do(f"list {path}", lambda: self._files.list(path, limit=limit))

    def read(self, path: Path, *, limit: int, offset: int = 0) -> bytes:
        """See Files."""
        return self._do(f"read {path}", lambda: self._files.read(path, limit=limit, offset=offset))

    def read_link(self, path: Path) -> str:
        """See Files."""
        return self._do(f"read {path}", lambda: self._files.read_link(path))

    def write(self, path: Path, content: bytes, *, mode: int = 0o640) -> None:
        """See Files."""

        def write() -> None:
            self._need_space(path)
            self._before_change(path, False)
            self._files.write(path, content, mode=mode)

        self._do(f"write {path}", write)

    @contextmanager
    def open(self, root: Path, path: str) -> Iterator[BinaryIO]:
        """See Files."""
        self._gate.before(FILES, f"open {root}/{path}", _no_files)
        with self._files.open(root, path) as file:
            yield file

    @contextmanager
    def create(self, path: Path, *, mode: int) -> Iterator[BinaryIO]:
        """See Files."""
        self._gate.before(FILES, f"create {path}", _no_files)
        self._need_space(path)
        self._before_change(path, False)
        with self._files.create(path, mode=mode) as file:
            yield file
        self._gate.after(FILES, f"create {path}", _no_files)

    def rename(self, old: Path, new: Path) -> None:
        """See Files."""

        def rename() -> None:
            self._before_change(old, True)
            self._files.rename(old, new)

        self._do(f"rename {old} to {new}", rename)

    def hard_link(self, old: Path, new: Path) -> None:
        """See Files."""

        def link() -> None:
            self._need_space(new)
            self._before_change(new, False)
            self._files.hard_link(old, new)

        self._do(f"link {new}", link)

    def set_mode(self, path: Path, mode: int) -> None:
        """See Files."""
        self._do(f"set the rights of {path}", lambda: self._files.set_mode(path, mode))

    def remove_file(self, path: Path) -> None:
        """See Files."""
        self._do(f"remove {path}", lambda: self._files.remove_file(path))

    def remove_tree(self, path: Path) -> None:
        """See Files. It takes its time, and may end in the midst of it."""
        entries = [*self._do(f"list {path}", lambda: self._files.list(path))]
        self._gate.stage.rng.shuffle(entries)
        for entry in entries:
            self._do(f"remove {path}/{entry.name}", partial(self._drop, path, entry))
        self._do(f"remove {path}", lambda: self._drop(path.parent, self._files.look(path)))

    def _drop(self, folder: Path, entry: Entry) -> None:
        self._before_change(folder / entry.name, True)
        if entry.kind is Kind.FOLDER:
            self._files.remove_tree(folder / entry.name)
        else:
            self._files.remove_file(folder / entry.name)

    def close(self) -> None:
        """See Files."""

    def _do(self, what: str, effect: Callable[[], T]) -> T:
        return self._gate.through(FILES, what, effect, _no_files)

    def _need_space(self, path: Path) -> None:
        sky, stage = self._gate.sky, self._gate.stage
        full = sky.full_until > stage.now
        if full or stage.rng.random() < sky.weather.disk_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


class StorePath(PosixPath):
    """A path in a Data Store, which is a real folder: what a program does there goes through the
    gate of the program that is at work.
    """

    __slots__ = ()
    gate_now: ClassVar[Callable[[], Gate]]

    def __fspath__(self) -> str:
        """Every use of a path comes by here. Who is dead uses none."""
        type(self).gate_now().stage.check_alive()
        return super().__fspath__()

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """See Path.mkdir."""
        gate = type(self).gate_now()
        plain = Path(str(self))

        def make() -> None:
            if gate.stage.rng.random() < gate.sky.weather.disk_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            plain.mkdir(mode, parents, exist_ok)

        gate.through(STORE, f"make a folder for {self.name[:27]}", make, _no_store)

    def rename(self, target: Any) -> "StorePath":
        """See Path.rename."""
        gate = type(self).gate_now()
        what = f"rename {self.name[:27]} to {Path(str(target)).name[:27]}"
        return gate.through(STORE, what, lambda: super(StorePath, self).rename(target), _no_store)
