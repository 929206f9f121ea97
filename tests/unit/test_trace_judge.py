"""What rules say of a report: kept or broken, by which lines, and when nobody can tell."""

from collections.abc import Iterable
from ipaddress import IPv4Network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurmbridge.rules import Doubt, Outcome, TraceRules, Use
from slurmbridge.trace import events as ev
from slurmbridge.trace.events import Key
from slurmbridge.trace.fold import fold
from slurmbridge.trace.judge import SiteRules, judge
from slurmbridge.trace.report import (
    FORBIDS_PASS,
    USUAL,
    Finding,
    Limits,
    Verdict,
)
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
from tests.support.judging import doubtful, rules, told

TINY = USUAL.model_copy(update={"entries": 2})


def asked(rule: dict[str, Any], *events: ev.Happening, limits: Limits = USUAL) -> Verdict:
    return judge([report_of(*events, limits=limits)], SiteRules(rules(rule), "a" * 64))


SUID = {"kind": "set-user-id", "bits": ["set-user-id"]}
NO_DAEMONS = {"kind": "end", "orphans": 0}
NOT_TO_ALL = {"kind": "signals", "way": "sent", "to": ["all"]}
NOTHING_ARRIVES = {"kind": "signals", "way": "arrived"}
NO_READING = {"kind": "files", "acts": ["read"]}
ALL_KNOWN = {"kind": "record", "doubts": ["unknown results"]}
NOT_KILLED = {"kind": "end", "killed": 0}
NO_NETWORK = {"kind": "network", "uses": list(Use)}
LOCAL = {"kind": "network", "uses": ["connect", "bind"], "families": ["AF_UNIX"], "loopback": True}
IMAGE_ONLY = {"kind": "execution", "places": ["image"], "forbidden": ["su"]}
NO_SU = {"kind": "execution", "forbidden": ["su"]}
ONE_INPUT = {
    "kind": "files",
    "acts": ["read", "deleted"],
    "places": ["image"],
    "below": ["/input/a", "/proc/*/maps"],
}


def count(of: str, at_most: int) -> dict[str, Any]:
    return {"kind": "count", "of": of, "at_most": at_most}


