"""What goes wrong, and how often: drawn from the seed, other troubles for each."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random

DATABASE, SLURM, FILES, STORE = "database", "slurm", "files", "store"
KINDS = (DATABASE, SLURM, FILES, STORE)
# Seconds that a side effect usually takes, at the most.
_USUAL = {DATABASE: 0.01, SLURM: 0.2, FILES: 0.004, STORE: 0.002}
# A call that is given up: after how long.
_PATIENCE = {DATABASE: 2.0, SLURM: 10.0, FILES: 10.0, STORE: 2.0}
# The calls, by the first words of what is written about them; the more important, the more often.
_PLACES = (
    *("read", "jobs", "history", "cancel", "hold", "backlog", "make", "look", "list", "create"),
    *("remove", "rename", "open"),
    *3 * ("write",),
    *6 * ("submit",),
)


@dataclass(frozen=True, slots=True)
class Weather:
    """How likely each trouble is: at a side effect, or (`_every`) after how many seconds on
    average; 0 is never.
    """

    # The program dies: before the effect, or after it and before the answer.
    crash: float = 0.0
    # The call fails, and nothing was done; or all was done, and the answer is lost.
    refused: float = 0.0
    lost: float = 0.0
    # The call takes much longer.
    slow: float = 0.0
    # The program stands still at this very place.
    stall: float = 0.0
    # A submission takes effect long after its sender has given up.
    late_submission: float = 0.0
    garbage: float = 0.0
    disk_full: float = 0.0
    # Slurm refuses a submission for the moment.
    rate_limit: float = 0.0
    freeze_every: float = 0.0
    partition_every: float = 0.0
    clock_jump_every: float = 0.0
    controller_down_every: float = 0.0
    accounting_down_every: float = 0.0
    controller_reset_every: float = 0.0
    stop_every: float = 0.0
    accounting_delay: float = 0.0
    # Of the jobs.
    held: float = 0.0
    suspended: float = 0.0
    ended_by_slurm: float = 0.0
    stubborn: float = 0.0
    # Of the clients.
    canceled: float = 0.0
    asked_twice: float = 0.0


CALM = Weather()
_MOST = Weather(
    crash=0.006,
    refused=0.01,
    lost=0.01,
    slow=0.01,
    stall=0.004,
    late_submission=0.05,
    garbage=0.01,
    disk_full=0.005,
    rate_limit=0.1,
    freeze_every=40.0,
    partition_every=40.0,
    clock_jump_every=40.0,
    controller_down_every=80.0,
    accounting_down_every=80.0,
    controller_reset_every=400.0,
    stop_every=80.0,
    accounting_delay=90.0,
    held=0.05,
    suspended=0.1,
    ended_by_slurm=0.15,
    stubborn=0.05,
    canceled=0.15,
    asked_twice=0.2,
)


@dataclass(frozen=True, slots=True)
class Hot:
    """How likely a program dies, a call fails or loses its answer, and a program stands still."""

    crash: float = 0.0
    broken: float = 0.0
    stall: float = 0.0


# By the first word of what is written about a call, and whether it is after its effect.
Heat = Mapping[tuple[str, bool], Hot]


@dataclass(frozen=True, slots=True)
class Focus:
    """Troubles that there are in any case, whatever the seed says."""

    heat: Heat = field(default_factory=dict)
    # Fields of Weather.
    weather: Mapping[str, float] = field(default_factory=dict)


NO_FOCUS = Focus()


def forecast(rng: Random, focus: Focus = NO_FOCUS) -> Weather:
    """The weather of a seed: some troubles, each of some strength, and not the others. Who has all
    troubles at once never comes to where only one of them matters.
    """
    changes = {}
    for name in Weather.__dataclass_fields__:
        most = getattr(_MOST, name)
        strength = rng.choice((0.0, 0.25, 1.0)) if most else 0.0
        if strength and name.endswith("_every"):
            changes[name] = most / strength
        elif strength:
            changes[name] = most * strength
    return replace(CALM, **{**changes, **focus.weather})


@dataclass
class Sky:
    """The weather as it is now, and who is cut off from what until when."""

    weather: Weather
    rng: Random
    cut_off: dict[tuple[str, str], float] = field(default_factory=dict)
    full_until: float = 0.0
    # Calls that are in trouble more often than others, before or after their effect.
    hot: dict[tuple[str, bool], Hot] = field(default_factory=dict)

    def heat(self, always: Heat) -> None:
        """Choose some calls: what is rare everywhere is never seen twice at the same place."""
        self.hot.update(always)
        for _ in range(self.rng.choice((0, 1, 2, 3))):
            place = self.rng.choice(_PLACES), self.rng.random() < 0.5
            trouble = self.rng.choice(("crash", "broken", "stall"))
            self.hot[place] = Hot(**{trouble: self.rng.choice((0.03, 0.1, 0.3))})

    def at(self, what: str, *, after: bool) -> "Hot":
        """How likely each trouble is at one place."""
        weather = self.weather
        broken = weather.lost if after else weather.refused
        if hot := self.hot.get((what.partition(" ")[0], after)):
            return Hot(max(weather.crash, hot.crash), max(broken, hot.broken),
                       max(weather.stall, hot.stall))  # fmt: skip
        return Hot(weather.crash, broken, weather.stall)

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self.weather = replace(
            CALM, accounting_delay=self.weather.accounting_delay, stubborn=self.weather.stubborn
        )
        self.cut_off.clear()
        self.hot.clear()
        self.full_until = 0.0

    def seconds(self, kind: str) -> float:
        """How long the next call takes, or its answer."""
        usual = _USUAL[kind] * self.rng.random()
        if self.weather.slow and self.rng.random() < self.weather.slow:
            return usual + self.rng.choice((0.5, 3.0, 9.0))
        return usual

    def patience(self, kind: str) -> float:
        """After how long a call is given up."""
        return _PATIENCE[kind]

    def is_cut_off(self, program: str, kind: str, now: float) -> bool:
        """Whether a program does not reach something."""
        return self.cut_off.get((program, kind), 0.0) > now
