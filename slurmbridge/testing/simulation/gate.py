"""Where a program meets the world: at each of these places the seed decides what goes wrong."""

from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar
from zlib import crc32

from slurmbridge.clock import Clock
from slurmbridge.testing.simulation.stage import Ended, Program, Stage
from slurmbridge.testing.simulation.weather import DATABASE, Sky

T = TypeVar("T")
Broken = Callable[[str], Exception]
# Of what happened, what is kept for the one who has to understand a failure.
_KEPT = 20_000
# Seconds for which a program stands still: less and more than a Runner may without being taken for
# dead, and longer than the absence of a job has to last.
_STALLS = (8.0, 25.0, 60.0, 90.0, 120.0)


class Journal:
    """What happened, in order, and how often."""

    def __init__(self, stage: Stage, listener: Callable[[str], object] | None = None) -> None:
        self._stage = stage
        self._listener = listener
        self._lines: deque[tuple[float, int, str, str]] = deque(maxlen=_KEPT)
        self.digest = 0
        self.figures: Counter[str] = Counter()

    def note(self, who: str, what: str) -> None:
        """Write a line."""
        line = (self._stage.now, self._stage.steps, who, what)
        self._lines.append(line)
        self.digest = crc32(repr(line).encode(), self.digest)
        if self._listener:
            self._listener(_shown(line))

    def about(self, word: str, most: int) -> list[str]:
        """The last lines in which a word stands."""
        found = [line for line in self._lines if word in line[3]]
        return [_shown(line) for line in found[-most:]]

    def last(self, most: int) -> list[str]:
        """The last lines."""
        return [_shown(line) for line in list(self._lines)[-most:]]


def _shown(line: tuple[float, int, str, str]) -> str:
    now, step, who, what = line
    return f"{now:9.3f} s  step {step:6}  {who:10}  {what}"


class Machine(Program):
    """A program on a host whose clock may be wrong."""

    def __init__(self, name: str, start: datetime, stage: Stage) -> None:
        super().__init__(name)
        self._start = start
        self._stage = stage
        self.wall_shift = 0.0
        self.monotonic_shift = 0.0
        # The Runner that the program is, as long as it is one.
        self.runner: str | None = None

    def now(self) -> datetime:
        """What its clock says."""
        return self._start + timedelta(seconds=self._stage.now + self.wall_shift)

    def monotonic(self) -> float:
        """Seconds, counted on its host."""
        return 1000.0 + self._stage.now + self.monotonic_shift

    @property
    def clock(self) -> Clock:
        """Its clock, on which to sleep is to let others go on."""
        return Clock(self.now, self.monotonic, self._stage.pass_time)


class Gate:
    """One program's way to the world."""

    def __init__(
        self,
        stage: Stage,
        sky: Sky,
        journal: Journal,
        machine: Machine,
        die: Callable[[Machine], object],
    ) -> None:
        self._stage = stage
        self.sky = sky
        self._journal = journal
        self.machine = machine
        self._die = die

    @property
    def stage(self) -> Stage:
        """Where it is."""
        return self._stage

    def through(self, kind: str, what: str, effect: Callable[[], T], broken: Broken) -> T:
        """Have an effect on the world."""
        self.before(kind, what, broken)
        result = effect()
        self.after(kind, what, broken)
        return result

    def before(self, kind: str, what: str, broken: Broken) -> None:
        """All that can happen before an effect."""
        stage, sky = self._stage, self.sky
        stage.pass_time(sky.seconds(kind))
        if sky.is_cut_off(self.machine.name, kind, stage.now):
            stage.pass_time(sky.patience(kind))
            self.note(f"{what}: cut off")
            raise broken("it does not answer")
        likely = sky.at(what, after=False)
        dice = stage.rng.random()
        if dice < likely.crash:
            self.crash(f"before {what}")
        dice -= likely.crash
        if dice < likely.broken:
            self.note(f"{what}: refused")
            raise broken("it answers with an error")
        dice -= likely.broken
        if dice < likely.stall:
            self.stall(f"before {what}")

    def after(self, kind: str, what: str, broken: Broken) -> None:
        """All that can happen after an effect."""
        stage = self._stage
        self.note(what)
        likely = self.sky.at(what, after=True)
        dice = stage.rng.random()
        if dice < likely.crash:
            self.crash(f"after {what}")
        dice -= likely.crash
        if dice < likely.broken:
            self._journal.figures["answers lost"] += 1
            self.note(f"{what}: the answer is lost")
            stage.pass_time(self.sky.patience(kind))
            raise broken("no answer in time")
        dice -= likely.broken
        if dice < likely.stall:
            self.stall(f"after {what}")
        if kind != DATABASE:
            stage.pass_time(self.sky.seconds(kind))

    def crash(self, where: str) -> None:
        """The program is gone."""
        self.note(f"dies {where}")
        self._journal.figures["crashes"] += 1
        self._die(self.machine)
        raise Ended

    def stall(self, where: str) -> None:
        """The program stands still, with all its threads; or its whole host, clock and all."""
        seconds = self._stage.rng.choice(_STALLS)
        self.freeze(seconds, whole_host=self._stage.rng.random() < 0.2, where=where)
        self._stage.pass_time(0.0)

    def freeze(self, seconds: float, *, whole_host: bool, where: str = "") -> None:
        """From outside: stand still from now on."""
        self.note(f"{'its host' if whole_host else 'it'} stands still for {seconds:.0f} s {where}")
        self._journal.figures["freezes"] += 1
        until = self._stage.now + seconds
        self.machine.frozen_until = max(self.machine.frozen_until, until)
        if whole_host:
            self.machine.monotonic_shift -= seconds
            self.machine.wall_shift -= seconds

    def note(self, what: str) -> None:
        """Write it down."""
        self._journal.note(self.machine.name, what)