MANY = [opened(b"/output/%d" % i, ev.Access.WRITE, creates=True, line=i) for i in range(2, 7)]
KEPT: list[tuple[dict[str, Any], list[ev.Happening]]] = [
    (LOCAL, [contacted(b"/run/x", family="AF_UNIX", error="ENOENT"), contacted(b"127.9.9.9")]),
    (
        LOCAL,
        [contacted(b"::1", family="AF_INET6"), contacted(b"::ffff:127.0.0.1", family="AF_INET6")],
    ),
    (
        LOCAL,
        [contacted(b"0.0.0.0", how=ev.Contact.BIND), contacted(b"10.0.0.1", how=ev.Contact.SEND)],
    ),
    ({**NO_NETWORK, "uses": ["connect"]}, [ev.SocketMade(2, 2, KEY, "AF_INET", "S", "P", "")]),
    (IMAGE_ONLY, [executed(b"/usr/bin/true"), executed(b"/code/x", "ENOENT")]),
    (NO_SU, [executed(b"/usr/bin/su", "ENOENT"), executed(b"/usr/bin/sum")]),
    (ONE_INPUT, [opened(b"/input/a"), opened(b"/input/a/b"), opened(b"/usr/x")]),
    (ONE_INPUT, [opened(b"/proc/77/maps"), opened(b"/input/b", ev.Access.WRITE)]),
    (ONE_INPUT, [opened(b"/input/b", error="EACCES")]),
    ({**ONE_INPUT, "tries": "denied"}, [opened(b"/input/b", error="ENOENT")]),
    (count("output files", 5), [*MANY]),
    (count("processes", 1), []),
    (count("seconds", 8), []),
    (
        {"kind": "calls", "lists": ["unusual"], "allowed": ["memfd_create"]},
        [unusual("memfd_create")],
    ),
    ({"kind": "calls", "lists": ["refused"]}, [unusual("ptrace")]),
    (NOT_TO_ALL, [killed(5), killed(0), killed(-5)]),
    ({"kind": "signals", "way": "sent", "errors": ["ESRCH"], "at_most": 1}, [killed(5, "ESRCH")]),
    (NOTHING_ARRIVES, [killed(5)]),
    ({"kind": "end", "codes": [0], "killed": 0, "left": 0, "orphans": 0}, [born(8), died(8, 3)]),
    ({"kind": "end", "orphans": 0, "killed": 0}, [born(8), died(8, 9_000_001, "SIGKILL")]),
    (SUID, [mode(b"02755"), mode(b"0755")]),
    (ALL_KNOWN, []),
]
BROKEN: list[tuple[dict[str, Any], list[ev.Happening], str]] = [
    (
        NO_NETWORK,
        [contacted(b"10.0.0.1", "ENETUNREACH")],
        "connect AF_INET 10.0.0.1 port 443: ENETUNREACH",
    ),
    (
        NO_NETWORK,
        [contacted(b"10.0.0.1", "?")],
        "connect AF_INET 10.0.0.1 port 443: result unknown",
    ),
    (NO_NETWORK, [ev.SocketMade(2, 2, KEY, "AF_INET", "S", "P", "")], "socket AF_INET S, P"),
    (NO_NETWORK, [ev.Listening(2, 2, KEY, "")], "listen"),
    (LOCAL, [contacted(b"192.0.2.1", how=ev.Contact.BIND)], "bind AF_INET 192.0.2.1 port 443"),
    (LOCAL, [contacted(b"no address")], "connect AF_INET no address port 443"),
    (LOCAL, [contacted(b"\0x", family="AF_VSOCK")], "connect AF_VSOCK \\x00x"),
    (IMAGE_ONLY, [executed(b"/code/x")], "execute /code/x"),
    (
        IMAGE_ONLY,
        [executed(b"/code/x", "EACCES"), executed(b"/code/x", "EACCES")],
        "execute /code/x: EACCES (2 times)",
    ),
    (IMAGE_ONLY, [executed(b"/memfd:x")], "execute /memfd:x"),
    (NO_SU, [executed(b"/usr/bin/su")], "execute /usr/bin/su"),
    (
        NO_SU,
        [ev.Linked(2, 2, KEY, b"../bin/su", b"/tmp/x", True, "")],
        "symbolic link /tmp/x to ../bin/su",
    ),
    (ONE_INPUT, [opened(b"/input/ab")], "read /input/ab"),
    (ONE_INPUT, [opened(b"/proc/77/task/77/maps")], "read /proc/77/task/77/maps"),
    (
        {**ONE_INPUT, "tries": "denied"},
        [opened(b"/input/b", error="EACCES")],
        "not read (EACCES) /input/b",
    ),
    (
        {**ONE_INPUT, "tries": "all"},
        [opened(b"/input/b", error="ENOENT")],
        "not read (ENOENT) /input/b",
    ),
    (count("output files", 4), [*MANY], "/output/6"),
    (
        count("output bytes", 8),
        [opened(b"/output/x"), ev.Transferred(3, 3, KEY, b"/output/x", 0, 9)],
        "9 to /output/x",
    ),
    (count("processes", 1), [born(8), died(8, 3)], "process 8 starts"),
    (
        count("programs", 1),
        [executed(b"/a"), executed(b"/b", "ENOENT"), executed(b"/c")],
        "execute /c",
    ),
    (count("threads", 0), [ev.ThreadStarted(2, 2, KEY, 8)], "process 7 with 1 further threads"),
    (count("network calls", 0), [contacted(b"1.2.3.4")], "connect AF_INET 1.2.3.4 port 443"),
    (count("refused calls", 0), [ev.Refused(2, 2, KEY, "clone", b"X", "EPERM")], "clone(X): EPERM"),
    (count("unusual calls", 0), [unusual("ptrace", b"A")], "ptrace(A): EPERM"),
    (count("signals sent", 0), [killed(5)], "SIGKILL sent to process by kill"),
    (count("unexpected names", 0), [opened(b"/home/a", error="EACCES")], "/home/a"),
    (
        {"kind": "calls", "lists": ["unusual"], "names": ["ptrace"]},
        [unusual("bpf"), unusual("ptrace")],
        "ptrace(): EPERM",
    ),
    (
        {"kind": "calls", "lists": ["refused"], "allowed": ["clone3"]},
        [ev.Refused(2, 2, KEY, "clone", b"", "EPERM")],
        "clone(): EPERM",
    ),
    (NOT_TO_ALL, [killed(-1)], "SIGKILL sent to all by kill"),
    (
        {"kind": "signals", "way": "sent", "to": ["group"]},
        [killed(-9)],
        "SIGKILL sent to group by kill",
    ),
    (NOTHING_ARRIVES, [ev.Signalled(2, 2, KEY, "SIGSEGV", None)], "SIGSEGV arrived"),
    (
        {"kind": "signals", "way": "sent", "at_most": 2},
        [killed(n) for n in (2, 3, 4)],
        "SIGKILL sent to process by kill (3 times)",
    ),
    ({"kind": "end", "codes": [1]}, [], "process 7: exit code 0"),
    (NOT_KILLED, [born(8), died(8, 3, "SIGPIPE")], "process 8 is killed by SIGPIPE"),
    (
        {"kind": "end", "left": 0},
        [born(8), died(8, 9_000_000, "SIGKILL")],
        "process 8 starts, and outlives the program",
    ),
    (SUID, [mode(b"04755", "EPERM")], "mode 04755 for /tmp/x: EPERM"),
    (
        {"kind": "set-user-id", "bits": ["set-group-id"]},
        [mode(b"02755, 0")],
        "mode 02755, 0 for /tmp/x",
    ),
    (SUID, [mode(b"S_ISUID")], "mode S_ISUID for /tmp/x"),
    (ALL_KNOWN, [contacted(b"1.2.3.4", "?")], "unknown results"),
]


