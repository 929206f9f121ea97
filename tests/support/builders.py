"""A bridge put together as wiring.py does, over a Slurm in memory, and the golden scripts."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from slurmbridge.bridge.checks import NOT_REVIEWED, Clusters, Reviewing, Rules
from slurmbridge.bridge.collect import Collector, CollectRules
from slurmbridge.bridge.desk import Desk
from slurmbridge.bridge.dispatch import Dispatcher, DispatchRules
from slurmbridge.bridge.keeping import Keeper, Retention
from slurmbridge.bridge.logs import LogKeeper
from slurmbridge.bridge.observe import Observer, Patience
from slurmbridge.bridge.reading import TraceReader
from slurmbridge.bridge.recover import Recoverer, RecoverRules
from slurmbridge.bridge.render import Equipment, Renderer
from slurmbridge.bridge.requirements import Installer
from slurmbridge.bridge.review import Reviewer, ReviewRules
from slurmbridge.bridge.standing import Actor, Beats, Standing
from slurmbridge.clock import Absences, Clock
from slurmbridge.container.signing import SigningKey
from slurmbridge.context.carrying import Destinations
from slurmbridge.context.folder import Contexts
from slurmbridge.context.origins import Origins
from slurmbridge.context.results import Results
from slurmbridge.context.tree import Bounds
from slurmbridge.lifecycle import ProcessState, SlurmState
from slurmbridge.model import Event, InstalledRequirements, Locked, Process
from slurmbridge.runner import Cadence, Runner, Verbs
from slurmbridge.scheduler import Submission, SubmitOutcome
from slurmbridge.script import DEFAULT_TEMPLATES, Templates
from slurmbridge.shell import LocalFiles
from slurmbridge.spec import parse_spec
from slurmbridge.store import (
    DEFAULT_CLUSTER,
    Change,
    ContextLedger,
    HelperStore,
    ImageStore,
    LogStore,
    ProcessStore,
    ReviewLedger,
    Roster,
    RunnerStatus,
    SiteStore,
)
from slurmbridge.testing.scheduler import FakeJob, FakeScheduler, hand_clock
from slurmbridge.trace.judge import default_rules
from tests.support.databases import fresh_database
from tests.support.rows import enroll, strike
from tests.support.specs import CAPABILITY, HELPERS, IMAGE, START, process_id, spec

P = ParamSpec("P")
T = TypeVar("T")
GOLDEN = Path(__file__).resolve().parents[1] / "golden"
GOLDEN_ID = process_id(1)
GOLDEN_CONTEXTS = Path("/shared/contexts")
KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
OTHER_KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(b"\1" * 32))
EQUIPMENT = Equipment(
    f"/shared/images/requirements/{'6' * 64}/made/requirements.sqsh",
    InstalledRequirements(
        key="6" * 64,
        sha256="7" * 64,
        size_bytes=4096,
        lock=(Locked(name="alpha", version="1.0", hashes={"sha256": "8" * 64}, requested=True),),
    ),
)
RETRY = timedelta(seconds=5)
ABSENCE = timedelta(seconds=120)


@cache
def shipped_templates() -> Templates:
    """Compiled once for all tests."""
    return Templates(DEFAULT_TEMPLATES)


def golden_script(specification: Path) -> str:
    """What is submitted for a golden specification."""
    renderer = Renderer(shipped_templates(), GOLDEN_CONTEXTS)
    wanted = parse_spec(specification.read_text(), form="toml")
    equipment = EQUIPMENT if wanted.requirements else None
    digest = "c" * 64 if wanted.code else None
    found = renderer.render(GOLDEN_ID, wanted, IMAGE, HELPERS, equipment, code_sha256=digest)
    return found.text


def write_goldens() -> None:
    """Write every golden script anew."""
    for specification in sorted(GOLDEN.glob("*.toml")):
        specification.with_suffix(".sbatch").write_text(golden_script(specification))


class Listed(Mapping[str, Path]):
    """Data Stores that tell before each use of one: a test can act in the midst of staging."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders
        self.before: Callable[[], object] = lambda: None

    def __getitem__(self, name: str) -> Path:
        """The folder of a store."""
        before, self.before = self.before, lambda: None
        before()
        return self._folders[name]

    def __iter__(self) -> Any:
        """The names."""
        return iter(self._folders)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._folders)


