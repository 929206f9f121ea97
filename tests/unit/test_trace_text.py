"""What a report says on a terminal."""

import pytest
from hypothesis import given, settings

from slurmbridge.rules import Outcome
from slurmbridge.spec import TraceLevel
from slurmbridge.trace import Follower, text
from slurmbridge.trace import events as ev
from slurmbridge.trace.events import Key
from slurmbridge.trace.fold import fold
from slurmbridge.trace.report import (
    USUAL,
    Doubt,
    Evidence,
    Finding,
    Limits,
    ProcessKey,
    StreamReport,
    TraceReport,
    Verdict,
)
from slurmbridge.trace.words import seconds
from tests.support.traces import RECORDED
from tests.unit.test_trace_report import EVENTS, KEY, SMALL, opened, report_of

VIEWS = (text.summary, text.files, text.network, text.tree)
FINDING = Finding(
    rule="no network",
    source="site",
    outcome=Outcome.FAIL,
    message="uses of the network: 3",
    evidence=(
        Evidence(stream="a", line=12, text="connect"),
        Evidence(stream="a", line=0, text="x"),
    ),
    left_out=1,
)


def told(*streams: StreamReport, findings: tuple[Finding, ...] = ()) -> TraceReport:
    outcome = Outcome.FAIL if findings else Outcome.PASS
    verdict = Verdict(outcome=outcome, findings=findings, rules=2, rules_sha256="0" * 64)
    return TraceReport(process_id="01m8", level=TraceLevel.AUDIT, streams=streams, verdict=verdict)


def tasks_of(count: int) -> StreamReport:
    events: list[ev.Happening] = []
    for n in range(1, count + 1):
        events.append(ev.Started(n, n, Key(n, n), None, True))
        events.append(ev.Executed(n, n, Key(n, n), b"/code/a", (b"a", b"%d" % n), True, ""))
    keys = tuple(ProcessKey(pid=n, birth=n) for n in range(1, count + 1))
    return fold(events, USUAL, "a").model_copy(update={"tasks": keys})


@pytest.fixture(scope="module")
def acts() -> TraceReport:
    trace = (RECORDED / "acts-audit.trace").read_bytes()
    return told(fold(Follower().events([trace]), USUAL))


def test_the_recorded_trace(acts: TraceReport) -> None:
    summary = text.summary(acts)
    assert summary[0] == "verdict: pass"
    assert summary[1].startswith("program: sh -c 'gcc -w -o /tmp/acts ")
    assert summary[1].endswith(": exit code 0")
    assert "input: 12 read" in summary
    assert "doubt: missed calls, cannot pass" in summary
    assert "  /tmp/deep/line\\x0afeed: 1 written, 1 created" in text.files(acts)
    assert "  /etc/passwd: not written: EROFS" in text.files(acts)
    assert "  connect AF_INET 192.0.2.1 port 80: ENETUNREACH" in text.network(acts)
    assert "    11160: 0.481041 to 0.481203 s: exit code 7" in text.tree(acts)
    assert text.network(told(report_of())) == ["no network call"]


def test_the_verdict_and_its_findings_come_first(acts: TraceReport) -> None:
    assert text.summary(told(*acts.streams, findings=(FINDING,)))[:5] == [
        "verdict: fail",
        "fail: uses of the network: 3 (no network, a rule of the site)",
        "  line 12: connect",
        "  x",
        "  ... 1 more lines",
    ]


def test_the_worst_finding_stands_first(acts: TraceReport) -> None:
    mild = FINDING.model_copy(update={"outcome": Outcome.ATTENTION, "evidence": ()})
    summary = text.summary(told(*acts.streams, findings=(mild, FINDING, mild)))
    outcomes = [line.partition(":")[0] for line in summary if "uses of the network" in line]
    assert outcomes == ["fail", "attention", "attention"]


def test_nodes_are_named_when_there_are_several() -> None:
    first, second = (report_of().model_copy(update={"name": name}) for name in "ab")
    assert text.network(told(first)) == ["no network call"]
    both = ["node a:", "  no network call", "node b:", "  no network call"]
    assert text.network(told(first, second)) == both
    summary = text.summary(told(first, second, findings=(FINDING,)))
    assert summary[2:4] == ["  node a, line 12: connect", "  node a: x"]


def test_tasks_are_told_apart_when_there_are_several() -> None:
    assert "task 2 of 2: a 2: no end recorded" in text.summary(told(tasks_of(2)))
    assert text.tree(told(tasks_of(2)))[2] == "2, task 2: 0.000001: no end recorded"
    assert "  ... 5 more tasks" in text.summary(told(tasks_of(15)))
    assert not any("task" in line for line in text.summary(told(tasks_of(1))))


def test_doubts_and_what_is_left_out_are_said() -> None:
    many = [opened(b"/tmp/%d" % i, ev.Access.WRITE, line=i) for i in range(50)]
    limits = USUAL.model_copy(update={"entries": 5, "depth": 1})
    chain = [ev.Started(i, i, Key(i, i), Key(i - 1, i - 1), True) for i in range(9, 12)]
    chain.insert(0, ev.Started(8, 8, Key(8, 8), KEY, True))
    report = told(report_of(*many, *chain, limits=limits))
    assert f"doubt: {Doubt.LEFT_OUT}" in text.summary(report)
    assert f"doubt: {Doubt.NOT_ENDED}, cannot pass" in text.summary(report)
    assert "  ... left out: 45 written" in text.files(report)
    assert text.tree(report)[-1] == "  ... 3 left out"


def test_a_circle_of_parents_hides_nobody() -> None:
    report = report_of(ev.Started(2, 2, Key(8, 2), KEY, True))
    first, second = report.processes.entries
    circle = (first.model_copy(update={"parent": second.key}), second)
    listing = report.processes.model_copy(update={"entries": circle})
    lines = text.tree(told(report.model_copy(update={"processes": listing})))
    assert [line.strip().partition(":")[0] for line in lines] == ["7", "8"]


def test_seconds() -> None:
    assert seconds(0, 1_234_567) == "1.234567"
    assert seconds(0, 1_234_567, 3) == "1.234"
    assert seconds(0, 2_000_000, 0) == "2"
    assert seconds(1_500_000, 0) == "-1.500000"
    assert seconds(None, 5) == "0.000000"


@settings(max_examples=40, deadline=None)
@given(EVENTS, SMALL)
def test_no_line_holds_a_control(events: list[ev.Happening], limits: Limits) -> None:
    stream = fold(events, limits, "n\x1b\n")
    finding = FINDING.model_copy(update={"message": "a\x1b[2J\u202e\n"})
    for report in (told(stream), told(stream, stream, findings=(finding,))):
        for view in VIEWS:
            assert all(line.isprintable() for line in view(report))
