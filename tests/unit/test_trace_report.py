"""What a report says of recorded traces and single events, and that nothing makes it too long."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurmbridge.rules import Place
from slurmbridge.trace import Begin, Follower
from slurmbridge.trace import events as ev
from slurmbridge.trace.events import Key
from slurmbridge.trace.fold import Folding, fold
from slurmbridge.trace.names import escaped, is_whole, original, printable
from slurmbridge.trace.places import place_of
from slurmbridge.trace.report import (
    FORBIDS_PASS,
    USUAL,
    Act,
    Doubt,
    Files,
    Kind,
    Limits,
    StreamReport,
    Use,
)
from tests.support.traces import RECORDED

KEY = Key(7, 1)
START = ev.Started(1, 1_000_000, KEY, None, True)
END = ev.Ended(99, 9_000_000, KEY, 0, None)


def opened(
    path: bytes,
    access: ev.Access = ev.Access.READ,
    error: str = "",
    *,
    real: bytes | None = None,
    creates: bool = False,
    line: int = 2,
) -> ev.Opened:
    return ev.Opened(line, 2_000_000, KEY, path, real, access, creates, False, error)


def contacted(error: str, host: bytes = b"192.0.2.1", line: int = 2) -> ev.Contacted:
    where = ev.Address("AF_INET", host, 80)
    return ev.Contacted(line, 2_000_000, KEY, ev.Contact.CONNECT, where, error)


def report_of(*events: ev.Happening, limits: Limits = USUAL) -> StreamReport:
    return fold([START, *events, END], limits)


def files_of(report: StreamReport, place: Place) -> Files:
    (found,) = [files for files in report.files if files.place is place]
    return found


def acts_of(report: StreamReport, place: Place) -> dict[str, dict[Act, int]]:
    return {file.name: dict(file.acts) for file in files_of(report, place).files}


@pytest.fixture(scope="module")
def acts() -> StreamReport:
    """A shell compiles tests/recorded/strace-7.2/acts.c and runs it."""
    trace = (RECORDED / "acts-audit.trace").read_bytes()
    return fold(Follower().events([trace]), USUAL)


def test_the_program_and_its_end(acts: StreamReport) -> None:
    first = acts.processes.entries[0]
    assert first.key == acts.program
    assert (first.parent, first.depth, first.code, first.signal) == (None, 0, 0, None)
    (program,) = first.programs
    assert program.argv[:2] == ("sh", "-c")
    assert (program.place, program.whole, program.error) == (Place.IMAGE, True, "")
    assert (acts.processes.total, acts.processes_ended, acts.threads) == (26, 26, 4)


def test_the_tree_of_processes(acts: StreamReport) -> None:
    by_pid = {process.key.pid: process for process in acts.processes.entries}
    parents = {pid: entry.parent.pid for pid, entry in by_pid.items() if entry.parent}
    assert (parents[11167], parents[11166], by_pid[11167].depth) == (11166, 11159, 3)
    assert by_pid[11160].code == 7
    assert by_pid[11168].signal == "SIGTERM"
    assert by_pid[11168].certain
    assert [program.error for program in by_pid[11180].programs] == ["ENOENT", "EACCES", ""]
    assert not by_pid[11180].programs[-1].whole
    assert by_pid[11180].programs[-1].argv == ('tr"ue', "AAAA", "z\\x0a\\xff")


def test_the_files_by_place(acts: StreamReport) -> None:
    assert acts_of(acts, Place.INPUT) == {"/input/x": {Act.READ: 12}}
    assert acts_of(acts, Place.CODE) == {"/code/acts.c": {Act.READ: 1}}
    assert acts_of(acts, Place.OUTPUT) == {"/output/result": {Act.WRITTEN: 1, Act.CREATED: 1}}
    assert acts_of(acts, Place.REQUIREMENT) == {}
    assert acts_of(acts, Place.UNEXPECTED) == {"/memfd:in memory": {Act.EXECUTED: 1}}
    temporary = acts_of(acts, Place.TEMPORARY)
    for name in ("line\\x0afeed", 'quo"te', "not\\xff\\xfeutf", "back\\\\slash", "été"):
        assert temporary["/tmp/deep/" + name][Act.CREATED] == 1
    assert temporary["/tmp/out"] == {Act.RENAMED: 1, Act.REPLACED: 1}
    assert temporary["/tmp/deep/hard"][Act.DELETED] == 1
    tried = [
        (entry.name, entry.act, entry.error)
        for files in acts.files
        for entry in files.tried.entries
        if files.place is not Place.TEMPORARY
    ]
    assert ("/etc/passwd", Act.WRITTEN, "EROFS") in tried
    assert ("/proc/1/mem", Act.READ, "EACCES") in tried
    assert ("/code/acts.c", Act.EXECUTED, "EACCES") in tried


def test_the_network(acts: StreamReport) -> None:
    done = [(e.use, e.address, e.port) for e in acts.network.entries if e.use is Use.CONNECT]
    assert done == [(Use.CONNECT, "127.0.0.1", 54843)]
    failed = [(e.use, e.address, e.port, e.error) for e in acts.network_tried.entries]
    assert failed == [
        (Use.CONNECT, "192.0.2.1", 80, "ENETUNREACH"),
        (Use.SEND, "2001:db8::1", 53, "ENETUNREACH"),
        (Use.CONNECT, "fe80::1", 53, "ENETUNREACH"),
        (Use.CONNECT, '/tmp/so"ck', None, "ECONNREFUSED"),
        (Use.CONNECT, "\\x00abstract", None, "ECONNREFUSED"),
    ]
    assert [e.times for e in acts.network.entries if e.use is Use.SEND] == [2]


def test_calls_signals_and_doubts(acts: StreamReport) -> None:
    assert [(e.call, e.error) for e in acts.unusual.entries] == [
        ("unshare", "EPERM"),
        ("memfd_create", ""),
    ]
    assert {e.signal for e in acts.signals.entries} >= {"SIGSEGV", "SIGKILL", "SIGSTOP"}
    assert [mark.line for mark in acts.missed.entries] == [397]
    assert acts.doubts == (Doubt.MISSED_CALLS,)
    assert not acts.may_pass
    assert acts.left_out == 0


def test_the_timeline_is_in_order(acts: StreamReport) -> None:
    lines = [moment.at.line for moment in acts.timeline]
    assert lines == sorted(lines)
    starts = [moment for moment in acts.timeline if moment.kind is Kind.START]
    assert len(starts) == acts.processes.total
    first = [m.text for m in acts.timeline if m.kind is Kind.ACCESS and "read input" in m.text]
    assert first == ["read input: /input/x"]


def test_a_full_trace_has_no_doubts() -> None:
    trace = (RECORDED / "thread-executes-full.trace").read_bytes()
    report = fold(Follower(Begin.FIRST).events([trace]), USUAL)
    assert Doubt.MISSED_CALLS not in report.doubts
    argvs = [program.argv for e in report.processes.entries for program in e.programs]
    assert argvs == [("/tmp/acts",), ("true", "from-thread")]


def test_a_trace_without_a_program_never_passes() -> None:
    assert fold([], USUAL).doubts == (Doubt.NO_PROGRAM,)
    assert not fold([], USUAL).may_pass


@pytest.mark.parametrize(
    ("event", "doubt", "may_pass"),
    [
        (ev.Unreadable(2, b"\xff"), Doubt.UNREADABLE_LINES, False),
        (ev.Remarked(2, b"strace: x"), Doubt.REMARKS, False),
        (ev.Missed(2, 2, KEY), Doubt.MISSED_CALLS, False),
        (ev.Started(2, 2, Key(8, 2), KEY, True), Doubt.NOT_ENDED, False),
        (opened(b"/input/x", error="?"), Doubt.UNKNOWN_RESULTS, True),
        (contacted("EINPROGRESS"), Doubt.UNKNOWN_RESULTS, True),
    ],
)
def test_what_the_trace_does_not_tell_is_said(
    event: ev.Happening, doubt: Doubt, may_pass: bool
) -> None:
    report = report_of(event)
    assert report.doubts == (doubt,)
    assert report.may_pass is may_pass


def test_a_whole_trace_may_pass() -> None:
    report = report_of(opened(b"/input/x"))
    assert report.doubts == ()
    assert report.may_pass


def test_every_doubt_is_judged_and_every_event_is_read() -> None:
    assert set(FORBIDS_PASS) == set(Doubt)
    assert set(Folding(USUAL)._readers) == set(get_args(ev.Happening))


def test_an_act_without_a_result_counts_as_done() -> None:
    report = report_of(ev.Deleted(2, 2, KEY, b"/output/x", "?"))
    (file,) = files_of(report, Place.OUTPUT).files
    assert (dict(file.acts), file.unsure) == ({Act.DELETED: 1}, 1)


def test_a_connection_that_is_being_made_is_not_a_failed_one() -> None:
    report = report_of(contacted("EINPROGRESS"), contacted("ENETUNREACH"))
    assert [entry.error for entry in report.network.entries] == ["EINPROGRESS"]
    assert [entry.error for entry in report.network_tried.entries] == ["ENETUNREACH"]


def test_a_file_is_where_its_real_name_is() -> None:
    report = report_of(opened(b"/tmp/link", real=b"/input/x"))
    assert acts_of(report, Place.INPUT) == {"/input/x": {Act.READ: 1}}
    assert acts_of(report, Place.TEMPORARY) == {}


def test_bytes_are_added_up() -> None:
    moved = ev.Transferred(3, 3, KEY, b"/input/x", 7, 2)
    files = files_of(report_of(opened(b"/input/x"), moved, moved), Place.INPUT)
    assert [(file.bytes_read, file.bytes_written) for file in files.files] == [(14, 4)]
    assert (files.bytes_read, files.bytes_written) == (14, 4)


def test_many_names_in_one_place_hide_none_in_another() -> None:
    many = [opened(b"/tmp/%d" % i, ev.Access.WRITE, line=i) for i in range(50)]
    tries = [opened(b"/nowhere/%d" % i, error="ENOENT", line=i) for i in range(50)]
    limits = USUAL.model_copy(update={"entries": 5})
    report = report_of(*many, *tries, opened(b"/proc/1/environ", line=90), limits=limits)
    assert list(acts_of(report, Place.UNEXPECTED)) == ["/proc/1/environ"]
    temporary = files_of(report, Place.TEMPORARY)
    assert (len(temporary.files), dict(temporary.acts_left_out)) == (5, {Act.WRITTEN: 45})
    assert files_of(report, Place.UNEXPECTED).tried.left_out == 45
    assert Doubt.LEFT_OUT in report.doubts


def test_failed_contacts_do_not_hide_one_that_succeeded() -> None:
    tries = [contacted("ENETUNREACH", b"192.0.2.%d" % i) for i in range(9)]
    limits = USUAL.model_copy(update={"entries": 2})
    report = report_of(*tries, contacted("", b"198.51.100.1"), limits=limits)
    assert [entry.address for entry in report.network.entries] == ["198.51.100.1"]
    assert (report.network_tried.total, report.network_tried.left_out) == (9, 7)


def test_a_process_is_left_out_with_all_below_it() -> None:
    chain = [ev.Started(i, i, Key(i, i), Key(i - 1, i - 1), True) for i in range(2, 6)]
    first = ev.Started(1, 1, Key(1, 1), None, True)
    limits = USUAL.model_copy(update={"depth": 2})
    report = fold([first, *chain], limits)
    assert [entry.depth for entry in report.processes.entries] == [0, 1, 2]
    assert (report.processes.total, report.processes.left_out) == (5, 2)


def test_a_long_argv_is_cut() -> None:
    argv = (b"a" * 10, b"", b"b" * 10, b"c")
    event = ev.Executed(2, 2, KEY, b"/usr/bin/a", argv, True, "")
    limits = USUAL.model_copy(update={"name_bytes": 4, "argv_bytes": 7})
    (program,) = report_of(event, limits=limits).processes.entries[0].programs
    assert (len(program.argv), program.argv_left_out) == (2, 2)
    assert program.argv[0].startswith("aaaa\\...10:")


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (b"/input", Place.INPUT),
        (b"/input/a\nb", Place.INPUT),
        (b"/inputs/a", Place.UNEXPECTED),
        (b"/code/a.py", Place.CODE),
        (b"/requirements/numpy", Place.REQUIREMENT),
        (b"/output/a", Place.OUTPUT),
        (b"/dev/shm/a", Place.TEMPORARY),
        (b"/var/tmp/a", Place.TEMPORARY),
        (b"/var/tmpa", Place.IMAGE),
        (b"/usr/lib/a", Place.IMAGE),
        (b"/", Place.IMAGE),
        (b"/dev/null", Place.SYSTEM),
        (b"/dev/null\n", Place.UNEXPECTED),
        (b"/dev/mqueue/a", Place.UNEXPECTED),
        (b"/proc/self/maps", Place.SYSTEM),
        (b"/stdout", Place.SYSTEM),
        (b"/stdout/x", Place.UNEXPECTED),
        (b"/proc/self/mem", Place.UNEXPECTED),
        (b"/proc/1/environ", Place.UNEXPECTED),
        (b"/proc/self/root/input", Place.UNEXPECTED),
        (b"/sys/class/net", Place.UNEXPECTED),
        (b"/.sb/sbseal", Place.UNEXPECTED),
        (b"/home/alice", Place.UNEXPECTED),
        (b"/input/../etc/passwd", Place.UNEXPECTED),
        (b"input/a", Place.UNEXPECTED),
        (b"?/x", Place.UNEXPECTED),
        (b"", Place.UNEXPECTED),
    ],
)
def test_places(path: bytes, place: Place) -> None:
    assert place_of(path) is place


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=40))
def test_a_name_can_be_had_back(name: bytes) -> None:
    told = escaped(name, 40)
    assert told.isprintable()
    assert is_whole(told)
    assert original(told) == name
    assert isinstance(place_of(b"/" + name), Place)


def test_a_cut_name_is_no_name_and_no_other() -> None:
    first, second = escaped(b"abcdX", 4), escaped(b"abcdY", 4)
    assert first != second
    assert first.startswith("abcd\\...5:")
    assert not is_whole(first)
    with pytest.raises(ValueError, match="not a whole name"):
        original(first)


def test_no_control_reaches_the_terminal() -> None:
    assert printable("a\x1b[2J\udc80") == "a\\x1b[2J\\udc80"
    # Override of the direction of writing: what a name looks like is what it is.
    assert escaped("a\u202eb".encode(), 40) == "a\\xe2\\x80\\xaeb"


_KEYS = st.builds(Key, st.integers(1, 4), st.integers(1, 3))
_BYTES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"/input/", b"/output/", b"/tmp/", b"/usr/", b"?"]).flatmap(
        lambda start: st.binary(max_size=8).map(lambda name: start + name)
    ),
)
_TEXTS = st.one_of(st.sampled_from(["", "?", "ENOENT"]), st.text(max_size=12))
st.register_type_strategy(Key, _KEYS)


def _event(kind: type[Any]) -> st.SearchStrategy[Any]:
    given_by = {"path": _BYTES, "source": _BYTES, "error": _TEXTS, "process": _KEYS}
    amounts = {"read": st.integers(0, 9), "written": st.integers(0, 9), "line": st.integers(1, 99)}
    known = {**given_by, **amounts}
    fields = kind.__dataclass_fields__
    return st.builds(kind, **{name: known[name] for name in fields if name in known})


EVENTS = st.lists(st.one_of([_event(kind) for kind in get_args(ev.Happening)]), max_size=30)
SMALL = st.builds(
    Limits,
    entries=st.integers(0, 4),
    name_bytes=st.integers(0, 6),
    argv_bytes=st.integers(0, 9),
    depth=st.integers(0, 3),
    programs=st.integers(0, 2),
)
# Of a cut name, what stands behind it; and each byte may become four signs.
_BEHIND = len("\\...99:") + 32


def _texts(node: object) -> Iterable[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for item in node.values():
            yield from _texts(item)
    elif isinstance(node, list):
        for item in node:
            yield from _texts(item)


def _lists(node: object) -> Iterable[dict[str, Any]]:
    if isinstance(node, dict):
        if "entries" in node and "total" in node:
            yield node
        for item in node.values():
            yield from _lists(item)
    elif isinstance(node, list):
        for item in node:
            yield from _lists(item)


@settings(max_examples=60, deadline=None)
@given(EVENTS, SMALL)
def test_limits_hold_and_nothing_is_lost(events: list[ev.Happening], limits: Limits) -> None:
    report = fold(events, limits)
    document = json.loads(report.model_dump_json())
    assert StreamReport.model_validate_json(report.model_dump_json()) == report
    assert fold(events, limits).model_dump_json() == report.model_dump_json()
    for listing in _lists(document):
        assert len(listing["entries"]) <= limits.entries
        times = sum(entry.get("times", 1) for entry in listing["entries"])
        assert listing["total"] == times + listing["left_out"]
    for files in report.files:
        assert len(files.files) <= limits.entries
        acts = Counter(files.acts_left_out)
        for file in files.files:
            acts.update(file.acts)
        assert acts == files.acts
        read = sum(file.bytes_read for file in files.files) + files.bytes_read_left_out
        assert read == files.bytes_read
    for process in report.processes.entries:
        assert process.depth <= limits.depth
        assert len(process.programs) <= limits.programs
    assert len(report.timeline) <= limits.entries * len(Kind)
    # A moment has four words at most, and the longest word of the report's own is no longer.
    assert all(len(word) <= 4 * (4 * limits.name_bytes + _BEHIND) for word in _texts(document))
