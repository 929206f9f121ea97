"""Single events of a trace, and the report of some of them."""

from slurmbridge.trace import events as ev
from slurmbridge.trace.events import Key
from slurmbridge.trace.fold import fold
from slurmbridge.trace.report import USUAL, Limits, StreamReport

KEY = Key(7, 1)
START = ev.Started(1, 1_000_000, KEY, None, True)
END = ev.Ended(9000, 9_000_000, KEY, 0, None)


def report_of(*events: ev.Happening, limits: Limits = USUAL) -> StreamReport:
    """The report of one program that did all this."""
    return fold([START, *events, END], limits, "node1")


def opened(
    path: bytes, access: ev.Access = ev.Access.READ, error: str = "", line: int = 2, **more: bool
) -> ev.Opened:
    """A file was opened."""
    flags = {"creates": False, "truncates": False, **more}
    return ev.Opened(line, 2_000_000, KEY, path, None, access, error=error, **flags)


def contacted(
    host: bytes,
    error: str = "",
    family: str = "AF_INET",
    how: ev.Contact = ev.Contact.CONNECT,
    line: int = 2,
) -> ev.Contacted:
    """An address was used, or tried."""
    where = ev.Address(family, host, 443 if family.startswith("AF_INET") else None)
    return ev.Contacted(line, 2_000_000, KEY, how, where, error)


def executed(path: bytes, error: str = "", line: int = 2) -> ev.Executed:
    """A program was executed, or tried."""
    return ev.Executed(line, 2_000_000, KEY, path, (path,), True, error)


def killed(target: int, error: str = "", signal: str = "SIGKILL", line: int = 2) -> ev.SignalSent:
    """A signal was sent."""
    return ev.SignalSent(line, 2_000_000, KEY, "kill", target, signal, error)


def mode(value: bytes, error: str = "") -> ev.Changed:
    """A file's mode was set."""
    return ev.Changed(2, 2_000_000, KEY, b"/tmp/x", ev.Change.MODE, value, error)


def unusual(call: str, arguments: bytes = b"", error: str = "EPERM") -> ev.Unusual:
    """A call that ordinary programs do not make."""
    return ev.Unusual(2, 2_000_000, KEY, call, arguments, error)


def born(pid: int, parent: Key = KEY, line: int = 2) -> ev.Started:
    """A process began."""
    return ev.Started(line, 2_000_000, Key(pid, pid), parent, True)


def died(pid: int, time: int, signal: str | None = None, line: int = 3) -> ev.Ended:
    """A process ended."""
    return ev.Ended(line, time, Key(pid, pid), None if signal else 0, signal)
