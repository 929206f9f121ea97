"""What a program did, in a form in which a report, a trace and the truth can be compared.

Names are bytes. A process is a tree: its programs, how it ended, how many threads it had beside the
first, and its children, sorted, for nobody knows in which order they ran.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from slurmbridge.trace.names import original
from slurmbridge.trace.report import Act, Files, ProcessEntry, ProcessKey, StreamReport, Use, Way

OWN = (b"/input", b"/code", b"/output", b"/tmp")
# From here on the kernel chooses ports itself.
_FIRST_CHOSEN_PORT = 32768
CHOSEN = -1


class Executed(NamedTuple):
    """A program, or one that could not be executed."""

    name: bytes
    argv: tuple[bytes, ...]
    error: str


class Tree(NamedTuple):
    """A process and what it has started."""

    programs: tuple[Executed, ...]
    end: str
    threads: int
    children: tuple["Tree", ...]

    @property
    def size(self) -> int:
        """How many processes there are."""
        return 1 + sum(child.size for child in self.children)

    def without_threads(self) -> "Tree":
        """Of a runtime that starts as many as it likes."""
        children = tuple(sorted(child.without_threads() for child in self.children))
        return self._replace(threads=0, children=children)


class Reached(NamedTuple):
    """An address, or a socket, and how that ended."""

    use: str
    family: str
    address: bytes
    port: int | None
    error: str


@dataclass
class Deeds:
    """How often each thing was done."""

    acts: Counter[tuple[str, bytes]] = field(default_factory=Counter)
    tried: Counter[tuple[str, bytes, str]] = field(default_factory=Counter)
    joined: Counter[tuple[str, bytes, bytes]] = field(default_factory=Counter)
    network: Counter[Reached] = field(default_factory=Counter)
    # Signal, call, whom.
    sent: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    # Bytes read and written.
    moved: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    trees: tuple[Tree, ...] = ()

    def own(self, folders: Iterable[bytes] = OWN) -> "Deeds":
        """With names in its own folders alone; what else is read is the image's affair."""
        inside = tuple(folders)

        def known(name: bytes) -> bool:
            return name in inside or name.startswith(tuple(folder + b"/" for folder in inside))

        return Deeds(
            Counter({key: times for key, times in self.acts.items() if known(key[1])}),
            Counter({key: times for key, times in self.tried.items() if known(key[1])}),
            Counter({key: times for key, times in self.joined.items() if known(key[2])}),
            self.network,
            self.sent,
            {name: both for name, both in self.moved.items() if known(name)},
            self.trees,
        )


def normal_port(port: int | None) -> int | None:
    """One number for all ports that the kernel has chosen."""
    return CHOSEN if port is not None and port >= _FIRST_CHOSEN_PORT else port


def trees(
    parents: Mapping[ProcessKey, ProcessKey | None], made: Callable[[ProcessKey], Tree]
) -> tuple[Tree, ...]:
    """Processes as trees, from each one's parent."""

    def grown(key: ProcessKey) -> Tree:
        children = sorted(grown(child) for child, parent in parents.items() if parent == key)
        return made(key)._replace(children=tuple(children))

    return tuple(sorted(grown(key) for key, parent in parents.items() if parent is None))


def of_report(stream: StreamReport) -> Deeds:
    """What a report says. It must have left nothing out."""
    assert stream.left_out == 0, stream.left_out
    deeds = Deeds(trees=_trees(stream))
    for files in stream.files:
        _add_files(deeds, files)
    for join in stream.joined.entries:
        if not join.error:
            key = (join.joining.value, original(join.source), original(join.name))
            deeds.joined[key] += join.times
    for entry in (*stream.network.entries, *stream.network_tried.entries):
        name = entry.kind.encode() if entry.use is Use.SOCKET else original(entry.address)
        port = normal_port(entry.port)
        reached = Reached(entry.use.value, entry.family, name, port, entry.error)
        deeds.network[reached] += entry.times
    for signal in stream.signals.entries:
        if signal.way is Way.SENT and signal.to is not None:
            deeds.sent[signal.signal, signal.call, signal.to.value] += signal.times
    return deeds


def _add_files(deeds: Deeds, files: Files) -> None:
    for file in files.files:
        name = original(file.name)
        for done, times in file.acts.items():
            deeds.acts[done.value, name] += times
        if file.bytes_read or file.bytes_written:
            deeds.moved[name] = (file.bytes_read, file.bytes_written)
    for tried in files.tried.entries:
        deeds.tried[tried.act.value, original(tried.name), tried.error] += tried.times


def _trees(stream: StreamReport) -> tuple[Tree, ...]:
    entries = {entry.key: entry for entry in stream.processes.entries}
    parents = {key: entry.parent for key, entry in entries.items()}
    return trees(parents, lambda key: _tree(entries[key]))


def _tree(entry: ProcessEntry) -> Tree:
    assert entry.programs_left_out == 0
    programs = tuple(
        Executed(original(program.name), tuple(map(original, program.argv)), program.error)
        for program in entry.programs
    )
    end = entry.signal or ("?" if entry.code is None else f"exit {entry.code}")
    return Tree(programs, end, entry.threads, ())


def of_tasks(stream: StreamReport) -> dict[ProcessKey, Tree]:
    """The tree of each task."""
    by_key = {entry.key: entry for entry in stream.processes.entries}
    parents = {key: entry.parent for key, entry in by_key.items()}
    found: dict[ProcessKey, Tree] = {}
    for task in stream.tasks:
        below = {key: parents[key] for key in by_key if _descends(key, task, parents)}
        below[task] = None
        [found[task]] = trees(below, lambda key: _tree(by_key[key]))
    return found


def _descends(
    key: ProcessKey, ancestor: ProcessKey, parents: Mapping[ProcessKey, ProcessKey | None]
) -> bool:
    above: ProcessKey | None = key
    while above is not None and above != ancestor:
        above = parents.get(above)
    return above is not None


def places(stream: StreamReport) -> dict[str, set[bytes]]:
    """In which place each name stands, whatever was done or tried with it."""
    return {
        files.place.value: {original(file.name) for file in files.files}
        | {original(tried.name) for tried in files.tried.entries}
        for files in stream.files
    }


def act(word: str) -> str:
    """A word of the report, checked."""
    return Act(word).value
