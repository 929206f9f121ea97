"""Processes of which it is not known whether Slurm has their job: found by name, never guessed."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from slurmbridge.bridge.observe import CLOCK_MARGIN
from slurmbridge.lifecycle import Phase, ProcessState
from slurmbridge.scheduler import JobReport, Scheduler
from slurmbridge.store import Change, Claimed, ProcessStore, again


class Recoverer:
    """Takes Processes whose submission was intended and not recorded."""

    def __init__(
        self,
        processes: ProcessStore,
        scheduler: Scheduler,
        *,
        runner: str,
        absence: timedelta,
        lease: timedelta,
        retry: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._processes = processes
        self._scheduler = scheduler
        self._runner = runner
        self._absence = absence
        self._lease = lease
        self._retry = retry
        self._clock = clock

    def recover(self) -> int:
        """Look for the jobs of those in doubt; how many were looked for.

        Raises:
            SchedulerUnavailable, ReplyUnreadable: they stay in doubt.
        """
        claimed = self._processes.claim(
            Phase.SUBMITTING, runner=self._runner, limit=500, now=self._clock(), lease=self._lease
        )
        if not claimed:
            return 0
        found = self._find(claimed)
        now = self._clock()
        changes = [self._decide(entry, found.get(entry.job_name, []), now) for entry in claimed]
        self._processes.apply(changes, runner=self._runner, now=now)
        return len(claimed)

    def _find(self, claimed: Sequence[Claimed]) -> dict[str, list[JobReport]]:
        names = {entry.job_name for entry in claimed}
        begun = [entry.intended_at for entry in claimed if entry.intended_at]
        since = min(begun, default=self._clock()) - CLOCK_MARGIN
        found: dict[str, list[JobReport]] = {}
        for report in (
            *self._scheduler.jobs(),
            *self._scheduler.history(sorted(names), since=since),
        ):
            if report.job_name in names:
                found.setdefault(report.job_name, []).append(report)
        return found

    def _decide(self, entry: Claimed, found: Sequence[JobReport], now: datetime) -> Change:
        if found:
            first = min(found, key=lambda report: report.job_id)
            detail = f"found by its name as job {first.job_id}"
            values = {"job_id": first.job_id, "slurm_state": str(first.status), "reason": None}
            return _change(
                entry, ProcessState.QUEUED, Phase.SUBMITTED, detail, values, first.source
            )
        assert entry.intended_at is not None
        if now - entry.intended_at >= self._absence:
            detail = f"no job of its name has appeared for {now - entry.intended_at}: again"
            return _change(entry, ProcessState.QUEUED, Phase.ACCEPTED, detail, {"reason": None})
        detail = "no job of its name is known yet"
        doubt = {"not_before": now + self._retry, "reason": detail}
        change = _change(entry, ProcessState.UNKNOWN, Phase.SUBMITTING, detail, doubt)
        return again(entry, change)


def _change(
    entry: Claimed,
    after: ProcessState,
    phase: Phase,
    detail: str,
    values: Mapping[str, Any],
    source: str = "runner",
) -> Change:
    return Change(entry.id, entry.state, after, phase, source, detail, values)
