"""The rules of a site that has no file of its own: who passes them, and who does not."""

from collections.abc import Sequence

import pytest

from slurmbridge.rules import Act, Outcome, Place
from slurmbridge.trace import Follower
from slurmbridge.trace import events as ev
from slurmbridge.trace.events import Key
from slurmbridge.trace.fold import fold
from slurmbridge.trace.judge import default_rules, judge
from slurmbridge.trace.report import USUAL, Verdict
from tests.support.happenings import (
    END,
    KEY,
    START,
    born,
    contacted,
    died,
    executed,
    killed,
    mode,
    opened,
    report_of,
    unusual,
)
from tests.support.traces import RECORDED


def by_default(*events: ev.Happening) -> Verdict:
    return judge([report_of(*events)], default_rules())


def test_an_ordinary_program_passes_the_defaults() -> None:
    daemon = died(8, 9_000_001, "SIGKILL")
    verdict = by_default(
        executed(b"/root/.local/bin/python3", "ENOENT"),
        executed(b"/usr/bin/python3"),
        executed(b"/code/run.sh"),
        opened(b"/proc/self/maps"),
        opened(b"/proc/77/coredump_filter", ev.Access.BOTH),
        opened(b"/proc/cgroups"),
        opened(b"/proc/77/net/if_inet6"),
        opened(b"/sys/fs/cgroup/cpu.max"),
        opened(b"/code/__pycache__/a.pyc", ev.Access.WRITE, "EROFS", creates=True),
        opened(b"/dev/null", ev.Access.WRITE),
        opened(b"/tmp/hsperfdata_user/7", ev.Access.BOTH, creates=True),
        opened(b"/dev/shm/sem.x", ev.Access.BOTH, creates=True),
        opened(b"/output/a.csv", ev.Access.WRITE, creates=True),
        ev.SocketMade(2, 2, KEY, "AF_INET6", "SOCK_STREAM", "IPPROTO_IP", ""),
        ev.SocketMade(2, 2, KEY, "AF_NETLINK", "SOCK_RAW", "NETLINK_ROUTE", ""),
        contacted(b"", family="AF_NETLINK", how=ev.Contact.BIND),
        contacted(b"", family="AF_NETLINK", how=ev.Contact.SEND),
        contacted(b"/var/run/nscd/socket", "ENOENT", "AF_UNIX"),
        contacted(b"::1", family="AF_INET6", how=ev.Contact.BIND),
        ev.Refused(2, 2, KEY, "clone3", b"", "ENOSYS"),
        unusual("memfd_create", error=""),
        ev.Signalled(2, 2, KEY, "SIGSEGV", None),
        killed(8, "ESRCH", "SIGTERM"),
        mode(b"0755"),
        mode(b"02755"),
        born(8),
        daemon,
    )
    assert verdict.outcome is Outcome.PASS, verdict.findings


BAD: dict[str, tuple[Sequence[ev.Happening], str, Outcome]] = {
    "what it has made itself": (
        [executed(b"/tmp/build/a.out")],
        "programs from known places",
        Outcome.ATTENTION,
    ),
    "kill everything": ([killed(-1)], "signals to everybody", Outcome.ATTENTION),
    "kill the seal": ([killed(1, "EPERM")], "signals to everybody", Outcome.ATTENTION),
    "kill every number": (
        [killed(n, "ESRCH", line=n) for n in range(2, 500)],
        "signals to nobody",
        Outcome.ATTENTION,
    ),
    "10,001 processes": (
        [e for n in range(8, 10_008) for e in (born(n), died(n, 3))],
        "processes",
        Outcome.ATTENTION,
    ),
    "su": ([executed(b"/usr/bin/su", "EPERM")], "programs for administrators", Outcome.FAIL),
    "from memory": ([executed(b"/memfd:x")], "programs from known places", Outcome.ATTENTION),
    "chmod u+s": ([mode(b"04755")], "no set-user-id", Outcome.FAIL),
    "clone untraced": (
        [ev.Refused(2, 2, KEY, "clone", b"CLONE_UNTRACED", "EPERM")],
        "refused calls",
        Outcome.ATTENTION,
    ),
    "io_uring": ([unusual("io_uring_setup", error="ENOSYS")], "unusual calls", Outcome.ATTENTION),
    "listener": ([unusual("seccomp")], "unusual calls", Outcome.ATTENTION),
    "ptrace": ([unusual("ptrace")], "unusual calls", Outcome.ATTENTION),
    "bpf": ([unusual("bpf")], "calls against the machine", Outcome.FAIL),
    "out": ([contacted(b"10.0.0.1", "ENETUNREACH")], "no network", Outcome.FAIL),
    "out, v6": ([contacted(b"2001:db8::1", "", "AF_INET6")], "no network", Outcome.FAIL),
    "own": ([contacted(b"127.0.0.1", "ECONNREFUSED")], "own addresses", Outcome.ATTENTION),
    "vsock": (
        [ev.SocketMade(2, 2, KEY, "AF_VSOCK", "S", "0", "EAFNOSUPPORT")],
        "families of sockets",
        Outcome.ATTENTION,
    ),
    "others' memory": (
        [opened(b"/proc/1/mem", error="EACCES")],
        "reading in unexpected places",
        Outcome.ATTENTION,
    ),
    "a changed input": (
        [ev.Deleted(2, 2, KEY, b"/input/x", "")],
        "only output and temporary files change",
        Outcome.FAIL,
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_no_honest_program_does_breaks_the_defaults(name: str) -> None:
    events, rule, outcome = BAD[name]
    verdict = by_default(*events)
    assert verdict.outcome is outcome
    assert rule in {found.rule for found in verdict.findings}
    assert all(found.evidence for found in verdict.findings)


def test_a_daemon_breaks_the_defaults() -> None:
    child = ev.Started(3, 3, Key(9, 9), Key(8, 8), True)
    events: list[ev.Happening] = [
        START,
        born(8),
        child,
        died(8, 3),
        END,
        died(9, 9_000_001, "SIGKILL"),
    ]
    verdict = judge([fold(events, USUAL)], default_rules())
    assert [found.rule for found in verdict.findings] == ["daemons"]


def test_the_recorded_trace_does_not_pass() -> None:
    trace = (RECORDED / "acts-audit.trace").read_bytes()
    verdict = judge([fold(Follower().events([trace]), USUAL, "node1")], default_rules())
    assert verdict.outcome is Outcome.FAIL
    by_rule = {found.rule: found for found in verdict.findings}
    texts = [item.text for item in by_rule["no network"].evidence]
    assert "connect AF_INET 192.0.2.1 port 80: ENETUNREACH" in texts
    assert by_rule["record: missed calls"].evidence[0].line == 397
    lines = trace.split(b"\n")
    for item in by_rule["no network"].evidence:
        assert b"AF_INET" in lines[item.line - 1]


def test_what_rules_need_of_a_report_is_bounded_too() -> None:
    tiny = USUAL.model_copy(update={"entries": 2})
    report = report_of(
        *(executed(b"/usr/bin/%d" % i) for i in range(5)),
        *(mode(b"0475%d" % i) for i in range(5)),
        *(opened(b"/proc/1/%d" % i, error="EACCES") for i in range(5)),
        opened(b"/home/a", error="ENOENT"),
        limits=tiny,
    )
    for listing in (report.executed, report.modes):
        assert (len(listing.entries), listing.total, listing.left_out) == (2, 5, 3)
    (unexpected,) = [files for files in report.files if files.place is Place.UNEXPECTED]
    assert unexpected.denied == {Act.READ: 5}
    assert unexpected.denied_left_out == {Act.READ: 3}
