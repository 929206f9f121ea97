"""A Slurm whose jobs live by themselves, and do what the real script does."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from slurmbridge.lifecycle import SlurmFlag, SlurmState, SlurmStatus
from slurmbridge.model import ComputeCapability, Partition
from slurmbridge.scheduler.native_child import read_directives
from slurmbridge.testing.files import MemoryFiles
from slurmbridge.testing.scheduler import FakeJob, FakeScheduler
from slurmbridge.testing.simulation.gate import Journal
from slurmbridge.testing.simulation.stage import Stage
from slurmbridge.testing.simulation.truth import Life, Truth, Violation
from slurmbridge.testing.simulation.weather import Sky

NODES = ("node1", "node2", "node3")
ACCOUNTS = ("research", "teaching")
PARTITIONS = ("main", "short")
CAPABILITY = ComputeCapability(
    cluster="simulated",
    slurm_version="26.05.5",
    partitions=tuple(
        Partition(
            name=name, default=name == "main", up=True, nodes=3, cpus_per_node=4,
            memory_mib_per_node=4000, time_limit_minutes=1440, node_names=NODES,
        )
        for name in PARTITIONS
    ),
    accounts=ACCOUNTS,
    default_account="research",
    message_timeout_seconds=10,
    min_job_age_seconds=30,
)  # fmt: skip
# By Slurm's limits, by other jobs, by an administrator.
_ENDS_BY_SLURM = (
    SlurmState.TIMEOUT,
    SlurmState.OUT_OF_MEMORY,
    SlurmState.NODE_FAIL,
    SlurmState.PREEMPTED,
    SlurmState.CANCELLED,
)
# A cluster with nothing else to do, a usual one, and one that is full.
_PACES: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = (
    ((0.1, 1.0), (0.5, 5.0)),
    ((0.1, 1.0, 4.0, 15.0), (0.5, 5.0, 20.0)),
    ((0.1, 1.0, 60.0), (5.0, 60.0)),
)
_COMPLETING = SlurmStatus(SlurmState.RUNNING, frozenset({SlurmFlag.COMPLETING}))
_TERM = 143
_TAKEN = 75


class Cluster(FakeScheduler):
    """Jobs start, run and end as the seed says."""

    def __init__(
        self, stage: Stage, sky: Sky, journal: Journal, files: MemoryFiles, truth: Truth,
        *, clock: Callable[[], datetime],
    ) -> None:  # fmt: skip
        super().__init__(CAPABILITY, clock=clock)
        self._stage = stage
        self._sky = sky
        self._journal = journal
        self._files = files
        self.truth = truth
        self._lives: dict[FakeJob, Life] = {}
        # Seconds that jobs wait, and that programs run, at the most.
        self._waits, self._runs = stage.rng.choice(_PACES)

    # --- Slurm ---

    def accepted(self, job: FakeJob) -> None:
        """See FakeScheduler: it will start."""
        if not job.report.job_name.startswith("sb-"):
            return
        rng, weather = self._stage.rng, self._sky.weather
        folder = _folder(job)
        life = Life(folder.name, job, folder)
        self._lives[job] = life
        self.truth.add(life)
        self._note(life, f"accepted {job.report.job_name}")
        if rng.random() < weather.stubborn:
            self.stubborn.add(job.report.job_id)
        if rng.random() < weather.held:
            self.hold(job.report.job_id)
            self._later(20 * rng.random(), lambda: self._release(life))
        self._later(rng.choice(self._waits) * rng.random(), lambda: self._begin(life))

    def _release(self, life: Life) -> None:
        if life.job.waits and self.knows(life.job):
            self.release(life.job.report.job_id)

    def lose_everything(self) -> None:
        """The controller loses its state, and with it all jobs; others take their ids."""
        self._note_all("the controller loses its state")
        for life in self._lives.values():
            if life.end is None:
                life.vanished = life.ending = True
        self.reset()
        for _ in range(self._stage.rng.randrange(5)):
            self.add_foreign("other")

    def terminate(self, job_id: int, *, kill: bool) -> None:
        """See FakeScheduler: a program takes its time to end."""
        life = next(life for life in self._lives.values() if self._is(life, job_id))
        if life.ending or (job_id in self.stubborn and not kill):
            return
        seconds = 0.1 if kill else 5 * self._stage.rng.random()
        self._later(seconds, lambda: self._stop(life, SlurmState.CANCELLED))

    def _is(self, life: Life, job_id: int) -> bool:
        return life.job.report.job_id == job_id and self.knows(life.job)

    # --- the script ---

    def _begin(self, life: Life) -> None:
        job = life.job
        if life.vanished or job.ended or not self.knows(job):
            return
        if self.silent or (job.report.reason or "").startswith("JobHeld"):
            self._later(2.0, lambda: self._begin(life))
            return
        if self._stage.rng.random() < 0.1 * self._sky.weather.ended_by_slurm:
            life.by_slurm = True
            self._end(life, SlurmState.CANCELLED, None)
            return
        self.start(job.report.job_id, self._stage.rng.choice(NODES))
        self._note(life, "starts")
        self._later(0.3 * self._stage.rng.random(), lambda: self._claim(life))

    def _claim(self, life: Life) -> None:
        """What comes before anything is read; see sbatch_templates/parts/claim.j2."""
        if life.ending:
            return
        context = life.folder
        try:
            if not self.claim(context, life.job.report.job_id):
                self._note(life, "is a second job, and does nothing")
                self._journal.figures["second jobs"] += 1
                self._end(life, SlurmState.FAILED, _TAKEN)
                return
        except FileNotFoundError:
            self._note(life, "finds no context")
            self._end(life, SlurmState.FAILED, 1)
            return
        life.claimed = True
        self._note(life, "has taken the context")
        self._later(0.5 * self._stage.rng.random(), lambda: self._enter(life))

    def claim(self, context: Path, job_id: int) -> bool:
        """Take a context; False when another job has it. Raises FileNotFoundError."""
        try:
            self._files.link(context / "claim", str(job_id))
        except FileExistsError:
            return False
        return True

    def _enter(self, life: Life) -> None:
        """The container is attested, and the program begins."""
        if life.ending:
            return
        rng = self._stage.rng
        context = life.folder
        try:
            expected = self._files.read(context / "facts.expected", limit=1 << 20).decode()
            self._files.look(context / "command.list")
        except FileNotFoundError:
            detail = f"job {life.job.report.job_id} finds its context half empty"
            raise Violation("context destroyed", life.process_id, detail) from None
        found = "".join(line for line in expected.splitlines(True) if not line.startswith("? "))
        self._files.make_folder(context / "output", mode=0o700, parents=True)
        self._leave(life, {"facts": found.encode(), "attested": b"node1 1772600767\n"})
        life.result = f"{life.process_id} {rng.randrange(1 << 30)}".encode()
        self.truth.ran(life)
        self._leave(life, {"stdout.txt": b"begins\n"})
        self._note(life, "runs its program")
        seconds = rng.choice(self._runs) * rng.random()
        if rng.random() < self._sky.weather.suspended:
            self._later(seconds * rng.random(), lambda: self._suspend(life))
        self._later(seconds, lambda: self._run_out(life))

    def _suspend(self, life: Life) -> None:
        if not life.ending and life.job.report.status.base is SlurmState.RUNNING:
            self.suspend(life.job.report.job_id)
            self._note(life, "is suspended")

    def _run_out(self, life: Life) -> None:
        rng = self._stage.rng
        if life.ending:
            return
        if life.job.report.status.base is SlurmState.SUSPENDED:
            self.resume(life.job.report.job_id)
            self._later(3.0, lambda: self._run_out(life))
        elif rng.random() < self._sky.weather.ended_by_slurm:
            life.by_slurm = True
            self._stop(life, rng.choice(_ENDS_BY_SLURM))
        else:
            code = rng.choice((0, 0, 0, 0, 0, 0, 1, 200))
            self._stop(life, SlurmState.FAILED if code else SlurmState.COMPLETED, code)

    def _stop(self, life: Life, state: SlurmState, code: int = _TERM) -> None:
        """The program ends, and the script after it."""
        if life.ending or life.job.ended:
            return
        life.ending = True
        if life.claimed and state is not SlurmState.NODE_FAIL:
            if life.ran:
                self._leave(life, {"output/result": life.result, "stdout.txt": b"begins\nends\n"})
            self._leave(life, {"exit_code": f"{code}\n".encode()})
            life.exit_code = code
        self.advance(_COMPLETING, life.job.report.job_id)
        by_program = state in {SlurmState.COMPLETED, SlurmState.FAILED}
        seconds = 1.0 * self._stage.rng.random()
        self._later(seconds, lambda: self._end(life, state, code if by_program else None))

    def _end(self, life: Life, state: SlurmState, code: int | None) -> None:
        if life.vanished:
            return
        life.ending = True
        life.end = state
        self._note(life, f"has ended: {state} {code}")
        if self.knows(life.job):
            self.end(life.job.report.job_id, state, code)

    def end(self, job_id: int, state: SlurmState, exit_code: int | None = None) -> None:
        """See FakeScheduler.end."""
        super().end(job_id, state, exit_code)
        for life in self._lives.values():
            if life.end is None and life.job.ended and not life.vanished:
                # It was canceled while it waited.
                life.end, life.ending = state, True
                self._note(life, f"has ended: {state}")

    def _leave(self, life: Life, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            try:
                self._files.write(life.folder / name, content)
            except FileNotFoundError:
                detail = f"job {life.job.report.job_id} cannot write {name}"
                raise Violation("context destroyed", life.process_id, detail) from None

    # --- time ---

    def _later(self, seconds: float, event: Callable[[], None]) -> None:
        self._stage.at(self._stage.now + seconds, event)

    def _note(self, life: Life, what: str) -> None:
        self._journal.note("slurm", f"job {life.job.report.job_id} of {life.process_id} {what}")

    def _note_all(self, what: str) -> None:
        self._journal.note("slurm", what)


def _folder(job: FakeJob) -> Path:
    """Where a job's script works."""
    return Path(str(read_directives(job.script)["working_directory"]))
