"""The loop that calls the verbs: what is due when, and what happens when Slurm is silent."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from slurmbridge.bridge.collect import Collector
from slurmbridge.bridge.dispatch import Dispatcher
from slurmbridge.bridge.examine import Examiner
from slurmbridge.bridge.logs import LogKeeper
from slurmbridge.bridge.observe import Observer
from slurmbridge.bridge.recover import Recoverer
from slurmbridge.errors import ReplyUnreadable, SchedulerUnavailable, SlurmBridgeError
from slurmbridge.lifecycle import ProcessState
from slurmbridge.scheduler import Scheduler
from slurmbridge.store import ProcessStore, RunnerStatus, SiteStore

log = logging.getLogger(__name__)
HEARTBEAT_SECONDS = 3.0
SILENT_RUNNER_KEPT = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Cadence:
    """How often things are done."""

    idle_seconds: float
    poll_seconds: float
    capability_seconds: float
    lease: timedelta


@dataclass(frozen=True, slots=True)
class Verbs:
    """What a Runner can do."""

    dispatcher: Dispatcher
    observer: Observer
    recoverer: Recoverer
    collector: Collector
    logs: LogKeeper
    # None: nodes are examined only when somebody asks for it.
    examiner: Examiner | None = None


class Runner:
    """One worker. Any number may run; none holds anything that is not in the database."""

    def __init__(
        self,
        verbs: Verbs,
        scheduler: Scheduler,
        site: SiteStore,
        processes: ProcessStore,
        status: RunnerStatus,
        cadence: Cadence,
    ) -> None:
        self.verbs = verbs
        self._scheduler = scheduler
        self._site = site
        self._processes = processes
        self._status = status
        self._cadence = cadence
        self._due: dict[str, float] = {}

    def run(self, stop: Callable[[], bool]) -> None:
        """Work until told to stop."""
        log.info("runner %s starts, reaching Slurm by %s", self._status.id, self._status.transport)
        ended = threading.Event()
        beating = threading.Thread(target=self._beat, args=(ended,), name="heartbeat", daemon=True)
        beating.start()
        try:
            while not stop():
                if not self.step():
                    time.sleep(self._cadence.idle_seconds)
        finally:
            ended.set()
            beating.join()
            self._scheduler.close()
            self.verbs.collector.close()
            self._attempt("say goodbye", lambda: self._site.forget_runner(self._status.id))

    def step(self) -> int:
        """Do all that is due; how many Processes were moved on."""
        moved = 0
        if self._is_due("look", self._cadence.poll_seconds):
            moved += self._look()
        if self._is_due("capability", self._cadence.capability_seconds):
            self._attempt("report the cluster", self._report_capability)
            self._attempt("sweep", self.verbs.collector.sweep)
        moved += self._attempt("collect", self.verbs.collector.collect)
        if self._status.scheduler_error is None:
            moved += self._attempt("dispatch", self.verbs.dispatcher.dispatch)
            # Last, and never counted: no Process waits for it.
            if self.verbs.examiner and self._is_due("examine", self._cadence.poll_seconds):
                self._attempt("examine the nodes", self.verbs.examiner.examine)
        return moved

    def _look(self) -> int:
        try:
            still_open = self.verbs.observer.observe()
        except (SchedulerUnavailable, ReplyUnreadable) as error:
            self._reached(str(error))
            return 0
        except SlurmBridgeError as error:
            log.warning("could not look: %s", error)
            return 0
        self._reached(None)
        running = [row.id for row in still_open if row.state is ProcessState.RUNNING]
        self._attempt("keep logs", lambda: self.verbs.logs.keep(running))
        return self._attempt("recover", self.verbs.recoverer.recover)

    def _reached(self, error: str | None) -> None:
        if error != self._status.scheduler_error:
            log.warning("Slurm: %s", error or "answers again")
            self._status = replace(self._status, scheduler_error=error)
            self._due.pop("capability", None)
            self._attempt("say it lives", self._heartbeat)

    def _report_capability(self) -> None:
        if self._status.scheduler_error is None:
            self._site.record_capability(self._scheduler.capability())

    def _beat(self, ended: threading.Event) -> None:
        """In a thread of its own: a silent slurmctld must not make a living Runner look dead."""
        while True:
            self._attempt("say it lives", self._heartbeat)
            if ended.wait(HEARTBEAT_SECONDS):
                return

    def _heartbeat(self) -> None:
        now = datetime.now(UTC)
        self._site.heartbeat(replace(self._status, heartbeat_at=now))
        self._processes.renew(self._status.id, now=now, lease=self._cadence.lease)
        self._site.forget_silent(now - SILENT_RUNNER_KEPT)

    def _is_due(self, what: str, every_seconds: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + every_seconds
        return True

    def _attempt(self, what: str, action: Callable[[], int | None]) -> int:
        """What fails is told and tried again; nothing that one Process does ends the Runner."""
        try:
            return action() or 0
        except SlurmBridgeError as error:
            log.warning("could not %s: %s", what, error)
        except Exception:
            log.exception("could not %s, by a mistake of the bridge", what)
        return 0
