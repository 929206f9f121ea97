"""Traces are read beside the Runner's work, by a process that can die without ending it."""

import logging
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from ipaddress import IPv4Network

from slurmbridge.context.left import Left, Trace
from slurmbridge.store import Claimed
from slurmbridge.trace.judge import SiteRules
from slurmbridge.trace.read import Read, Reading, StreamFile, finish, read
from slurmbridge.trace.report import USUAL

log = logging.getLogger(__name__)
# Reading needs some 100 MiB, whatever the length of the trace.
_MEMORY_BYTES = 4 << 30
_MOST_DEATHS = 2


class ReadingProcess(ProcessPoolExecutor):
    """One process, which reads one trace after the other."""

    def __init__(self) -> None:
        # Forking would copy the locks of the Runner's threads.
        context = multiprocessing.get_context("spawn")
        super().__init__(max_workers=1, mp_context=context, initializer=_be_modest)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End it, also in the midst of a trace."""
        for child in multiprocessing.active_children():
            child.terminate()
        super().shutdown(wait=wait, cancel_futures=cancel_futures)


def _be_modest() -> None:
    """What it reads was brought about by a program that nobody knows."""
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    # At a terminal, the Runner decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_runner, daemon=True).start()


def _end_with_the_runner() -> None:
    """A worker whose Runner was killed would wait for work for ever."""
    runner = multiprocessing.parent_process()
    assert runner is not None, "only a child runs this"
    runner.join()
    os._exit(1)


@dataclass(slots=True)
class _Begun:
    reading: Reading
    future: Future[Read]
    deaths: int = 0


class TraceReader:
    """Reads the traces of Processes that have ended, in the order in which it was asked.

    `new_executor` makes what they are read by, one at a time; anew when it has died.
    """

    def __init__(
        self,
        site: SiteRules,
        new_executor: Callable[[], Executor],
        *,
        network: IPv4Network | None = None,
    ) -> None:
        self._site = site
        # Between the pods of a Process.
        self._network = network
        self._new_executor = new_executor
        self._executor: Executor | None = None
        # In the order in which they are read.
        self._begun: dict[str, _Begun] = {}

    def begin(self, entry: Claimed, left: Left, traces: Sequence[Trace]) -> None:
        """Have the traces of a Process read, unless that has begun."""
        if entry.id not in self._begun:
            reading = self._reading(entry, left, traces)
            self._begun[entry.id] = _Begun(reading, self._submit(reading))

    def take(self, process_id: str, patience_seconds: float) -> Read | None:
        """The report, once: None as long as it is not there.

        A trace that cannot be read gets a report that says so, and fails.
        """
        begun = self._begun[process_id]
        try:
            found = begun.future.result(timeout=max(patience_seconds, 0.0))
        except NotYet:
            return None
        except BrokenExecutor:
            log.warning("the process that reads traces has died")
            self._restart()
            if begun.deaths < _MOST_DEATHS:
                return None
            found = finish(begun.reading, ())
        except Exception:
            log.exception("the trace of Process %s could not be read", process_id)
            found = finish(begun.reading, ())
        del self._begun[process_id]
        return found

    def forget(self, process_id: str) -> None:
        """Nobody will ask for it any more."""
        if begun := self._begun.pop(process_id, None):
            begun.future.cancel()

    def close(self) -> None:
        """End what is being read."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None
        self._begun.clear()

    def _restart(self) -> None:
        """Begin again what was not read; last, what was being read when the process died."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None
        first, *others = (name for name, begun in self._begun.items() if not _is_read(begun))
        self._begun[first].deaths += 1
        for name in (*others, first):
            begun = self._begun.pop(name)
            begun.future = self._submit(begun.reading)
            self._begun[name] = begun

    def _submit(self, reading: Reading) -> Future[Read]:
        if self._executor is None:
            self._executor = self._new_executor()
        return self._executor.submit(read, reading)

    def _reading(self, entry: Claimed, left: Left, traces: Sequence[Trace]) -> Reading:
        parallel = entry.spec.parallel
        nodes = (left.node or "").split(",")
        streams = tuple(
            StreamFile(
                nodes[trace.pod - 1] if trace.pod <= len(nodes) else f"sb{trace.pod}",
                trace.path,
                trace.cut,
            )
            for trace in traces
        )
        return Reading(
            network=self._network if parallel and parallel.networked else None,
            process_id=entry.id,
            level=entry.spec.trace,
            streams=streams,
            site=self._site,
            own=entry.spec.trace_rules,
            limits=USUAL,
        )


def _is_read(begun: _Begun) -> bool:
    future = begun.future
    return future.done() and not future.cancelled() and future.exception() is None
