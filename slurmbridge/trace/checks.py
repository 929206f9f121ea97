"""Whether a record keeps a rule: one check for each kind of rule. Pure."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Address, ip_address
from typing import Any, NamedTuple

from slurmbridge.rules import (
    Act,
    Bit,
    Calls,
    CallsRule,
    CountRule,
    EndRule,
    ExecutionRule,
    FilesRule,
    NetworkRule,
    Place,
    Quantity,
    RecordRule,
    SetUserIdRule,
    SignalsRule,
    Tries,
    Use,
    Way,
)
from slurmbridge.trace.amounts import AMOUNTS
from slurmbridge.trace.case import Case, call, contact, signal, with_error
from slurmbridge.trace.names import escaped, is_whole
from slurmbridge.trace.record import doubted
from slurmbridge.trace.report import (
    NOTHING_THERE,
    Files,
    Joining,
    NetworkEntry,
    ProcessEntry,
    StreamReport,
)

_Parts = tuple[str, ...]
# The program cannot write there, and make no link.
_FIXED = frozenset({Place.INPUT, Place.CODE, Place.REQUIREMENT, Place.IMAGE})
_LINKS = frozenset({Joining.SYMBOLIC_LINK, Joining.HARD_LINK})
_BITS: Mapping[Bit, int] = {Bit.USER: 0o4000, Bit.GROUP: 0o2000}
_NO_END = "the end of the program is not told"


class Recorded(NamedTuple):
    """What was recorded of a Process."""

    # One for each node.
    streams: Sequence[StreamReport]
    # Between the Process's own pods: it is no way out of them. None: there is none.
    network: IPv4Network | None = None


def _doubts(rule: RecordRule, recorded: Recorded) -> Iterator[Case]:
    yield from (doubted(recorded.streams, doubt) for doubt in rule.doubts)


def _network(rule: NetworkRule, recorded: Recorded) -> Iterator[Case]:
    case = Case("uses of the network that are not allowed")
    nothing = not rule.families and not rule.loopback
    for stream in recorded.streams:
        for listing in (stream.network, stream.network_tried):
            for entry in listing.entries:
                if entry.use in rule.uses and not _allowed(rule, entry, nothing, recorded.network):
                    case.against(stream, entry.first.line, contact(entry), entry.times)
            case.unlisted(listing.left_out, sure=nothing and set(rule.uses) == set(Use))
    yield case


def _allowed(
    rule: NetworkRule, entry: NetworkEntry, nothing: bool, network: IPv4Network | None
) -> bool:
    if entry.use is Use.LISTEN or (entry.use is Use.ACCEPT and not entry.address):
        # Its address is that of its bind; and who came was not asked for.
        return not nothing
    if entry.family in rule.families:
        return True
    if not rule.loopback or entry.family not in {"AF_INET", "AF_INET6"}:
        return False
    return _own(entry.address, network)


def _own(address: str, network: IPv4Network | None) -> bool:
    """Whether it leads back into the container, or into another pod of the same Process."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if found.is_loopback or found.is_unspecified:
        return True
    return network is not None and found in network


def _execution(rule: ExecutionRule, recorded: Recorded) -> Iterator[Case]:
    case = Case("executions that are not allowed")
    for stream in recorded.streams:
        listed: Counter[Place] = Counter()
        for entry in stream.executed.entries:
            listed[entry.place] += entry.times
            forbidden = _is_outside(rule, entry.place) or _is_forbidden(rule, entry.name)
            if forbidden is None:
                case.unlisted(entry.times, sure=False)
            elif forbidden:
                text = with_error(f"execute {entry.name}", entry.error)
                case.against(stream, entry.first.line, text, entry.times)
        for files in stream.files:
            outside = _is_outside(rule, files.place)
            if outside or rule.forbidden:
                case.unlisted(_executions(files) - listed[files.place], sure=outside)
        if rule.forbidden:
            _linked(rule, stream, case)
    yield case


def _is_outside(rule: ExecutionRule, place: Place) -> bool:
    return rule.places is not None and place not in rule.places


def _executions(files: Files) -> int:
    """How many there were, without the tries where nothing was there."""
    return files.acts.get(Act.EXECUTED, 0) + files.denied.get(Act.EXECUTED, 0)


def _is_forbidden(rule: ExecutionRule, name: str) -> bool | None:
    """None: its last part was cut, and cannot be known."""
    if not rule.forbidden:
        return False
    return _last(name) in rule.forbidden if is_whole(name) else None


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def _linked(rule: ExecutionRule, stream: StreamReport, case: Case) -> None:
    """Links to forbidden names: under the link's own name, the execution would not be seen."""
    for entry in stream.joined.entries:
        if entry.joining in _LINKS and _is_forbidden(rule, entry.source):
            text = with_error(f"{entry.joining} {entry.name} to {entry.source}", entry.error)
            case.against(stream, entry.first.line, text, entry.times)
    if any(_executions(files) for files in stream.files if files.place not in _FIXED):
        case.unlisted(stream.joined.left_out, sure=False)


