"""Long work on single Processes, such as staging, beside a Runner's rounds.

Whoever an errand is done for stays claimed until its end has been taken notice of.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Generic, TypeVar

from slurmbridge.bridge.standing import Actor
from slurmbridge.errors import NotStanding, SlurmBridgeError
from slurmbridge.model import Progress
from slurmbridge.store import ProcessStore, Wanted

log = logging.getLogger(__name__)
T = TypeVar("T")
# Between two looks at what is under way.
_FIRST_PAUSE_SECONDS = 0.005
_LONGEST_PAUSE_SECONDS = 0.1
_REPORT_SECONDS = 1.0


class Canceled(Exception):
    """Somebody asked for the Process's end while work for it was under way."""


class Errands(Generic[T]):
    """One round begins them, this one or a later one takes what came of them.

    Used by the Runner's own thread alone. `new_executor` makes what they are done by.
    """

    def __init__(self, new_executor: Callable[[], Executor], actor: Actor) -> None:
        self._new_executor = new_executor
        self._actor = actor
        self._executor: Executor | None = None
        self._begun: dict[str, Future[T]] = {}
        self._closed = threading.Event()

    @property
    def under_way(self) -> frozenset[str]:
        """For which Processes something was begun and not taken yet."""
        return frozenset(self._begun)

    @property
    def actor(self) -> Actor:
        """The Runner for which they are done; once it ends, it does not stand for any of them."""
        return replace(self._actor, guard=self._guard)

    def _guard(self) -> None:
        if self._closed.is_set():
            raise NotStanding("the Runner ends")
        self._actor.guard()

    def begin(self, process_id: str, work: Callable[[], T]) -> None:
        """Have something done for a Process."""
        assert process_id not in self._begun, process_id
        if self._executor is None:
            self._executor = self._new_executor()
        self._begun[process_id] = self._executor.submit(work)

    def wait(self, deadline: float) -> list[str]:
        """Until all are done, or the clock shows so much; those that are, in the order in which
        they were begun.
        """
        clock, pause = self._actor.clock, _FIRST_PAUSE_SECONDS
        while not all(future.done() for future in self._begun.values()):
            left = deadline - clock.monotonic()
            if left <= 0:
                break
            clock.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        return [process_id for process_id, future in self._begun.items() if future.done()]

    def take(self, process_id: str) -> T:
        """What came of one that is done. Raises what it raised."""
        return self._begun.pop(process_id).result()

    def close(self) -> None:
        """End them: each does nothing more that others can see, and is waited for."""
        self._closed.set()
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None
        self._begun.clear()


class Watch:
    """Looks on while files of one Process are moved. Called by several threads.

    Now and then it says how far they are, and asks whether that is still wanted.
    """

    def __init__(
        self,
        processes: ProcessStore,
        actor: Actor,
        process_id: str,
        doing: str,
        *,
        ends_with_cancel: bool = False,
    ) -> None:
        self._processes = processes
        self._actor = actor
        self._id = process_id
        self._lock = threading.Lock()
        self._doing = doing
        self._ends_with_cancel = ends_with_cancel
        self._of_files = self._of_bytes = self._files = self._bytes = 0
        self._reported_at = actor.clock.monotonic()

    def expect(self, files: int, size: int) -> None:
        """So much more will come."""
        with self._lock:
            self._of_files += files
            self._of_bytes += size

    def moved(self, size: int, files: int = 0) -> None:
        """So much more has come.

        Raises:
            NotStanding: somebody else may be doing the same.
            Canceled
        """
        self._actor.guard()
        with self._lock:
            self._files += files
            self._bytes += size
            now = self._actor.clock.monotonic()
            if now - self._reported_at < _REPORT_SECONDS:
                return
            self._reported_at = now
            progress = self._now()
        self._report(progress)

    def _now(self) -> Progress:
        return Progress(
            doing=self._doing,
            files=self._files,
            size_bytes=self._bytes,
            of_files=self._of_files,
            of_bytes=self._of_bytes,
        )

    def _report(self, progress: Progress) -> None:
        try:
            wanted = self._processes.report(self._id, progress, runner=self._actor.id)
        except SlurmBridgeError as error:
            # A database that is away keeps no file from being moved.
            log.warning("Process %s: its progress could not be told: %s", self._id, error)
            return
        if wanted is Wanted.NO and self._ends_with_cancel:
            raise Canceled
        if wanted is Wanted.ELSEWHERE:
            raise NotStanding(f"Process {self._id} is another Runner's by now")
