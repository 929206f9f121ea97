r"""What the programs of this folder do, line by line, written down by hand.

A line of `files` is `ACT ACT ...|NAME`, of `tried` `ACT|ERROR|NAME`, of `joined`
`JOINING|SOURCE|NAME`, of `network` `USE FAMILY ADDRESS PORT ERROR`, of `moved`
`READ WRITTEN|NAME`; a line that stands twice was done twice. Names are escaped as in a report.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from slurmbridge.trace.names import original
from tests.support.truth.deeds import Deeds, Executed, Reached, Tree, act, normal_port

FOLDER = Path(__file__).parent
DATA_BYTES = 100_000
FAR = ("10.255.255.1", "2001:db8::1")


@dataclass(frozen=True)
class Truth:
    """What a program does."""

    tree: Tree
    files: str = ""
    tried: str = ""
    joined: str = ""
    network: str = ""
    sent: tuple[str, ...] = ()
    moved: str = ""

    def deeds(self) -> Deeds:
        """The same, to be compared."""
        return Deeds(
            acts=Counter(
                (act(word), original(name))
                for words, name in _rows(self.files)
                for word in words.split()
            ),
            tried=Counter(
                (act(word), original(name), error) for word, error, name in _rows(self.tried)
            ),
            joined=Counter(
                (how, original(source), original(name)) for how, source, name in _rows(self.joined)
            ),
            network=Counter(_reached(line) for (line,) in _rows(self.network)),
            sent=Counter((signal, "kill", "process") for signal in self.sent),
            moved={original(name): _two(both) for both, name in _rows(self.moved)},
            trees=(self.tree,),
        )


def _rows(text: str) -> Iterator[tuple[str, ...]]:
    return (tuple(line.split("|")) for line in text.split("\n") if line)


def _two(text: str) -> tuple[int, int]:
    read, written = text.split()
    return int(read), int(written)


def _reached(line: str) -> Reached:
    use, family, address, port, error = (
        "" if word == "-" else word for word in (*line.split(), *"----")[:5]
    )
    # Types are joined by what separates columns elsewhere.
    address = address.replace(",", ", ").replace("+", "|")
    return Reached(use, family, original(address), normal_port(int(port)) if port else None, error)


def program(name: str, *argv: str, error: str = "") -> Executed:
    """A program that is executed; `argv` escaped as in a report."""
    return Executed(name.encode(), tuple(original(word) for word in argv), error)


def process(
    end: str, *programs: Executed, threads: int = 0, children: tuple[Tree, ...] = ()
) -> Tree:
    """A process, with what it executes."""
    return Tree(programs, end, threads, tuple(sorted(children)))


# --- prog.c and prog.py ---------------------------------------------------------------------------

_FILES = r"""
read|/input/data.csv
read|/code/prog.c
read|/etc/hostname
written created|/dev/null
written created|/output/made
renamed|/output/made
replaced|/output/renamed
linked|/output/renamed
created|/output/hard
created|/output/soft
read|/output/renamed
created|/output/folder
written created|/output/folder/inside
deleted|/output/folder/inside
written created|/output/relative
located|/output/folder
read written created|/output/folder/by-folder
renamed|/output/folder/by-folder
replaced|/output/folder/moved
deleted|/output/folder/moved
created|/output/folder/sub
deleted|/output/folder/sub
written created|/output/folder/after-fchdir
written created|/output/sp ace
written created|/output/new\x0aline
written created|/output/quo"te'
written created|/output/\xff\xfe
written created|/output/back\\slash
written created|/output/ü
written created|/output/<angle>
written created|/output/\x0a1 1.000000 +++ exited with 0 +++\x0a
written created|/tmp/scratch
changed|/tmp/scratch
written|/tmp/scratch
deleted|/tmp/scratch
created|/tmp/pipe
written created|/tmp/one
written created|/tmp/two
renamed replaced|/tmp/one
renamed replaced|/tmp/two
written created|/tmp/closed
changed|/tmp/closed
written created|/output/thread-1
written created|/output/thread-2
written created|/output/orphan
deleted|/tmp/socket
executed|/bin/true
executed|/bin/false
executed|/bin/true
executed|/bin/sh
executed|/bin/true
"""
_TRIED = """
read|ENOENT|/home/truth
read|ENOENT|/output/absent
read|EACCES|/tmp/closed
executed|ENOENT|/output/missing
executed|EACCES|/tmp/closed
"""
_JOINED = """
renamed|/output/made|/output/renamed
hard link|/output/renamed|/output/hard
symbolic link|renamed|/output/soft
renamed|/output/folder/by-folder|/output/folder/moved
exchanged|/tmp/one|/tmp/two
"""
_NETWORK = r"""
socket AF_INET SOCK_STREAM+SOCK_CLOEXEC,IPPROTO_IP
connect AF_INET 127.0.0.1 21019 ECONNREFUSED
socket AF_INET SOCK_DGRAM+SOCK_CLOEXEC,IPPROTO_IP
send AF_INET 127.0.0.1 21020
socket AF_INET SOCK_STREAM+SOCK_CLOEXEC,IPPROTO_IP
bind AF_INET 127.0.0.1 21017
listen
socket AF_INET SOCK_STREAM+SOCK_CLOEXEC,IPPROTO_IP
connect AF_INET 127.0.0.1 21017
accept AF_INET 127.0.0.1 65535
socket AF_UNIX SOCK_STREAM+SOCK_CLOEXEC,0
bind AF_UNIX /tmp/socket
listen
socket AF_UNIX SOCK_STREAM+SOCK_CLOEXEC,0
connect AF_UNIX /tmp/socket
accept AF_UNIX
socket AF_UNIX SOCK_STREAM+SOCK_CLOEXEC,0
connect AF_UNIX /tmp/nobody - ENOENT
socket AF_UNIX SOCK_DGRAM+SOCK_CLOEXEC,0
bind AF_UNIX \x00truth
socket AF_UNIX SOCK_STREAM+SOCK_CLOEXEC,0
"""
# Inside, there is no way to these.
_NOWHERE = """
socket AF_INET SOCK_STREAM+SOCK_CLOEXEC,IPPROTO_IP
connect AF_INET 10.255.255.1 443 ENETUNREACH
socket AF_INET SOCK_DGRAM+SOCK_CLOEXEC,IPPROTO_IP
send AF_INET 10.255.255.1 443 ENETUNREACH
socket AF_INET6 SOCK_STREAM+SOCK_CLOEXEC,IPPROTO_IP
connect AF_INET6 2001:db8::1 443 ENETUNREACH
"""
_MOVED = r"""
100000 0|/input/data.csv
0 12345|/output/made
12345 0|/output/renamed
0 2|/output/folder/inside
0 3|/output/relative
0 4|/output/folder/by-folder
0 5|/output/folder/after-fchdir
0 1|/output/sp ace
0 1|/output/new\x0aline
0 1|/output/quo"te'
0 1|/output/\xff\xfe
0 1|/output/back\\slash
0 1|/output/ü
0 1|/output/<angle>
0 1|/output/\x0a1 1.000000 +++ exited with 0 +++\x0a
0 200|/tmp/scratch
0 1|/tmp/one
0 2|/tmp/two
0 6|/output/thread-1
0 6|/output/thread-2
0 7|/output/orphan
"""
_CHILDREN = (
    process("exit 3"),
    process("exit 0", program("/bin/true", "true", "a b", 'q"uote', r"new\x0aline", r"\xff", "")),
    process("exit 1", program("/bin/false", "false")),
    process("exit 0", program("/bin/true", "/bin/true", "vforked")),
    process(
        "exit 0",
        program("/bin/sh", "sh", "-c", "exec /bin/true twice"),
        program("/bin/true", "/bin/true", "twice"),
    ),
    process("SIGKILL"),
    process("SIGTERM"),
    process(
        "exit 5",
        program("/output/missing", "missing", error="ENOENT"),
        program("/tmp/closed", "closed", error="EACCES"),
    ),
    process("exit 0", children=(process("exit 7"),)),
)


# strace cuts arguments at level full.
FULL_ARGUMENT = 64


def cut(tree: Tree) -> Tree:
    """The same as level full records it."""
    programs = tuple(
        one._replace(argv=tuple(word[:FULL_ARGUMENT] for word in one.argv)) for one in tree.programs
    )
    return Tree(programs, tree.end, tree.threads, tuple(sorted(map(cut, tree.children))))


def _common(tree: Tree, files: str, moved: str, *, sealed: bool) -> Truth:
    return Truth(
        tree,
        _FILES + ("written created|/dev/made" if sealed else "") + files,
        # /input is mounted read-only inside, and belongs to somebody else outside.
        _TRIED + f"written|{'EROFS' if sealed else 'EACCES'}|/input/data.csv",
        _JOINED,
        _NETWORK + (_NOWHERE if sealed else ""),
        ("SIGKILL", "SIGTERM"),
        _MOVED + f"{(FOLDER / 'prog.c').stat().st_size} 0|/code/prog.c{moved}",
    )


def in_c(*, sealed: bool, size: int) -> Truth:
    """prog.c; what is staged cannot be executed, so that inside a shell copies it first."""
    if not sealed:
        tree = process(
            "exit 0", program("/tmp/prog", "/tmp/prog", ""), threads=2, children=_CHILDREN
        )
        return _common(tree, "\nexecuted|/tmp/prog", "", sealed=False)
    copies = (
        process("exit 0", program("/usr/bin/cp", "cp", "/code/prog", "/tmp/prog")),
        process("exit 0", program("/usr/bin/chmod", "chmod", "700", "/tmp/prog")),
    )
    tree = process(
        "exit 0",
        program("/usr/bin/sh", *IN_C),
        program("/tmp/prog", "/tmp/prog", "", *FAR),
        threads=2,
        children=(*_CHILDREN, *copies),
    )
    files = """