def _files(rule: FilesRule, recorded: Recorded) -> Iterator[Case]:
    case = Case("acts on files that are not allowed")
    below = tuple(_parts(path.encode()) for path in rule.below)
    for stream in recorded.streams:
        for files in stream.files:
            if files.place not in rule.places:
                _files_in(rule, below, stream, files, case)
    yield case


def _parts(path: bytes) -> _Parts:
    return tuple(escaped(path, len(path)).split("/"))


def _files_in(
    rule: FilesRule, below: tuple[_Parts, ...], stream: StreamReport, files: Files, case: Case
) -> None:
    for acts, name, line, times in _acts(rule, files):
        inside = _is_below(name, below)
        if inside is None:
            case.unlisted(times, sure=False)
        elif not inside:
            case.against(stream, line, f"{acts} {name}", times)
    unlisted = sum(files.acts_left_out.get(act, 0) for act in rule.acts)
    if rule.tries is Tries.DENIED:
        unlisted += sum(files.denied_left_out.get(act, 0) for act in rule.acts)
    case.unlisted(unlisted, sure=not below)
    if rule.tries is Tries.ALL:
        # It is not told which acts these were.
        case.unlisted(files.tried.left_out, sure=False)


def _acts(rule: FilesRule, files: Files) -> Iterator[tuple[str, str, int, int]]:
    """The acts that the rule is about: what, on which name, where, how often."""
    for file in files.files:
        acts = [act for act in rule.acts if file.acts.get(act)]
        if acts:
            line = min(file.lines[act] for act in acts)
            yield ", ".join(acts), file.name, line, sum(file.acts[act] for act in acts)
    for tried in files.tried.entries:
        counts = rule.tries is Tries.ALL or (
            rule.tries is Tries.DENIED and tried.error not in NOTHING_THERE
        )
        if counts and tried.act in rule.acts:
            yield f"not {tried.act} ({tried.error})", tried.name, tried.first.line, tried.times


def _is_below(name: str, below: tuple[_Parts, ...]) -> bool | None:
    """None: the name was cut before that could be seen."""
    whole = is_whole(name)
    parts = (name if whole else name[: name.rfind("\\...")]).split("/")
    if ".." in parts:
        return False
    if not whole:
        cut = parts.pop()
    if any(_begins(parts, path) for path in below):
        return True
    if whole:
        return False
    near = (path for path in below if len(path) > len(parts))
    later = any(
        _begins(parts, path[: len(parts)]) and _may_become(cut, path[len(parts)]) for path in near
    )
    return None if later else False


def _begins(parts: Sequence[str], path: _Parts) -> bool:
    """Whether a name begins with the parts of a path, in which a star is any one part."""
    together = zip(parts, path, strict=False)
    return len(parts) >= len(path) and all(own in {"*", part} for part, own in together)


def _may_become(cut: str, part: str) -> bool:
    return part == "*" or part.startswith(cut)


def _count(rule: CountRule, recorded: Recorded) -> Iterator[Case]:
    case = Case(str(rule.of), at_most=rule.at_most)
    for stream in recorded.streams:
        amount = AMOUNTS[rule.of](stream)
        if rule.of is Quantity.SECONDS:
            case.sure = max(case.sure, amount.sure)
        else:
            case.sure += amount.sure
        case.unknown += amount.unknown
        case.untold = case.untold or amount.untold
        # Of what is listed, that which is too much; or the last of it.
        for line, text in amount.lines[rule.at_most :] or amount.lines[-1:]:
            case.show(stream, line, text)
    yield case


def _calls(rule: CallsRule, recorded: Recorded) -> Iterator[Case]:
    case = Case("calls that are not allowed")
    for stream in recorded.streams:
        for listed in rule.lists:
            listing = stream.unusual if listed is Calls.UNUSUAL else stream.refused
            for entry in listing.entries:
                if entry.call in rule.names if rule.names else entry.call not in rule.allowed:
                    text = call(entry)
                    case.against(stream, entry.first.line, text, entry.times)
            case.unlisted(listing.left_out, sure=not rule.names and not rule.allowed)
    yield case