@pytest.mark.parametrize(("rule", "events"), KEPT)
def test_a_rule_that_is_kept_says_nothing(rule: dict[str, Any], events: list[ev.Happening]) -> None:
    verdict = asked(rule, *events)
    assert (verdict.outcome, verdict.findings, verdict.rules) == (Outcome.PASS, (), 1)
    assert verdict.rules_sha256 == "a" * 64


@pytest.mark.parametrize(("rule", "events", "text"), BROKEN)
def test_a_rule_that_is_broken_names_the_lines(
    rule: dict[str, Any], events: list[ev.Happening], text: str
) -> None:
    verdict = asked(rule, *events)
    (found,) = verdict.findings
    assert (verdict.outcome, found.outcome, found.source) == (Outcome.FAIL, Outcome.FAIL, "site")
    assert found.evidence[-1].text == text
    assert all(item.stream == "node1" for item in found.evidence)
    assert asked({**rule, "then": "attention"}, *events).outcome is Outcome.ATTENTION


def test_the_line_is_that_of_the_act() -> None:
    events: list[ev.Happening] = [
        opened(b"/input/x", line=2),
        ev.Deleted(5, 5, KEY, b"/input/x", ""),
    ]
    rule = {"kind": "files", "acts": ["deleted"]}
    assert told(asked(rule, *events)) == [(5, "deleted /input/x")]


def test_ten_lines_are_named_and_the_rest_is_counted() -> None:
    reads = [opened(b"/input/%d" % i, line=i) for i in range(2, 27)]
    (found,) = asked(NO_READING, *reads).findings
    assert [item.line for item in found.evidence] == list(range(2, 12))
    assert (found.left_out, found.message) == (15, "acts on files that are not allowed: 25")


UNDECIDED: list[tuple[dict[str, Any], list[ev.Happening]]] = [
    ({**ONE_INPUT, "below": ["/input"]}, [opened(b"/input/%d" % i) for i in range(5)]),
    (
        {**ONE_INPUT, "tries": "all"},
        [opened(b"/x%d" % i, ev.Access.WRITE, "ENOENT") for i in range(5)],
    ),
    (NO_SU, [executed(b"/usr/bin/%d" % i) for i in range(5)]),
    (LOCAL, [contacted(b"127.0.0.%d" % i) for i in range(5)]),
    (count("output files", 2), [opened(b"/output/x%d" % i, creates=True) for i in (1, 2, 3)]),
    (count("signals sent", 3), [killed(5, signal=str(i)) for i in range(70, 75)]),
    (
        {"kind": "calls", "lists": ["unusual"], "names": ["bpf"]},
        [unusual(f"a{i}") for i in range(5)],
    ),
    (NOTHING_ARRIVES, [killed(5, signal=str(i)) for i in range(70, 75)]),
    (NOT_KILLED, [e for n in (8, 9, 10) for e in (born(n), died(n, 3))]),
    (NO_DAEMONS, [*(born(n) for n in (8, 9)), *(died(n, 9_500_000) for n in (8, 9))]),
    (SUID, [mode(b"0275%d" % i) for i in range(5)]),
    (count("output bytes", 10**9), []),
]


@pytest.mark.parametrize(("rule", "events"), UNDECIDED)
def test_what_the_lists_cannot_decide_is_looked_at(
    rule: dict[str, Any], events: list[ev.Happening]
) -> None:
    late = [event for event in events if isinstance(event, ev.Ended) and event.time > END.time]
    early = [event for event in events if event not in late]
    report = fold([START, *early, END, *late], TINY, "node1")
    (found,) = judge([report], SiteRules(rules(rule), "")).findings
    assert found.outcome is Outcome.ATTENTION
    assert "cannot be decided: " in found.message


