"""One connection to a host for all who need it: made when needed, watched over, and replaced."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from paramiko import Channel

from slurmbridge.errors import ShellUnavailable
from slurmbridge.shell.link import TROUBLE, Link, in_words
from slurmbridge.shell.target import SshTarget

_FIRST_BACKOFF_SECONDS = 1.0
_LONGEST_BACKOFF_SECONDS = 60.0
# How often one looks whether a call is overdue or the host has fallen silent.
_LOOK_SECONDS = 0.1
# sshd counts a session until its program has ended, which may be later than we see its end.
_REFUSED_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Session:
    """A channel that is open, and the connection that it is on."""

    channel: Channel
    link: Link


@dataclass(slots=True)
class _Attempt:
    until: float
    failure: ShellUnavailable | None = None


class SshConnection:
    """The one connection to a target, for any number of threads.

    Nothing is connected before it is needed. After a failed attempt calls fail at once until the
    next one is due: after 1 s, 2 s, 4 s ... 60 s, each shortened by up to half by chance, so that
    not all who wait come at the same moment. `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        target: SshTarget,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.target = target
        self._clock = clock
        self._chance = chance
        self._changed = threading.Condition()
        self._link: Link | None = None
        self._attempt: _Attempt | None = None
        self._failure: ShellUnavailable | None = None
        self._failures = 0
        self._not_before = 0.0
        self._open = 0
        self._spares: list[Callable[[], bool]] = []
        self._closed = threading.Event()

    @property
    def clock(self) -> Callable[[], float]:
        """By which deadlines are meant."""
        return self._clock

    @contextmanager
    def session(self, deadline: float) -> Iterator[Session]:
        """A channel of one's own, until a moment of the clock; what is done in it ends by then.

        Raises:
            ShellUnavailable: none could be had, and nothing was begun.
        """
        session = self.open(deadline)
        with session.link.guard(deadline):
            try:
                yield session
            finally:
                self.release(session)

    def open(self, deadline: float) -> Session:
        """As `session`, for who gives it back with `release`."""
        self._take_slot(deadline)
        try:
            while True:
                link = self._linked(deadline)
                if session := self._open_on(link, deadline):
                    return session
        except BaseException:
            self._give_slot()
            raise

    def release(self, session: Session) -> None:
        """Close a channel, so that another can be opened."""
        try:
            with suppress(*TROUBLE):
                session.channel.close()
        finally:
            self._give_slot()

    def share(self, give: Callable[[], bool]) -> None:
        """Name somebody who holds sessions in store, and gives one back when asked, if any."""
        self._spares.append(give)

    def close(self) -> None:
        """Cut the connection. It can not be used any more."""
        self._closed.set()
        with self._changed:
            link, self._link, self._attempt = self._link, None, None
            self._changed.notify_all()
        if link:
            link.drop("it was closed")

    def _open_on(self, link: Link, deadline: float) -> Session | None:
        """A session; None when the connection was lost, or the host has none to give just now."""
        began = self._clock()
        try:
            with link.guard(deadline):
                session = Session(link.open(self._left(deadline)), link)
            self._failure, self._failures = None, 0
            return session
        except TROUBLE as error:
            if self._clock() >= deadline:
                link.doubt(began)
                raise self._unavailable("opened no session in time") from error
            if not link.alive:
                link.drop(in_words(error))
                return None
            # paramiko hands the reason to whoever asks first, which may be another thread.
            if not self._give_spare() and self._open <= 1:
                raise self._unavailable(f"gives no session: {in_words(error)}") from error
        with self._changed:
            self._changed.wait(min(_REFUSED_SECONDS, self._left(deadline)))
        if self._clock() >= deadline:
            raise self._unavailable("has no session left (MaxSessions)")
        return None

    def _take_slot(self, deadline: float) -> None:
        while True:
            with self._changed:
                if self._open < self.target.channels:
                    self._open += 1
                    return
            if self._give_spare():
                continue
            with self._changed:
                if self._open >= self.target.channels and not self._changed.wait(
                    self._left(deadline)
                ):
                    raise self._unavailable(f"has all its {self.target.channels} channels in use")

    def _give_slot(self) -> None:
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def _give_spare(self) -> bool:
        return any(give() for give in list(self._spares))

    def _linked(self, deadline: float) -> Link:
        """The connection, made anew where needed. Raises ShellUnavailable."""
        with self._changed:
            while True:
                if self._closed.is_set():
                    raise self._unavailable("is closed")
                now = self._clock()
                if self._link and not self._link.alive:
                    self._forget(self._link)
                if self._link and not self._link.doubtful:
                    return self._link
                if not self._link and not self._attempt:
                    self._attempt = self._start(now)
                self._wait_for(self._attempt, deadline)

    def _wait_for(self, attempt: _Attempt | None, deadline: float) -> None:
        """Until there may be a connection. You hold the lock. Raises ShellUnavailable."""
        now = self._clock()
        late = self._unavailable("cannot be reached: it did not answer in time")
        if now >= deadline:
            raise late
        if attempt and now >= attempt.until:
            attempt.failure = late
            self._failed(late)
        if attempt and attempt.failure:
            raise type(attempt.failure)(str(attempt.failure), never_started=True)
        until = min(deadline, attempt.until) if attempt else min(deadline, now + _LOOK_SECONDS)
        self._changed.wait(max(0.001, until - now))
        if attempt and attempt.failure:
            raise type(attempt.failure)(str(attempt.failure), never_started=True)

    def _start(self, now: float) -> _Attempt:
        if self._failure and now < self._not_before:
            wait = self._not_before - now
            raise type(self._failure)(
                f"{self._failure}; the next attempt is in {wait:.0f} s", never_started=True
            )
        attempt = _Attempt(now + self.target.connect_seconds)
        thread = threading.Thread(
            target=self._connect_and_keep,
            args=(attempt,),
            name=f"ssh {self.target}",
            daemon=True,
        )
        thread.start()
        return attempt

    def _connect_and_keep(self, attempt: _Attempt) -> None:
        """In a thread of its own: some of what it waits for cannot be interrupted."""
        try:
            link = Link(self.target, self.target.connect_seconds, self._clock)
        except Exception as error:
            said = f"cannot be reached: {error!r}"
            failure = error if isinstance(error, ShellUnavailable) else self._unavailable(said)
            with self._changed:
                if self._attempt is attempt:
                    attempt.failure = failure
                    self._failed(failure)
            if failure is not error:
                raise
            return
        with self._changed:
            if self._attempt is attempt:
                self._link, self._attempt = link, None
                self._changed.notify_all()
        if self._link is not link:
            link.drop("it came too late")
            return
        link.keep(self.target.keepalive_seconds, self._pause)
        with self._changed:
            self._changed.notify_all()

    def _pause(self) -> None:
        self._closed.wait(_LOOK_SECONDS)

    def _forget(self, link: Link) -> None:
        """A connection was lost. One that never was of use does not count as made. You hold the
        lock.
        """
        self._link = None
        if not link.served:
            why = link.dropped_why or "it gives no reason"
            self._failed(self._unavailable(f"ends the connection after the login: {why}"))

    def _failed(self, error: ShellUnavailable) -> None:
        """An attempt came to nothing. You hold the lock."""
        self._attempt = None
        self._failure = error
        longest = min(_LONGEST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2**self._failures)
        self._failures = min(self._failures + 1, 10)
        self._not_before = self._clock() + longest * (1 - self._chance() / 2)
        self._changed.notify_all()

    def _left(self, deadline: float) -> float:
        return max(0.001, deadline - self._clock())

    def _unavailable(self, what: str) -> ShellUnavailable:
        return ShellUnavailable(f"{self.target} {what}", never_started=True)
