"""Programs, their threads and the time: one thing happens at a time, in an order that a seed gives.

Each thread of a program is a real thread, but only the one with the baton runs. It hands it on
where it passes time, which is at every side effect, to whichever thread or event is due next.
"""

import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from random import Random
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Ended(BaseException):
    """Raised in a program that has died: it does nothing more. No `except Exception` catches it."""


class Program:
    """An operating system's process: its threads live, stand still and die together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.frozen_until = 0.0
        self.threads: list[Thread] = []


class Thread:
    """One thread of a program, or the one that looks on."""

    def __init__(self, program: Program, body: Callable[[], object] | None) -> None:
        self.program = program
        self.body = body
        self.gate = threading.Lock()
        self.gate.acquire()
        # Waits for another thread, and not for the time.
        self.parked = False


class Stage:
    """Where programs run. Times are seconds since the beginning."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)  # noqa: S311 - a story, and no secret
        self.now = 0.0
        self.steps = 0
        self.failure: BaseException | None = None
        self._due: list[tuple[float, int, Thread | Callable[[], object]]] = []
        self._order = itertools.count()
        self._audience = Thread(Program("audience"), None)
        self.current = self._audience
        self._over = False
        self._closed = False
        # All that have not ended, in the order in which they began.
        self._living: dict[Thread, None] = {}

    # --- what happens when ---

    def at(self, when: float, event: Callable[[], object]) -> None:
        """Let something happen that no program does."""
        self._push(when, event)

    def spawn(self, program: Program, body: Callable[[], object]) -> Thread:
        """Begin another thread of a program."""
        thread = Thread(program, body)
        program.threads.append(thread)
        self._living[thread] = None
        threading.Thread(target=self._perform, args=(thread,), daemon=True).start()
        self._push(self.now, thread)
        return thread

    def kill(self, program: Program) -> None:
        """End a program at once, in the midst of whatever it does."""
        program.dead = True
        program.frozen_until = 0.0
        for thread in program.threads:
            if thread is not self.current:
                thread.parked = False
                self._push(self.now, thread)

    def check_alive(self) -> None:
        """Raise Ended in a program that has died: nothing that it does has an effect."""
        if self._closed or self.current.program.dead:
            raise Ended

    def fail(self, failure: BaseException) -> None:
        """End everything: something is not as it has to be."""
        if self.failure is None:
            self.failure = failure
        self._over = self._closed = True

    # --- threads ---

    def pass_time(self, seconds: float) -> None:
        """The thread goes on after so long; meanwhile others do."""
        self.check_alive()
        self.steps += 1
        due = self.now + seconds
        me = self.current
        if due < self._due[0][0] if self._due else not self._over:
            self.now = due
            if me.program.frozen_until <= due:
                return
        self._push(due, me)
        self._hand_on(me)

    def park(self, waiting: list[Thread]) -> None:
        """Wait until another thread wakes this one."""
        self.check_alive()
        me = self.current
        waiting.append(me)
        me.parked = True
        self._hand_on(me)

    def wake(self, waiting: list[Thread]) -> None:
        """Let those that wait go on."""
        for thread in waiting:
            if thread.parked:
                thread.parked = False
                self._push(self.now, thread)
        waiting.clear()

    def run_until(self, when: float) -> None:
        """Let time pass. Raises what was found to be wrong."""
        self._over = False
        self._push(when, self._end_act)
        self._hand_on(self._audience)
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        """End all programs."""
        self._closed = True
        self._due.clear()
        for thread in self._living:
            self._push(self.now, thread)
        while self._living:
            self._over = False
            self._hand_on(self._audience)
        self._due.clear()

    def _end_act(self) -> None:
        self._over = True

    def _push(self, when: float, what: Thread | Callable[[], object]) -> None:
        heapq.heappush(self._due, (when, next(self._order), what))

    def _perform(self, thread: Thread) -> None:
        thread.gate.acquire()
        assert thread.body
        try:
            self.check_alive()
            thread.body()
        except Ended:
            pass
        except BaseException as error:
            self.fail(error)
        thread.program.threads.remove(thread)
        del self._living[thread]
        other = self._next()
        self.current = other
        other.gate.release()

    def _hand_on(self, me: Thread) -> None:
        other = self._next()
        if other is not me:
            self.current = other
            other.gate.release()
            me.gate.acquire()
        if me is not self._audience:
            self.check_alive()

    def _next(self) -> Thread:
        """The thread that is due; meanwhile, what no program does happens. Never raises."""
        while self._due and not self._over:
            when, _, what = heapq.heappop(self._due)
            if not isinstance(what, Thread):
                self.now = max(self.now, when)
                self._let_happen(what)
            elif what not in self._living:
                continue
            elif what.program.frozen_until > when and not self._closed:
                self._push(what.program.frozen_until, what)
            else:
                self.now = max(self.now, when)
                return what
        return self._audience

    def _let_happen(self, event: Callable[[], object]) -> None:
        if self._closed:
            return
        try:
            event()
        except BaseException as error:
            self.fail(error)


class Turnstile:
    """A lock for threads on a stage: who waits for it lets the others go on."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._taken = False
        self._waiting: list[Thread] = []

    def __enter__(self) -> None:
        while self._taken:
            self._stage.park(self._waiting)
        self._taken = True

    def __exit__(self, *_: object) -> None:
        self._taken = False
        self._stage.wake(self._waiting)


class Promise(Future[T]):
    """What another thread on the stage will bring."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage
        self._awaiting: list[Thread] = []

    def result(self, timeout: float | None = None) -> T:
        """See Future.result. There is no end to the patience."""
        self.wait()
        return super().result(0)

    def wait(self) -> None:
        """Until it is there."""
        while not self.done():
            self._stage.park(self._awaiting)

    def keep(self, action: Callable[[], T]) -> None:
        """Bring it."""
        try:
            self.set_result(action())
        except Exception as error:
            self.set_exception(error)
        self._stage.wake(self._awaiting)


class Beside(Executor):
    """What is done by another thread of the program that asks."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._promises: list[Promise[object]] = []

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See Executor.submit."""
        promise: Promise[T] = Promise(self._stage)
        self._promises.append(promise)  # type: ignore[arg-type]
        program = self._stage.current.program
        self._stage.spawn(program, lambda: promise.keep(lambda: fn(*args, **kwargs)))
        return promise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See Executor.shutdown."""
        for promise in self._promises:
            promise.wait()