class HookedScheduler(FakeScheduler):
    """A Slurm in memory with a say before and after each submission, and a deaf scancel."""

    before: Callable[[Sequence[Submission]], object] = staticmethod(lambda submissions: None)
    after: Callable[[], object] = staticmethod(lambda: None)
    answer: SubmitOutcome | None = None
    deaf = False

    def submit(
        self,
        submissions: Sequence[Submission],
        on_outcome: Callable[[int, SubmitOutcome], None] | None = None,
    ) -> list[SubmitOutcome]:
        """See Scheduler.submit. With an `answer`, no submission takes effect."""
        self.before(submissions)
        if self.answer is not None:
            return [self.answer for _ in submissions]
        outcomes = super().submit(submissions, on_outcome)
        self.after()
        return outcomes

    def cancel(self, job_ids: Sequence[int], *, kill: bool = False) -> None:
        """See Scheduler.cancel."""
        if self.deaf:
            self.calls.append("cancel")
            return
        super().cancel(job_ids, kill=kill)


class HookedStore(ProcessStore):
    """Processes, with a say after each move."""

    after: Callable[[], object] = staticmethod(lambda: None)
    # Who is dead lets nothing go.
    dead = False

    def let_go(self, process_ids: Iterable[str], *, runner: str) -> None:
        """See ProcessStore.let_go."""
        if not self.dead:
            super().let_go(process_ids, runner=runner)

    def apply(
        self,
        changes: Sequence[Change],
        *,
        runner: str | None,
        now: datetime,
        observer: str | None = None,
    ) -> frozenset[str]:
        """See ProcessStore.apply."""
        lost = super().apply(changes, runner=runner, now=now, observer=observer)
        self.after()
        return lost


