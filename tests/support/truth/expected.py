"""What prog.c and prog.py do, line by line, written down by hand.

Each line of `_FILES` is `act act ... name`; a name that stands twice was touched twice. What only
the language brings with it is said beside its name in `LANGUAGES`.
"""

from collections import Counter
from dataclasses import dataclass

from tests.support.truth.deeds import CHOSEN, Deeds, Executed, Reached, Tree, act

DATA_BYTES = 100_000
FAR = ("10.255.255.1", "2001:db8::1")
_FILES = """
read /input/data.csv
read /code/prog.c
read /etc/hostname
read /proc/self/status
written created /dev/null
written created /output/made
renamed /output/made
replaced /output/renamed
linked /output/renamed
created /output/hard
created /output/soft
read /output/renamed
created /output/folder
written created /output/folder/inside
deleted /output/folder/inside
written created /output/relative
located /output/folder
read written created /output/folder/by-folder
renamed /output/folder/by-folder
replaced /output/folder/moved
deleted /output/folder/moved
created /output/folder/sub
deleted /output/folder/sub
written created /output/folder/after-fchdir
written created /tmp/scratch
changed /tmp/scratch
written /tmp/scratch
deleted /tmp/scratch
created /tmp/pipe
written created /tmp/one
written created /tmp/two
renamed replaced /tmp/one
renamed replaced /tmp/two
written created /tmp/closed
changed /tmp/closed
written created /output/thread-1
written created /output/thread-2
written created /output/orphan
deleted /tmp/socket
"""
STRANGE = (
    b"sp ace", b"new\nline", b"quo\"te'", b"\xff\xfe", b"back\\slash", b"\xc3\xbc", b"<angle>",
    b"\n1 1.000000 +++ exited with 0 +++\n",
)  # fmt: skip
_TRIED = """
read ENOENT /home/truth
read ENOENT /output/absent
read EACCES /tmp/closed
executed ENOENT /output/missing
executed EACCES /tmp/closed
"""
_JOINED = """
renamed|/output/made|/output/renamed
hard link|/output/renamed|/output/hard
symbolic link|renamed|/output/soft
renamed|/output/folder/by-folder|/output/folder/moved
exchanged|/tmp/one|/tmp/two
"""
_NETWORK = """
socket AF_INET SOCK_STREAM|SOCK_CLOEXEC,IPPROTO_IP
connect AF_INET 127.0.0.1 21019 ECONNREFUSED
socket AF_INET SOCK_DGRAM|SOCK_CLOEXEC,IPPROTO_IP
send AF_INET 127.0.0.1 21020
socket AF_INET SOCK_STREAM|SOCK_CLOEXEC,IPPROTO_IP
bind AF_INET 127.0.0.1 21017
listen
socket AF_INET SOCK_STREAM|SOCK_CLOEXEC,IPPROTO_IP
connect AF_INET 127.0.0.1 21017
socket AF_UNIX SOCK_STREAM|SOCK_CLOEXEC,0
bind AF_UNIX /tmp/socket
listen
socket AF_UNIX SOCK_STREAM|SOCK_CLOEXEC,0
connect AF_UNIX /tmp/socket
socket AF_UNIX SOCK_STREAM|SOCK_CLOEXEC,0
socket AF_UNIX SOCK_DGRAM|SOCK_CLOEXEC,0
socket AF_UNIX SOCK_STREAM|SOCK_CLOEXEC,0
"""
# Inside, there is no way to these.
_NOWHERE = """
socket AF_INET SOCK_STREAM|SOCK_CLOEXEC,IPPROTO_IP
connect AF_INET 10.255.255.1 443 ENETUNREACH
socket AF_INET SOCK_DGRAM|SOCK_CLOEXEC,IPPROTO_IP
send AF_INET 10.255.255.1 443 ENETUNREACH
socket AF_INET6 SOCK_STREAM|SOCK_CLOEXEC,IPPROTO_IP
connect AF_INET6 2001:db8::1 443 ENETUNREACH
"""
# Read and written.
_MOVED = {
    "/input/data.csv": (DATA_BYTES, 0),
    "/output/made": (0, 12345),
    "/output/renamed": (12345, 0),
    "/output/folder/inside": (0, 2),
    "/output/relative": (0, 3),
    "/output/folder/by-folder": (0, 4),
    "/output/folder/after-fchdir": (0, 5),
    "/output/thread-1": (0, 6),
    "/output/thread-2": (0, 6),
    "/output/orphan": (0, 7),
    "/tmp/scratch": (0, 200),
    "/tmp/one": (0, 1),
    "/tmp/two": (0, 2),
}


