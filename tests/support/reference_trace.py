"""A second reader of strace's text: slow, simple, and written without a look at the first.

It is for whole traces without a process namespace, so that the number that a fork gives is the
child's own. It reads the file twice: first every call is put together from its two lines, then
the calls are looked at in the order in which they began.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from posixpath import normpath

from slurmbridge.trace.report import ProcessKey
from tests.support.truth.deeds import Deeds, Executed, Reached, Tree, normal_port, trees

_LINE = re.compile(rb"(\d+) +\d+\.\d+ (.*)", re.DOTALL)
_RESUMED = re.compile(rb"<\.\.\. (\w+) resumed>(.*)", re.DOTALL)
_END = re.compile(rb"\+\+\+ (exited with (\d+)|killed by (\w+))")
_LETTERS = {"n": 10, "t": 9, "r": 13, "v": 11, "f": 12}
_FORKS = {"fork", "vfork", "clone", "clone3"}


@dataclass
class _Call:
    pid: int
    name: str
    arguments: list[str]
    result: str

    @property
    def error(self) -> str:
        return self.result.split()[1] if self.result.startswith("-1 ") else ""

    @property
    def number(self) -> int:
        found = re.match(r"-?\d+", self.result)
        return int(found[0]) if found else 0


@dataclass
class _Life:
    parent: int | None
    folder: bytes
    programs: list[Executed] = field(default_factory=list)
    end: str = "?"
    threads: int = 0


def split(text: str) -> tuple[list[str], str]:
    """The arguments behind an opening bracket, and what follows the closing one."""
    found, start, depth, at = [], 0, 0, 0
    while True:
        sign = text[at]
        if sign == '"':
            at = _after_string(text, at)
            continue
        if sign == "<" and (text[at - 1].isdigit() or text[:at].endswith("AT_FDCWD")):
            at = text.index(">", at)
        elif sign in "([{":
            depth += 1
        elif depth == 0 and sign in ",)":
            found.append(text[start:at].strip())
            start = at + 1
            if sign == ")":
                return [item for item in found if item], text[start:]
        elif sign in ")]}":
            depth -= 1
        at += 1


def _after_string(text: str, at: int) -> int:
    at += 1
    while text[at] != '"':
        at += 2 if text[at] == "\\" else 1
    return at + 1


def unquoted(text: str) -> bytes:
    """A string of strace's, with or without its quotes, as bytes."""
    text = text.removesuffix("...")
    if text.startswith('"'):
        text = text[1:-1]
    found, at = bytearray(), 0
    while at < len(text):
        if text[at] != "\\":
            found.append(ord(text[at]))
            at += 1
        elif octal := re.match(r"[0-7]{1,3}", text[at + 1 :]):
            found.append(int(octal[0], 8))
            at += 1 + len(octal[0])
        elif text[at + 1] == "x":
            found.append(int(text[at + 2 : at + 4], 16))
            at += 4
        else:
            found.append(_LETTERS.get(text[at + 1], ord(text[at + 1])))
            at += 2
    return bytes(found)


def beside(descriptor: str) -> bytes | None:
    """The path that strace prints beside a descriptor."""
    found = re.match(r"(?:\d+|AT_FDCWD)<([^>]*)>", descriptor)
    return unquoted(found[1]) if found else None


def whole_calls(text: bytes) -> tuple[list[_Call], dict[int, str]]:
    """All calls in the order in which they began, and how each process ended."""
    begun: dict[int, int] = {}
    texts: list[tuple[int, str]] = []
    ends: dict[int, str] = {}
    for line in text.decode("ascii").splitlines():
        head = _LINE.fullmatch(line.encode())
        assert head is not None, line
        pid, rest = int(head[1]), head[2].decode()
        if rest.startswith("---"):
            continue
        if end := _END.match(head[2]):
            ends[pid] = f"exit {int(end[2])}" if end[2] else end[3].decode()
        elif resumed := _RESUMED.fullmatch(head[2]):
            at = begun.pop(pid)
            texts[at] = (pid, texts[at][1] + resumed[2].decode())
        else:
            if rest.endswith(" <unfinished ...>"):
                begun[pid] = len(texts)
                rest = rest.removesuffix(" <unfinished ...>")
            texts.append((pid, rest))
    unended = set(begun.values())
    return [_call(*item) for at, item in enumerate(texts) if at not in unended], ends


def _call(pid: int, text: str) -> _Call:
    name, _, rest = text.partition("(")
    arguments, result = split(rest)
    return _Call(pid, name, arguments, result.strip().removeprefix("=").strip())