executed|/usr/bin/sh
executed|/usr/bin/cp
executed|/usr/bin/chmod
read|/code/prog
written created|/tmp/prog
changed|/tmp/prog
executed|/tmp/prog
"""
    made = _common(tree, files, f"\n{size} 0|/code/prog\n0 {size}|/tmp/prog", sealed=True)
    # cp asks whether its target is a folder.
    return replace(made, tried=f"{made.tried}\nlocated|ENOENT|/tmp/prog")


IN_C = (
    "sh", "-euc",
    f"cp /code/prog /tmp/prog; chmod 700 /tmp/prog; exec /tmp/prog '' {' '.join(FAR)}",
)  # fmt: skip
IN_PYTHON = ("python3", "-I", "/code/prog.py", "", *FAR)


def in_python(*, sealed: bool) -> Truth:
    """prog.py; the interpreter itself looks at its script twice."""
    argv = IN_PYTHON if sealed else IN_PYTHON[:4]
    tree = process("exit 0", program("/usr/bin/python3", *argv), threads=2, children=_CHILDREN)
    files = "\nexecuted|/usr/bin/python3\nread|/code/prog.py\nread|/code/prog.py"
    made = _common(tree, files, "", sealed=sealed)
    return made


# --- prog.sh --------------------------------------------------------------------------------------

_SHELL_RUNS = (
    ("exit 0", "mkdir", "folder"),
    ("exit 0", "mv", "folder/inner", "a b"),
    ("exit 0", "ln", "-s", "a b", "soft"),
    ("exit 0", "ln", "a b", "hard"),
    ("exit 0", "cat", "soft"),
    ("exit 0", "rm", "hard"),
    ("exit 0", "rmdir", "folder"),
    ("exit 1", "cat", "missing"),
    ("exit 4", "sh", "-c", "exit 4"),
    ("SIGKILL", "sh", "-c", "kill -KILL $$"),
    ("exit 0", "tee", "quo\"te'"),
    ("exit 0", "mkfifo", "/tmp/pipe"),
    ("SIGTERM", "sh", "-c", "kill -TERM $$"),
)
IN_SHELL = ("sh", "/code/prog.sh", "")


_SHELL_FILES = """
executed|/usr/bin/sh
read|/code/prog.sh
created|/output/folder
written created|/output/folder/inner
renamed|/output/folder/inner
replaced|/output/a b
created|/output/soft
linked|/output/a b
created|/output/hard
read|/output/a b
written created|/tmp/copy
deleted|/output/hard
deleted|/output/folder
written created|/dev/null
written created|/dev/null
written created|/output/quo"te'
created|/tmp/pipe
"""


def in_shell() -> Truth:
    """prog.sh; a subshell and the printing side of a pipe are processes without a program."""
    children = (
        *(process(end, program(f"/usr/bin/{argv[0]}", *argv)) for end, *argv in _SHELL_RUNS),
        process("exit 0"),
        process("exit 0"),
    )
    runs = "".join(f"executed|/usr/bin/{argv[0]}\n" for _, *argv in _SHELL_RUNS)
    return Truth(
        process("exit 0", program("/usr/bin/sh", *IN_SHELL), children=children),
        _SHELL_FILES + runs,
        "read|ENOENT|/output/missing",
        """
