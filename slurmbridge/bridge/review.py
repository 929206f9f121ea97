"""Outputs that somebody has to look at before they are let out.

They wait in a store of their own. The API writes down what was decided; a Runner does it.
"""

import logging
import shutil
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from slurmbridge.bridge.checks import Reviewing
from slurmbridge.bridge.errands import Errands, Watch
from slurmbridge.bridge.standing import Actor
from slurmbridge.context.carrying import Carried, Destinations
from slurmbridge.context.releasing import carry_on
from slurmbridge.context.tree import Below, Spot
from slurmbridge.errors import DatabaseUnavailable, NotStanding, StagingFailed
from slurmbridge.lifecycle import Phase, ReviewState
from slurmbridge.model import Process
from slurmbridge.shell import LocalFiles
from slurmbridge.store import Change, Claimed, ProcessStore, ReviewLedger

log = logging.getLogger(__name__)
PATIENCE_SECONDS = 0.3
_BATCH = 10
_MISTAKE = "releasing failed by a mistake of the bridge; see its log"
# Whether what a Process has left can be seen by everybody.
_LET_OUT: dict[ReviewState, bool] = {
    ReviewState.WAITING: False,
    ReviewState.RELEASING: False,
    ReviewState.RELEASED: True,
    ReviewState.REJECTING: False,
    ReviewState.REJECTED: False,
}


def is_held_back(process: Process, reviewing: Reviewing) -> bool:
    """Whether only a reviewer may see what a Process says and leaves."""
    if process.review is not None:
        return not _LET_OUT[process.review.state]
    return not process.state.final and reviewing.store_of(process.spec) is not None


@dataclass(frozen=True, slots=True)
class ReviewRules:
    """Places and limits."""

    # Where outputs wait, on this host; None: none do.
    waiting: Path | None
    destinations: Destinations
    default_destination: str | None
    retry: timedelta
    carrying_by: Callable[[], Executor]


class Reviewer:
    """Does what was decided on outputs."""

    def __init__(
        self, processes: ProcessStore, ledger: ReviewLedger, rules: ReviewRules, actor: Actor
    ) -> None:
        self._processes = processes
        self._ledger = ledger
        self._rules = rules
        self._actor = actor
        self._errands: Errands[Carried] = Errands(rules.carrying_by, actor)
        self._releasing: dict[str, Claimed] = {}
        self._told: dict[str, str] = {}

    @property
    def under_way(self) -> frozenset[str]:
        """The Processes whose outputs are being released between two rounds."""
        return self._errands.under_way

    def review(self) -> int:
        """Go on with all that was decided; how many were moved on."""
        if self._rules.waiting is None:
            return 0
        claimed = [*self._claim(Phase.RELEASING), *self._claim(Phase.REJECTING)]
        moved = {entry.id for entry in claimed}
        try:
            for entry in claimed:
                self._actor.guard()
                if entry.phase is Phase.RELEASING:
                    self._begin(entry)
                else:
                    self._reject(entry)
            for process_id in self._errands.wait(self._actor.clock.monotonic() + PATIENCE_SECONDS):
                moved.add(process_id)
                self._actor.guard()
                self._finish(process_id)
        finally:
            self._processes.let_go(moved - self.under_way, runner=self._actor.id)
        return len(moved)

    def sweep(self) -> int:
        """Destroy what a decision has left behind, as when a Runner died in between."""
        waiting = self._rules.waiting
        if waiting is None or not waiting.is_dir():
            return 0
        decided = self._ledger.decided([path.name for path in waiting.iterdir()])
        for process_id in decided:
            self._destroy(process_id)
        return len(decided)

    def close(self) -> None:
        """End what is being done beside."""
        self._errands.close()
        self._releasing.clear()

    def _claim(self, phase: Phase) -> list[Claimed]:
        now = self._actor.clock.now()
        found = self._processes.claim(phase, runner=self._actor.id, limit=_BATCH, now=now)
        return [entry for entry in found if entry.id not in self.under_way]

    def _begin(self, entry: Claimed) -> None:
        self._errands.begin(entry.id, partial(self._release, entry))
        self._releasing[entry.id] = entry

    def _release(self, entry: Claimed) -> Carried:
        """In a thread of its own."""
        rules, actor = self._rules, self._errands.actor
        assert rules.waiting is not None
        assert entry.manifest_sha256 is not None
        outputs = entry.spec.outputs
        destination = outputs.destination if outputs else rules.default_destination
        if destination is None:
            raise StagingFailed("there is no default destination any more")
        watch = Watch(self._processes, actor, entry.id, "releasing")
        place = rules.destinations.place(f"{destination}/{entry.id}", watch)
        source = Spot(Below(LocalFiles(), rules.waiting), entry.id)

        def may_go_on() -> bool:
            actor.guard()
            return self._processes.holds(entry.id, runner=self._actor.id)

        return carry_on(source, place, entry.manifest_sha256, may_go_on)

    def _finish(self, process_id: str) -> None:
        entry = self._releasing.pop(process_id)
        try:
            carried = self._errands.take(process_id)
        except (NotStanding, DatabaseUnavailable):
            raise
        except StagingFailed as error:
            self._apply(self._later(entry, str(error)))
            return
        except Exception:
            log.exception("releasing the outputs of Process %s failed", process_id)
            self._apply(self._later(entry, _MISTAKE))
            return
        detail = f"{len(carried.files)} files released to {carried.location}"
        values = {"review": ReviewState.RELEASED, "outputs_location": carried.location}
        self._told.pop(entry.id, None)
        if self._apply(self._moved(entry, detail, progress=None, **values)):
            self._destroy(entry.id)

    def _reject(self, entry: Claimed) -> None:
        # Destroyed after that is durable, as everything is: a sweep finds what is left.
        detail = "rejected: its outputs are destroyed"
        if self._apply(self._moved(entry, detail, review=ReviewState.REJECTED)):
            self._destroy(entry.id)

    def _destroy(self, process_id: str) -> None:
        assert self._rules.waiting is not None
        try:
            shutil.rmtree(self._rules.waiting / process_id)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("what waited of Process %s stays: %s", process_id, error.strerror)

    def _moved(self, entry: Claimed, detail: str, **values: Any) -> Change:
        state, phase = entry.state, Phase.DONE
        return Change(entry.id, state, state, entry.phase, phase, "runner", detail, values)

    def _later(self, entry: Claimed, detail: str) -> Change:
        not_before = self._actor.clock.now() + self._rules.retry
        values = {"not_before": not_before, "progress": None}
        said = f"the outputs are not released yet: {detail}"
        # Told once, however often it is tried.
        told = "" if self._told.get(entry.id) == said else said
        self._told[entry.id] = said
        state, phase = entry.state, entry.phase
        return Change(entry.id, state, state, phase, phase, "runner", told, values)

    def _apply(self, change: Change) -> bool:
        now = self._actor.clock.now()
        return not self._processes.apply([change], runner=self._actor.id, now=now)