@dataclass(frozen=True)
class Language:
    """How a program is started, and what its runtime brings with it in the program's folders."""

    argv: tuple[str, ...]
    program: str
    files: str = ""


LANGUAGES = {
    "C": Language(("/tmp/prog",), "/tmp/prog"),
    "Python": Language(
        ("python3", "-I", "/code/prog.py"), "/usr/bin/python3", "read /code/prog.py"
    ),
}


def _acts(lines: str) -> Counter[tuple[str, bytes]]:
    found: Counter[tuple[str, bytes]] = Counter()
    for line in lines.split("\n"):
        *words, name = line.split() or [""]
        for word in words:
            found[act(word), name.encode()] += 1
    return found


def _network(lines: str) -> Counter[Reached]:
    found: Counter[Reached] = Counter()
    for line in filter(None, lines.split("\n")):
        use, family, address, port, error = (*line.split(), "", "", "", "")[:5]
        if use == "socket":
            address = address.replace(",", ", ")
        number = int(port) if port else None
        found[Reached(use, family, address.encode(), number, error)] += 1
    return found


def _child(end: str, *programs: tuple[str, tuple[bytes, ...], str]) -> Tree:
    made = tuple(Executed(name.encode(), argv, error) for name, argv, error in programs)
    return Tree(made, end, 0, ())


def _tree(argv: tuple[str, ...], program: str) -> Tree:
    strange = (b"true", b"a b", b'q"uote', b"new\nline", b"\xff", b"")
    script = b"exec /bin/true twice"
    children = (
        _child("exit 3"),
        _child("exit 0", ("/bin/true", strange, "")),
        _child("exit 1", ("/bin/false", (b"false",), "")),
        _child("exit 0", ("/bin/true", (b"/bin/true", b"vforked"), "")),
        _child(
            "exit 0",
            ("/bin/sh", (b"sh", b"-c", script), ""),
            ("/bin/true", (b"/bin/true", b"twice"), ""),
        ),
        _child("SIGKILL"),
        _child("SIGTERM"),
        _child(
            "exit 5",
            ("/output/missing", (b"missing",), "ENOENT"),
            ("/tmp/closed", (b"closed",), "EACCES"),
        ),
        Tree((), "exit 0", 0, (_child("exit 7"),)),
    )
    first = Executed(program.encode(), tuple(word.encode() for word in argv), "")
    return Tree((first,), "exit 0", 2, tuple(sorted(children)))


def deeds(name: str, argv: tuple[str, ...], program: str, *, sealed: bool) -> Deeds:
    """What the program of a language does, started with these arguments."""
    language = LANGUAGES[name]
    acts = _acts(_FILES) + _acts(language.files)
    for strange in STRANGE:
        acts.update({("written", b"/output/" + strange): 1, ("created", b"/output/" + strange): 1})
    if sealed:
        acts += _acts("written created /dev/made")
    tried = Counter(
        {
            (act(word), path.encode(), error): 1
            for word, error, path in (line.split() for line in _TRIED.split("\n") if line)
        }
    )
    # /input is mounted read-only inside, and belongs to somebody else outside.
    tried[act("written"), b"/input/data.csv", "EROFS" if sealed else "EACCES"] += 1
    joined = (line.encode().split(b"|") for line in _JOINED.split("\n") if line)
    network = _network(_NETWORK) + _network(_NOWHERE if sealed else "")
    network[Reached("accept", "AF_INET", b"127.0.0.1", CHOSEN, "")] += 1
    network[Reached("accept", "AF_UNIX", b"", None, "")] += name == "Python"
    network[Reached("bind", "AF_UNIX", b"\0truth", None, "")] += 1
    network[Reached("connect", "AF_UNIX", b"/tmp/nobody", None, "ENOENT")] += 1
    moved = {path.encode(): both for path, both in _MOVED.items()}
    moved.update({b"/output/" + strange: (0, 1) for strange in STRANGE})
    return Deeds(
        acts,
        tried,
        Counter((kind.decode(), source, path) for kind, source, path in joined),
        +network,
        Counter({("SIGKILL", "kill", "process"): 1, ("SIGTERM", "kill", "process"): 1}),
        moved,
        (_tree(argv, program),),
    )
