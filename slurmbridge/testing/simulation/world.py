"""One simulation: a site, its Runners, its clients, and what happens to them."""

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from slurmbridge.bridge.standing import Standing
from slurmbridge.container.signing import load_key
from slurmbridge.errors import IllegalTransition, SlurmBridgeError
from slurmbridge.runner import Runner
from slurmbridge.spec import ProcessSpec, parse_spec
from slurmbridge.testing.simulation.cluster import ACCOUNTS, PARTITIONS
from slurmbridge.testing.simulation.gate import Journal, Machine
from slurmbridge.testing.simulation.site import CONTEXTS, IDLE_SECONDS, LEASE_SECONDS, Host, Site
from slurmbridge.testing.simulation.stage import Ended
from slurmbridge.testing.simulation.truth import TRESPASS, Violation, check_end
from slurmbridge.testing.simulation.weather import KINDS, NO_FOCUS, Focus

# Seconds: in which requests come, in which things go wrong, and which are bounded.
_REQUESTS_SECONDS = 30.0
_TROUBLE_SECONDS = 80.0
_BOUND_SECONDS = 2400.0
_ANSWER_SECONDS = 8.0


@dataclass
class Request:
    """What a client wants, and what it was told."""

    key: str
    spec: ProcessSpec
    answers: list[str] = field(default_factory=list)
    cancel_asked: bool = False


@dataclass
class Outcome:
    """What came of a simulation."""

    seed: int
    lifetimes: int
    seconds: float
    steps: int
    figures: Counter[str]
    digest: int


