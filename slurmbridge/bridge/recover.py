"""Processes of which it is not known whether Slurm has their job: found by name, never guessed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from slurmbridge.bridge.observe import CLOCK_MARGIN
from slurmbridge.context.folder import ContextFolder
from slurmbridge.lifecycle import Phase, ProcessState
from slurmbridge.scheduler import JobReport, Scheduler
from slurmbridge.store import Change, Claimed, ProcessStore, again


@dataclass(frozen=True, slots=True)
class RecoverRules:
    """Limits and places."""

    runner: str
    contexts: Path
    absence: timedelta
    lease: timedelta
    retry: timedelta


class Recoverer:
    """Takes Processes whose submission was intended and not recorded."""

    def __init__(
        self,
        processes: ProcessStore,
        scheduler: Scheduler,
        rules: RecoverRules,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._processes = processes
        self._scheduler = scheduler
        self._rules = rules
        self._clock = clock

    def recover(self) -> int:
        """Look for the jobs of those in doubt; how many were looked for.

        Raises:
            SchedulerUnavailable, ReplyUnreadable: they stay in doubt.
        """
        claimed = self._processes.claim(
            Phase.SUBMITTING,
            runner=self._rules.runner,
            limit=500,
            now=self._clock(),
            lease=self._rules.lease,
        )
        try:
            return self._decide_all(claimed) if claimed else 0
        finally:
            self._processes.let_go(entry.id for entry in claimed)

    def _decide_all(self, claimed: Sequence[Claimed]) -> int:
        found = self._find(claimed)
        now = self._clock()
        changes = [self._decide(entry, found.get(entry.job_name, []), now) for entry in claimed]
        self._processes.apply(changes, runner=self._rules.runner, now=now)
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
            values = {
                "job_id": first.job_id,
                "slurm_state": str(first.status),
                "reason": None,
                "missing_since": None,
            }
            return _change(
                entry, ProcessState.QUEUED, Phase.SUBMITTED, detail, values, first.source
            )
        taken_by = ContextFolder(self._rules.contexts, entry.id).taken_by()
        if taken_by is not None:
            detail = f"its context was taken by job {taken_by}"
            values = {
                "job_id": taken_by,
                "slurm_state": None,
                "reason": None,
                "missing_since": None,
            }
            return _change(entry, ProcessState.QUEUED, Phase.SUBMITTED, detail, values)
        # From the first look that was answered, not from the intent: Slurm may have been away.
        since = entry.missing_since or now
        if now - since >= self._rules.absence:
            detail = f"no job of its name has appeared for {now - since}: again"
            values = {"reason": None, "missing_since": None}
            return _change(entry, ProcessState.QUEUED, Phase.ACCEPTED, detail, values)
        detail = "no job of its name is known yet"
        doubt = {"not_before": now + self._rules.retry, "reason": detail, "missing_since": since}
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
    return Change(entry.id, entry.state, after, entry.phase, phase, source, detail, values)
