"""Time, handed in: what the hosts' clocks say, and what has surely passed."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


def _now() -> datetime:
    return datetime.now(UTC)


# Seconds. Nobody asks any more for what was not asked for so long.
_FORGOTTEN = 86_400.0


@dataclass(frozen=True, slots=True)
class Clock:
    """`now` is for people and may jump; `monotonic` measures, in seconds, and may be faked too."""

    now: Callable[[], datetime] = _now
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def always() -> float:
    """For how long somebody may do something whom nobody would replace."""
    return math.inf


class Absences:
    """For how long things have been missed, counted from look to look.

    However far a clock jumps, and however long nobody could look, one look adds no more than `most`
    to an absence.
    """

    def __init__(self, monotonic: Callable[[], float], *, most: timedelta) -> None:
        self._monotonic = monotonic
        self._most = most
        # For how long, and when that was counted.
        self._absent: dict[str, tuple[timedelta, float]] = {}

    def look(self, missed: Iterable[str], *, present: Iterable[str] = ()) -> dict[str, timedelta]:
        """One look, at which these were missed and those were there: how long each is missed."""
        now = self._monotonic()
        for name in present:
            self._absent.pop(name, None)
        found = {name: self._lasted(name, now) for name in missed}
        self._absent |= {name: (lasted, now) for name, lasted in found.items()}
        forgotten = [name for name, (_, at) in self._absent.items() if now - at > _FORGOTTEN]
        for name in forgotten:
            del self._absent[name]
        return found

    def _lasted(self, name: str, now: float) -> timedelta:
        if name not in self._absent:
            return timedelta()
        lasted, at = self._absent[name]
        return lasted + min(timedelta(seconds=max(0.0, now - at)), self._most)