class World:
    """Built and run once."""

    def __init__(
        self,
        seed: int,
        host: Host,
        listener: Callable[[str], object] | None = None,
        focus: Focus = NO_FOCUS,
    ) -> None:
        self.seed = seed
        self.site = Site(seed, host, listener, focus)
        self.stage = self.site.stage
        self.journal = self.site.journal
        self._rng = self.stage.rng
        self._requests: list[Request] = []
        self._begun = 0
        self._stopping: set[Machine] = set()
        self._shifts: dict[str, float] = {}
        self._runners = [f"runner{number}" for number in range(self._rng.choice((1, 2, 2, 3)))]
        self._machines: dict[str, Machine] = {}
        self._ids = 0

    # --- the play ---

    def run(self) -> Outcome:
        """From the first request until nothing is left to be done. Raises Violation."""
        try:
            self._begin()
            self.stage.run_until(_TROUBLE_SECONDS)
            self._clear_up()
            self._wait_for_quiet()
            self._check_ends()
        finally:
            self.stage.close()
        figures = self.journal.figures
        return Outcome(
            self.seed, len(self._requests), self.stage.now, self.stage.steps, figures,
            self.journal.digest,
        )  # fmt: skip

    def _begin(self) -> None:
        for name in self._runners:
            self._start_runner(name)
        self._start_api("api")
        for number in range(self._rng.choice((20, 40, 60))):
            request = Request(f"key-{number}", self._spec(number))
            self._requests.append(request)
            self._at(_REQUESTS_SECONDS * self._rng.random(), partial(self._ask, request))
        weather = self.site.sky.weather
        for every, what in (
            (weather.freeze_every, self._freeze),
            (weather.partition_every, self._cut_off),
            (weather.clock_jump_every, self._jump),
            (weather.controller_down_every, self._stop_controller),
            (weather.accounting_down_every, self._stop_accounting),
            (weather.controller_reset_every, self.site.slurm.lose_everything),
            (weather.stop_every, self._stop_runner),
        ):
            if every:
                self._now_and_then(every, what)

    def _clear_up(self) -> None:
        """From here on nothing goes wrong."""
        site = self.site
        site.sky.clear()
        site.slurm.silent = site.slurm.accounting_silent = False
        self.journal.note("world", "the troubles end")

    def _wait_for_quiet(self) -> None:
        bound = self.stage.now + _BOUND_SECONDS
        while not self._is_quiet():
            if self.stage.now >= bound:
                self._complain()
            self.stage.run_until(self.stage.now + 5.0)

    def _is_quiet(self) -> bool:
        site = self.site
        return (
            all(request.answers for request in self._requests)
            and not site.auditor.open()
            and not site.files.list(CONTEXTS)
            and not site.auditor.held()
            and not self._left_jobs()
        )

    def _left_jobs(self) -> list[str]:
        return [
            job.report.job_name
            for job in self.site.slurm.living()
            if job.report.job_name.startswith("sb-")
        ]

    def _complain(self) -> None:
        """It does not become quiet."""
        site = self.site
        unanswered = [request.key for request in self._requests if not request.answers]
        if unanswered:
            raise Violation("stuck", unanswered[0], "its request is never answered")
        for names, what in (
            (site.auditor.open(), "has not ended"),
            ([entry.name for entry in site.files.list(CONTEXTS)], "has left its context"),
            (site.auditor.held(), "is held by somebody"),
            ([name.removeprefix("sb-") for name in self._left_jobs()], "has a job in Slurm"),
        ):
            if names:
                raise Violation("stuck", names[0], f"{what} after {_BOUND_SECONDS:.0f} s")

    # --- how it has to end ---

    def _check_ends(self) -> None:
        by_key = self.site.auditor.by_key()
        asked = {}
        for request in self._requests:
            found = by_key.get(request.key, [])
            if len(found) != 1 or set(request.answers) != set(found):
                detail = f"stands for {found}, and was answered with {sorted(set(request.answers))}"
                raise Violation("idempotency", request.key, detail)
            asked[found[0]] = request
        for told in self.site.auditor.told():
            lives = self.site.truth.lives.get(told.process_id, [])
            ran = self.site.truth.runs.get(told.process_id, 0)
            canceled = asked[told.process_id].cancel_asked
            life = check_end(told, lives, canceled=canceled, ran=ran)
            self.journal.figures[f"ended as {told.state}"] += 1
            if life is not None and life.exit_code is not None:
                self._check_outputs(told.process_id, life.result, told.outputs)

    def _check_outputs(self, process_id: str, result: bytes, listed: Any) -> None:
        folder = self.site.host.results / "processes" / process_id
        path = folder / "output/result"
        if not result:
            return
        found = path.read_bytes() if path.exists() else None
        if found != result:
            raise Violation("outputs", process_id, f"the result is {found!r}, not {result!r}")
        if listed.get("output/result") != sha256(result).hexdigest():
            raise Violation("outputs", process_id, f"the result is listed as {dict(listed)}")

    # --- programs ---

    def _start_runner(self, name: str) -> None:
        machine = self.site.machine(name, self._after_death)
        machine.wall_shift = self._shifts.get(name, 0.0)
        self._machines[name] = machine
        self._begun += 1
        runner_id = f"{name}-{self._begun}"
        self.stage.spawn(machine, lambda: self._work(machine, runner_id))

    def _work(self, machine: Machine, runner_id: str) -> None:
        """As wiring does it: a Runner, and another whenever one was taken for dead."""
        while machine not in self._stopping:
            runner = self.site.runner(machine, runner_id)
            machine.runner = runner_id
            with suppress(SlurmBridgeError):
                self._run(runner, machine)
                self.journal.figures["Runners taken for dead"] += runner.standing.struck
            machine.runner = None
            self.stage.pass_time(2.0)
            self._begun += 1
            runner_id = f"{machine.name}-{self._begun}"
        self._stopping.discard(machine)
        self._at(3.0 * self._rng.random(), lambda: self._start_runner(machine.name))

    def _run(self, runner: Runner, machine: Machine) -> None:
        """As Runner.run does it, with the thread that beats on the stage."""
        standing = runner.standing
        standing.enter()
        self.journal.note(machine.name, f"begins as {standing.id}")
        ended: list[bool] = []
        self.stage.spawn(machine, lambda: self._beat(standing, ended))
        try:
            while machine not in self._stopping and not standing.struck:
                if not runner.step():
                    machine.clock.sleep(IDLE_SECONDS)
        finally:
            ended.append(True)
            if not machine.dead:
                runner.close()

    def _beat(self, standing: Standing, ended: list[bool]) -> None:
        while not ended:
            self.stage.pass_time(LEASE_SECONDS / 5)
            if not ended:
                with suppress(SlurmBridgeError):
                    standing.beat()
                    standing.look_round()

    def _after_death(self, machine: Machine) -> None:
        self.stage.kill(machine)
        self._stopping.discard(machine)
        start = self._start_runner if machine.name in self._runners else self._start_api
        self._at(self._rng.choice((0.5, 5.0, 20.0)), lambda: start(machine.name))

    def _start_api(self, name: str) -> None:
        self._machines[name] = self.site.machine(name, self._after_death)

    # --- clients ---

    def _spec(self, number: int) -> ProcessSpec:
        rng = self._rng
        inputs = [{"source": "data:input.txt"}] if rng.random() < 0.3 else []
        return parse_spec(
            {
                "image": "python",
                "command": ["python3", "-c", f"print({number})"],
                "account": rng.choice(ACCOUNTS),
                "partition": rng.choice(PARTITIONS),
                "inputs": inputs,
                "trace": "off",
            }
        )

    def _ask(self, request: Request) -> None:
        """Ask, and again until there is an answer; now and then twice at the same time."""
        weather = self.site.sky.weather
        if request.answers:
            return
        machine = self._machines["api"]
        times = 2 if self._rng.random() < weather.asked_twice else 1
        if not machine.dead:
            for _ in range(times):
                self.stage.spawn(machine, lambda: self._submit(machine, request))
        self._at(_ANSWER_SECONDS, lambda: self._ask(request))

    def _submit(self, machine: Machine, request: Request) -> None:
        gate = self.site.gates[machine.name]
        with suppress(SlurmBridgeError):
            desk = self.site.desk(machine, self._new_id)
            process, _ = desk.submit_once(request.spec, by="client", key=request.key)
            gate.note(f"accepted {process.id} for {request.key}")
            self.stage.check_alive()
            first = not request.answers
            request.answers.append(process.id)
            if first and self._rng.random() < self.site.sky.weather.canceled:
                self._at(40.0 * self._rng.random() ** 2, lambda: self._cancel(request))

    def _cancel(self, request: Request) -> None:
        machine = self._machines["api"]
        if machine.dead:
            self._at(3.0, lambda: self._cancel(request))
            return
        request.cancel_asked = True
        self.stage.spawn(machine, lambda: self._do_cancel(machine, request))

    def _do_cancel(self, machine: Machine, request: Request) -> None:
        try:
            desk = self.site.desk(machine, self._new_id)
            desk.cancel(request.answers[0], by="client")
            self.site.gates[machine.name].note(f"cancel of {request.answers[0]} accepted")
        except IllegalTransition:
            pass
        except SlurmBridgeError:
            self._at(3.0, lambda: self._cancel(request))

    def _new_id(self) -> str:
        self._ids += 1
        return f"{self._ids:026}"

    # --- troubles ---

    def _now_and_then(self, every: float, what: Callable[[], object]) -> None:
        def happen() -> None:
            if self.stage.now < _TROUBLE_SECONDS:
                what()
                self._now_and_then(every, what)

        self._at(self._rng.expovariate(1 / every), happen)

    def _victim(self) -> Machine:
        return self._machines[self._rng.choice(sorted(self._machines))]

    def _freeze(self) -> None:
        machine = self._victim()
        if not machine.dead:
            seconds = self._rng.choice((2.0, 14.0, 20.0, 60.0))
            self.site.gates[machine.name].freeze(seconds, whole_host=self._rng.random() < 0.2)

    def _cut_off(self) -> None:
        machine, kind = self._victim(), self._rng.choice(KINDS)
        seconds = self._rng.choice((3.0, 12.0, 40.0))
        self.journal.note(machine.name, f"is cut off from {kind} for {seconds:.0f} s")
        self.site.sky.cut_off[machine.name, kind] = self.stage.now + seconds

    def _jump(self) -> None:
        machine = self._victim()
        shift = self._rng.choice((-3600.0, -30.0, 30.0, 600.0, 3600.0))
        machine.wall_shift += shift
        self._shifts[machine.name] = machine.wall_shift
        if self._rng.random() < 0.3:
            machine.monotonic_shift += abs(shift)
        self.journal.note(machine.name, f"its clock jumps by {shift:.0f} s")

    def _stop_controller(self) -> None:
        slurm = self.site.slurm
        slurm.silent = True
        self.journal.note("slurm", "slurmctld is down")
        self._at(self._rng.choice((5.0, 30.0, 90.0)), lambda: self._heal("silent"))

    def _stop_accounting(self) -> None:
        self.site.slurm.accounting_silent = True
        self.journal.note("slurm", "slurmdbd is down")
        self._at(self._rng.choice((10.0, 60.0)), lambda: self._heal("accounting_silent"))

    def _heal(self, what: str) -> None:
        setattr(self.site.slurm, what, False)

    def _stop_runner(self) -> None:
        """SIGTERM."""
        machine = self._machines[self._rng.choice(self._runners)]
        self.journal.note(machine.name, "is asked to end")
        if not machine.dead:
            self._stopping.add(machine)

    def _at(self, seconds: float, event: Callable[[], object]) -> None:
        self.stage.at(self.stage.now + seconds, event)


