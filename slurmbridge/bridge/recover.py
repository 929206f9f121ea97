"""Processes of which it is not known whether Slurm has their job: found by name, never guessed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from slurmbridge.bridge.observe import CLOCK_MARGIN, Patience, kept
from slurmbridge.bridge.standing import Actor
from slurmbridge.context.folder import Contexts
from slurmbridge.lifecycle import Phase, ProcessState
from slurmbridge.scheduler import JobReport, Scheduler
from slurmbridge.store import Change, Claimed, ProcessStore, again


@dataclass(frozen=True, slots=True)
class RecoverRules:
    """Limits and places."""

    contexts: Contexts
    retry: timedelta


@dataclass
class _Jobs:
    """The jobs of one name, and those of them that the controller knows."""

    reports: dict[int, JobReport] = field(default_factory=dict)
    known: set[int] = field(default_factory=set)


class Recoverer:
    """Takes Processes whose submission was intended and not recorded."""

    def __init__(
        self,
        processes: ProcessStore,
        scheduler: Scheduler,
        rules: RecoverRules,
        patience: Patience,
        actor: Actor,
    ) -> None:
        self._patience = patience
        self._actor = actor
        self._processes = processes
        self._scheduler = scheduler
        self._rules = rules

    def recover(self) -> int:
        """Look for the jobs of those in doubt; how many were looked for.

        Raises:
            SchedulerUnavailable, ReplyUnreadable: they stay in doubt.
        """
        claimed = self._processes.claim(
            Phase.SUBMITTING,
            runner=self._actor.id,
            limit=500,
            now=self._actor.clock.now(),
        )
        try:
            return self._decide_all(claimed) if claimed else 0
        finally:
            self._processes.let_go((entry.id for entry in claimed), runner=self._actor.id)

    def _decide_all(self, claimed: Sequence[Claimed]) -> int:
        found = self._find(claimed)
        self._actor.guard()
        present = [_key(entry) for entry in claimed if entry.job_name in found]
        absent = [_key(entry) for entry in claimed if entry.job_name not in found]
        if absent and self._scheduler.backlog():
            # Accounting may be told of them in a moment.
            lasted = {name: timedelta() for name in absent}
        else:
            lasted = self._patience.absences.look(absent, present=present)
        now = self._actor.clock.now()
        changes = [
            self._decide_found(entry, found[entry.job_name])
            if entry.job_name in found
            else self._decide_absent(entry, lasted[_key(entry)], now)
            for entry in claimed
        ]
        self._processes.apply(changes, runner=self._actor.id, now=now)
        return len(claimed)

    def _find(self, claimed: Sequence[Claimed]) -> dict[str, "_Jobs"]:
        names = {entry.job_name for entry in claimed}
        begun = [entry.intended_at for entry in claimed if entry.intended_at]
        since = min(begun, default=self._actor.clock.now()) - CLOCK_MARGIN
        found: dict[str, _Jobs] = {}
        for report in self._scheduler.jobs():
            if report.job_name in names:
                jobs = found.setdefault(report.job_name, _Jobs())
                jobs.reports[report.job_id] = report
                jobs.known.add(report.job_id)
        for report in self._scheduler.history(sorted(names), since=since):
            if report.job_name in names:
                jobs = found.setdefault(report.job_name, _Jobs())
                jobs.reports[report.job_id] = report
        return found

    def _decide_found(self, entry: Claimed, found: "_Jobs") -> Change:
        by_id = found.reports
        report = by_id[kept(set(by_id), self._taken_by(entry.id), found.known)]
        detail = f"found by its name as job {report.job_id}"
        if len(by_id) > 1:
            # The Observer ends the others.
            detail += f", of jobs {sorted(by_id)}"
        values = _adopted(report.job_id, str(report.status))
        return _change(entry, ProcessState.QUEUED, Phase.SUBMITTED, detail, values, report.source)

    def _decide_absent(self, entry: Claimed, lasted: timedelta, now: datetime) -> Change:
        taken_by = self._taken_by(entry.id)
        if taken_by is not None:
            detail = f"its context was taken by job {taken_by}"
            values = _adopted(taken_by, None)
            return _change(entry, ProcessState.QUEUED, Phase.SUBMITTED, detail, values)
        if lasted >= self._patience.absence():
            detail = f"no job of its name has appeared for {lasted}: again"
            values = {"reason": None, "missing_since": None}
            return _change(entry, ProcessState.QUEUED, Phase.ACCEPTED, detail, values)
        detail = "no job of its name is known yet"
        values = {
            "not_before": now + self._rules.retry,
            "reason": detail,
            "missing_since": entry.missing_since or now,
        }
        change = _change(entry, ProcessState.UNKNOWN, Phase.SUBMITTING, detail, values)
        return again(entry, change)

    def _taken_by(self, process_id: str) -> int | None:
        return self._rules.contexts.of(process_id).taken_by()


def _key(entry: Claimed) -> str:
    """What is missed is the job of one submission: the next has not been missed yet."""
    return f"{entry.id} {entry.intended_at}"


def _adopted(job_id: int, slurm_state: str | None) -> dict[str, Any]:
    return {"job_id": job_id, "slurm_state": slurm_state, "reason": None, "missing_since": None}


def _change(
    entry: Claimed,
    after: ProcessState,
    phase: Phase,
    detail: str,
    values: Mapping[str, Any],
    source: str = "runner",
) -> Change:
    return Change(entry.id, entry.state, after, entry.phase, phase, source, detail, values)