class AtOnce(Executor):
    """Does everything at once, here."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See Executor.submit."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass
class Bridge:
    """Everything of one installation, with a clock and a Slurm that are moved by hand."""

    root: Path
    output: Bounds = field(default_factory=lambda: Bounds(1 << 20, 100))
    default_destination: str | None = "results:processes"
    # What traces are read by.
    new_executor: Callable[[], Executor] = AtOnce
    installer: Installer | None = None
    retention: Retention = field(default_factory=Retention)
    reviewing: Reviewing = NOT_REVIEWED
    slurm: HookedScheduler = field(init=False)
    clock: Callable[[], datetime] = field(init=False)
    advance: Callable[[timedelta], None] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("contexts", *self.stores):
            (self.root / name).mkdir()
        self.clock, self.advance = hand_clock(START)
        self.slurm = HookedScheduler(CAPABILITY, clock=self.clock)
        # In a file: Runners work with several threads, and in memory all share one connection.
        self.database = fresh_database(self.root / "slurmbridge.db")
        ImageStore(self.database).record(IMAGE)
        HelperStore(self.database, HELPERS.source_sha256).record(HELPERS)
        self.processes = HookedStore(self.database)
        numbers = count(1)
        self.desk = Desk(
            self.database,
            Rules(
                frozenset({"data"}),
                frozenset({"results"}),
                has_default_destination=True,
                requirement_sources=frozenset({"wheels"}),
                has_default_source=True,
                reviewing=self.reviewing,
            ),
            HelperStore(self.database, HELPERS.source_sha256),
            Results(self.stores),
            clusters=Clusters(networked=frozenset({DEFAULT_CLUSTER})),
            clock=self.clock,
            new_id=lambda: process_id(next(numbers)),
        )
        self.verbs = self.new_verbs("runner-1")

    @property
    def contexts(self) -> Path:
        """Where contexts lie."""
        return self.root / "contexts"

    @property
    def context_files(self) -> Contexts:
        """The same, as what a Runner works on."""
        return Contexts(LocalFiles(), self.contexts)

    @property
    def stores(self) -> dict[str, Path]:
        """The Data Stores."""
        found = {"data": self.root / "data", "results": self.root / "results"}
        return found | ({"waiting": self.root / "waiting"} if self.reviewing.store else {})

    def monotonic(self) -> float:
        """Seconds, by the same hand."""
        return (self.clock() - START).total_seconds()

    def actor(self, runner: str) -> Actor:
        """A Runner that is on the roster."""
        enroll(self.processes, runner)
        return Actor(runner, Clock(self.clock, self.monotonic, lambda _: None))

    def strike(self, runner: str = "runner-1") -> None:
        """Take a Runner for dead."""
        strike(self.processes, runner)

    def new_verbs(
        self, runner: str, *, stores: Mapping[str, Path] | None = None, batch: int = 50
    ) -> Verbs:
        """What a Runner of this name does."""
        return self.verbs_of(self.actor(runner), stores=stores, batch=batch)

    def log_keeper(self, limit_bytes: int) -> LogKeeper:
        """Brings logs into the database."""
        return LogKeeper(
            LogStore(self.database),
            self.context_files,
            limit_bytes=limit_bytes,
            monotonic=self.monotonic,
        )

    def verbs_of(
        self, actor: Actor, *, stores: Mapping[str, Path] | None = None, batch: int = 50
    ) -> Verbs:
        """What a Runner does."""
        stores = self.stores if stores is None else stores
        logs = self.log_keeper(64)
        keeper = Keeper(
            self.context_files,
            ContextLedger(self.database),
            self.slurm,
            self.retention,
            actor,
            mark=KEY.public,
            ours=lambda: {KEY.public},
        )
        collect = CollectRules(
            contexts=self.context_files,
            keeper=keeper,
            reviewing=self.reviewing,
            destinations=Destinations(stores),
            default_destination=self.default_destination,
            output=self.output,
            batch=batch,
            retry=RETRY,
        )
        dispatch = DispatchRules(
            contexts=self.context_files,
            keeper=keeper,
            origins=Origins(stores),
            destinations=Destinations(stores),
            staging=Bounds(1 << 20, 100),
            batch=batch,
            retry=RETRY,
            installer=self.installer,
        )
        patience = Patience(lambda: ABSENCE, Absences(self.monotonic, most=10 * ABSENCE))
        renderer = Renderer(shipped_templates(), self.contexts)
        return Verbs(
            dispatcher=Dispatcher(
                self.processes,
                ImageStore(self.database),
                HelperStore(self.database, HELPERS.source_sha256),
                self.slurm,
                renderer,
                dispatch,
                actor,
            ),
            observer=Observer(
                self.processes,
                self.slurm,
                patience,
                actor,
                taken_by=lambda one: self.context_files.of(one).taken_by(),
            ),
            recoverer=Recoverer(
                self.processes, self.slurm, RecoverRules(self.context_files, RETRY), patience, actor
            ),
            collector=Collector(
                self.processes,
                logs,
                collect,
                key=KEY,
                traces=TraceReader(default_rules(), self.new_executor),
                actor=actor,
            ),
            keeper=keeper,
            reviewer=Reviewer(
                self.processes,
                ReviewLedger(self.database),
                ReviewRules(
                    waiting=self.root / "waiting" if self.reviewing.store else None,
                    destinations=Destinations(stores),
                    default_destination=self.default_destination,
                    retry=RETRY,
                    carrying_by=self.new_executor,
                ),
                actor,
            ),
            logs=logs,
        )

    def runner(self, *, entered: bool = True) -> Runner:
        """A Runner that does everything at each step."""
        status = RunnerStatus("runner-a", "host", "fake", self.clock(), None)
        cadence = Cadence(
            idle_seconds=0.001, poll_seconds=1e-9, capability_seconds=1e-9, beat_seconds=1, rest=0
        )
        clock = Clock(self.clock, time.monotonic, lambda _: None)
        standing = Standing(Roster(self.database), status, Beats(3600), clock)
        if entered:
            standing.enter()
        return Runner(
            self.verbs_of(Actor(status.id, clock, standing.check)),
            self.slurm,
            SiteStore(self.database),
            self.processes,
            standing,
            cadence,
            clock=clock,
        )

    def submit(self, **changes: Any) -> str:
        """Accept a Process."""
        return self.desk.submit(spec(**changes), by="tester").id

    def submitted(self, **changes: Any) -> str:
        """Accept a Process and bring it to Slurm."""
        accepted = self.submit(**changes)
        self.verbs.dispatcher.dispatch()
        assert self.get(accepted).job_id is not None
        return accepted

    def get(self, wanted: str) -> Process:
        """A Process as a submitter sees it."""
        return self.desk.inspect(wanted)

    def state(self, wanted: str) -> ProcessState:
        """Its state."""
        return self.get(wanted).state

    def events(self, wanted: str) -> list[Event]:
        """Its events."""
        return self.desk.events(wanted)

    def job(self, wanted: str) -> FakeJob:
        """Its latest job."""
        return self.slurm.job(self.get(wanted).job_name)

    def jobs_of(self, wanted: str) -> list[int]:
        """The ids of all jobs that Slurm has ever had for it."""
        name = self.get(wanted).job_name
        reports = self.slurm.history([name], since=START - timedelta(days=1))
        return [report.job_id for report in reports]

    def start(self, wanted: str) -> None:
        """Let its job run, as the script does first."""
        job_id = self.job(wanted).report.job_id
        self.slurm.start(job_id)
        with suppress(FileExistsError):
            (self.context(wanted) / "claim").symlink_to(str(job_id))
        (self.context(wanted) / "output").mkdir(exist_ok=True)

    def context(self, wanted: str) -> Path:
        """Its context."""
        return self.contexts / wanted

    def leave(self, wanted: str, files: Mapping[str, str | bytes]) -> None:
        """Let its script and program leave these files in its context."""
        for name, content in files.items():
            path = self.context(wanted) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def attest(self, wanted: str) -> None:
        """Let its container be found as it has to be."""
        lines = (self.context(wanted) / "facts.expected").read_text().splitlines()
        found = "".join(f"{line}\n" for line in lines if not line.startswith("? "))
        self.leave(wanted, {"facts": found, "attested": "node1 1772600767\n"})

    def look(self) -> None:
        """One cycle: observe, recover, collect."""
        self.verbs.observer.observe()
        self.verbs.recoverer.recover()
        self.verbs.collector.collect()


def states(events: Iterable[Event]) -> list[str]:
    """The states that were gone through, each once in a row."""
    found: list[str] = []
    for event in events:
        if not found or found[-1] != event.state:
            found.append(event.state)
    return found


def end(
    bridge: Bridge, wanted: str, state: SlurmState = SlurmState.COMPLETED, code: int | None = 0
) -> None:
    """The script ends, leaving its exit code, and so does the job."""
    if code is not None:
        bridge.leave(wanted, {"exit_code": f"{code}\n"})
        bridge.attest(wanted)
    bridge.slurm.end(bridge.job(wanted).report.job_id, state, code)


class Crash(BaseException):
    """The Runner is gone."""


def _crash(*_: object) -> None:
    raise Crash


def crash_before_submission(bridge: Bridge) -> str:
    """A Process whose Runner dies after the intent was written and before Slurm was asked."""
    one = bridge.submit()
    bridge.slurm.before = _crash
    with suppress(Crash):
        bridge.verbs.dispatcher.dispatch()
    bridge.slurm.before = HookedScheduler.before
    return one


def crash_before_record(bridge: Bridge) -> str:
    """A Process whose Runner dies after Slurm has its job and before the job's id is written."""
    one = bridge.submit()
    bridge.slurm.after = _crash
    with suppress(Crash):
        bridge.verbs.dispatcher.dispatch()
    bridge.slurm.after = HookedScheduler.after
    assert bridge.jobs_of(one) == [1]
    return one