@pytest.mark.parametrize(
    ("rule", "events"),
    [
        (IMAGE_ONLY | {"forbidden": []}, [executed(b"/usr/bin/%d" % i) for i in range(5)]),
        (count("output files", 5), MANY),
        (
            {"kind": "end", "orphans": 0, "left": 0},
            [e for n in range(8, 13) for e in (born(n), died(n, 3))],
        ),
        ({"kind": "files", "acts": ["deleted"]}, [opened(b"/input/%d" % i) for i in range(5)]),
    ],
)
def test_totals_decide_where_lists_are_not_whole(
    rule: dict[str, Any], events: list[ev.Happening]
) -> None:
    assert asked(rule, *events, limits=TINY).outcome is Outcome.PASS


def test_what_is_not_listed_counts_where_all_of_it_is_forbidden() -> None:
    reads = [opened(b"/input/%d" % i) for i in range(5)]
    (found,) = asked(NO_READING, *reads, limits=TINY).findings
    assert (found.outcome, found.left_out) == (Outcome.FAIL, 3)
    assert found.message == "acts on files that are not allowed: 5"


def test_a_name_that_was_cut_is_below_what_can_be_seen() -> None:
    short = USUAL.model_copy(update={"name_bytes": 10})
    for path, outcome in ((b"/input/a/bcdefgh", Outcome.PASS), (b"/input/bcdefghij", Outcome.FAIL)):
        assert asked(ONE_INPUT, opened(path), limits=short).outcome is outcome
    long = {**ONE_INPUT, "below": ["/input/abcdef"]}
    assert asked(long, opened(b"/input/abcdef/g"), limits=short).outcome is Outcome.ATTENTION
    assert asked(NO_SU, executed(b"/usr/bin/long/su"), limits=short).outcome is Outcome.ATTENTION


def test_reading_much_does_not_hide_what_is_executed() -> None:
    reads = [opened(b"/usr/%d" % i) for i in range(5)]
    assert asked(NO_SU, *reads, executed(b"/usr/bin/true"), limits=TINY).outcome is Outcome.PASS
    assert asked(NO_SU, *reads, executed(b"/usr/bin/su"), limits=TINY).outcome is Outcome.FAIL


def test_links_that_are_not_listed_matter_only_where_they_could_be_executed() -> None:
    links = [ev.Linked(2, 2, KEY, b"x%d" % i, b"/tmp/%d" % i, True, "") for i in range(5)]
    image, own = executed(b"/usr/bin/true"), executed(b"/tmp/4")
    assert asked(NO_SU, *links, image, limits=TINY).outcome is Outcome.PASS
    assert asked(NO_SU, *links, own, limits=TINY).outcome is Outcome.ATTENTION


def test_a_daemon_is_told_from_a_child() -> None:
    events: list[ev.Happening] = [
        START,
        born(8),
        ev.Started(3, 3, Key(9, 9), Key(8, 8), True),
        died(8, 3_000_000),
        born(10),
        END,
        died(9, 9_000_005, "SIGKILL"),
        died(10, 9_000_006, "SIGKILL"),
    ]
    report = fold(events, USUAL, "node1")
    assert report.processes_left == 2
    verdict = judge([report], SiteRules(rules({"kind": "end", "orphans": 0, "left": 5}), ""))
    assert told(verdict) == [(3, "process 9 starts, and outlives the program")]


def test_a_task_that_outlives_another_is_no_daemon() -> None:
    second = ev.Started(2, 2, Key(8, 8), None, True)
    events: list[ev.Happening] = [START, second, END, died(8, 9_500_000)]
    report = fold(events, USUAL, "node1")
    strict = {"kind": "end", "codes": [0], "orphans": 0, "left": 0, "killed": 0}
    assert judge([report], SiteRules(rules(strict), "")).outcome is Outcome.PASS


def test_all_nodes_are_counted_together_and_time_is_the_longest() -> None:
    streams = [report_of(), report_of()]

    def outcome(of: str, at_most: int) -> Outcome:
        return judge(streams, SiteRules(rules(count(of, at_most)), "")).outcome

    assert (outcome("processes", 1), outcome("processes", 2)) == (Outcome.FAIL, Outcome.PASS)
    assert (outcome("seconds", 7), outcome("seconds", 8)) == (Outcome.FAIL, Outcome.PASS)