class Reference:
    """What the first process of a trace, and all that it started, did."""

    def __init__(self, text: bytes) -> None:
        calls, self._ends = whole_calls(text)
        self.deeds = Deeds()
        self._group: dict[int, int] = {}
        self._lives: dict[int, _Life] = {}
        # Of each socket, by what a descriptor says of it.
        self._families: dict[str, str] = {}
        self._live(calls[0].pid, None, b"")
        for call in calls:
            reader = self._reader(call.name)
            if reader is not None:
                reader(call)
        for pid, life in self._lives.items():
            life.end = self._ends.get(pid, "?")
        keys = {pid: ProcessKey(pid=pid, birth=0) for pid in self._lives}
        parents = {
            keys[pid]: None if life.parent is None else keys[life.parent]
            for pid, life in self._lives.items()
        }
        self.deeds.trees = trees(parents, lambda key: self._tree(key.pid))

    def _tree(self, pid: int) -> Tree:
        life = self._lives[pid]
        return Tree(tuple(life.programs), life.end, life.threads, ())

    def _live(self, pid: int, parent: int | None, folder: bytes) -> None:
        self._group[pid] = pid
        self._lives[pid] = _Life(parent, folder)

    def _life(self, call: _Call) -> _Life:
        return self._lives[self._group[call.pid]]

    def _reader(self, name: str) -> Callable[[_Call], None] | None:
        if name in _FORKS:
            return self._fork
        if name in {"copy_file_range", "splice", "sendfile"}:
            return self._copy
        if name in {"read", "readv", "pread64", "write", "writev", "pwrite64"}:
            return self._move
        if name in {"connect", "bind", "sendto", "accept", "accept4"}:
            return self._contact
        known: dict[str, Callable[[_Call], None]] = {
            "execve": self._execute, "open": self._open, "openat": self._open,
            "creat": self._open, "chdir": self._go, "fchdir": self._go,
            "rename": self._rename, "renameat": self._rename, "renameat2": self._rename,
            "link": self._link, "linkat": self._link, "symlink": self._symlink,
            "symlinkat": self._symlink, "socket": self._socket, "socketpair": self._socket,
            "listen": self._listen, "kill": self._kill, "tgkill": self._kill,
            "tkill": self._kill, "fchmod": self._on_descriptor, "fchown": self._on_descriptor,
            "ftruncate": self._on_descriptor,
        }  # fmt: skip
        simple = {
            "mkdir": "created", "mkdirat": "created", "mknod": "created", "mknodat": "created",
            "unlink": "deleted", "unlinkat": "deleted", "rmdir": "deleted", "chmod": "changed",
            "fchmodat": "changed", "fchmodat2": "changed", "chown": "changed",
            "lchown": "changed", "fchownat": "changed", "truncate": "written",
        }  # fmt: skip
        if name in simple:
            return lambda call: self._act(call, (simple[call.name],), self._path(call, 0))
        return known.get(name)

    def _path(self, call: _Call, first: int) -> bytes:
        """The path at an argument; of a call ...at, the folder stands before it."""
        base, text = self._life(call).folder, call.arguments[first]
        if not text.startswith('"'):
            base, text = beside(text) or base, call.arguments[first + 1]
        name = unquoted(text)
        if not name:
            return base
        return normpath(name if name.startswith(b"/") else base + b"/" + name)

    def _act(self, call: _Call, acts: Sequence[str], name: bytes) -> None:
        for act in acts:
            if call.error:
                self.deeds.tried[act, name, call.error] += 1
            else:
                self.deeds.acts[act, name] += 1

    def _fork(self, call: _Call) -> None:
        if call.error:
            return
        group = self._group[call.pid]
        if any("CLONE_THREAD" in argument for argument in call.arguments):
            self._group[call.number] = group
            self._lives[group].threads += 1
        else:
            self._live(call.number, group, self._lives[group].folder)

    def _execute(self, call: _Call) -> None:
        life, name = self._life(call), self._path(call, 0)
        argv, _ = split(call.arguments[1].removeprefix("[").removesuffix("]") + ")")
        # An argument may be empty, but is quoted then.
        life.programs.append(Executed(name, tuple(map(unquoted, argv)), call.error))
        self._act(call, ("executed",), name)

    def _open(self, call: _Call) -> None:
        flags = call.arguments[2 if call.name == "openat" else 1]
        if call.name == "creat":
            flags = "O_WRONLY|O_CREAT|O_TRUNC"
        acts = []
        if "O_PATH" in flags:
            acts.append("located")
        else:
            acts += ["read"] * ("O_WRONLY" not in flags)
            acts += ["written"] * any(f in flags for f in ("O_WRONLY", "O_RDWR", "O_TRUNC"))
            acts += ["created"] * ("O_CREAT" in flags)
        self._act(call, acts, beside(call.result) or self._path(call, 0))

    def _go(self, call: _Call) -> None:
        if not call.error:
            by_number = call.name == "fchdir"
            path = beside(call.arguments[0]) if by_number else self._path(call, 0)
            assert path is not None
            self._life(call).folder = path

    def _two(self, call: _Call) -> tuple[bytes, bytes]:
        apart = 2 if "at" in call.name else 1
        return self._path(call, 0), self._path(call, apart)

    def _join(self, call: _Call, joining: str, source: bytes, name: bytes) -> None:
        if not call.error:
            self.deeds.joined[joining, source, name] += 1

    def _rename(self, call: _Call) -> None:
        source, name = self._two(call)
        exchanged = "RENAME_EXCHANGE" in call.arguments[-1]
        self._act(call, ("renamed", "replaced") if exchanged else ("renamed",), source)
        self._act(call, ("renamed", "replaced") if exchanged else ("replaced",), name)
        self._join(call, "exchanged" if exchanged else "renamed", source, name)

    def _link(self, call: _Call) -> None:
        source, name = self._two(call)
        self._act(call, ("linked",), source)
        self._act(call, ("created",), name)
        self._join(call, "hard link", source, name)

    def _symlink(self, call: _Call) -> None:
        name = self._path(call, 1)
        self._act(call, ("created",), name)
        self._join(call, "symbolic link", unquoted(call.arguments[0]), name)

    def _on_descriptor(self, call: _Call) -> None:
        act = "written" if call.name == "ftruncate" else "changed"
        self._act(call, (act,), beside(call.arguments[0]) or b"?")

    def _move(self, call: _Call) -> None:
        wrote = "write" in call.name
        self._moved(call.arguments[0], 0 if wrote else call.number, call.number if wrote else 0)

    def _copy(self, call: _Call) -> None:
        source, target = (1, 0) if call.name == "sendfile" else (0, 2)
        self._moved(call.arguments[source], call.number, 0)
        self._moved(call.arguments[target], 0, call.number)

    def _moved(self, descriptor: str, read: int, written: int) -> None:
        path = beside(descriptor)
        if path is not None and path.startswith(b"/") and read + written > 0:
            before = self.deeds.moved.get(path, (0, 0))
            self.deeds.moved[path] = (before[0] + read, before[1] + written)

    def _socket(self, call: _Call) -> None:
        family, *kind = call.arguments[:3]
        self._families[_opened(call.result)] = family
        what = ", ".join(kind).encode()
        self.deeds.network[Reached("socket", family, what, None, call.error)] += 1

    def _listen(self, call: _Call) -> None:
        self.deeds.network[Reached("listen", "", b"", None, call.error)] += 1

    def _contact(self, call: _Call) -> None:
        use = {"sendto": "send", "accept4": "accept"}.get(call.name, call.name)
        for argument in call.arguments:
            if argument.startswith("{sa_family="):
                family, address, port = _address(argument)
                self.deeds.network[Reached(use, family, address, port, call.error)] += 1
        if use == "accept" and call.arguments[1] == "NULL" and not call.error:
            family = self._families[_opened(call.arguments[0])]
            self.deeds.network[Reached(use, family, b"", None, "")] += 1

    def _kill(self, call: _Call) -> None:
        if call.name != "kill":
            whom = "process"
        else:
            number = int(call.arguments[0])
            whom = {-1: "all", 0: "group", 1: "first"}.get(
                number, "group" if number < 0 else "process"
            )
        if not call.error:
            self.deeds.sent[call.arguments[-1], call.name, whom] += 1


def _opened(descriptor: str) -> str:
    """What a descriptor is, as in 3<socket:[12345]>."""
    return descriptor.partition("<")[2].partition(">")[0]


def _address(text: str) -> tuple[str, bytes, int | None]:
    fields, _ = split(text.removeprefix("{").removesuffix("}") + ")")
    family = fields[0].removeprefix("sa_family=")
    port, address = None, b""
    for item in fields[1:]:
        if found := re.search(r"_port=htons\((\d+)\)", item):
            port = int(found[1])
        elif found := re.search(r'"([^"]*)"', item):
            address = (b"\0" if "=@" in item else b"") + unquoted(found[1])
    return family, address, normal_port(port)
