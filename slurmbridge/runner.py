"""The loop that calls the verbs: what is due when, and what happens when Slurm is silent."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from slurmbridge.bridge.collect import Collector
from slurmbridge.bridge.dispatch import Dispatcher
from slurmbridge.bridge.examine import Examiner
from slurmbridge.bridge.keeping import Keeper
from slurmbridge.bridge.logs import LogKeeper
from slurmbridge.bridge.observe import Observer
from slurmbridge.bridge.recover import Recoverer
from slurmbridge.bridge.review import Reviewer
from slurmbridge.bridge.standing import Standing
from slurmbridge.clock import Clock
from slurmbridge.errors import ReplyUnreadable, SchedulerUnavailable, SlurmBridgeError
from slurmbridge.lifecycle import ProcessState
from slurmbridge.scheduler import Scheduler
from slurmbridge.scheduler.manners import Tally, next_look_seconds
from slurmbridge.store import ProcessStore, SiteStore

log = logging.getLogger(__name__)
# How many times less often Slurm is asked about jobs while there are none.
_QUIET = 5.0


@dataclass(frozen=True, slots=True)
class Cadence:
    """How often things are done."""

    idle_seconds: float
    poll_seconds: float
    capability_seconds: float
    beat_seconds: float
    # How many times as long as Slurm took for an answer it is not asked again.
    rest: float = 20.0


@dataclass(frozen=True, slots=True)
class Verbs:
    """What a Runner can do."""

    dispatcher: Dispatcher
    observer: Observer
    recoverer: Recoverer
    collector: Collector
    keeper: Keeper
    reviewer: Reviewer
    logs: LogKeeper
    # None: nodes are examined only when somebody asks for it.
    examiner: Examiner | None = None
    # What Slurm was asked by them.
    tally: Tally | None = None


class Runner:
    """One worker for one cluster. Any number may run; none holds anything that is not in the
    database, and between two steps none holds a Process but those that files are moved for.
    """

    def __init__(
        self,
        verbs: Verbs,
        scheduler: Scheduler,
        site: SiteStore,
        processes: ProcessStore,
        standing: Standing,
        cadence: Cadence,
        *,
        clock: Clock,
    ) -> None:
        self._min_job_age: int | None = None
        self.verbs = verbs
        self.standing = standing
        self._scheduler = scheduler
        self._site = site
        self._processes = processes
        self._cadence = cadence
        self._clock = clock
        self._due: dict[str, float] = {}

    def run(self, stop: Callable[[], bool]) -> None:
        """Work until told to stop, or until others have taken it for dead."""
        standing = self.standing
        standing.enter()
        log.info("runner %s starts, reaching Slurm by %s", standing.id, self._scheduler.name)
        ended = threading.Event()
        beating = threading.Thread(target=self._beat, args=(ended,), name="heartbeat", daemon=True)
        beating.start()
        try:
            while not stop() and not standing.struck:
                if not self.step():
                    self._clock.sleep(self._cadence.idle_seconds)
        finally:
            ended.set()
            beating.join()
            self.close()
        if standing.struck:
            log.warning("runner %s was taken for dead, and ends", standing.id)

    def close(self) -> None:
        """Let go of everything."""
        self.verbs.dispatcher.close()
        self.verbs.collector.close()
        self.verbs.reviewer.close()
        self._scheduler.close()
        self._attempt("say goodbye", self.standing.leave)

    def step(self) -> int:
        """Do all that is due; how many Processes were moved on."""
        if not self.standing.stands:
            return 0
        self._attempt("let go", self._let_go)
        moved = 0
        observes = self._plays("observe")
        if observes and self._is_due("look", self._cadence.poll_seconds):
            moved += self._look()
            self._attempt("count", self._count)
        if observes and self._is_due("capability", self._cadence.capability_seconds):
            self._attempt("report the cluster", self._report_capability)
            self._attempt("sweep", self.verbs.keeper.sweep)
            self._attempt("sweep what was reviewed", self.verbs.reviewer.sweep)
            self._attempt("mark revoked images", self.verbs.dispatcher.mark_revoked)
        moved += self._attempt("collect", self.verbs.collector.collect)
        moved += self._attempt("review", self.verbs.reviewer.review)
        if self.standing.scheduler_error is None:
            dispatched = self._attempt("dispatch", self.verbs.dispatcher.dispatch)
            if dispatched:
                self._look_within(self._cadence.poll_seconds)
            moved += dispatched
            # Last, and never counted: no Process waits for it.
            examiner = self.verbs.examiner if observes else None
            if examiner and self._is_due("examine", self._cadence.poll_seconds):
                self._attempt("examine the nodes", examiner.examine)
        return moved

    def _let_go(self) -> None:
        verbs = self.verbs
        busy = verbs.dispatcher.under_way | verbs.collector.under_way | verbs.reviewer.under_way
        self._processes.let_go_all(runner=self.standing.id, but=busy)

    def _plays(self, role: str) -> bool:
        """Of all Runners for a cluster, one looks at it: more would only ask Slurm more often."""
        name = f"{role} {self.standing.cluster}"
        return self._attempt("take a role", lambda: int(self.standing.has_role(name))) > 0

    def _look_within(self, seconds: float) -> None:
        soon = self._clock.monotonic() + seconds
        self._due["look"] = min(self._due.get("look", soon), soon)

    def _count(self) -> None:
        if self.verbs.tally is not None and (calls := self.verbs.tally.take()):
            self.standing.count_calls(calls)

    def _look(self) -> int:
        began = self._clock.monotonic()
        try:
            still_open = self.verbs.observer.observe()
        except (SchedulerUnavailable, ReplyUnreadable) as error:
            self._reached(str(error))
            return 0
        except SlurmBridgeError as error:
            log.warning("could not look: %s", error)
            return 0
        self._reached(None)
        ended = self._clock.monotonic()
        rest = self._cadence.rest * (ended - began)
        wait = next_look_seconds(self._cadence.poll_seconds, rest, self._min_job_age)
        if not still_open:
            # Slurm has nothing to tell but that it lives.
            wait = max(wait, _QUIET * self._cadence.poll_seconds)
        self._due["look"] = ended + wait
        running = [row.id for row in still_open if row.state is ProcessState.RUNNING]
        self._attempt("keep logs", lambda: self.verbs.logs.keep(running))
        return self._attempt("recover", self.verbs.recoverer.recover)

    def _reached(self, error: str | None) -> None:
        if error != self.standing.scheduler_error:
            log.warning("Slurm: %s", error or "answers again")
            self.standing.tell(error)
            self._due.pop("capability", None)
            self._attempt("say it lives", self.standing.beat)

    def _report_capability(self) -> None:
        if self.standing.scheduler_error is None:
            capability = self._scheduler.capability()
            self._min_job_age = capability.min_job_age_seconds
            self._site.record_capability(capability)

    def _beat(self, ended: threading.Event) -> None:
        """In a thread of its own: a silent slurmctld must not make a living Runner look dead."""
        while not ended.wait(self._cadence.beat_seconds):
            self._attempt("say it lives", self._regular_beat)

    def _regular_beat(self) -> None:
        self.standing.beat()
        self.standing.look_round()

    def _is_due(self, what: str, every_seconds: float) -> bool:
        now = self._clock.monotonic()
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
