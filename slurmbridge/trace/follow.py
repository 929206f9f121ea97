"""Follows every process of a trace from its first line to its last, and tells what it did.

The state is that of the processes and threads that live at the same time; nothing else grows.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from slurmbridge.trace.births import FORKS, Births, Origin, birth
from slurmbridge.trace.calls import Call, executed, refused, signalled, transferred
from slurmbridge.trace.calls import end_of as end_of_call
from slurmbridge.trace.events import (
    UNKNOWN,
    Ended,
    Happening,
    Key,
    Missed,
    Remarked,
    Started,
    ThreadStarted,
    Unreadable,
)
from slurmbridge.trace.lines import (
    HEAD,
    MARKER,
    REFUSALS,
    REMARK,
    UNFINISHED,
    error_of,
    without_unfinished,
)
from slurmbridge.trace.living import Begin, Counts, Folder, Pending, Process, Queue, Thread, Waiting
from slurmbridge.trace.readers import (
    EXECS,
    INSIDE,
    NAMESPACES,
    OUTSIDE,
    READERS,
    SEALING,
    Notes,
    at_once,
    parts,
)

__all__ = ["Begin", "Counts", "Follower"]

SEAL = b"/.sb/sbseal"
# A longer line is passed over. The longest that strace prints are arguments of programs.
LONGEST_LINE = 16 * 1024 * 1024
_TEXT_KEPT = 200
_CHILD = b"--- SIGCHLD {si_signo=SIGCHLD, "
_BATCH = 1024
_MOST_HELD = 16 * 1024 * 1024


class Follower:
    """Reads one trace, once."""

    def __init__(
        self, begin: Begin = Begin.SEALED, *, noted: bool = True, cut: bool = False
    ) -> None:
        """Without `noted`, sbseal's notes tell nothing: strace has recorded the calls.

        A trace that was `cut` at its limit ends within a line; else that is damage.
        """
        self._cut = cut
        self.counts = Counts()
        # The first task.
        self.program: Key | None = None
        self._tasks: dict[int, Key] = {}
        self._notes = Notes(told=noted)
        self._numbers = self._notes.numbers
        self._begin = begin
        self._seal: Process | None = None
        self._threads: dict[bytes, Thread] = {}
        self._births = Births()
        self._waiting = Queue()
        self._born = 0
        self._releasing = False
        # Of a line that was read of late.
        self._time = 0

    @property
    def tasks(self) -> tuple[Key, ...]:
        """The processes that the program began with, in the order of their numbers."""
        return tuple(self._tasks[number] for number in sorted(self._tasks))

    def events(self, chunks: Iterable[bytes]) -> Iterator[Happening]:
        """What the program did, from the bytes of a trace in pieces of any size."""
        rest, overlong = b"", False
        for chunk in chunks:
            lines = chunk.split(b"\n")
            lines[0] = rest + lines[0]
            rest = lines.pop()
            if overlong and lines:
                yield self._unreadable(self._next(), b"")
                overlong = False
                del lines[0]
            for start in range(0, len(lines), _BATCH):
                yield from self._lines(lines[start : start + _BATCH])
            if overlong or len(rest) > LONGEST_LINE:
                rest, overlong = b"", True
        if overlong or (rest and not self._cut):
            # strace ends every line: this one was cut.
            yield self._unreadable(self._next(), rest)
        yield from self._finish()

    def _next(self) -> int:
        self.counts.lines += 1
        return self.counts.lines

    def _lines(self, lines: list[bytes]) -> list[Happening]:
        told: list[Happening] = []
        counts, threads = self.counts, self._threads
        number, head = counts.lines, None
        for line in lines:
            number += 1
            head, thread = HEAD(line), None
            if head is not None:
                pid, call = head.group(1, 5)
                thread = threads.get(pid)
                events: tuple[Happening, ...] | None = None
                if thread is None:
                    pass
                elif call is None:
                    events = self._child_signal(line, head, thread)
                elif call in thread.calls:
                    events = at_once(number, line, thread, head)
                else:
                    # Most lines are these: calls that tell nothing.
                    events = self._quiet(line, thread)
                if events is not None:
                    told += events
                    continue
            counts.lines = number
            if head is None:
                told.append(self._unreadable(number, line))
            elif thread is not None:
                told += self._read(number, line, head, thread)
            else:
                told += self._unknown(number, line, head)
        counts.lines = number
        if head is not None:
            self._time = int(head[2] + head[3])
        return told

    def _child_signal(self, line: bytes, head: re.Match[bytes], thread: Thread) -> tuple[()] | None:
        """That a child has ended is told by the child's own end."""
        if not (line.startswith(_CHILD, head.start(7)) and line.endswith(b"} ---")):
            return None
        self.counts.cut += not thread.process.inside
        return ()

    def _quiet(self, line: bytes, thread: Thread) -> tuple[()] | None:
        if b" = " not in line and not line.endswith(UNFINISHED):
            return None
        if thread.calls is not INSIDE:
            self.counts.cut += 1
        elif line.endswith(REFUSALS):
            return None
        return ()

    def _unknown(self, number: int, line: bytes, head: re.Match[bytes]) -> list[Happening]:
        """A line of a number that is not known."""
        pid = head[1]
        waiting, told = self._waiting.get(pid), list[Happening]()
        if waiting is not None and waiting.full:
            told = self._let_in(waiting)
            if (thread := self._threads.get(pid)) is not None:
                return [*told, *self._read(number, line, head, thread)]
            waiting = None
        if waiting is None:
            waiting = Waiting(int(pid), number)
            if not self._births.several(waiting.seen) and self._waiting.barrier > number:
                waiting.lines.append((number, line, head))
                return told + self._let_in(waiting, certain=True)
        if self._waiting.add(waiting, number, line, head):
            told += self._release()
        if self._waiting.held > _MOST_HELD:
            told += self._let_in(self._waiting.oldest())
        return told

    def _let_in(self, waiting: Waiting, *, certain: bool = False) -> list[Happening]:
        """The lines of a number that had to wait."""
        pid = b"%d" % waiting.seen.pid
        self._waiting.remove(waiting)
        told: list[Happening] = []
        origin = self._births.take(waiting.seen, certain=certain)
        # Nobody else is let in before all of these are read: they may start somebody.
        within, self._releasing = self._releasing, True
        for count, text, head in waiting.lines:
            thread = self._threads.get(pid)
            if thread is None:
                told += self._begin_thread(count, int(head[2] + head[3]), pid, origin)
                thread = self._threads[pid]
            told += self._read(count, text, head, thread)
        self._releasing = within
        return told + self._release()

    def _begin_thread(self, number: int, time: int, pid: bytes, origin: Origin) -> list[Happening]:
        kind, certain, found = origin
        if kind is None:
            folder = Folder()
        else:
            folder = kind.folder if kind.shares_folder else Folder(kind.folder.path)
        told: list[Happening] = []
        if kind is not None and kind.thread:
            process = kind.parent
            if process.inside:
                told.append(ThreadStarted(number, time, process.key, int(pid), certain))
        else:
            self._born += 1
            parent = kind.parent if kind else None
            if kind is not None and kind.sibling:
                parent = kind.parent.parent
            process = self._process(Key(int(pid), self._born), parent)
            if kind is not None:
                process.counts_as_strace = kind.counts_as_strace
            if process.inside:
                told.append(
                    Started(number, time, process.key, parent.key if parent else None, certain)
                )
        calls = INSIDE if process.inside else SEALING if process.awaited else OUTSIDE
        sure = certain or process.key.pid == int(pid)
        thread = self._threads[pid] = Thread(process, folder, calls, certain=sure, birth=found)
        if found is not None and found.given is not None:
            self._numbers.learn_birth(found, thread)
        if process.inside:
            self._numbers.begin(thread)
        self.counts.living = len(self._threads)
        self.counts.most_living = max(self.counts.most_living, self.counts.living)
        return told

    def _process(self, key: Key, parent: Process | None) -> Process:
        # One without a parent is a gap in the trace: once the program runs, it is shown.
        inside = parent.inside if parent else self.program is not None
        process = Process(key, parent, inside)
        if parent is None:
            first = self._born == 1
            process.awaited = self._begin is Begin.FIRST and first
            # strace has started it itself, in its own namespace.
            process.counts_as_strace = True if first else None
            return process
        if parent.seals:
            parent.children += 1
            process.awaited = parent.children > 1
        return process

    def _read(
        self, number: int, line: bytes, head: re.Match[bytes], thread: Thread
    ) -> Iterable[Happening]:
        _, seconds, micros, resumed, name, opening, marker = head.groups()
        time = int(seconds + micros)
        inside = thread.process.inside
        if not inside:
            self.counts.cut += 1
        if marker is not None:
            told = self._marker(number, time, line[head.start(7) :], thread, head[1])
        elif (resumed is None) == (opening == b" resumed>"):
            told = None
        else:
            text = line[head.end() :]
            told = self._call(Call(number, time, thread, name, text), resumed is not None)
        if told is not None:
            return told
        if not inside:
            self.counts.cut -= 1
        return (self._unreadable(number, line),)

    def _marker(
        self, number: int, time: int, text: bytes, thread: Thread, pid: bytes
    ) -> Iterable[Happening] | None:
        if text.startswith(b"---"):
            return signalled(number, time, text, thread.process)
        end = MARKER(text)
        if end is None:
            return None
        code, killed, superseded = end.groups()
        if superseded is not None:
            return self._supersede(pid, superseded)
        exit_code = None if code is None else int(code)
        return self._end(number, time, pid, exit_code, killed.decode() if killed else None)

    def _unanswered(self, number: int, time: int, thread: Thread) -> list[Happening]:
        """The call of a thread that did not live to see its end."""
        pending, thread.pending = thread.pending, None
        if pending is None:
            return []
        if pending.birth is not None and pending.refusal is not None:
            self._births.returned(pending.birth, b") = -1 EPERM", number)
            return [pending.refusal]
        if pending.birth is not None:
            self._births.abandoned(pending.birth, number)
        elif thread.process.inside or thread.process.seals:
            result = b") = 0" if pending.won else b") = ?"
            call = Call(number, time, thread, pending.name, pending.text + result)
            return [*(self._whole(call) or ())]
        return []

    def _supersede(self, pid: bytes, executing: bytes) -> list[Happening]:
        """A thread has executed a program and goes on under the number of the first thread."""
        told: list[Happening] = []
        if waiting := self._waiting.get(executing):
            waiting.seen = replace(waiting.seen, group=self._threads[pid].process)
            told = self._let_in(waiting, certain=waiting.seen.line <= self._waiting.barrier)
        if executing == pid or executing not in self._threads:
            return told
        thread = self._threads.pop(executing)
        first, self._threads[pid] = self._threads.get(pid), thread
        self._numbers.forget(thread)
        if first is not None and first.number is not None:
            self._numbers.learn(thread, first.number)
        if thread.pending is not None and thread.pending.name in EXECS:
            thread.pending.won = True
        return told

    def _end(
        self, number: int, time: int, pid: bytes, code: int | None, signal: str | None
    ) -> list[Happening]:
        thread = self._threads.pop(pid)
        self._numbers.forget(thread)
        process = thread.process
        told = self._unanswered(number, time, thread)
        self.counts.living = len(self._threads)
        if process.key.pid == int(pid):
            # Generations that are gone must not hold one another.
            process.parent = None
            if process.inside:
                told += transferred(number, time, process)
                told.append(Ended(number, time, process.key, code, signal))
        return told

    def _call(self, call: Call, resumed: bool) -> Iterable[Happening] | None:
        thread = call.thread
        pending = thread.pending
        if call.name not in thread.calls:
            if resumed:
                return self._passed_over(call, thread.asked)
            thread.pending = None
            return self._passed_over(call, b"")
        if resumed:
            if pending is None or pending.name != call.name:
                return None
            call.text = pending.text + call.text
        begun = without_unfinished(call.text)
        if begun is not None:
            self._begun(call, begun)
            return ()
        thread.pending = None
        if resumed and pending is not None:
            return self._resumed(call, pending)
        return self._whole(call)

    def _begun(self, call: Call, begun: bytes) -> None:
        pending = Pending(call.name, begun)
        if call.name in FORKS:
            pending.birth = birth(call.name, begun, call.thread, call.line)
            self._births.add(pending.birth)
        call.thread.pending = pending

    def _resumed(self, call: Call, pending: Pending) -> Iterable[Happening] | None:
        if pending.birth is not None:
            return self._forked(call, pending)
        if not pending.won:
            return self._whole(call)
        found = end_of_call(call.text)
        call.text = pending.text + b") = 0"
        told = self._whole(call)
        if told and found is not None and error_of(found[1]):
            return [*told, Missed(call.line, call.time, call.thread.process.key)]
        return told

    def _passed_over(self, call: Call, asked: bytes) -> Iterable[Happening] | None:
        """With `asked`, what was noted of it: its own first line is not kept."""
        text, call.thread.asked = call.text, b""
        if not (b" = " in text or text.endswith(UNFINISHED)):
            return None
        if not call.thread.process.inside or not text.endswith(REFUSALS):
            return ()
        found = end_of_call(text)
        return None if found is None else refused(call, asked or found[0], found[1])

    def _whole(self, call: Call) -> Iterable[Happening] | None:
        """A call with its arguments and its result."""
        if call.name in EXECS:
            return self._executed(call)
        if call.name in FORKS:
            return self._forked(call)
        process = call.thread.process
        if call.name in NAMESPACES:
            process.parts |= parts(call)
            if not process.inside:
                return ()
        return READERS[call.name](call) if process.inside else self._note(call)

    def _note(self, call: Call) -> Iterable[Happening] | None:
        """What sbseal itself says. The program can make no call as a process that may say it."""
        process = call.thread.process
        if process.awaited:
            return self._notes.task(call)
        told = self._notes.refused(call, self.program)
        self.counts.cut -= len(told or ())
        return told

    def _forked(self, call: Call, pending: Pending | None = None) -> Iterable[Happening] | None:
        begun = pending.birth if pending else None
        found = end_of_call(call.text)
        if begun is None:
            if found is None:
                return None
            begun = birth(call.name, call.text, call.thread, call.line)
            self._births.add(begun)
        if found is None or error_of(found[1]) == UNKNOWN:
            # It is killed before it goes on.
            call.thread.pending = pending or Pending(call.name, call.text, birth=begun)
            return self._unanswered(call.line, call.time, call.thread)
        self._births.returned(begun, call.text, call.line)
        if begun.child is not None:
            self._numbers.learn_birth(begun, self._threads.get(b"%d" % begun.child))
        told = self._release()
        if begun.given is None and call.thread.process.inside:
            told += refused(call, *found)
        return told

    def _release(self) -> list[Happening]:
        """Read the lines of those whose parent is known by now."""
        if self._releasing or not self._waiting:
            return []
        told: list[Happening] = []
        self._releasing = moved = True
        while moved and self._waiting:
            moved = False
            for one in self._waiting.able(self._births.changes):
                if self._births.several(one.seen):
                    self._waiting.stuck.append(one.seen)
                elif one.seen.line <= self._waiting.barrier:
                    told += self._let_in(one, certain=True)
                    moved = True
            if not moved:
                moved = self._births.match(self._waiting.stuck)
        self._releasing = False
        return told

    def _executed(self, call: Call) -> Iterable[Happening] | None:
        event = executed(call)
        if event is None:
            return None
        process = call.thread.process
        if event.error:
            return (event,) if process.inside else ()
        if process.inside:
            return (event,)
        if process.awaited:
            return self._enter(call, process, event)
        if self._begin is Begin.SEALED and self._seal is None and event.path == SEAL:
            self._seal = process
            process.seals = True
            call.thread.calls = SEALING
        return ()

    def _enter(self, call: Call, process: Process, event: Happening) -> list[Happening]:
        """The program begins: what it executes is the first thing that is told."""
        process.awaited, process.inside = False, True
        self.counts.cut -= 1
        for thread in self._threads.values():
            if thread.process is process:
                thread.calls = INSIDE
                self._numbers.begin(thread)
        number = len(self._tasks) if process.task is None else process.task
        self._tasks[number] = process.key
        if self.program is None or number == 0:
            self.program = process.key
        return [Started(call.line, call.time, process.key, None, True), event]

    def _unreadable(self, number: int, line: bytes) -> Happening:
        if REMARK(line):
            self.counts.remarks += 1
            return Remarked(number, line[:_TEXT_KEPT])
        self.counts.unreadable += 1
        return Unreadable(number, line[:_TEXT_KEPT])

    def _finish(self) -> list[Happening]:
        """The trace is over. What still waits is read; what still lives has no end."""
        told = self._release()
        while self._waiting:
            told += self._let_in(self._waiting.oldest())
        number, time = self.counts.lines, self._time
        for thread in self._threads.values():
            told += self._unanswered(number, time, thread)
        for process in {thread.process: None for thread in self._threads.values()}:
            if process.inside:
                told += transferred(number, time, process)
        return told