renamed|/output/folder/inner|/output/a b
symbolic link|a b|/output/soft
hard link|/output/a b|/output/hard
""",
        sent=("SIGKILL", "SIGTERM"),
        moved=f"""
{(FOLDER / "prog.sh").stat().st_size} 0|/code/prog.sh
0 2|/output/folder/inner
2 0|/output/a b
0 2|/tmp/copy
0 2|/output/quo"te'
""",
    )


# --- Prog.java ------------------------------------------------------------------------------------

IN_JAVA = (
    "java", "-XX:-UsePerfData", "-Djava.net.preferIPv4Stack=true",
    "-Djdk.lang.Process.launchMechanism=VFORK", "/code/Prog.java", "",
)  # fmt: skip


_JAVA_FILES = r"""
read|/code
read|/code/Prog.java
read|/input/data.csv
written created|/output/made
renamed|/output/made
replaced|/output/sp ace
linked|/output/sp ace
created|/output/hard
created|/output/soft
created|/output/folder
written created|/output/folder/new\x0aline
deleted|/output/folder/new\x0aline
deleted|/output/folder
written created|/tmp/quo"te'
written created|/output/thread
executed|/usr/bin/java
executed|/bin/true
executed|/bin/sh
executed|/bin/cat
"""


def in_java() -> Truth:
    """Prog.java; the machine compiles it first. Which sockets it makes to try is its own affair."""
    children = (
        process("exit 0", program("/bin/true", "/bin/true", "a b", r"new\x0aline")),
        process("exit 4", program("/bin/sh", "/bin/sh", "-c", "exit 4")),
        process("SIGKILL", program("/bin/cat", "/bin/cat")),
    )
    return Truth(
        process("exit 0", program("/usr/bin/java", *IN_JAVA), children=children),
        _JAVA_FILES,
        "read|ENOENT|/output/absent",
        r"""
renamed|/output/made|/output/sp ace
hard link|/output/sp ace|/output/hard
symbolic link|sp ace|/output/soft
""",
        """
bind AF_INET 127.0.0.1 21017
listen
connect AF_INET 127.0.0.1 21017
accept AF_INET 127.0.0.1 65535
connect AF_INET 127.0.0.1 21019 ECONNREFUSED
""",
        ("SIGKILL",),
        rf"""
100000 0|/input/data.csv
{(FOLDER / "Prog.java").stat().st_size} 0|/code/Prog.java
0 100000|/output/made
0 2|/output/folder/new\x0aline
0 4|/output/thread
0 3|/tmp/quo"te'
""",
    )
