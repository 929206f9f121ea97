"""The end of contexts: when each is destroyed, that it was, and what nobody owns."""

import logging
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from slurmbridge.bridge.desk import ulid_time
from slurmbridge.bridge.standing import Actor
from slurmbridge.context.folder import Contexts
from slurmbridge.errors import StagingFailed
from slurmbridge.lifecycle import ProcessState
from slurmbridge.model import job_name
from slurmbridge.scheduler import Scheduler
from slurmbridge.store import ContextLedger

log = logging.getLogger(__name__)
# Found gone in one sweep; the next one goes on.
_MOST = 500
_FAILED: dict[ProcessState, bool] = {
    ProcessState.COMPLETE: False,
    ProcessState.CANCELED: False,
    ProcessState.EXECUTOR_ERROR: True,
    ProcessState.SYSTEM_ERROR: True,
    ProcessState.PREEMPTED: True,
}


@dataclass(frozen=True, slots=True)
class Retention:
    """How long contexts are kept."""

    # Of Processes that failed, counted from their final state. None: not at all.
    failed: timedelta | None = None
    # Of none that is known, counted from its beginning. None: for ever.
    orphans: timedelta | None = None

    def until(self, state: ProcessState, now: datetime) -> datetime | None:
        """Till when the context of a Process that ends in this state is kept; None: no longer."""
        return now + self.failed if self.failed and _FAILED[state] else None


class Keeper:
    """Destroys the contexts of one cluster."""

    def __init__(
        self,
        contexts: Contexts,
        ledger: ContextLedger,
        scheduler: Scheduler,
        retention: Retention,
        actor: Actor,
        *,
        mark: str,
        ours: Callable[[], Collection[str]],
    ) -> None:
        self.retention = retention
        self._contexts = contexts
        self._ledger = ledger
        self._scheduler = scheduler
        self._actor = actor
        # What this Runner writes where contexts are, and what any of this bridge may have written.
        self._mark = mark
        self._ours = ours
        self._told = False

    def destroy(self, process_ids: Sequence[str]) -> int:
        """Destroy the contexts of Processes that have ended, durably; how many are gone.

        What cannot be removed now is swept later.
        """
        gone = [one for one in process_ids if self._remove(one)]
        if gone:
            self._note(gone, "context destroyed")
        return len(gone)

    def sweep(self) -> int:
        """Destroy what outlived its Process or its time; how many were destroyed.

        Raises:
            StagingFailed: the contexts cannot be listed.
            SchedulerUnavailable
        """
        now = self._actor.clock.now()
        if self._contexts.cache:
            self._contexts.cache.sweep(now)
        names = self._contexts.names()
        count = self.destroy(self._ledger.due(names, now=now))
        left = set(names)
        gone = [one for one in self._ledger.open(now=now, most=_MOST) if one not in left]
        if gone:
            self._note(gone, "its context is gone")
        return count + self._sweep_orphans(names, now)

    def _note(self, process_ids: Sequence[str], detail: str) -> None:
        now = self._actor.clock.now()
        self._ledger.destroyed(process_ids, detail, runner=self._actor.id, now=now)

    def _remove(self, process_id: str) -> bool:
        folder = self._contexts.of(process_id)
        try:
            folder.remove()
        except StagingFailed as error:
            log.warning("%s: %s", folder.path, error)
            return False
        return True

    def _sweep_orphans(self, names: Sequence[str], now: datetime) -> int:
        """A database that was restored, or lost, knows nothing of the contexts made since."""
        if self.retention.orphans is None or not self._is_ours():
            return 0
        old = [name for name in names if _begun(name) < now - self.retention.orphans]
        orphans = self._ledger.unknown(old) if old else []
        if not orphans:
            return 0
        known = {job.job_name for job in self._scheduler.jobs()}
        count = 0
        for name in orphans:
            if job_name(name) not in known and self._remove(name):
                log.warning("the context %s, of no known Process, was destroyed", name)
                count += 1
        return count

    def _is_ours(self) -> bool:
        """Whether the contexts there are of this bridge, and of no other that uses the folder."""
        found = self._contexts.owner(self._mark)
        ours = found in self._ours()
        # Of a file that is being written nothing is known yet.
        if found and not ours and not self._told:
            self._told = True
            log.warning(
                "%s holds the contexts of another bridge, too: what no Process is known for is "
                "left there. Give each bridge a folder of its own; if the other one is gone, "
                "remove the file .bridge",
                self._contexts.root,
            )
        return ours


def _begun(name: str) -> datetime:
    """When a context of this name was begun; what is none has not."""
    if not re.fullmatch(r"[0-9a-hjkmnp-tv-z]{26}", name):
        return datetime.max.replace(tzinfo=UTC)
    return ulid_time(name)