def _signals(rule: SignalsRule, recorded: Recorded) -> Iterator[Case]:
    case = Case(f"signals that {'were ' if rule.way is Way.SENT else ''}{rule.way}", rule.at_most)
    for stream in recorded.streams:
        for entry in stream.signals.entries:
            if (
                entry.way is rule.way
                and (not rule.signals or entry.signal in rule.signals)
                and (not rule.to or entry.to in rule.to)
                and (not rule.errors or entry.error in rule.errors)
            ):
                case.against(stream, entry.first.line, signal(entry), entry.times)
        case.unlisted(stream.signals.left_out, sure=False)
    yield case


def _end(rule: EndRule, recorded: Recorded) -> Iterator[Case]:
    if rule.codes is not None:
        yield _codes(rule.codes, recorded.streams)
    if rule.killed is not None:
        yield _killed(rule.killed, recorded.streams)
    if rule.left is not None:
        yield _left(rule.left, recorded.streams, orphans=False)
    if rule.orphans is not None:
        yield _left(rule.orphans, recorded.streams, orphans=True)


def _first_of_tasks(stream: StreamReport) -> list[ProcessEntry]:
    """What the container itself has started; nothing of it is a child of the program."""
    return [e for e in stream.processes.entries if e.parent is None and e.certain]


def _over(stream: StreamReport) -> int | None:
    """When the program was at its end; None when that is not told."""
    ends = [entry.ended for entry in _first_of_tasks(stream)]
    known = [end for end in ends if end is not None]
    return max(known) if known and len(known) == len(ends) else None


def _outlives(entry: ProcessEntry, over: int) -> bool:
    """Whether it was alive when the program had ended; what then lives is killed at once."""
    if entry.parent is None and entry.certain:
        return False
    return entry.ended is None or entry.ended + (entry.signal is not None) > over


def _codes(codes: tuple[int, ...], streams: Sequence[StreamReport]) -> Case:
    case = Case("ends of the program that are not allowed")
    for stream in streams:
        if _over(stream) is None:
            case.untold = _NO_END
        for entry in _first_of_tasks(stream):
            if entry.ended is not None and entry.code not in codes:
                how = f"killed by {entry.signal}" if entry.signal else f"exit code {entry.code}"
                case.against(stream, entry.line, f"process {entry.key.pid}: {how}")
    return case


def _killed(at_most: int, streams: Sequence[StreamReport]) -> Case:
    case = Case("processes that a signal ended", at_most, why_unknown="processes are not listed")
    for stream in streams:
        over = _over(stream)
        for entry in stream.processes.entries:
            during = over is None or not _outlives(entry, over)
            if entry.signal is not None and during:
                text = f"process {entry.key.pid} is killed by {entry.signal}"
                case.against(stream, entry.line, text)
        case.unlisted(stream.processes.left_out, sure=False)
    return case


def _left(at_most: int, streams: Sequence[StreamReport], *, orphans: bool) -> Case:
    what = "daemons left" if orphans else "processes left"
    case = Case(f"{what} when the program ended", at_most, why_unknown="processes are not listed")
    for stream in streams:
        over = _over(stream)
        if over is None:
            case.untold = _NO_END
            continue
        ends = {entry.key: entry.ended for entry in stream.processes.entries}
        listed = 0
        for entry in stream.processes.entries:
            if not _outlives(entry, over):
                continue
            listed += 1
            end = None if entry.parent is None else ends.get(entry.parent)
            if not orphans or not entry.certain or (end is not None and end < over):
                text = f"process {entry.key.pid} starts, and outlives the program"
                case.against(stream, entry.line, text)
        unlisted = min(stream.processes_left - listed, stream.processes.left_out)
        case.unlisted(max(unlisted, 0), sure=not orphans)
    return case


def _set_user_id(rule: SetUserIdRule, recorded: Recorded) -> Iterator[Case]:
    case = Case("modes that are not allowed")
    asked = sum(_BITS[bit] for bit in rule.bits)
    for stream in recorded.streams:
        for entry in stream.modes.entries:
            if _mode(entry.mode) & asked:
                text = with_error(f"mode {entry.mode} for {entry.name}", entry.error)
                case.against(stream, entry.first.line, text, entry.times)
        case.unlisted(stream.modes.left_out, sure=set(rule.bits) == set(Bit))
    yield case


def _mode(mode: str) -> int:
    digits = mode.partition(",")[0]
    # What cannot be read may be anything.
    return int(digits, 8) if digits.isdecimal() and not set(digits) & set("89") else 0o6000


# What each kind of rule finds in a record.
CHECKS: Mapping[type[Any], Callable[[Any, Recorded], Iterator[Case]]] = {
    NetworkRule: _network,
    ExecutionRule: _execution,
    FilesRule: _files,
    CountRule: _count,
    CallsRule: _calls,
    SignalsRule: _signals,
    EndRule: _end,
    SetUserIdRule: _set_user_id,
    RecordRule: _doubts,
}
