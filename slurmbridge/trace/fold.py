"""Folds the events of one trace into its report. Memory is bounded by the limits alone."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from slurmbridge.rules import Place, Target
from slurmbridge.trace import events as ev
from slurmbridge.trace.gather import (
    At,
    FilesGrown,
    ProcessesGrown,
    Table,
    counted,
    key_of,
    listing,
)
from slurmbridge.trace.names import escaped
from slurmbridge.trace.places import place_of
from slurmbridge.trace.report import (
    NOTHING_THERE,
    Act,
    CallEntry,
    Doubt,
    ExecutedEntry,
    JoinedEntry,
    Joining,
    Kind,
    Limits,
    LineEntry,
    Listing,
    Mark,
    ModeEntry,
    Moment,
    NetworkEntry,
    SignalEntry,
    StreamReport,
    Use,
    Way,
)

_ACCESS: Mapping[ev.Access, tuple[Act, ...]] = {
    ev.Access.NOTHING: (Act.LOCATED,),
    ev.Access.READ: (Act.READ,),
    ev.Access.WRITE: (Act.WRITTEN,),
    ev.Access.BOTH: (Act.READ, Act.WRITTEN),
}
_CHANGE: Mapping[ev.Change, Act] = {
    ev.Change.MODE: Act.CHANGED,
    ev.Change.OWNER: Act.CHANGED,
    ev.Change.SIZE: Act.WRITTEN,
}
_USES: Mapping[ev.Contact, Use] = {
    ev.Contact.CONNECT: Use.CONNECT,
    ev.Contact.SEND: Use.SEND,
    ev.Contact.BIND: Use.BIND,
    ev.Contact.ACCEPT: Use.ACCEPT,
}
_TARGETS = {-1: Target.ALL, 0: Target.GROUP, 1: Target.FIRST}
# connect(2): the connection is still being made, or is there; nobody knows how it ends.
_STILL_OPEN = frozenset({"EINPROGRESS", "EALREADY", "EINTR", "EISCONN"})
# Use, family, address, port, type; then the error.
_Network = tuple[Use, str, str, int | None, str, str]
_Call = tuple[str, str]
# Way, signal, call, to whom, error.
_Signal = tuple[Way, str, str, Target | None, str]
# A mode as strace prints it.
_MODE = re.compile(rb"[0-7]{1,7}").match


def fold(events: Iterable[ev.Happening], limits: Limits, name: str = "") -> StreamReport:
    """The report of one trace."""
    folding = Folding(limits)
    for event in events:
        folding.add(event)
    return folding.report(name)


class Folding:
    """A report that grows event by event."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        size = limits.entries
        self._began: int | None = None
        self._ended: int | None = None
        self._processes = ProcessesGrown(limits)
        self._files = {place: FilesGrown(place, limits) for place in Place}
        self._joined: Table[tuple[str, str, Joining, str]] = Table(size)
        # What failed has a list of its own, so that it cannot fill the other.
        self._network: Table[_Network] = Table(size)
        self._network_tried: Table[_Network] = Table(size)
        self._calls: dict[Kind, Table[_Call]] = {
            kind: Table(size) for kind in (Kind.UNUSUAL, Kind.REFUSED)
        }
        self._arguments: dict[tuple[Kind, _Call], str] = {}
        self._executed: Table[tuple[str, Place, str]] = Table(size)
        # Name, mode, error.
        self._modes: Table[tuple[str, str, str]] = Table(size)
        self._signals: Table[_Signal] = Table(size)
        self._missed: list[Mark] = []
        self._unreadable: list[LineEntry] = []
        self._remarks: list[LineEntry] = []
        self._counts: Counter[Doubt] = Counter()
        self._cut = 0
        self._moments: dict[Kind, list[Moment]] = {kind: [] for kind in Kind}
        self._moments_left_out: Counter[Kind] = Counter()
        self._readers: Mapping[type[object], Callable[[Any], None]] = {
            ev.Started: self._start,
            ev.ThreadStarted: lambda event: self._processes.thread(event.process),
            ev.Executed: self._execute,
            ev.Ended: self._end,
            ev.Opened: self._open,
            ev.Transferred: self._transfer,
            ev.Created: lambda event: self._act(event, event.path, (Act.CREATED,)),
            ev.Deleted: lambda event: self._act(event, event.path, (Act.DELETED,)),
            ev.Renamed: self._rename,
            ev.Linked: self._link,
            ev.Changed: self._change,
            ev.SocketMade: self._socket,
            ev.Contacted: self._contact,
            ev.Listening: lambda event: self._reach(event, (Use.LISTEN, "", "", None, "")),
            ev.SignalSent: self._send,
            ev.Signalled: self._arrive,
            ev.Unusual: lambda event: self._call(event, Kind.UNUSUAL),
            ev.Refused: lambda event: self._call(event, Kind.REFUSED),
            ev.Missed: self._miss,
            ev.Remarked: lambda event: self._say(event, Doubt.REMARKS, self._remarks),
            ev.Unreadable: lambda event: self._say(event, Doubt.UNREADABLE_LINES, self._unreadable),
        }

    def add(self, event: ev.Happening) -> None:
        """One more event."""
        self._readers[type(event)](event)
        if isinstance(event, ev.Event):
            if self._began is None:
                self._began = event.time
            self._ended = event.time
            if getattr(event, "error", "") == ev.UNKNOWN:
                self._counts[Doubt.UNKNOWN_RESULTS] += 1

    def _name(self, name: bytes) -> str:
        limit = self._limits.name_bytes
        self._cut += len(name) > limit
        return escaped(name, limit)

    def _word(self, word: str) -> str:
        return self._name(word.encode(errors="surrogatepass"))

    def _moment(self, kind: Kind, event: ev.Event, text: str) -> None:
        moments = self._moments[kind]
        if len(moments) < self._limits.entries:
            moments.append(Moment(kind=kind, at=_at(event).mark(), text=text))
        else:
            self._moments_left_out[kind] += 1

    def _start(self, event: ev.Started) -> None:
        self._processes.started(event)
        self._moment(Kind.START, event, "")

    def _end(self, event: ev.Ended) -> None:
        self._processes.end(event)
        how = "" if event.code is None else str(event.code)
        self._moment(Kind.END, event, how if event.signal is None else self._word(event.signal))

    def _execute(self, event: ev.Executed) -> None:
        self._cut += self._processes.executed(event)
        self._act(event, event.path, (Act.EXECUTED,))
        if event.error not in NOTHING_THERE:
            key = (self._name(event.path), place_of(event.path), self._word(event.error))
            self._executed.add(key, _at(event))
        if not event.error:
            self._moment(Kind.PROGRAM, event, self._name(event.path))

    def _open(self, event: ev.Opened) -> None:
        acts = _ACCESS[event.access]
        if event.truncates and Act.WRITTEN not in acts:
            acts = (*acts, Act.WRITTEN)
        if event.creates:
            acts = (*acts, Act.CREATED)
        self._act(event, event.path if event.real is None else event.real, acts)

    def _act(
        self,
        event: ev.Executed
        | ev.Opened
        | ev.Created
        | ev.Deleted
        | ev.Renamed
        | ev.Linked
        | ev.Changed,
        path: bytes,
        acts: tuple[Act, ...],
    ) -> None:
        place, name, at = place_of(path), self._name(path), _at(event)
        files = self._files[place]
        if event.error not in {"", ev.UNKNOWN}:
            files.tried(name, acts, at, self._word(event.error))
            return
        for act in acts:
            if not files.acts[act]:
                self._moment(Kind.ACCESS, event, f"{act} {place}: {name}")
        files.done(name, acts, at, unsure=event.error == ev.UNKNOWN)

    def _change(self, event: ev.Changed) -> None:
        self._act(event, event.path, (_CHANGE[event.change],))
        mode = _MODE(event.value)
        # What cannot be read may be anything.
        if event.change is ev.Change.MODE and (mode is None or int(mode[0], 8) & 0o6000):
            key = (self._name(event.path), self._name(event.value), self._word(event.error))
            self._modes.add(key, _at(event))

    def _transfer(self, event: ev.Transferred) -> None:
        files = self._files[place_of(event.path)]
        files.moved(self._name(event.path), _at(event), event.read, event.written)

    def _rename(self, event: ev.Renamed) -> None:
        both = (Act.RENAMED, Act.REPLACED)
        self._act(event, event.source, both if event.exchanged else (Act.RENAMED,))
        self._act(event, event.path, both if event.exchanged else (Act.REPLACED,))
        self._join(event, Joining.EXCHANGED if event.exchanged else Joining.RENAMED)

    def _link(self, event: ev.Linked) -> None:
        if not event.symbolic:
            self._act(event, event.source, (Act.LINKED,))
        self._act(event, event.path, (Act.CREATED,))
        self._join(event, Joining.SYMBOLIC_LINK if event.symbolic else Joining.HARD_LINK)

    def _join(self, event: ev.Renamed | ev.Linked, joining: Joining) -> None:
        source, path = self._name(event.source), self._name(event.path)
        self._joined.add((source, path, joining, self._word(event.error)), _at(event))

    def _socket(self, event: ev.SocketMade) -> None:
        kind = f"{event.kind}, {event.protocol}"
        self._reach(event, (Use.SOCKET, self._word(event.family), "", None, self._word(kind)))

    def _contact(self, event: ev.Contacted) -> None:
        where = event.address
        family, host = self._word(where.family), self._name(where.host)
        self._reach(event, (_USES[event.contact], family, host, where.port, ""))

    def _reach(
        self,
        event: ev.SocketMade | ev.Contacted | ev.Listening,
        what: tuple[Use, str, str, int | None, str],
    ) -> None:
        error = self._word(event.error)
        use, family, address, port, _ = what
        still_open = use is Use.CONNECT and event.error in _STILL_OPEN
        self._counts[Doubt.UNKNOWN_RESULTS] += still_open
        done = still_open or event.error in {"", ev.UNKNOWN}
        table = self._network if done else self._network_tried
        table.add((*what, error), _at(event))
        if use is not Use.SOCKET:
            where = f"{family} {address}" if port is None else f"{family} {address} port {port}"
            self._moment(Kind.NETWORK, event, " ".join(f"{use} {where} {error}".split()))

    def _send(self, event: ev.SignalSent) -> None:
        signal, call, error = (self._word(text) for text in (event.signal, event.call, event.error))
        to = _TARGETS.get(event.target, Target.PROCESS)
        if event.call != "kill" and to is not Target.FIRST:
            to = Target.PROCESS
        elif event.target < -1:
            to = Target.GROUP
        self._signals.add((Way.SENT, signal, call, to, error), _at(event))

    def _arrive(self, event: ev.Signalled) -> None:
        sender = "" if event.sender is None else "process"
        self._signals.add((Way.ARRIVED, self._word(event.signal), sender, None, ""), _at(event))

    def _call(self, event: ev.Unusual | ev.Refused, kind: Kind) -> None:
        key = (self._word(event.call), self._word(event.error))
        table = self._calls[kind]
        table.add(key, _at(event))
        if key in table.kept and (kind, key) not in self._arguments:
            self._arguments[kind, key] = self._name(event.arguments)
        self._moment(kind, event, " ".join(key).rstrip())

    def _miss(self, event: ev.Missed) -> None:
        self._counts[Doubt.MISSED_CALLS] += 1
        if len(self._missed) < self._limits.entries:
            self._missed.append(_at(event).mark())
        self._moment(Kind.MISSED, event, "")

    def _say(
        self, event: ev.Remarked | ev.Unreadable, doubt: Doubt, entries: list[LineEntry]
    ) -> None:
        self._counts[doubt] += 1
        if len(entries) < self._limits.entries:
            entries.append(LineEntry(line=event.line, text=self._name(event.text)))

    def report(
        self, name: str = "", *, doubts: Iterable[Doubt] = (), tasks: Iterable[ev.Key] = ()
    ) -> StreamReport:
        """What the program did, as far as it was told; `doubts` are known from elsewhere."""
        first = self._processes.first
        left_out = self._left_out()
        return StreamReport(
            name=name,
            limits=self._limits,
            doubts=self._doubts(left_out, frozenset(doubts)),
            began=self._began,
            ended=self._ended,
            program=None if first is None else key_of(first),
            tasks=tuple(key_of(key) for key in tasks),
            processes=self._processes.listing(),
            processes_ended=self._processes.ended,
            processes_left=self._processes.left,
            threads=self._processes.threads,
            files=tuple(files.files() for files in self._files.values()),
            joined=self._joined.listing(_joined_entry),
            executed=self._executed.listing(_executed_entry),
            modes=self._modes.listing(_mode_entry),
            network=self._network.listing(_network_entry),
            network_tried=self._network_tried.listing(_network_entry),
            unusual=self._listed_calls(Kind.UNUSUAL),
            refused=self._listed_calls(Kind.REFUSED),
            signals=self._signals.listing(_signal_entry),
            missed=self._listed(self._missed, Doubt.MISSED_CALLS),
            unreadable=self._listed(self._unreadable, Doubt.UNREADABLE_LINES),
            remarks=self._listed(self._remarks, Doubt.REMARKS),
            unsure=self._counts[Doubt.UNKNOWN_RESULTS],
            uncertain=self._processes.uncertain,
            names_cut=self._cut,
            timeline=self._timeline(),
            timeline_left_out=counted(self._moments_left_out, Kind),
            left_out=left_out,
        )

    def _listed(self, entries: list[Any], doubt: Doubt) -> Listing[Any]:
        total = self._counts[doubt]
        return listing(entries, total, total - len(entries))

    def _listed_calls(self, kind: Kind) -> Listing[CallEntry]:
        def entry(key: _Call, times: int, first: Mark) -> CallEntry:
            arguments = self._arguments[kind, key]
            call, error = key
            return CallEntry(call=call, arguments=arguments, error=error, times=times, first=first)

        return self._calls[kind].listing(entry)

    def _timeline(self) -> tuple[Moment, ...]:
        moments = [moment for kept in self._moments.values() for moment in kept]
        return tuple(sorted(moments, key=lambda moment: moment.at.line))

    def _left_out(self) -> int:
        tables: tuple[Table[Any], ...] = (
            self._joined,
            self._executed,
            self._modes,
            self._network,
            self._network_tried,
            self._signals,
            *self._calls.values(),
        )
        lists = (
            (self._missed, Doubt.MISSED_CALLS),
            (self._unreadable, Doubt.UNREADABLE_LINES),
            (self._remarks, Doubt.REMARKS),
        )
        return (
            self._processes.left_out
            + self._processes.programs_left_out
            + sum(files.left_out for files in self._files.values())
            + sum(table.left_out for table in tables)
            + sum(self._counts[doubt] - len(entries) for entries, doubt in lists)
            + sum(self._moments_left_out.values())
        )

    def _doubts(self, left_out: int, known: frozenset[Doubt]) -> tuple[Doubt, ...]:
        processes = self._processes
        found: Mapping[Doubt, bool] = {
            Doubt.NO_PROGRAM: processes.first is None,
            Doubt.UNREADABLE_LINES: self._counts[Doubt.UNREADABLE_LINES] > 0,
            Doubt.MISSED_CALLS: self._counts[Doubt.MISSED_CALLS] > 0,
            Doubt.CUT: Doubt.CUT in known,
            Doubt.BROKEN: Doubt.BROKEN in known,
            Doubt.REMARKS: self._counts[Doubt.REMARKS] > 0,
            Doubt.NOT_ENDED: processes.ended != processes.total,
            Doubt.UNKNOWN_RESULTS: self._counts[Doubt.UNKNOWN_RESULTS] > 0,
            Doubt.UNCERTAIN_PARENTS: processes.uncertain > 0,
            Doubt.LEFT_OUT: left_out > 0,
        }
        return tuple(doubt for doubt in Doubt if found[doubt])


def _at(event: ev.Event) -> At:
    return At(event.line, event.time, event.process)


def _joined_entry(key: tuple[str, str, Joining, str], times: int, first: Mark) -> JoinedEntry:
    source, name, joining, error = key
    return JoinedEntry(
        source=source, name=name, joining=joining, error=error, times=times, first=first
    )


def _executed_entry(key: tuple[str, Place, str], times: int, first: Mark) -> ExecutedEntry:
    name, place, error = key
    return ExecutedEntry(name=name, place=place, error=error, times=times, first=first)


def _mode_entry(key: tuple[str, str, str], times: int, first: Mark) -> ModeEntry:
    name, mode, error = key
    return ModeEntry(name=name, mode=mode, error=error, times=times, first=first)


def _network_entry(key: _Network, times: int, first: Mark) -> NetworkEntry:
    use, family, address, port, kind, error = key
    return NetworkEntry(
        use=use,
        family=family,
        address=address,
        port=port,
        kind=kind,
        error=error,
        times=times,
        first=first,
    )


def _signal_entry(key: _Signal, times: int, first: Mark) -> SignalEntry:
    way, signal, call, to, error = key
    return SignalEntry(
        way=way, signal=signal, call=call, to=to, error=error, times=times, first=first
    )
