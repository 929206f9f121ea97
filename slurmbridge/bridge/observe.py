"""One query for all jobs; only what has changed is written."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from slurmbridge.errors import ReplyUnreadable, SchedulerUnavailable
from slurmbridge.lifecycle import Phase, ProcessState, classify, is_legal
from slurmbridge.scheduler import JobReport, Scheduler
from slurmbridge.store import Change, Open, ProcessStore

log = logging.getLogger(__name__)
# sacct's own window: a job can be older than its Process is by no more than the hosts' clocks.
CLOCK_MARGIN = timedelta(minutes=10)
_WAITING = frozenset({ProcessState.QUEUED, ProcessState.INITIALIZING, ProcessState.UNKNOWN})


class Observer:
    """Brings what Slurm says into the database."""

    def __init__(
        self,
        processes: ProcessStore,
        scheduler: Scheduler,
        *,
        absence: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._processes = processes
        self._scheduler = scheduler
        self._absence = absence
        self._clock = clock

    def observe(self) -> list[Open]:
        """Look once; the Processes that are still open.

        Raises:
            SchedulerUnavailable, ReplyUnreadable: nothing is concluded from silence.
        """
        # The rows first: a job that is submitted while Slurm answers must not count as missing.
        rows = self._processes.observed()
        reports = {report.job_id: report for report in self._scheduler.jobs()}
        now = self._clock()
        changes: list[Change] = []
        missing: list[Open] = []
        for row in rows:
            report = reports.get(row.job_id)
            if report is None or report.job_name != row.job_name:
                missing.append(row)
            elif change := decide(row, report):
                changes.append(change)
        changes = [_dated(change, now) for change in changes]
        self._processes.apply(changes, runner=None, now=now)
        # What follows may fail by itself: accounting may be silent while the controller answers.
        changes += self._tolerantly("ask accounting", lambda: self._miss(missing, now))
        self._tolerantly("cancel", lambda: self._cancel(rows, changes))
        ended = {change.process_id for change in changes if change.phase is not Phase.SUBMITTED}
        return [row for row in rows if row.id not in ended]

    def _tolerantly(self, what: str, act: Callable[[], list[Change]]) -> list[Change]:
        try:
            return act()
        except (SchedulerUnavailable, ReplyUnreadable) as error:
            log.warning("could not %s: %s", what, error)
            return []

    def _miss(self, missing: Sequence[Open], now: datetime) -> list[Change]:
        changes = [_dated(change, now) for change in self._decide_missing(missing, now)]
        self._processes.apply(changes, runner=None, now=now)
        return changes

    def _decide_missing(self, missing: Sequence[Open], now: datetime) -> list[Change]:
        if not missing:
            return []
        since = min(row.created_at for row in missing) - CLOCK_MARGIN
        reports = {
            report.job_id: report
            for report in self._scheduler.history([row.job_name for row in missing], since=since)
        }
        changes = []
        for row in missing:
            report = reports.get(row.job_id)
            if report is not None and classify(report.status).final:
                changes.append(_ended(row, report))
            else:
                # Accounting alone says that it runs: its records lag, and outlive lost jobs.
                changes += self._absent(row, now)
        return changes

    def _absent(self, row: Open, now: datetime) -> list[Change]:
        """Neither found nor ended: absence is no evidence before it has lasted."""
        if row.missing_since is None:
            detail = f"job {row.job_id} is not known to the controller and not ended in accounting"
            return [_change(row, row.state, "runner", detail, {"missing_since": now})]
        if now - row.missing_since < self._absence:
            return []
        detail = f"job {row.job_id} has been absent for {now - row.missing_since}"
        values = {"slurm_state": None, "ended_at": now}
        return [_change(row, row.state, "runner", detail, values, Phase.COLLECTING)]

    def _cancel(self, rows: Sequence[Open], changes: Sequence[Change]) -> list[Change]:
        """Ask Slurm to end what shall end, again each time until it has."""
        state = {row.id: row.state for row in rows}
        state |= {change.process_id: change.after for change in changes}
        ended = {change.process_id for change in changes if change.phase is Phase.COLLECTING}
        wanted = [row for row in rows if row.cancel_requested and row.id not in ended]
        if not wanted:
            return []
        self._scheduler.cancel([row.job_id for row in wanted])
        asked = [
            Change(
                row.id,
                state[row.id],
                ProcessState.CANCELING,
                Phase.SUBMITTED,
                Phase.SUBMITTED,
                self._scheduler.name,
                f"Slurm was asked to cancel job {row.job_id}",
            )
            for row in wanted
            if state[row.id] is not ProcessState.CANCELING
        ]
        self._processes.apply(asked, runner=None, now=self._clock())
        return asked


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
    values: dict[str, Any] = {
        "slurm_state": str(report.status),
        "slurm_reason": report.reason,
        "nodes": report.nodes,
    }
    known = (row.state, row.slurm_state, row.slurm_reason, row.nodes, row.missing_since)
    if known == (state, *values.values(), None):
        return None
    detail = f"job {report.job_id} is {report.status}"
    detail += f" ({report.reason})" if report.reason else ""
    values |= {"started_at": report.started_at, "missing_since": None}
    return _change(row, state, report.source, detail, values)


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
    }
    detail = f"job {report.job_id} ended: {report.status}"
    return _change(row, after, report.source, detail, values, Phase.COLLECTING)


def _change(
    row: Open,
    after: ProcessState,
    source: str,
    detail: str,
    values: Mapping[str, Any],
    phase: Phase = Phase.SUBMITTED,
) -> Change:
    return Change(row.id, row.state, after, Phase.SUBMITTED, phase, source, detail, values)
