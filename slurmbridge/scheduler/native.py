"""Slurm through pyslurm, in a child process that is killed and replaced when a call hangs.

Accounting and the cluster's capability come from Slurm's own programs: they are asked rarely, and
pyslurm's database calls can end their process.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slurmbridge.errors import (
    ReplyUnreadable,
    SchedulerUnavailable,
    ShellUnavailable,
    SubmissionNotSent,
    SubmissionRefused,
)
from slurmbridge.lifecycle import SlurmState, read_status
from slurmbridge.model import ComputeCapability
from slurmbridge.scheduler import TOO_LATE, ClusterNode, JobReport, Submission, SubmitOutcome, wire
from slurmbridge.scheduler.commands import CommandScheduler
from slurmbridge.shell import CLEAN_ENVIRONMENT, LineChild, Shell

# Run as a file, not as a module of this package: nothing of the package is loaded beside pyslurm.
CHILD = (sys.executable, "-I", str(Path(__file__).with_name("native_child.py")))


class NativeScheduler:
    """pyslurm in a child for what is asked often, Slurm's programs for the rest."""

    name = "pyslurm"

    def __init__(
        self, shell: Shell, *, timeout_seconds: float, child_argv: Sequence[str] = CHILD
    ) -> None:
        self._commands = CommandScheduler(shell, timeout_seconds=timeout_seconds)
        self._child = LineChild(child_argv, CLEAN_ENVIRONMENT)
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()

    @property
    def child_pid(self) -> int | None:
        """The process id of the child, if one lives."""
        return self._child.pid

    def submit(
        self,
        submissions: Sequence[Submission],
        on_outcome: Callable[[int, SubmitOutcome], None] | None = None,
    ) -> list[SubmitOutcome]:
        """See Scheduler.submit. When the child is lost, every unanswered one is in doubt."""
        # This clock is the same one in all processes of a host.
        now = time.monotonic()
        jobs = [[entry.script, now + entry.seconds_left()] for entry in submissions]
        outcomes: list[SubmitOutcome] = []

        def keep(outcome: SubmitOutcome) -> None:
            outcomes.append(outcome)
            if on_outcome:
                on_outcome(len(outcomes) - 1, outcome)

        try:
            for answer in self._ask("submit", jobs, answers=len(jobs)):
                keep(_outcome(answer))
        except SchedulerUnavailable as error:
            for _ in range(len(jobs) - len(outcomes)):
                keep(error)
        return outcomes

    def jobs(self) -> list[JobReport]:
        """See Scheduler.jobs."""
        [answer] = list(self._ask("jobs", None, answers=1))
        if "jobs" not in answer:
            raise SchedulerUnavailable(f"Slurm did not answer: {answer.get('error')}")
        return [_report(job) for job in answer["jobs"]]

    def history(self, job_names: Sequence[str], *, since: datetime) -> list[JobReport]:
        """See Scheduler.history."""
        return self._commands.history(job_names, since=since)

    def cancel(self, job_ids: Sequence[int], *, kill: bool = False) -> None:
        """See Scheduler.cancel."""
        if kill:
            self._commands.cancel(job_ids, kill=True)
            return
        answers = list(self._ask("cancel", list(job_ids), answers=len(job_ids)))
        if errors := [answer["error"] for answer in answers if "error" in answer]:
            raise SchedulerUnavailable(f"Slurm did not cancel: {errors[0]}")

    def withdraw(self, job_ids: Sequence[int]) -> None:
        """See Scheduler.withdraw."""
        self._commands.withdraw(job_ids)

    def backlog(self) -> int:
        """See Scheduler.backlog."""
        return self._commands.backlog()

    def capability(self) -> ComputeCapability:
        """See Scheduler.capability."""
        return self._commands.capability()

    def nodes(self) -> list[ClusterNode]:
        """See Scheduler.nodes."""
        [answer] = list(self._ask("nodes", None, answers=1))
        if "nodes" not in answer:
            raise SchedulerUnavailable(f"Slurm did not answer: {answer.get('error')}")
        within: dict[str, list[str]] = {}
        for partition, names in answer["partitions"].items():
            for name in names:
                within.setdefault(name, []).append(partition)
        return wire.sorted_nodes(
            ClusterNode(name, tuple(within[name]), wire.node_is_up(state))
            for name, state in answer["nodes"].items()
            if name in within
        )

    def close(self) -> None:
        """See Scheduler.close."""
        self._child.kill()

    def _ask(self, operation: str, jobs: Any, *, answers: int) -> Iterator[dict[str, Any]]:
        if answers == 0:
            return
        with self._lock:
            fresh = self._child.pid is None
            line = json.dumps({"op": operation, "jobs": jobs})
            try:
                lines = self._child.request(line, timeout_seconds=self._timeout_seconds)
                if fresh:
                    self._greet(json.loads(next(lines)))
                for _ in range(answers):
                    yield json.loads(next(lines))
            except ShellUnavailable as error:
                raise SchedulerUnavailable(f"Slurm did not answer pyslurm: {error}") from error
            except ValueError as error:
                self._child.kill()
                raise ReplyUnreadable("pyslurm's process answered with no JSON") from error
            except GeneratorExit:
                # The caller left in the middle of the answers: they cannot be told apart later.
                self._child.kill()
                raise

    def _greet(self, greeting: dict[str, Any]) -> None:
        if "unusable" in greeting:
            self._child.kill()
            raise SchedulerUnavailable(greeting["unusable"])


def _outcome(answer: dict[str, Any]) -> SubmitOutcome:
    if "job_id" in answer:
        return int(answer["job_id"])
    if "late" in answer:
        return SubmissionNotSent(TOO_LATE)
    if "skipped" in answer:
        return SubmissionNotSent(f"Slurm did not answer the one before: {answer['skipped']}")
    if "invalid" in answer:
        return SubmissionRefused(f"the script cannot be submitted: {answer['invalid']}")
    return wire.refusal(str(answer.get("error")))


def _report(job: dict[str, Any]) -> JobReport:
    status = read_status(job["state"])
    completed = status.base is SlurmState.COMPLETED
    waits = status.base is SlurmState.PENDING
    return JobReport(
        job_id=job["job_id"],
        job_name=job["job_name"] or "",
        status=status,
        reason=None if job["reason"] in {"None", None} else job["reason"],
        # pyslurm 25.11 takes 128 from exit codes above 127, so no other one can be relied on.
        exit_code=0 if completed else None,
        nodes=job["nodes"] or None,
        started_at=_time(job["started_at"]) if not waits else None,
        ended_at=_time(job["ended_at"])
        if status.base not in {SlurmState.PENDING, SlurmState.RUNNING}
        else None,
        expected_start=_time(job["started_at"]) if waits else None,
        restarts=job["restarts"],
        source="pyslurm",
    )


def _time(seconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def native_is_usable(child_argv: Sequence[str] = CHILD) -> str | None:
    """None when pyslurm can be imported here and fits the cluster; else what is wrong."""
    child = LineChild(child_argv, CLEAN_ENVIRONMENT)
    try:
        lines = child.request(json.dumps({"op": "cancel", "jobs": []}), timeout_seconds=30)
        greeting: dict[str, Any] = json.loads(next(lines))
    except (ShellUnavailable, ValueError) as error:
        return f"pyslurm cannot be started: {error}"
    finally:
        child.kill()
    problem: str | None = greeting.get("unusable")
    return problem