def test_the_worst_answer_counts_and_says_whose_rule_it_was() -> None:
    report = report_of(opened(b"/input/x"), contacted(b"10.0.0.1"))
    site = SiteRules(rules({"kind": "files", "acts": ["read"], "then": "attention"}), "")
    assert judge([report], site).outcome is Outcome.ATTENTION
    both = judge([report], site, rules(NO_NETWORK))
    assert (both.outcome, both.rules) == (Outcome.FAIL, 2)
    assert [found.source for found in both.findings] == ["site", "process"]
    assert judge([report], site, TraceRules()).outcome is Outcome.ATTENTION


_RULES = st.sampled_from(
    [rule for rule, _ in KEPT] + [rule for rule, *_ in BROKEN] + [rule for rule, _ in UNDECIDED]
)
_EVENTS = st.sampled_from(
    [
        event
        for events in (
            *(events for _, events in KEPT),
            *(events for _, events, _ in BROKEN),
            *(events for _, events in UNDECIDED),
        )
        for event in events
    ]
)
_LIMITS = st.sampled_from(
    [USUAL, TINY, Limits(entries=0, name_bytes=0, argv_bytes=0, depth=0, programs=0)]
)
_ORDER = tuple(Outcome)


def _all(findings: Iterable[Finding]) -> int:
    return sum(len(found.evidence) for found in findings)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(_EVENTS, max_size=8),
    st.lists(_RULES, max_size=4),
    st.lists(_RULES, max_size=4),
    _LIMITS,
)
def test_more_rules_never_make_a_verdict_better(
    events: list[ev.Happening], first: list[Any], more: list[Any], limits: Limits
) -> None:
    streams = [report_of(*events, limits=limits)]
    site = SiteRules(rules(*first), "")
    alone = judge(streams, site)
    stricter = judge(streams, site, rules(*more))
    longer = judge(streams, SiteRules(rules(*first, *more), ""))
    assert _ORDER.index(stricter.outcome) >= _ORDER.index(alone.outcome)
    assert longer.outcome is stricter.outcome
    assert Verdict.model_validate_json(stricter.model_dump_json()) == stricter
    assert all(len(found.evidence) <= 10 for found in stricter.findings)
    assert all(item.text.isprintable() for found in stricter.findings for item in found.evidence)
    if not streams[0].may_pass:
        assert alone.outcome is not Outcome.PASS
    assert (alone.outcome is Outcome.PASS) is (alone.findings == ())


@settings(max_examples=60, deadline=None)
@given(st.lists(_EVENTS, max_size=8), st.lists(_RULES, max_size=4), st.sampled_from(list(Doubt)))
def test_no_rules_save_a_record_that_is_not_whole(
    events: list[ev.Happening], given_rules: list[Any], doubt: Doubt
) -> None:
    streams = [report_of(*events), *doubtful(doubt)]
    verdict = judge(streams, SiteRules(rules(*given_rules), ""))
    if FORBIDS_PASS[doubt]:
        assert verdict.outcome is not Outcome.PASS
    assert _all(verdict.findings) <= 10 * len(verdict.findings)


def test_a_list_that_is_full_never_hides_what_is_forbidden() -> None:
    noise = [opened(b"/nowhere/%d" % i, error="ENOENT") for i in range(9)]
    forbidden = opened(b"/proc/1/mem", error="EACCES")
    rule = {"kind": "files", "acts": ["read"], "tries": "denied"}
    assert asked(rule, *noise, limits=TINY).outcome is Outcome.PASS
    assert asked(rule, *noise, forbidden, limits=TINY).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("address", "network", "outcome"),
    [
        (b"10.99.0.2", "10.99.0.0/16", Outcome.PASS),
        (b"::ffff:10.99.0.2", "10.99.0.0/16", Outcome.PASS),
        (b"10.98.0.2", "10.99.0.0/16", Outcome.FAIL),
        (b"::1:10.99.0.2", "10.99.0.0/16", Outcome.FAIL),
        (b"10.99.0.2", None, Outcome.FAIL),
    ],
)
def test_the_network_between_pods_is_no_way_out(
    address: bytes, network: str | None, outcome: Outcome
) -> None:
    report = report_of(contacted(address, family="AF_INET6" if b":" in address else "AF_INET"))
    found = judge(
        [report],
        SiteRules(rules(LOCAL), ""),
        network=IPv4Network(network) if network else None,
    )
    assert found.outcome is outcome