class _Mistakes(logging.Handler):
    """What the bridge takes for a mistake of its own is one."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        stage = self._world.stage
        illegal = any(isinstance(one, IllegalTransition) for one in _arguments(record))
        text = record.getMessage()
        self._world.journal.note(stage.current.program.name, f"says: {text}")
        if record.levelno >= logging.ERROR or illegal:
            error = record.exc_info[1] if record.exc_info else None
            stage.fail(Violation("mistake", stage.current.program.name, f"{text}: {error!r}"))


def _arguments(record: logging.LogRecord) -> tuple[object, ...]:
    return record.args if isinstance(record.args, tuple) else ()


class Simulator:
    """Runs one simulation after the other; a context manager, for its folders.

    `focus` is what is in trouble in each of them, whatever the seed says.
    """

    def __init__(self, focus: Focus = NO_FOCUS) -> None:
        self._focus = focus
        memory = Path("/dev/shm")  # noqa: S108
        self._folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        data = self._folder / "data"
        data.mkdir()
        (data / "input.txt").write_text("input\n")
        self._host = Host(data, self._folder / "results", load_key(self._folder / "key"))

    def __enter__(self) -> "Simulator":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, seed: int, listener: Callable[[str], object] | None = None) -> "Outcome":
        """One simulation.

        Raises:
            Violation: with the journal's last lines as notes.
        """
        shutil.rmtree(self._host.results, ignore_errors=True)
        self._host.results.mkdir()
        world = World(seed, self._host, listener, self._focus)
        logger = logging.getLogger("slurmbridge")
        handler = _Mistakes(world)
        propagates, logger.propagate = logger.propagate, False
        logger.addHandler(handler)
        try:
            return world.run()
        except Violation as violation:
            if violation.about in world.site.truth.trespassed:
                violation.rule = TRESPASS
            for line in _evidence(world.journal, violation):
                violation.add_note(line)
            raise
        finally:
            logger.removeHandler(handler)
            logger.propagate = propagates


def _evidence(journal: Journal, violation: Violation) -> list[str]:
    return [*journal.about(violation.about, 30), "...", *journal.last(10)]


__all__ = ["Ended", "Outcome", "Simulator", "Violation", "World"]
