"""One query for all jobs; only what has changed is written."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from slurmbridge.bridge.standing import Actor
from slurmbridge.clock import Absences
from slurmbridge.errors import ReplyUnreadable, SchedulerUnavailable
from slurmbridge.lifecycle import Phase, ProcessState, SlurmState, classify, is_legal
from slurmbridge.scheduler import JobReport, Scheduler
from slurmbridge.scheduler.reasons import explain
from slurmbridge.store import Change, Open, ProcessStore

log = logging.getLogger(__name__)
# sacct shows what existed in its window. A host's clock that is wrong by a zone, or by a day, must
# not hide a job.
CLOCK_MARGIN = timedelta(hours=26)
# A job that has not ended so long after it was to be canceled is killed: more than KillWait and
# UnkillableStepTimeout usually are together.
KILLED_AFTER_SECONDS = 180.0
# Of the start that Slurm expects, what changes by less is no news.
EXPECTED_CHANGES = timedelta(minutes=1)
_WAITING = frozenset({ProcessState.QUEUED, ProcessState.INITIALIZING, ProcessState.UNKNOWN})
TakenBy = Callable[[str], int | None]


@dataclass(frozen=True, slots=True)
class Patience:
    """When a job that nobody knows counts as lost: after so long an absence, seen look by look."""

    absence: Callable[[], timedelta]
    absences: Absences


class Observer:
    """Brings what Slurm says into the database."""

    def __init__(
        self,
        processes: ProcessStore,
        scheduler: Scheduler,
        patience: Patience,
        actor: Actor,
        *,
        taken_by: TakenBy,
    ) -> None:
        self._processes = processes
        self._scheduler = scheduler
        self._patience = patience
        self._taken_by = taken_by
        self._actor = actor
        self._canceled_at: dict[str, float] = {}

    def observe(self) -> list[Open]:
        """Look once; the Processes that are still open.

        Raises:
            SchedulerUnavailable, ReplyUnreadable: nothing is concluded from silence.
        """
        # The rows first: a job that is submitted while Slurm answers must not count as missing.
        rows = self._processes.observed()
        jobs = self._scheduler.jobs()
        self._actor.guard()
        reports = {report.job_id: report for report in jobs}
        now = self._actor.clock.now()
        changes: list[Change] = []
        missing: list[Open] = []
        for row in rows:
            report = reports.get(row.job_id)
            if report is None or report.job_name != row.job_name:
                missing.append(row)
                continue
            if row.missing_since is not None:
                self._patience.absences.look((), present=[_key(row)])
            if change := decide(row, report):
                changes.append(change)
        changes = [_dated(change, now) for change in changes]
        self._apply(changes)
        # What follows may fail by itself: accounting may be silent while the controller answers.
        changes += self._tolerantly("ask accounting", lambda: self._miss(missing, now))
        # What is not there is left alone: the id of a lost job may be another's by now.
        there = [row for row in rows if row not in missing]
        self._tolerantly("cancel", lambda: self._cancel(there, changes))
        self._tolerantly("end second jobs", lambda: self._end_second_jobs(rows, jobs))
        ended = {change.process_id for change in changes if change.phase is not Phase.SUBMITTED}
        return [row for row in rows if row.id not in ended]

    def _apply(self, changes: Sequence[Change]) -> None:
        """Nobody holds what is observed; but who was taken for dead has nothing more to say."""
        now = self._actor.clock.now()
        self._processes.apply(changes, runner=None, observer=self._actor.id, now=now)

    def _tolerantly(self, what: str, act: Callable[[], list[Change]]) -> list[Change]:
        try:
            return act()
        except (SchedulerUnavailable, ReplyUnreadable) as error:
            log.warning("could not %s: %s", what, error)
            return []

    # --- jobs that the controller does not know ---

    def _miss(self, missing: Sequence[Open], now: datetime) -> list[Change]:
        changes = [_dated(change, now) for change in self._decide_missing(missing, now)]
        self._apply(changes)
        return changes

    def _decide_missing(self, missing: Sequence[Open], now: datetime) -> list[Change]:
        if not missing:
            return []
        since = min(row.created_at for row in missing) - CLOCK_MARGIN
        # By name as well: a controller that has lost its state uses job ids again.
        reports = {
            (report.job_id, report.job_name): report
            for report in self._scheduler.history([row.job_name for row in missing], since=since)
        }
        changes = []
        absent: list[Open] = []
        for row in missing:
            report = reports.get((row.job_id, row.job_name))
            if report is not None and classify(report.status).final:
                changes.append(_ended(row, report))
            else:
                # Accounting alone says that it runs: its records lag, and outlive lost jobs.
                absent.append(row)
        return changes + self._decide_absent(absent, now)

    def _decide_absent(self, rows: Sequence[Open], now: datetime) -> list[Change]:
        """Neither found nor ended: absence is no evidence before it has lasted."""
        if rows and self._scheduler.backlog():
            return []
        lasted = self._patience.absences.look(_key(row) for row in rows)
        changes = []
        for row in rows:
            if lasted[_key(row)] >= self._patience.absence():
                detail = f"job {row.job_id} has been absent for {lasted[_key(row)]}"
                values = {"slurm_state": None, "ended_at": now}
                changes.append(_change(row, row.state, "runner", detail, values, Phase.COLLECTING))
            elif row.missing_since is None:
                detail = f"job {row.job_id} is not known to the controller"
                detail += " and not ended in accounting"
                values = {"missing_since": now}
                changes.append(_change(row, row.state, "runner", detail, values))
        return changes

    # --- jobs that shall end ---

    def _cancel(self, rows: Sequence[Open], changes: Sequence[Change]) -> list[Change]:
        """Ask Slurm to end what shall end, again each time until it has, and in the end harder."""
        state = {row.id: row.state for row in rows}
        state |= {change.process_id: change.after for change in changes}
        ended = {change.process_id for change in changes if change.phase is Phase.COLLECTING}
        wanted = [row for row in rows if row.cancel_requested and row.id not in ended]
        now = self._actor.clock.monotonic()
        self._canceled_at = {row.id: self._canceled_at.get(row.id, now) for row in wanted}
        if not wanted:
            return []
        late = [row for row in wanted if now - self._canceled_at[row.id] >= KILLED_AFTER_SECONDS]
        self._actor.guard()
        if late:
            self._scheduler.cancel([row.job_id for row in late], kill=True)
        self._scheduler.cancel([row.job_id for row in wanted])
        asked = [
            replace(
                _change(
                    row,
                    ProcessState.CANCELING,
                    self._scheduler.name,
                    f"Slurm was asked to cancel job {row.job_id}",
                    {},
                ),
                before=state[row.id],
            )
            for row in wanted
            if state[row.id] is not ProcessState.CANCELING
        ]
        asked += [_killed(row) for row in late if row.reason != _KILLED]
        self._apply(asked)
        return asked

    # --- jobs that should not be ---

    def _end_second_jobs(self, rows: Sequence[Open], jobs: Sequence[JobReport]) -> list[Change]:
        """Of several jobs for one Process, keep the one that `kept` names, and end the others
        before they start. One that starts all the same ends at its claim.
        """
        living: dict[str, set[int]] = {}
        known: dict[str, set[int]] = {}
        for report in jobs:
            known.setdefault(report.job_name, set()).add(report.job_id)
            if not classify(report.status).final:
                living.setdefault(report.job_name, set()).add(report.job_id)
        changes = []
        for row in rows:
            alive = living.get(row.job_name, set())
            others = alive - {row.job_id}
            if not others:
                continue
            keep = kept({row.job_id, *others}, self._taken_by(row.id), known[row.job_name])
            self._actor.guard()
            # No id that this look has not shown under this name: it may be another's by now.
            self._scheduler.withdraw(sorted(alive - {keep}))
            if keep != row.job_id:
                detail = f"of jobs {sorted({row.job_id, *others})} for it, job {keep} is kept"
                values = {"job_id": keep, "slurm_state": None, "missing_since": None}
                changes.append(_change(row, row.state, "runner", detail, values))
        self._apply(changes)
        return changes


def kept(job_ids: set[int], taken_by: int | None, known: set[int]) -> int:
    """Of several jobs for one Process, the one that has the context; before that, the first of
    those that the controller knows: others may be lost.
    """
    return taken_by if taken_by in job_ids else min(job_ids & known or job_ids)


def _key(row: Open) -> str:
    """What is missed is a job: another one for the same Process has not been missed as long."""
    return f"{row.id} {row.job_id}"


def _dated(change: Change, now: datetime) -> Change:
    """An end that Slurm gives no time for is dated when it is seen."""
    if change.phase is not Phase.COLLECTING or change.values.get("ended_at") is not None:
        return change
    return replace(change, values={**change.values, "ended_at": now})


def decide(row: Open, report: JobReport) -> Change | None:
    """The move that a report means for a Process; None when it says nothing new."""
    state = classify(report.status)
    if state.final:
        return _ended(row, report)
    if row.state is ProcessState.CANCELING:
        state = row.state
    waits = report.status.base is SlurmState.PENDING
    values: dict[str, Any] = {
        "slurm_state": str(report.status),
        "slurm_reason": report.reason,
        "nodes": report.nodes,
        "restarts": report.restarts,
    }
    known = (row.state, row.slurm_state, row.slurm_reason, row.nodes, row.restarts)
    expected = _expected(row.expected_start, report.expected_start if waits else None)
    if (*known, row.missing_since, row.expected_start) == (state, *values.values(), None, expected):
        return None
    same = known == (state, *values.values()) and row.missing_since is None
    detail = f"job {report.job_id} is {report.status}"
    detail += f" ({report.reason})" if report.reason else ""
    values |= {
        "started_at": report.started_at,
        "missing_since": None,
        "expected_start": expected,
    }
    if state is not ProcessState.CANCELING:
        values["reason"] = explain(report.reason) if waits else None
    return _change(row, state, report.source, "" if same else detail, values)


def _expected(before: datetime | None, now: datetime | None) -> datetime | None:
    """The start that Slurm expects, which it computes anew all the time."""
    if before is None or now is None or abs(now - before) >= EXPECTED_CHANGES:
        return now
    return before


def _ended(row: Open, report: JobReport) -> Change:
    # Between two looks a job may have run and ended: that it ran is said, its end follows when the
    # outputs are carried.
    # Slurm gives a start time even to a job that was canceled while it waited, but never nodes.
    started_at = report.started_at if report.nodes else None
    ran = started_at is not None and row.state in _WAITING
    after = ProcessState.RUNNING if ran else row.state
    assert after is row.state or is_legal(row.state, after)
    values = {
        "slurm_state": str(report.status),
        "slurm_reason": report.reason,
        "nodes": report.nodes,
        "exit_code": report.exit_code,
        "signal": report.signal,
        "started_at": started_at,
        "ended_at": report.ended_at,
        "expected_start": None,
    }
    detail = f"job {report.job_id} ended: {report.status}"
    return _change(row, after, report.source, detail, values, Phase.COLLECTING)


_KILLED = "Slurm was asked to kill it: it had not ended long after it was to be canceled"


def _killed(row: Open) -> Change:
    return replace(
        _change(row, ProcessState.CANCELING, "runner", _KILLED, {"reason": _KILLED}),
        before=ProcessState.CANCELING,
    )


def _change(
    row: Open,
    after: ProcessState,
    source: str,
    detail: str,
    values: Mapping[str, Any],
    phase: Phase = Phase.SUBMITTED,
) -> Change:
    return Change(row.id, row.state, after, Phase.SUBMITTED, phase, source, detail, values)
