"""One simulated site: what all its programs share, and how each of them is put together."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

from slurmbridge.bridge.checks import Rules
from slurmbridge.bridge.collect import Collector, CollectRules
from slurmbridge.bridge.desk import Desk
from slurmbridge.bridge.dispatch import Dispatcher, DispatchRules
from slurmbridge.bridge.keeping import Keeper, Retention
from slurmbridge.bridge.logs import LogKeeper
from slurmbridge.bridge.observe import Observer, Patience
from slurmbridge.bridge.reading import ReadingProcess, TraceReader
from slurmbridge.bridge.recover import Recoverer, RecoverRules
from slurmbridge.bridge.render import Renderer
from slurmbridge.bridge.review import Reviewer, ReviewRules
from slurmbridge.bridge.standing import Actor, Standing, beats_of
from slurmbridge.clock import Absences
from slurmbridge.container.signing import SigningKey
from slurmbridge.context.carrying import Destinations
from slurmbridge.context.folder import Contexts, process_of
from slurmbridge.context.origins import Origins
from slurmbridge.context.results import Results
from slurmbridge.context.tree import Bounds
from slurmbridge.runner import Cadence, Runner, Verbs
from slurmbridge.scheduler.manners import Breaker, Bucket, Budget, PoliteScheduler
from slurmbridge.scheduler.manners import Patience as BreakerPatience
from slurmbridge.store import (
    ContextLedger,
    Database,
    HelperStore,
    ImageStore,
    Limits,
    LogStore,
    ProcessStore,
    ReviewLedger,
    Roster,
    RunnerStatus,
    SiteStore,
)
from slurmbridge.testing.files import MemoryFiles
from slurmbridge.testing.simulation.auditor import Auditor
from slurmbridge.testing.simulation.cluster import Cluster
from slurmbridge.testing.simulation.gate import Gate, Journal, Machine
from slurmbridge.testing.simulation.given import HELPERS, START, templates
from slurmbridge.testing.simulation.seams import (
    ON_ITS_WAY_SECONDS,
    GatedDatabase,
    GatedFiles,
    GatedScheduler,
    StorePath,
)
from slurmbridge.testing.simulation.stage import Beside, Stage, Turnstile
from slurmbridge.testing.simulation.truth import Truth, Violation
from slurmbridge.testing.simulation.weather import NO_FOCUS, Focus, Sky, forecast
from slurmbridge.trace.judge import default_rules

CONTEXTS = Path("/shared/contexts")
LEASE_SECONDS = 15.0
POLL_SECONDS = 4.0
IDLE_SECONDS = 2.0
_RETRY = timedelta(seconds=4)
_ABSENCE = timedelta(seconds=ON_ITS_WAY_SECONDS + 5)
_SPACE = Bounds(1 << 20, 100)


@dataclass(frozen=True)
class Host:
    """Real folders, and a key, on the machine that simulates."""

    data: Path
    results: Path
    key: SigningKey

    @property
    def stores(self) -> dict[str, Path]:
        """The Data Stores, each use of which goes through a gate."""
        return {"data": StorePath(self.data), "results": StorePath(self.results)}


class Site:
    """Everything that outlives a program."""

    def __init__(
        self,
        seed: int,
        host: Host,
        listener: Callable[[str], object] | None = None,
        focus: Focus = NO_FOCUS,
    ) -> None:
        self.stage = Stage(seed)
        rng = self.stage.rng
        self.host = host
        self.sky = Sky(forecast(rng, focus), rng)
        self.sky.heat(focus.heat)
        self.journal = Journal(self.stage, listener)
        self.truth = Truth()
        self.files = MemoryFiles()
        self.files.make_folder(CONTEXTS, mode=0o700, parents=True)
        self.limits = _limits(rng)
        self.auditor = Auditor(self.limits)
        self.slurm = Cluster(
            self.stage, self.sky, self.journal, self.files, self.truth, clock=self._slurm_clock
        )
        self.slurm.min_job_age = timedelta(seconds=rng.choice((8, 30, 300)))
        delay = self.sky.weather.accounting_delay
        self.slurm.accounting_delay = timedelta(seconds=delay)
        self.gates: dict[str, Gate] = {}
        StorePath.gate_now = self._gate_now

    def machine(self, name: str, die: Callable[[Machine], object]) -> Machine:
        """A program, and its gate. `die` ends it."""
        machine = Machine(name, START, self.stage)
        self.gates[name] = Gate(self.stage, self.sky, self.journal, machine, die)
        return machine

    def database(self, machine: Machine) -> Database:
        """The database, as a program reaches it."""
        gate = self.gates[machine.name]
        return GatedDatabase(self.auditor.database, gate, lambda: self._audit(machine))

    def desk(self, machine: Machine, new_id: Callable[[], str]) -> Desk:
        """The front of the bridge."""
        database = self.database(machine)
        rules = Rules(frozenset({"data"}), frozenset({"results"}), has_default_destination=True)
        return Desk(
            database,
            rules,
            HelperStore(database, HELPERS.source_sha256),
            Results(self.host.stores),
            clock=machine.now,
            new_id=new_id,
        )

    def runner(self, machine: Machine, runner_id: str) -> Runner:
        """A Runner, put together as wiring does it."""
        gate, database = self.gates[machine.name], self.database(machine)
        bucket = Bucket(Budget(20.0, 60.0), machine.monotonic)
        breaker = Breaker(BreakerPatience(most_seconds=8.0), machine.monotonic)
        slurm = PoliteScheduler(
            GatedScheduler(self.slurm, gate), bucket, breaker, clock=machine.clock
        )
        status = RunnerStatus(runner_id, "host", slurm.name, machine.now(), None)
        beats = beats_of(LEASE_SECONDS)
        standing = Standing(Roster(database), status, beats, machine.clock)
        # A thread that waits for a real lock would keep the baton.
        standing._lock = Turnstile(self.stage)  # type: ignore[assignment]
        cadence = Cadence(IDLE_SECONDS, POLL_SECONDS, 10.0, beats.every_seconds)
        actor = Actor(runner_id, machine.clock, standing.check, standing.seconds_left)
        return Runner(
            self._verbs(database, slurm, gate, actor),
            slurm,
            SiteStore(database),
            ProcessStore(database),
            standing,
            cadence,
            clock=machine.clock,
        )

    def _verbs(self, database: Database, slurm: PoliteScheduler, gate: Gate, actor: Actor) -> Verbs:
        processes = ProcessStore(database)
        contexts = Contexts(GatedFiles(self.files, gate, self._before_change), CONTEXTS)
        logs = LogKeeper(
            LogStore(database), contexts, limit_bytes=64, monotonic=actor.clock.monotonic
        )
        often = timedelta(seconds=POLL_SECONDS) + _RETRY

        def patience() -> Patience:
            return Patience(lambda: _ABSENCE, Absences(actor.clock.monotonic, most=2 * often))

        keeper = Keeper(
            contexts,
            ContextLedger(database),
            slurm,
            Retention(),
            actor,
            mark=self.host.key.public,
            ours=lambda: {self.host.key.public},
        )
        return Verbs(
            dispatcher=self._dispatcher(database, slurm, contexts, keeper, actor),
            observer=Observer(
                processes,
                slurm,
                patience(),
                actor,
                taken_by=lambda process_id: contexts.of(process_id).taken_by(),
            ),
            recoverer=Recoverer(
                processes, slurm, RecoverRules(contexts, _RETRY), patience(), actor
            ),
            collector=Collector(
                processes,
                logs,
                CollectRules(
                    contexts=contexts,
                    keeper=keeper,
                    destinations=Destinations(self.host.stores),
                    default_destination="results:processes",
                    output=_SPACE,
                    batch=20,
                    retry=_RETRY,
                    carrying_by=lambda: Beside(self.stage),
                ),
                key=self.host.key,
                traces=TraceReader(default_rules(), ReadingProcess),
                actor=actor,
            ),
            keeper=keeper,
            reviewer=Reviewer(
                processes,
                ReviewLedger(database),
                ReviewRules(
                    waiting=None,
                    destinations=Destinations(self.host.stores),
                    default_destination="results:processes",
                    retry=_RETRY,
                    carrying_by=lambda: Beside(self.stage),
                ),
                actor,
            ),
            logs=logs,
            tally=slurm.tally,
        )

    def _dispatcher(
        self,
        database: Database,
        slurm: PoliteScheduler,
        contexts: Contexts,
        keeper: Keeper,
        actor: Actor,
    ) -> Dispatcher:
        def beside() -> Executor:
            return Beside(self.stage)

        return Dispatcher(
            ProcessStore(database),
            ImageStore(database),
            HelperStore(database, HELPERS.source_sha256),
            slurm,
            Renderer(templates(), CONTEXTS),
            DispatchRules(
                contexts=contexts,
                keeper=keeper,
                origins=Origins(self.host.stores),
                destinations=Destinations(self.host.stores),
                staging=_SPACE,
                batch=6,
                retry=_RETRY,
                in_progress=self.limits,
                beside=beside,
                staging_by=beside,
            ),
            actor,
        )

    def _slurm_clock(self) -> datetime:
        return START + timedelta(seconds=self.stage.now)

    def _gate_now(self) -> Gate:
        self.stage.check_alive()
        return self.gates[self.stage.current.program.name]

    def _audit(self, machine: Machine) -> None:
        try:
            self.auditor.check(machine)
        except Violation as violation:
            self.stage.fail(violation)
            self.stage.check_alive()

    def _before_change(self, path: Path, removed: bool) -> None:
        """A context belongs to the job that works in it, and before that to who prepares it."""
        name = path.relative_to(CONTEXTS).parts[0]
        process_id = process_of(name)
        machine = self._gate_now().machine
        if not self.auditor.holds(machine.runner, process_id):
            self.journal.figures["trespasses"] += 1
            self.truth.trespassed.add(process_id)
        if removed and name == process_id and (life := self.truth.works_in(process_id)):
            detail = f"{path} is removed while job {life.job.report.job_id} works there"
            self.stage.fail(Violation("context destroyed", process_id, detail))
            self.stage.check_alive()


def _limits(rng: Random) -> Limits:
    return rng.choice((Limits(), Limits(cluster=8), Limits(cluster=12, account=5, partition=9)))
