"""The lists of one node as HTML: processes, files, network, calls, signals, limits.

Each list has a `room` of so many signs of HTML. What does not fit is counted and stays in the
report alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from slurmbridge.rules import Place
from slurmbridge.trace import words
from slurmbridge.trace.drawing import levels_of
from slurmbridge.trace.markup import Markup, joined, name, tag
from slurmbridge.trace.report import (
    Act,
    CallEntry,
    Files,
    LineEntry,
    Listing,
    Mark,
    NetworkEntry,
    ProcessEntry,
    Program,
    StreamReport,
)

# A list that is longer is closed at first.
_OPEN = 50
# Generations that are drawn further to the right.
_DEEPEST = 40
_PROGRAMS = 10
_QUIET = frozenset({Place.IMAGE, Place.CODE, Place.REQUIREMENT})
_AT = ("first, s", "line", "process")


def fill(parts: Iterable[Markup], room: int) -> list[Markup]:
    """The first of them, until the room is spent; one at least."""
    found: list[Markup] = []
    for part in parts:
        if found and room < len(part):
            break
        room -= len(part)
        found.append(part)
    return found


def rest(entries: int, shown: int, left_out: int) -> Markup:
    """What a list does not show."""
    said = []
    if shown < entries:
        more = words.of(entries - shown, "more entry is", "more entries are")
        said.append(f"{more} in the report alone. ")
    if left_out:
        more = words.of(left_out, "more time", "more times")
        said.append(f"It happened {more}: counted, and listed nowhere.")
    return tag("p", *said, class_="rest") if said else Markup()


def folded(title: str, count: int, *inside: Markup) -> Markup:
    """What can be closed; it is closed at first when it is long."""
    opened: Mapping[str, str] = {"open": "open"} if count <= _OPEN else {}
    return tag("details", tag("summary", title), *inside, **opened)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], room: int) -> tuple[Markup, int]:
    """A table, and how many rows fit in."""

    def row(cells: Sequence[str]) -> Markup:
        first = tag("th", cells[0], scope="row")
        return tag("tr", first, *(tag("td", cell) for cell in cells[1:]))

    shown = fill(map(row, rows), room)
    head = tag("tr", *(tag("th", text, scope="col") for text in heads))
    whole = tag("table", tag("thead", head), tag("tbody", *shown))
    return tag("div", whole, class_="wide"), len(shown)


def listed(
    title: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    listing: Listing[Any],
    room: int,
) -> Markup:
    """A list of the report; nothing when there is nothing."""
    if not listing.total:
        return Markup()
    count = len(listing.entries)
    body, shown = table(heads, rows, room) if count else (Markup(), 0)
    return folded(title, count, body, rest(count, shown, listing.left_out))


class Lists:
    """The lists of one node."""

    def __init__(self, stream: StreamReport, room: int, full: bool) -> None:
        self._stream = stream
        self._room = room
        self._full = full

    def _at(self, mark: Mark) -> tuple[str, str, str]:
        time = words.seconds(self._stream.began, mark.time, 3)
        return time, str(mark.line), str(mark.process.pid)

    def _list(
        self,
        title: str,
        heads: Sequence[str],
        rows: Iterable[Sequence[str]],
        listing: Listing[Any],
    ) -> Markup:
        return listed(title, heads, rows, listing, self._room)

    def tree(self) -> Markup:
        """The processes, each below the one that started it."""
        entries = words.in_order(self._stream)
        levels, numbers = levels_of(entries), words.tasks(self._stream)
        items = fill(
            (self._process(entry, numbers.get(entry.key)) for entry in entries), self._room
        )
        parts: list[Markup] = []
        current = -1
        for entry, item in zip(entries, items, strict=False):
            level = min(levels[entry.key], _DEEPEST)
            if level > current:
                parts.append(Markup("<ul>"))
            else:
                parts.append(Markup("</li>" + "</ul></li>" * (current - level)))
            parts += [Markup("<li>"), item]
            current = level
        if parts:
            parts.append(Markup("</li>" + "</ul></li>" * current + "</ul>"))
        drawn = tag("div", *parts, class_="tree wide")
        more = rest(len(entries), len(items), self._stream.processes.left_out)
        title = f"The tree of {words.of(len(items), 'process', 'processes')}"
        return joined([folded(title, len(items), drawn), more] if items else [more])

    def _process(self, entry: ProcessEntry, task: int | None) -> Markup:
        began = self._stream.began
        start = words.seconds(began, entry.started, 3)
        time = f"from {start} s"
        if entry.ended is not None:
            length = words.seconds(entry.started, entry.ended, 3)
            time = f"{start} s to {words.seconds(began, entry.ended, 3)} s ({length} s)"
        bad = entry.signal is not None or entry.code != 0
        said = [
            tag("b", f"task {task} ") if task else Markup(),
            tag("span", str(entry.key.pid), class_="pid"),
            tag("span", f" {time}, ", class_="dim"),
            tag("strong" if bad else "span", words.end(entry), class_="bad" if bad else "dim"),
        ]
        more = words.together(
            words.of(entry.threads, "further thread") if entry.threads else "",
            "" if entry.certain else "not certain who started it",
        )
        said.append(tag("span", f", {more}" if more else "", class_="dim"))
        programs = [self._program(program) for program in entry.programs[:_PROGRAMS]]
        if not programs:
            programs = [tag("div", "no program of its own: a copy of its parent", class_="dim")]
        hidden = max(len(entry.programs) - _PROGRAMS, 0) + entry.programs_left_out
        if hidden:
            programs.append(tag("div", f"and {words.of(hidden, 'more program')}", class_="rest"))
        return tag("div", *said, *programs, class_="process")

    @staticmethod
    def _program(program: Program) -> Markup:
        odd = program.place not in _QUIET
        return tag(
            "div",
            name(program.name),
            tag("strong", f" from {program.place}", class_="bad") if odd else Markup(),
            tag("span", " as ", class_="dim"),
            name(words.argv(program)),
            f": {words.result(program.error)}" if program.error else "",
        )

    def place(self, files: Files, heading: str) -> Markup:
        """The files of a place; that nothing is unexpected is said, too."""
        loud = files.place is Place.UNEXPECTED
        used = bool(files.acts or files.tried.total or files.bytes_read or files.bytes_written)
        if not (used or loud):
            return Markup()
        done = words.acts(files.acts) or "nothing was done"
        failed = (
            f"{words.of(files.tried.total, 'try', 'tries')} failed" if files.tried.total else ""
        )
        said = words.together(done, words.moved(files.bytes_read, files.bytes_written), failed)
        kind = "place loud" if loud and used else "place"
        return tag(
            "section",
            tag(heading, f"⚠ {files.place}" if loud and used else str(files.place)),
            tag("p", words.PLACES[files.place], class_="dim"),
            tag("p", f"{said}." if used else "Nothing was done there, and nothing was tried."),
            self._files(files),
            self._tried(files),
            class_=kind,
        )

    def _files(self, files: Files) -> Markup:
        moved = ("bytes read", "bytes written") if self._full else ()
        rows = (
            (
                name(file.name),
                words.together(
                    words.acts(file.acts),
                    f"{file.unsure} with unknown result" if file.unsure else "",
                ),
                *(
                    (words.number(file.bytes_read), words.number(file.bytes_written))
                    if self._full
                    else ()
                ),
                *self._at(file.first),
            )
            for file in files.files
        )
        left_out = words.together(
            words.acts(files.acts_left_out),
            words.moved(files.bytes_read_left_out, files.bytes_written_left_out),
        )
        said = tag("p", f"Listed nowhere: {left_out}.", class_="rest") if left_out else Markup()
        if not files.files:
            return said
        body, shown = table(("name", "what was done", *moved, *_AT), rows, self._room)
        count = len(files.files)
        return folded(words.of(count, "name"), count, body, rest(count, shown, 0), said)

    def _tried(self, files: Files) -> Markup:
        rows = (
            (name(e.name), f"not {e.act}", e.error, words.number(e.times), *self._at(e.first))
            for e in files.tried.entries
        )
        title = f"{words.of(files.tried.total, 'try', 'tries')} that failed"
        return self._list(title, ("name", "act", "error", "times", *_AT), rows, files.tried)

    def together(self) -> Markup:
        """The numbers of all places, beside each other."""
        done = [act for act in Act if any(files.acts.get(act) for files in self._stream.files)]
        moved = ("bytes read", "bytes written") if self._full else ()
        heads = ("place", *done, *moved, "failed")

        def counts(files: Files) -> Iterable[int]:
            yield from (files.acts.get(act, 0) for act in done)
            if self._full:
                yield from (files.bytes_read, files.bytes_written)
            yield files.tried.total

        ordered = sorted(self._stream.files, key=lambda files: files.place is not Place.UNEXPECTED)
        rows = (
            (str(files.place), *(words.number(count) if count else "·" for count in counts(files)))
            for files in ordered
        )
        return tag("div", table(heads, rows, self._room)[0], class_="numbers")

    def joined(self) -> Markup:
        """Renames and links."""
        listing = self._stream.joined
        heads = ("name", "how", "other name", "result", "times", *_AT)
        ways = {
            "renamed": "renamed from",
            "exchanged": "exchanged with",
            "hard link": "hard link to",
            "symbolic link": "symbolic link to",
        }
        rows = (
            (
                name(e.name),
                ways[e.joining],
                name(e.source),
                words.result(e.error),
                words.number(e.times),
                *self._at(e.first),
            )
            for e in listing.entries
        )
        return self._list(
            f"{words.of(listing.total, 'rename or link', 'renames and links')}",
            heads,
            rows,
            listing,
        )

    def executed(self) -> Markup:
        """Every program, also of processes that the tree leaves out."""
        listing = self._stream.executed
        heads = ("program", "place", "result", "times", *_AT)
        rows = (
            (
                name(e.name),
                tag("strong", str(e.place), class_="bad") if e.place not in _QUIET else e.place,
                words.result(e.error),
                words.number(e.times),
                *self._at(e.first),
            )
            for e in listing.entries
        )
        title = f"{words.of(listing.total, 'program')} executed, or there and not executed"
        return self._list(title, heads, rows, listing)

    def modes(self) -> Markup:
        """Modes that would give somebody else's rights."""
        listing = self._stream.modes
        heads = ("name", "mode", "result", "times", *_AT)
        rows = (
            (
                name(e.name),
                name(e.mode),
                words.result(e.error),
                words.number(e.times),
                *self._at(e.first),
            )
            for e in listing.entries
        )
        what = words.of(listing.total, "mode")
        title = f"{what} with set-user-id or set-group-id, given or tried"
        return self._list(title, heads, rows, listing)

    def network(self) -> Markup:
        """Addresses and sockets; what was done, then what failed."""
        done, tried = self._stream.network, self._stream.network_tried
        if not done.total and not tried.total:
            return tag("p", "No call about the network was made.")
        return joined([self._contacts("done", done), self._contacts("failed", tried)])

    def _contacts(self, how: str, listing: Listing[NetworkEntry]) -> Markup:
        heads = ("address", "use", "result", "times", *_AT)
        rows = (
            (
                self._address(e),
                e.use,
                words.result(e.error),
                words.number(e.times),
                *self._at(e.first),
            )
            for e in listing.entries
        )
        return self._list(f"{words.of(listing.total, 'call')} {how}", heads, rows, listing)

    @staticmethod
    def _address(entry: NetworkEntry) -> Markup:
        said = entry.model_copy(update={"use": ""})
        return name(words.contact(said))

    def calls(self) -> Markup:
        """Refused and unusual calls."""
        refused, unusual = self._stream.refused, self._stream.unusual
        if not refused.total and not unusual.total:
            return tag("p", "None.")
        return joined([self._calls("refused", refused), self._calls("unusual", unusual)])

    def _calls(self, how: str, listing: Listing[CallEntry]) -> Markup:
        heads = ("call", "arguments of the first", "result", "times", *_AT)
        rows = (
            (
                name(e.call),
                name(e.arguments),
                words.result(e.error),
                words.number(e.times),
                *self._at(e.first),
            )
            for e in listing.entries
        )
        return self._list(words.of(listing.total, f"{how} call"), heads, rows, listing)

    def signals(self) -> Markup:
        """Signals that were sent or arrived."""
        listing = self._stream.signals
        heads = ("signal", "way", "to", "by", "result", "times", *_AT)
        by = {"process": "a process", "": "the kernel"}
        rows = (
            (
                name(e.signal),
                e.way,
                e.to or "",
                by.get(e.call, e.call),
                words.result(e.error) if e.way == "sent" else "",
                words.number(e.times),
                *self._at(e.first),
            )
            for e in listing.entries
        )
        found = self._list(words.of(listing.total, "signal"), heads, rows, listing)
        return found or tag("p", "None.")

    def gaps(self) -> Markup:
        """What strace missed or said, and what could not be read."""
        stream = self._stream
        missed = (
            (words.seconds(stream.began, mark.time, 3), str(mark.line), str(mark.process.pid))
            for mark in stream.missed.entries
        )
        title = f"{words.of(stream.missed.total, 'call')} that strace missed, after"
        heads = ("time, s", "line", "process")
        return joined(
            [
                self._list(title, heads, missed, stream.missed),
                self._lines("line", " that could not be read", stream.unreadable),
                self._lines("remark", " of strace", stream.remarks),
            ]
        )

    def _lines(self, what: str, how: str, listing: Listing[LineEntry]) -> Markup:
        rows = ((str(e.line), name(e.text)) for e in listing.entries)
        title = f"{words.of(listing.total, what)}{how}"
        return self._list(title, ("line", "text"), rows, listing)

    def moments(self) -> Markup:
        """The timeline as a table."""
        rows = (
            (
                words.seconds(self._stream.began, moment.at.time, 3),
                words.KINDS[moment.kind],
                name(moment.text) if moment.text else "",
                str(moment.at.process.pid),
                str(moment.at.line),
            )
            for moment in self._stream.timeline
        )
        count, missing = len(self._stream.timeline), self._stream.timeline_left_out
        if not count:
            return Markup()
        body, shown = table(("time, s", "what", "of", "process", "line"), rows, self._room)
        left_out = sum(missing.values())
        title = f"The same as a table: {words.of(count, 'moment')}"
        return tag("details", tag("summary", title), body, rest(count, shown, left_out))
